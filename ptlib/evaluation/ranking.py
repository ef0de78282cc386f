"""The one rule for being right: an answer counts where its score is above every other candidate's."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Ranked", "rank"]


class Ranked(NamedTuple):
    """What scores say of their targets: ranks from 1, the best candidates, and which targets share their score."""

    ranks: Tensor
    best: Tensor
    tied: Tensor


def rank(scores: Tensor, targets: Tensor, ignored: Tensor | None = None) -> Ranked:
    """Rank each target (B,), a column, among the scores (B, C), all finite.

    Ties never help: of equal scores the target's is the last, and the best candidate is then another one. So rank 1,
    and only rank 1, means that the best candidate is the target.

    Args:
        ignored: (B, C) bool, candidates that take no rank before the target.
    """
    own = scores.gather(1, targets[:, None])
    others = scores.scatter(1, targets[:, None], -torch.inf)
    if ignored is not None:
        others = others.masked_fill(ignored, -torch.inf)
    rival = others.max(1)
    best = torch.where(own[:, 0] > rival.values, targets, rival.indices)
    return Ranked(1 + (others >= own).sum(1), best, (others == own).any(1))
