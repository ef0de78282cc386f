"""P@k, MRR, intervals and averages against brute force."""

import math

import pandas as pd
import pytest
import torch

from ptlib import Evaluation, Example, Task, TaskError, evaluate, evaluate_majority, manual_prompt, summarize
from ptlib.evaluation import Z, wilson_interval

EXAMPLES = (Example("France", "Paris"), Example("Saint Helena", "Jamestown"), Example("Peru", "Cairo"),
            Example("South Korea", "the"), Example("Iran", "New Zealand"), Example("Iraq", "zzyzx"))


def brute_force_ranks(lm, template, examples, candidates):
    """Rank by hand: the whole sentence as the tokenizer reads it, all logits, one comparison a candidate."""
    ranks = []
    for example in examples:
        sentence = template.replace("[X]", example.subject).replace("[Y]", lm.tokenizer.mask_token)
        ids = torch.tensor([lm.tokenizer(sentence)["input_ids"]])
        logits = lm.model(input_ids=ids).logits[0, ids[0].tolist().index(lm.tokenizer.mask_token_id)]
        own = logits[candidates[example.object]]
        ranks.append(1 + sum(bool(logits[i] > own) for i in candidates.values()))
    return ranks


@pytest.mark.parametrize("candidates", [None, ["Paris", "Jamestown", "Cairo", "the", "zzyzx", "Paris"]],
                         ids=["all words", "given"])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_against_brute_force(toys, capitals, family, candidates):
    lm = toys[family]
    words = {word: i for word, i in lm.words.items() if candidates is None or word in candidates}
    ev = evaluate(lm, manual_prompt(lm, capitals), EXAMPLES, candidates=candidates, k=(1, 2, 5))
    ranks = brute_force_ranks(lm, capitals.manual_template, EXAMPLES[:4], words)
    assert ev.predictions["rank"].tolist() == ranks
    assert (ev.n, ev.num_candidates) == (4, len(words))
    assert ev.p_at_1 == sum(rank == 1 for rank in ranks) / 4
    assert ev.p_at_k == {k: sum(rank <= k for rank in ranks) / 4 for k in (1, 2, 5)}
    assert ev.mrr == pytest.approx(sum(1 / rank for rank in ranks) / 4)
    assert ev.interval == wilson_interval(sum(rank == 1 for rank in ranks), 4)
    assert ev.predictions[["subject", "object"]].values.tolist() == [[e.subject, e.object] for e in EXAMPLES[:4]]
    hits = ev.predictions["prediction"] == ev.predictions["object"]
    assert hits.tolist() == [rank == 1 for rank in ranks]


def test_dropped_examples_are_told_with_the_reason(toys, capitals):
    ev = evaluate(toys["bert"], manual_prompt(toys["bert"], capitals), EXAMPLES)
    assert [example for example, _ in ev.dropped] == [EXAMPLES[4], EXAMPLES[5]]
    assert all(repr(example.object) in reason for example, reason in ev.dropped)


def test_candidates_restrict(toys, capitals):
    lm, few = toys["roberta"], ["Paris", "Cairo"]
    ev = evaluate(lm, manual_prompt(lm, capitals), EXAMPLES, candidates=few)
    assert set(ev.predictions["prediction"]) <= set(few)
    assert ev.predictions["rank"].max() <= 2
    assert len(ev.dropped) == 4
    assert ev.num_candidates == 2


@pytest.mark.parametrize(("examples", "candidates"), [((), None), (EXAMPLES[4:], None), (EXAMPLES, ["Lima"]),
                                                      (EXAMPLES, [])])
def test_nothing_scorable(toys, capitals, examples, candidates):
    with pytest.raises(TaskError, match="can be scored"):
        evaluate(toys["bert"], manual_prompt(toys["bert"], capitals), examples, candidates=candidates)


def test_order_and_company_of_the_examples_change_nothing(toys, capitals):
    lm = toys["albert"]
    prompt, facts = manual_prompt(lm, capitals), capitals.train + capitals.test
    ranks = evaluate(lm, prompt, facts).predictions["rank"].tolist()
    assert evaluate(lm, prompt, facts[::-1]).predictions["rank"].tolist() == ranks[::-1]
    assert [evaluate(lm, prompt, [e]).predictions["rank"][0] for e in facts] == ranks


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (3, 10), (50, 100), (99, 100), (1, 5000)])
def test_wilson_interval_holds_the_proportions_within_z_standard_errors(successes, n):
    """Its ends solve |p̂ − p| = z √(p(1 − p)/n): the definition, not the formula."""
    p = successes / n
    low, high = wilson_interval(successes, n)
    assert 0 < low < p < high < 1
    for end in (low, high):
        assert abs(p - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n), abs=1e-9)


def test_wilson_interval_at_the_edges():
    assert math.erf(Z / math.sqrt(2)) == pytest.approx(0.95, abs=1e-6)
    for n in (1, 10, 1000):
        assert wilson_interval(0, n) == pytest.approx((0, Z**2 / (n + Z**2)))
        assert wilson_interval(n, n) == pytest.approx((n / (n + Z**2), 1))
    assert wilson_interval(0, 0) == (0, 1)


def test_majority_baseline_ranks_by_train_counts():
    objects = ["Rome", "Paris", "Paris", "Lima", "Lima", "Paris"]
    train = tuple(Example(f"s{i}", obj) for i, obj in enumerate(objects))
    test = tuple(Example(f"t{i}", obj) for i, obj in enumerate(["Paris", "Lima", "Rome", "Oslo", "Atlantis"]))
    task = Task("mine", train, (), test)
    ev = evaluate_majority(task, ["Oslo", "Rome", "Lima", "Paris", "Paris"])
    assert ev.predictions["rank"].tolist() == [1, 2, 3, 4]
    assert set(ev.predictions["prediction"]) == {"Paris"}
    assert [example for example, _ in ev.dropped] == [test[4]]
    assert (ev.n, ev.num_candidates, ev.p_at_1) == (4, 4, 0.25)
    with pytest.raises(TaskError):
        evaluate_majority(task, ["Cairo"])


def evaluation(hits, n, dropped=0, task=None):
    table = pd.DataFrame({"subject": "s", "object": "o", "prediction": "p", "rank": [1] * hits + [2] * (n - hits)})
    return Evaluation(table, ((Example("s", "x"), "why"),) * dropped, "lm", task, 50)


def test_summary_tells_the_two_averages_apart():
    evaluations = [evaluation(1, 1, task="a"), evaluation(0, 9, dropped=2, task="b"), evaluation(5, 10, task="c")]
    row = summarize(evaluations).loc["all"]
    assert row["relation_mean"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert row["pooled"] == pytest.approx(6 / 20)
    assert (row["relations"], row["facts"], row["dropped"], row["candidates"]) == (3, 20, 2, 50)
    assert row["relation_low"] < row["relation_mean"] < row["relation_high"]
    assert (row["pooled_low"], row["pooled_high"]) == wilson_interval(6, 20)


def test_seeds_of_one_relation_count_as_one_relation():
    seeds = [evaluation(hits, 10, task="a") for hits in (0, 5, 10)]
    row = summarize([*seeds, evaluation(10, 10, task="b")]).loc["all"]
    assert row["relations"] == 2
    assert row["relation_mean"] == pytest.approx((0.5 + 1) / 2)
    assert (row["relation_low"], row["relation_high"]) == (0.5, 1)
    assert (row["pooled"], row["facts"]) == (pytest.approx(25 / 40), 40)


def test_averages_agree_on_equal_sizes():
    row = summarize([evaluation(hits, 10) for hits in (1, 4, 7)]).loc["all"]
    assert row["relation_mean"] == pytest.approx(row["pooled"])


def test_summary_of_groups():
    groups = {("a", 1): [evaluation(3, 10)] * 4, ("b", 2): [evaluation(0, 10), evaluation(10, 10)]}
    table = summarize(groups)
    assert list(table.index) == list(groups)
    same = table.loc[("a", 1)]  # equal relations: no spread between them
    assert same["relation_low"] == pytest.approx(0.3) == same["relation_high"] == same["relation_mean"]
    assert (table.loc[("b", 2), "relation_low"], table.loc[("b", 2), "relation_high"]) == (0, 1)
    assert summarize(groups).equals(table)
    assert list(summarize({"a": groups["a", 1]}).index) == ["a"]


def test_bootstrap_interval_is_that_of_the_mean():
    """Against the normal approximation, which is good for 200 relations."""
    evaluations = [evaluation(i % 11, 10) for i in range(200)]
    row = summarize(evaluations).loc["all"]
    spread = pd.Series([ev.p_at_1 for ev in evaluations]).std() / math.sqrt(200)
    assert row["relation_high"] - row["relation_low"] == pytest.approx(2 * Z * spread, rel=0.1)
