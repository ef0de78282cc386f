"""Relative representations: cosines, and nothing but cosines."""

import math

import pytest
import torch

from ptlib import AnchorError, Prompt, PromptMismatchError, encode, random_prompt, shared_anchors
from ptlib.relative import relative_representation


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


def test_strangers(toys, anchors):
    with pytest.raises(PromptMismatchError, match=toys["roberta"].name):
        encode(random_prompt(toys["bert"]), toys["roberta"], anchors)
    with pytest.raises(AnchorError, match=toys["albert"].name):
        encode(random_prompt(toys["albert"]), toys["albert"], anchors)
