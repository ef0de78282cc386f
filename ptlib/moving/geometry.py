"""How alike two models see the same words."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .maps import ridge_map
from .search import best_fit, held_out_fit, split_anchors

__all__ = ["centred_fit", "explained_by_first", "held_out_r2", "linear_cka", "similarity_correlation"]


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of x (k, d₁) and y (k, d₂) (Kornblith et al. 2019), from 0 to 1.

    ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), Frobenius norms of the centred tables. It is 1 where a rotation and a scale take one to
    the other, and follows the directions of most variance.
    """
    x, y = _centered(x), _centered(y)
    return ((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def similarity_correlation(x: Tensor, y: Tensor) -> float:
    """Pearson correlation of the cosines of all pairs of rows of x (k, d₁) with those of y (k, d₂).

    A representational similarity analysis (Kriegeskorte et al. 2008) of the relative space itself: row i of either
    matrix of cosines is the relative representation of anchor i. Diagonals are left out.
    """
    above = tuple(torch.triu_indices(len(x), len(x), offset=1))
    one, two = ((unit @ unit.T)[above] for unit in (normalize(x.double(), dim=-1), normalize(y.double(), dim=-1)))
    return torch.corrcoef(torch.stack([one, two]))[0, 1].item()


def held_out_r2(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """Share of the variance of y (k, d₂) that ridge regression on x (k, d₁) explains, on rows it has not seen.

    The ridge is chosen within the rows that are fitted. Negative where their mean would have done better; not
    symmetric in x and y.
    """
    fitted, held = (rows.to(x.device) for rows in split_anchors(len(x), seed))
    regression, _ = ridge_map(x[fitted], y[fitted], seed=seed)
    left_over = (y[held].double() - regression(x[held])).square().sum()
    return (1 - left_over / (y[held].double() - y[fitted].double().mean(0)).square().sum()).item()


def explained_by_first(x: Tensor) -> float:
    """Share of the variance of the rows of x (k, d) in its first principal direction: 1/d if it is the same in all."""
    variances = torch.linalg.svdvals(_centered(x)).square()
    return (variances[0] / variances.sum()).item()


def _centered(x: Tensor) -> Tensor:
    return x.double() - x.double().mean(0)


def centred_fit(relative: Tensor, anchors: Tensor, seed: int = 0) -> Tensor:
    """Pearson correlation of r with the cosines of the best target vector, on anchors that it has not seen.

    ``held_out_fit`` is a cosine, and near 1 wherever all cosines of r are alike, whatever their differences say;
    here the mean over the anchors is taken away, from the regression and from the judgement.

    Args:
        relative: (..., k), of prompts that are moved together: they share the ridge of ``RIDGES`` with the best mean.
        anchors: (k, d), of the target.
        seed: of the choice of held-out anchors.

    Returns:
        (...), from −1 to 1.
    """
    return best_fit(held_out_fit(relative, anchors, center=True, seed=seed))
