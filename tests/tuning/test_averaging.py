"""The mean of mixtures: what it is by hand, what stays the same, and what cannot be averaged."""

from dataclasses import replace

import pytest
import torch

from ptlib import Mixture, Prompt, PromptMismatchError, average, transfer, tune, tune_seeds
from ptlib.prompts.history import Averaged, Carried

QUICK = {"epochs": 1, "num_vectors": 2, "progress": False}


@pytest.fixture(scope="module")
def tuned(toys, capitals):
    """Mixtures of three seeds, on one LM."""
    return list(tune_seeds(toys["bert"], [capitals], seeds=[4, 5, 6], parameterization="mixture", **QUICK).values())


@pytest.fixture(scope="module")
def elsewhere(toys, capitals):
    """A mixture of another LM, whose words are not all the same."""
    return tune(toys["gpt2"], capitals, parameterization="mixture", **QUICK)


def test_weights_and_gains_are_means(toys, tuned):
    lm, mean = toys["bert"], average(tuned, toys["bert"])
    weights = sum(prompt.mixture.weights.double() for prompt in tuned) / 3
    gains = sum(prompt.mixture.gains.double() for prompt in tuned) / 3
    directions = weights @ lm.embeddings[lm.word_ids(tuned[0].mixture.words)].double()
    by_hand = gains.unsqueeze(-1) * lm.mean_length * directions / directions.norm(dim=-1, keepdim=True)
    assert not torch.equal(tuned[0].mixture.weights, tuned[1].mixture.weights)
    torch.testing.assert_close(mean.vectors.double(), by_hand, atol=1e-5, rtol=1e-4)
    assert (mean.template, mean.task, mean.lm_fingerprint) == (tuned[0].template, tuned[0].task, lm.fingerprint)


def test_words_of_several_models(toys, tuned, elsewhere):
    """Word by word; a word that one model does not have counts there as nothing."""
    parts = [tuned[0].mixture, elsewhere.mixture]
    mean = average([tuned[0], elsewhere], toys["roberta"]).mixture
    assert set(mean.words) == set(parts[0].words) | set(parts[1].words) != set(parts[0].words)
    weight_of = [[dict(zip(one.words, row, strict=True)) for row in one.weights.tolist()] for one in parts]
    for i, row in enumerate(mean.weights.tolist()):
        by_hand = [(weight_of[0][i].get(word, 0) + weight_of[1][i].get(word, 0)) / 2 for word in mean.words]
        assert row == pytest.approx(by_hand, abs=1e-7)
        assert sum(row) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
def test_the_order_does_not_matter(toys, tuned, order):
    mean, other = (average(prompts, toys["bert"]) for prompts in (tuned, [tuned[i] for i in order]))
    torch.testing.assert_close(mean.vectors, other.vectors, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_mean_of_equals_is_the_same(toys, tuned, count):
    mean = average(tuned[:1] * count, toys["bert"])
    torch.testing.assert_close(mean.vectors, tuned[0].vectors, atol=1e-6, rtol=1e-5)


def test_it_goes_where_mixtures_go(toys, tuned):
    """At once, or later by ``on`` and by ``transfer``."""
    source, target = toys["bert"], toys["gpt2"]
    mean = average(tuned, source)
    for moved in (average(tuned, target), mean.on(target), transfer(mean, source=source, target=target)):
        assert torch.equal(moved.vectors, Mixture.mean([prompt.mixture for prompt in tuned]).on(target).cpu())
        assert moved.lm_fingerprint == target.fingerprint


def test_its_record_holds_those_of_its_parts(toys, tuned, tmp_path):
    mean = average(tuned, toys["gpt2"])
    assert isinstance(mean.history, Carried) and mean.history.passes == 0  # the other LM was not run
    assert mean.history.before == Averaged(tuple(prompt.history for prompt in tuned))
    assert mean.history.tuning_seed == 4
    assert mean.history.before.passes == sum(prompt.history.passes for prompt in tuned) > 0
    assert average(tuned, toys["bert"]).history == mean.history.before
    assert mean.history.lost_weight == mean.mixture.record(toys["gpt2"])["lost_weight"] > 0
    assert Prompt.load(mean.save(tmp_path / "mean.safetensors")).history == mean.history


def test_what_cannot_be_averaged_is_refused(toys, capitals, tuned):
    lm = toys["bert"]
    free = tune(lm, capitals, **QUICK)
    longer = tune(lm, capitals, parameterization="mixture", **{**QUICK, "num_vectors": 3})
    for prompts, reason in (([], "at least one"), ([*tuned, free], f"1 of 4 .*{free.lm_name}"),
                            ([tuned[0], longer], "2 different templates"),
                            ([tuned[0], replace(tuned[1], task="another")], "2 different tasks .*'another'")):
        with pytest.raises(PromptMismatchError, match=reason):
            average(prompts, lm)
    with pytest.raises(PromptMismatchError, match="2 and 3 vectors"):
        Mixture.mean([tuned[0].mixture, longer.mixture])
