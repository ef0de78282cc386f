"""A map of two embedding spaces at once: the plane of each in which the words that both know agree most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.lm import LanguageModel
from ..moving.anchors import Anchors

__all__ = ["Plane", "linked_planes"]


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane through the directions of an LM's embeddings.

    Attributes:
        origin: (d,) the mean direction of the words.
        axes: (d, 2) orthonormal.
    """

    origin: Tensor
    axes: Tensor

    def of(self, vectors: Tensor) -> Tensor:
        """(n, 2) where the directions of vectors (n, d) lie; their lengths do not count, as in cosines."""
        return (normalize(vectors.to(self.origin), dim=-1) - self.origin) @ self.axes


def linked_planes(words: Anchors, source: LanguageModel, target: LanguageModel) -> tuple[Plane, Plane]:
    """The plane of each LM in which a word lies, as far as possible, where it lies in the other's.

    The axes are the two pairs of directions with the highest covariance over the words (partial least squares): the
    first singular vectors of XᵀY, where the rows of X and Y are the words' directions, minus their mean.

    Args:
        words: the words that the LMs share.
        source, target: the LMs, which may be the same.
    """
    directions = [normalize(words.of(lm).float().cpu(), dim=-1) for lm in (source, target)]
    origins = [x.mean(0) for x in directions]
    x, y = (x - origin for x, origin in zip(directions, origins, strict=True))
    left, _, right = torch.linalg.svd(x.T @ y, full_matrices=False)
    return Plane(origins[0], left[:, :2]), Plane(origins[1], right[:2].T)
