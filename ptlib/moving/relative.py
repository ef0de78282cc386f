"""Relative representations: a vector described by its cosines to the anchors (section 3.2 of the paper).

``encode`` does this for a prompt. ``mean_relative`` combines the prompts of several sources.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.lm import LanguageModel
from ..prompts.prompt import Prompt
from .anchors import Anchors

__all__ = ["encode", "mean_relative", "relative_representation", "top_k_mask"]


def relative_representation(vectors: Tensor, anchors: Tensor) -> Tensor:
    """Cosine of every vector (..., d) with every anchor (k, d): (..., k)."""
    return normalize(vectors, dim=-1) @ normalize(anchors, dim=-1).T


def encode(prompt: Prompt, lm: LanguageModel, anchors: Anchors) -> Tensor:
    """The relative representation of a prompt: (m, k) cosines.

    Raises:
        PromptMismatchError: the prompt was made for another LM.
        AnchorError: the anchors were not made for ``lm``.
    """
    prompt.check(lm)
    return relative_representation(prompt.vectors.to(lm.device), anchors.of(lm))


def top_k_mask(relative: Tensor, k: int) -> Tensor:
    """A bool mask, shaped like ``relative``, of the k highest cosines of each vector (the paper's top-k anchors).

    The sign counts: a strongly negative cosine is not among the highest.
    """
    kept = relative.topk(k, dim=-1).indices
    return torch.zeros_like(relative, dtype=torch.bool).scatter(-1, kept, True)


def mean_relative(relatives: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Combine the relative representations of several sources into one, (..., k).

    Each is normalised to unit length before the weighted mean is taken. The vector u with the highest cosine between
    this mean and Au then also maximises the weighted mean of the sources' cosines, the paper's multi-source objective
    (section 3.3). Afterwards the result is multiplied by the mean length, because the affine normalisation depends on
    how long a prompt's vectors are relative to each other.

    Args:
        relatives: one (..., k) for each source.
        weights: one for each source; they sum to 1.
    """
    stacked = torch.stack(list(relatives))
    shares = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device).view(-1, *[1] * (stacked.ndim - 1))
    lengths = stacked.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(stacked.dtype).tiny)  # avoids 0 / 0
    return (shares * stacked / lengths).sum(0) * (shares * lengths).sum(0)
