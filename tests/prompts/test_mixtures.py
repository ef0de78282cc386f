"""Mixtures of words: the written-out sum on every LM, and what is lost where an LM lacks words."""

import math

import pytest
import torch

from ptlib import Mixture, Prompt, PromptMismatchError, evaluate, manual_prompt, shared_anchors

pytestmark = pytest.mark.slow

NOWHERE = ("zzyzx", "New Zealand")  # one token of no toy LM


@pytest.fixture
def common(toys):
    """Words that the toy LMs of one script share."""
    return shared_anchors(*(lm for name, lm in toys.items() if name != "greek")).words


def drawn(words, count=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return Mixture(tuple(words), torch.randn(count, len(words), generator=draw).mul(2).softmax(-1),
                   torch.rand(count, generator=draw) + 0.5)


def one_hot(words, order, lm):
    """Each vector is one word, as long as that is in ``lm``."""
    lengths = lm.embeddings[lm.word_ids(order)].norm(dim=-1)
    return Mixture(tuple(words), torch.eye(len(words))[[list(words).index(word) for word in order]],
                   lengths / lm.embeddings.norm(dim=-1).mean())


def written_out(mixture, lm):
    """The sum as the docstring has it, over the words that ``lm`` knows."""
    rows = []
    for weights, gain in zip(mixture.weights.tolist(), mixture.gains.tolist(), strict=True):
        known = {i: w for i, w in zip(lm.word_ids(mixture.words), weights, strict=True) if i is not None}
        vector = sum(w * lm.embeddings[i].double() for i, w in known.items())
        rows.append(gain * lm.embeddings.double().norm(dim=-1).mean() * vector / vector.norm())
    return torch.stack(rows).float()


@pytest.mark.parametrize("lacks", [(), NOWHERE], ids=["knows all", "lacks two"])
def test_the_sum_is_written_out(lm, common, lacks):
    mixture = drawn((*common[:9], *lacks, *common[9:20]))
    assert lm.word_ids(mixture.words).count(None) == len(lacks)
    torch.testing.assert_close(mixture.on(lm), written_out(mixture, lm), atol=1e-6, rtol=1e-5)


def test_one_word_of_its_own_length_is_the_word(lm, common):
    torch.testing.assert_close(one_hot(common, common, lm).on(lm), lm.embeddings[lm.word_ids(common)])


def test_a_gain_is_a_length_in_words(lm, common):
    """Whether the words' embeddings point the same way or not."""
    mixture = drawn(common)
    torch.testing.assert_close(mixture.on(lm).norm(dim=-1), mixture.gains * lm.embeddings.norm(dim=-1).mean())


def test_a_sentence_in_vectors_is_the_sentence(lm, capitals, common):
    """One word a vector: such a prompt is the manual template."""
    mixture = one_hot(common, ["The", "capital", "of", "is"], lm)
    prompt = Prompt(mixture.on(lm), "[V]*3 [X] [V] [Y] .", lm.name, lm.fingerprint, mixture=mixture)
    spoken = evaluate(lm, prompt, capitals.test, candidates=common)
    plain = evaluate(lm, manual_prompt(lm, capitals), capitals.test, candidates=common)
    assert spoken.predictions.equals(plain.predictions)


def test_unknown_words_lose_their_weight_to_the_others_in_proportion(lm, common):
    words = (NOWHERE[0], *common[:5], NOWHERE[1])
    mixture = drawn(words)
    known = mixture.weights[:, 1:-1]
    left = Mixture(common[:5], known / known.sum(-1, keepdim=True), mixture.gains)
    torch.testing.assert_close(mixture.on(lm), left.on(lm), atol=1e-6, rtol=1e-5)


def test_what_is_lost_is_reported(lm, common):
    """The heaviest ten words, but the weight of all."""
    unknown = [f"zzyzx{i}" for i in range(12)]
    mixture = drawn((*common[:6], *unknown))
    by_hand = {word: sum(row[6 + i] for row in mixture.weights.tolist()) / 3 for i, word in enumerate(unknown)}
    lacking = mixture.lacking(lm)
    assert lacking == pytest.approx(by_hand)
    assert list(lacking) == sorted(by_hand, key=lambda word: -by_hand[word])
    record = mixture.record(lm)
    assert record["lost_weight"] == pytest.approx(sum(by_hand.values()))
    assert record["lost_weight"] + mixture.weights[:, :6].sum(-1).mean().item() == pytest.approx(1)
    assert list(record["lacking"].items()) == list(lacking.items())[:10]
    assert drawn(common).record(lm) == {"lost_weight": 0, "lacking": {}}


def test_a_vector_of_unknown_words_is_refused(toys, lm, common):
    weights = torch.zeros(2, len(common) + 2)
    weights[0, 0], weights[1, -2:] = 1.0, torch.tensor([0.25, 0.75])
    mixture = Mixture((*common, *NOWHERE), weights, torch.ones(2))
    with pytest.raises(PromptMismatchError) as error:
        mixture.on(lm)
    assert all(part in str(error.value) for part in (*NOWHERE, lm.name, "vector 1"))
    assert "vector 0" not in str(error.value)
    with pytest.raises(PromptMismatchError, match=toys["greek"].name):
        drawn(common).on(toys["greek"])


@pytest.mark.parametrize("count", [1, 2, 7, 19])
def test_truncation_keeps_the_heaviest_words(common, count):
    mixture = drawn(common[:20])
    short = mixture.truncated(count)
    assert short.words == mixture.words
    assert torch.equal(short.gains, mixture.gains)
    torch.testing.assert_close(short.weights.sum(-1), torch.ones(3))
    for row, kept in zip(mixture.weights.tolist(), short.weights.tolist(), strict=True):
        heaviest = sorted(range(20), key=lambda w: -row[w])[:count]
        assert [w for w, weight in enumerate(kept) if weight] == sorted(heaviest)
        total = sum(row[w] for w in heaviest)
        assert [kept[w] for w in heaviest] == pytest.approx([row[w] / total for w in heaviest], rel=1e-5)


@pytest.mark.parametrize("count", [20, 21, 500])
def test_truncation_to_all_words_changes_nothing(common, count):
    mixture = drawn(common[:20])
    torch.testing.assert_close(mixture.truncated(count).weights, mixture.weights, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("count", [0, -1])
def test_truncation_leaves_one_word_at_least(common, count):
    with pytest.raises(PromptMismatchError, match=f"{count} words"):
        drawn(common).truncated(count)


def test_truncation_of_words_that_an_lm_lacks(lm, common):
    """The heaviest word is dropped for want of it, not the vector; alone it would be nothing."""
    mixture = Mixture((NOWHERE[0], *common[:2]), torch.tensor([[0.6, 0.3, 0.1]]), torch.ones(1))
    [left] = mixture.truncated(2).on(lm)
    word = lm.embeddings[lm.word_ids(common[:1])][0]
    torch.testing.assert_close(left / left.norm(), word / word.norm())
    with pytest.raises(PromptMismatchError, match=NOWHERE[0]):
        mixture.truncated(1).on(lm)


def test_perplexity_counts_words(common):
    words = common[:8]
    weights = torch.stack([torch.eye(8)[3], torch.full((8,), 1 / 8), torch.tensor([0.25] * 4 + [0.0] * 4),
                           drawn(words, 1).weights[0]])
    by_hand = math.exp(-sum(w * math.log(w) for w in weights[3].tolist()))
    found = Mixture(words, weights, torch.ones(4)).perplexity
    assert found.tolist() == pytest.approx([1, 8, 4, by_hand], rel=1e-5)
    assert 1 < by_hand < 8


@pytest.mark.parametrize("count", [1, 5, 20, 99])
def test_leading_words_come_in_order(common, count):
    mixture = drawn(common[:20])
    for vector, weights in enumerate(mixture.weights.tolist()):
        by_hand = sorted(zip(weights, mixture.words, strict=True), reverse=True)[:count]
        assert list(mixture.leading(vector, count).items()) == [(word, weight) for weight, word in by_hand]


@pytest.mark.parametrize(("weights", "gains"), [((3, 4), 3), ((2, 5), 3), ((5,), 5), ((1, 3, 5), 3), ((5, 3), 3)])
def test_shapes_must_agree(common, weights, gains):
    with pytest.raises(PromptMismatchError, match="5 words"):
        Mixture(common[:5], torch.full(weights, 0.2), torch.ones(gains))


def test_other_weights_for_some_words(common):
    mixture = drawn(common)
    first, second = list(mixture.leading(0))[:2]
    changed = mixture.with_weights({(0, first): 0.0, (0, second): 0.5})
    words = {word: i for i, word in enumerate(common)}
    old, new = mixture.weights.double(), changed.weights.double()
    assert new[0, words[first]] == 0 and new[0, words[second]] == 0.5
    assert new.sum(-1).tolist() == pytest.approx([1.0] * 3, abs=1e-5)
    rest = [i for word, i in words.items() if word not in (first, second)]
    assert torch.allclose(new[0, rest] / new[0, rest].sum(), old[0, rest] / old[0, rest].sum(), atol=1e-6)
    assert torch.equal(new[1:], old[1:]) and torch.equal(changed.gains, mixture.gains)
    assert torch.equal(mixture.with_weights({}).weights, mixture.weights)


@pytest.mark.parametrize("weights, reason", [
    ({(0, "zzyzx"): 0.1}, "no word 'zzyzx'"), ({(3, "Paris"): 0.1}, "from 0 to 2"), ({(0, "Paris"): -0.1}, "-0.1"),
    ({(0, "Paris"): math.nan}, "nan"), ({(0, "Paris"): 0.7, (0, "Rome"): 0.7}, "sum to 1.4"),
])
def test_weights_that_cannot_be_are_refused(common, weights, reason):
    with pytest.raises(PromptMismatchError, match=reason):
        drawn(common).with_weights(weights)


def test_a_single_word_cannot_be_taken_out(common):
    alone = Mixture(tuple(common), torch.eye(len(common))[:1], torch.ones(1))
    with pytest.raises(PromptMismatchError, match="no other word has any weight"):
        alone.with_weights({(0, common[0]): 0.5})


def test_a_prompt_with_other_weights_says_so(toys, common, tmp_path):
    lm, other = toys["bert"], toys["roberta"]
    mixture = drawn(common)
    prompt = Prompt(mixture.on(lm), "[X] [V]*3 [Y]", lm.name, lm.fingerprint, meta={"seed": 5}, mixture=mixture)
    word = next(iter(mixture.leading(1)))
    changed = prompt.with_weights(lm, {(1, word): 0.25})
    assert torch.equal(changed.vectors, mixture.with_weights({(1, word): 0.25}).on(lm))
    assert changed.history.weights == ((1, word, 0.25),) and changed.history.tuning_seed == 5
    again = Prompt.load(changed.save(tmp_path / "changed.safetensors"))
    assert again.history == changed.history
    assert again.on(other).history.before == changed.history
    with pytest.raises(PromptMismatchError, match="made for"):
        prompt.with_weights(other, {(1, word): 0.25})
    with pytest.raises(PromptMismatchError, match="no words to weigh"):
        Prompt(prompt.vectors, prompt.template, lm.name, lm.fingerprint).with_weights(lm, {(1, word): 0.25})
