"""Relative representations: cosines, and nothing but cosines."""

import math

import pytest
import torch

from ptlib import AnchorError, Prompt, PromptMismatchError, encode, random_prompt, shared_anchors
from ptlib.moving.relative import mean_relative, relative_representation, top_k_mask


@pytest.fixture
def anchors(toys):
    return shared_anchors(toys["bert"], toys["roberta"])


def prompt_of(lm, vectors):
    return Prompt(vectors, f"[X] [V]*{len(vectors)} [Y] .", lm.name, lm.fingerprint)


def test_an_anchor_is_1_at_itself(toys, anchors):
    for lm in (toys["bert"], toys["roberta"]):
        cosines = encode(prompt_of(lm, anchors.of(lm)), lm, anchors)
        torch.testing.assert_close(cosines.diagonal(), torch.ones(len(anchors)))
        torch.testing.assert_close(cosines, cosines.T)
        assert cosines.abs().max() <= 1 + 1e-6


def test_length_of_a_vector_does_not_matter(toys, anchors):
    prompt = random_prompt(toys["bert"], 4)
    longer = prompt_of(toys["bert"], prompt.vectors * torch.tensor([[1e-3], [2.0], [7.0], [1e3]]))
    torch.testing.assert_close(encode(longer, toys["bert"], anchors), encode(prompt, toys["bert"], anchors))


def test_against_a_double_loop(toys, anchors):
    lm, prompt = toys["roberta"], random_prompt(toys["roberta"], 3)
    found = encode(prompt, lm, anchors)
    assert found.shape == (3, len(anchors))
    for i, vector in enumerate(prompt.vectors.tolist()):
        for j, anchor in enumerate(anchors.of(lm).tolist()):
            dot = sum(a * b for a, b in zip(vector, anchor, strict=True))
            assert found[i, j].item() == pytest.approx(dot / (math.hypot(*vector) * math.hypot(*anchor)), abs=1e-5)


def test_batches_of_prompts(toys, anchors):
    vectors, table = torch.randn(2, 3, 16), anchors.of(toys["bert"])
    both = relative_representation(vectors, table)
    assert both.shape == (2, 3, len(anchors))
    torch.testing.assert_close(both[1], relative_representation(vectors[1], table))


def test_mask_keeps_the_k_largest_signed_similarities():
    relative = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    relative[0, 0] = -relative[0, 0].abs()  # the most similar anchor may still point away
    for k in (1, 7, 20):
        mask = top_k_mask(relative, k)
        assert mask.dtype == torch.bool
        for row, kept in zip(relative.flatten(0, 1).tolist(), mask.flatten(0, 1), strict=True):
            assert kept.nonzero().flatten().tolist() == sorted(sorted(range(20), key=lambda i: -row[i])[:k])


@pytest.mark.parametrize("weights", [[0.5, 0.3, 0.2], [0.0, 1.0, 0.0]])
def test_mean_of_sources_ranks_vectors_as_the_mean_of_their_cosines_does(weights):
    """Σᵢ wᵢ cos(rᵢ, x) is the mean's product with x / ‖x‖, up to the mean length of the rᵢ: for any x."""
    generator = torch.Generator().manual_seed(0)
    relatives = [scale * torch.randn(4, 30, generator=generator) for scale in (1.0, 0.1, 3.0)]
    vectors = torch.randn(100, 1, 30, generator=generator)
    mean = mean_relative(relatives, weights)
    cosines = sum(w * torch.cosine_similarity(r, vectors, dim=-1) for w, r in zip(weights, relatives, strict=True))
    length = sum(w * r.norm(dim=-1) for w, r in zip(weights, relatives, strict=True))
    torch.testing.assert_close((mean * vectors).sum(-1) / vectors.norm(dim=-1) / length, cosines)
    torch.testing.assert_close(mean_relative(relatives[::-1], weights[::-1]), mean)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5], [0.9, 0.1]])
def test_mean_of_one_source_is_the_source(weights):
    relative = torch.randn(2, 3, 30, generator=torch.Generator().manual_seed(0))
    relative[1, 2] = 0  # a vector of zeros has no direction, and should not take the others' with it
    torch.testing.assert_close(mean_relative([relative] * len(weights), weights), relative)


def test_strangers(toys, anchors):
    with pytest.raises(PromptMismatchError, match=toys["roberta"].name):
        encode(random_prompt(toys["bert"]), toys["roberta"], anchors)
    with pytest.raises(AnchorError, match=toys["albert"].name):
        encode(random_prompt(toys["albert"]), toys["albert"], anchors)
