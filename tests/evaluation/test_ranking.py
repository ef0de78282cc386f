"""The rule for being right, against a sorted list."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from ptlib.evaluation.ranking import rank

# Few different scores, so that many are equal.
SCORES = st.lists(st.lists(st.sampled_from([-2.0, -0.5, 0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=6)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@given(SCORES, st.data(), DTYPES)
def test_rank_best_and_ties_agree_with_counting(rows, data, dtype):
    targets = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    ranks, best, tied = rank(torch.tensor(rows, dtype=dtype), torch.tensor(targets))
    answers = zip(rows, targets, ranks.tolist(), best.tolist(), tied.tolist(), strict=True)
    for row, target, found, first, shared in answers:
        others = [score for column, score in enumerate(row) if column != target]
        assert found == 1 + sum(score >= row[target] for score in others)
        assert shared == (row[target] in others)
        assert row[first] == max(row)
        assert (first == target) == (found == 1), "hits by rank and by prediction are the same"


@given(SCORES, st.data())
def test_what_is_ignored_takes_no_rank(rows, data):
    scores = torch.tensor(rows)
    targets = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows))))
    ignored = torch.tensor(data.draw(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=len(rows),
                                              max_size=len(rows))))
    found = rank(scores, targets, ignored)
    for row, (target, without) in enumerate(zip(targets.tolist(), ignored.tolist(), strict=True)):
        left = [column for column in range(4) if column == target or not without[column]]
        alone = rank(scores[row, left][None], torch.tensor([left.index(target)]))
        assert found.ranks[row] == alone.ranks[0]
    assert (found.ranks <= rank(scores, targets).ranks).all()
