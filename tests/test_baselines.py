"""The ways of moving a prompt that the search is compared with."""

import pytest
import torch

from ptlib import PromptMismatchError, random_prompt, shared_anchors
from ptlib.baselines import copy_vectors, discretize, draw_random


def test_copy_is_the_same_vectors(toys):
    vectors = torch.randn(2, 3, 16)
    assert torch.equal(copy_vectors(vectors, toys["bert"], toys["gpt2"]), vectors)
    with pytest.raises(PromptMismatchError, match=toys["roberta"].name):
        copy_vectors(vectors, toys["bert"], toys["roberta"])


def test_discretize_takes_the_nearest_shared_word(toys):
    source, target = toys["bert"], toys["roberta"]
    anchors = shared_anchors(source, target)
    vectors = torch.stack([random_prompt(source, 4, seed).vectors for seed in range(2)])
    found = discretize(vectors, source, target, anchors)
    assert found.shape == (2, 4, 24)
    for vector, moved in zip(vectors.flatten(0, 1), found.flatten(0, 1), strict=True):
        word = max(anchors.words, key=lambda word: torch.cosine_similarity(
            vector, source.embeddings[source.words[word]], dim=0))
        assert torch.equal(moved, target.embeddings[target.words[word]])


def test_discretize_translates_words_exactly(toys):
    source, target = toys["roberta"], toys["albert"]
    anchors = shared_anchors(source, target)
    assert torch.equal(discretize(anchors.of(source)[None], source, target, anchors)[0], anchors.of(target))


def test_random_vectors_follow_seed_and_scale(toys):
    lm = toys["roberta"]
    one, again, other = (draw_random((2, 300), lm, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (2, 300, 24)
    assert one.std().item() == pytest.approx(lm.embeddings.std().item(), rel=0.05)
    assert one.mean().item() == pytest.approx(lm.embeddings.mean().item(), abs=0.01)
