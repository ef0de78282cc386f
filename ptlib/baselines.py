"""Ways of moving a prompt that the search is to be compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from .anchors import Anchors
from .errors import PromptMismatchError
from .lm import LanguageModel
from .prompts import random_vectors
from .relative import relative_representation

__all__ = ["copy_vectors", "discretize", "draw_random"]


def copy_vectors(vectors: Tensor, source: LanguageModel, target: LanguageModel) -> Tensor:
    """The source vectors (n, m, d) as they are; the two LMs must be equally wide."""
    if source.dim != target.dim:
        raise PromptMismatchError(f"cannot copy a prompt from {source.name} ({source.dim} wide) to {target.name} "
                                  f"({target.dim} wide); expected one width; use another method")
    return vectors


def discretize(vectors: Tensor, source: LanguageModel, target: LanguageModel, anchors: Anchors) -> Tensor:
    """Each source vector (n, m, d_s) as the shared word with the highest cosine, in the target: (n, m, d_t)."""
    nearest = relative_representation(vectors, anchors.of(source)).argmax(-1)
    return anchors.of(target)[nearest]


def draw_random(shape: tuple[int, int], target: LanguageModel, seed: int) -> Tensor:
    """Random vectors on the scale of the target's embeddings, (n, m, d)."""
    return random_vectors(target, shape, torch.Generator().manual_seed(seed)).to(target.device)
