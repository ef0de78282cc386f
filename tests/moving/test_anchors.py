"""Anchors: words shared by vocabularies, in an order that nothing but the words decides."""

import pytest

from ptlib import AnchorError, LanguageModel, load_lm, shared_anchors
from ptlib.moving import anchors as module

SELECTIONS = [{}, {"num": 20, "select": "random"}, {"num": 20, "select": "frequent"}]


@pytest.fixture
def lms(toys):
    return [toys[family] for family in ("bert", "roberta", "albert")]


def test_anchors_are_the_words_of_all(lms):
    anchors = shared_anchors(*lms)
    assert set(anchors.words) == set.intersection(*(set(lm.words) for lm in lms))
    assert {"capital", "Paris", "The", "the"} <= set(anchors.words)
    assert list(anchors.words) == sorted(set(anchors.words))
    for lm in lms:
        assert anchors.ids[lm.name].tolist() == lm.word_ids(anchors.words)
        assert len(set(anchors.ids[lm.name].tolist())) == len(anchors)
        assert anchors.of(lm).equal(lm.embeddings[anchors.ids[lm.name]])


@pytest.mark.parametrize("options", SELECTIONS)
def test_order_of_the_lms_changes_nothing(lms, options):
    one, two = shared_anchors(*lms, **options), shared_anchors(*reversed(lms), **options)
    assert one.words == two.words
    assert all(one.ids[lm.name].equal(two.ids[lm.name]) for lm in lms)


@pytest.mark.slow
def test_hash_seed_changes_nothing(by_hash_seed, lms):
    one, two = (run["anchors"] for run in by_hash_seed)
    assert one == two
    for select, words in one.items():
        assert shared_anchors(*lms[:2], num=None if select == "all" else 20, select=select).words == tuple(words)


@pytest.mark.parametrize("options", SELECTIONS[1:])
def test_selection_is_a_sorted_subset(lms, options):
    everything, some = shared_anchors(*lms), shared_anchors(*lms, **options)
    assert len(some) == 20
    assert set(some.words) < set(everything.words)
    assert list(some.words) == sorted(some.words)


def test_random_selection_follows_the_seed(lms):
    draws = [shared_anchors(*lms, num=20, select="random", seed=seed).words for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_frequent_words_have_the_lowest_mean_rank(lms):
    words = shared_anchors(*lms).words
    ranks = {word: sum(sum(lm.words[other] < lm.words[word] for other in words) for lm in lms) for word in words}
    chosen = set(shared_anchors(*lms, num=20, select="frequent").words)
    assert max(ranks[word] for word in chosen) <= min(ranks[word] for word in words if word not in chosen)


@pytest.mark.parametrize("options", SELECTIONS)
@pytest.mark.parametrize("families", [("bert", "roberta"), ("bert", "uncased"), ("bert", "albert", "gpt2")])
def test_report_adds_up(toys, families, options):
    lms = [toys[family] for family in families]
    anchors = shared_anchors(*lms, **options)
    dropped = sum(anchors.report[reason] for reason in ("not shared", "duplicates", "not selected"))
    assert len(set().union(*(lm.words for lm in lms))) == dropped + anchors.report["anchors"]
    assert anchors.report["anchors"] == len(anchors)
    assert all(anchors.report[f"whole words of {lm.name}"] == len(lm.words) for lm in lms)


def test_uncased_tokenizer_collapses_duplicates(toys):
    cased, uncased = toys["bert"], toys["uncased"]
    assert {"The", "the", "Turkey", "turkey", "May", "may"} <= cased.words.keys()
    anchors = shared_anchors(cased, uncased)
    assert len(set(word.lower() for word in anchors.words)) == len(anchors)
    assert {"The", "Turkey", "May", "France"} <= set(anchors.words)  # capitals sort first
    assert anchors.report["duplicates"] >= 3
    assert len(set(anchors.ids[uncased.name].tolist())) == len(anchors)


def test_no_shared_words(toys):
    with pytest.raises(AnchorError, match=toys["greek"].name):
        shared_anchors(toys["bert"], toys["greek"])


@pytest.mark.parametrize("options", [{"num": 10**6}, {"num": 10**6, "select": "random"}, {"num": 20, "select": "all"},
                                     {"num": 20, "select": "rare"}, {"num": 0, "select": "random"},
                                     {"num": -1, "select": "frequent"}])
def test_selection_that_cannot_be_made(lms, options):
    with pytest.raises(AnchorError):
        shared_anchors(*lms, **options)


def test_anchors_of_a_stranger(lms, toys):
    with pytest.raises(AnchorError, match=toys["gpt2"].name):
        shared_anchors(*lms).of(toys["gpt2"])


def test_zoo_models_share_the_vocabulary_of_their_facts(bert_mini, roberta_mini, zoo_tasks):
    words = set(shared_anchors(bert_mini, roberta_mini).words)
    assert {e.object for task in zoo_tasks.values() for e in task.train + task.dev + task.test} <= words
    assert load_lm("zoo/bert-mini") is bert_mini


@pytest.mark.parametrize("most", [1, 20, 10**6])
def test_frequent_anchors_are_those_that_are_selected(lms, most):
    everything = shared_anchors(*lms)
    selected = shared_anchors(*lms, num=min(most, len(everything)), select="frequent")
    found = everything.frequent(most)
    assert found.words == selected.words
    assert found.report == selected.report
    assert all(found.ids[lm.name].equal(selected.ids[lm.name]) for lm in lms)


def test_anchors_left_out_to_judge(lms):
    everything, judges = shared_anchors(*lms), shared_anchors(*lms, num=20, select="random")
    others = everything.without(judges.words)
    assert set(others.words) | set(judges.words) == set(everything.words)
    assert len(others) == len(everything) - 20 == others.report["anchors"]
    for lm in lms:
        assert others.of(lm).equal(lm.embeddings[lm.word_ids(others.words)])
    with pytest.raises(AnchorError, match=f"leaving out {len(everything)} words removes all 20 anchors"):
        judges.without(everything.words)


def test_shared_words_are_found_once_for_the_same_models(toys, monkeypatch):
    """And anew for other models, also for one that takes the place of another in memory."""
    asked = []

    def find(vocabularies):
        asked.append(vocabularies)
        return found(vocabularies)

    found = module._find
    monkeypatch.setattr(module, "_find", find)
    one, other = (LanguageModel(toys[name].model, toys[name].tokenizer, name, toys[name].kind)
                  for name in ("bert", "roberta"))
    first = shared_anchors(one, other)
    assert shared_anchors(one, other, num=5, select="random").words[0] in first.words and len(asked) == 1
    assert {*shared_anchors(other, one).words} == {*first.words} and len(asked) == 2
    third = LanguageModel(toys["greek"].model, toys["greek"].tokenizer, "greek", "masked")
    module._known[one] = {(id(third),): module._known[one][(id(other),)]}
    with pytest.raises(AnchorError):
        shared_anchors(one, third)
    assert len(asked) == 3
