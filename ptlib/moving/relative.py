"""The relative space: a vector as its cosines to the anchors (section 3.2 of the paper)."""

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
    """True at the k largest, signed, similarities of each vector (the paper's top-k anchors): bool, as ``relative``."""
    kept = relative.topk(k, dim=-1).indices
    return torch.zeros_like(relative, dtype=torch.bool).scatter(-1, kept, True)


def mean_relative(relatives: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """One relative representation (..., k) for those of several sources.

    The weighted mean at unit length: its cosine with any Au has the same maximiser as the weighted mean of the
    sources' cosines, the paper's multi-source objective (section 3.3), up to a factor. The mean length is given
    back, because the relative lengths of a prompt's vectors matter to its normalisation.

    Args:
        relatives: one (..., k) a source.
        weights: one a source, with the sum 1.
    """
    stacked = torch.stack(list(relatives))
    shares = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device).view(-1, *[1] * (stacked.ndim - 1))
    lengths = stacked.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(stacked.dtype).tiny)  # a zero vector stays one
    return (shares * stacked / lengths).sum(0) * (shares * lengths).sum(0)
