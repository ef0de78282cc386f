"""The rule for right answers: an object is right if its score is higher than that of every other candidate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Ranked", "rank"]


class Ranked(NamedTuple):
    """The results of ``rank``, each (B,).

    Attributes:
        ranks: the rank of each target, from 1.
        best: the column of each row's best candidate.
        tied: whether another candidate has the target's score.
    """

    ranks: Tensor
    best: Tensor
    tied: Tensor


def rank(scores: Tensor, targets: Tensor, ignored: Tensor | None = None) -> Ranked:
    """Rank the target of each row among all candidates.

    Ties never help: among equal scores, the target has the last rank, and the best candidate is another one. So the
    target is the best candidate exactly if its rank is 1.

    Args:
        scores: (B, C) finite scores of the candidates.
        targets: (B,) the column of each row's target.
        ignored: (B, C) bool, candidates to leave out of the ranking.
    """
    own = scores.gather(1, targets[:, None])
    others = scores.scatter(1, targets[:, None], -torch.inf)
    if ignored is not None:
        others = others.masked_fill(ignored, -torch.inf)
    rival = others.max(1)
    best = torch.where(own[:, 0] > rival.values, targets, rival.indices)
    return Ranked(1 + (others >= own).sum(1), best, (others == own).any(1))
