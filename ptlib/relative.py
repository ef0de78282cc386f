"""The relative space: a vector as its cosines to the anchors (section 3.2 of the paper)."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from .anchors import Anchors
from .lm import LanguageModel
from .prompts import Prompt

__all__ = ["encode", "relative_representation"]


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
