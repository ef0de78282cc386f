"""Measures of how similar two models' embeddings of the same words are.

All take embedding tables with one row for each shared word. None needs a label or runs a model.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .maps import ridge_map
from .search import best_fit, held_out_fit, split_anchors

__all__ = ["centred_fit", "explained_by_first", "held_out_r2", "linear_cka", "similarity_correlation"]


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment of x (k, d₁) and y (k, d₂) (Kornblith et al. 2019), from 0 to 1.

    It is ‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖), with Frobenius norms of the centred tables. The value is 1 if a rotation and a scale
    turn one table into the other. The directions with the most variance dominate it.
    """
    x, y = _centered(x), _centered(y)
    return ((y.T @ x).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def similarity_correlation(x: Tensor, y: Tensor) -> float:
    """Pearson correlation between the cosines of all pairs of rows in x (k, d₁) and those in y (k, d₂).

    This is a representational similarity analysis (Kriegeskorte et al. 2008) of the relative space: row i of each
    matrix of cosines is the relative representation of anchor i. The diagonals are left out.
    """
    above = tuple(torch.triu_indices(len(x), len(x), offset=1))
    cosines = [(unit @ unit.T)[above] for unit in (normalize(x.double(), dim=-1), normalize(y.double(), dim=-1))]
    return torch.corrcoef(torch.stack(cosines))[0, 1].item()


def held_out_r2(x: Tensor, y: Tensor, seed: int = 0) -> float:
    """Share of the variance of y (k, d₂) that ridge regression on x (k, d₁) explains on held-out rows.

    The ridge is chosen on a part of the fitted rows. The result is negative if the mean of the fitted rows would
    predict better. It is not symmetric in x and y.
    """
    fitted, held = (rows.to(x.device) for rows in split_anchors(len(x), seed))
    regression, _ = ridge_map(x[fitted], y[fitted], seed=seed)
    left_over = (y[held].double() - regression(x[held])).square().sum()
    return (1 - left_over / (y[held].double() - y[fitted].double().mean(0)).square().sum()).item()


def explained_by_first(x: Tensor) -> float:
    """Share of the variance of x (k, d) in its first principal direction: 1/d if all directions have the same."""
    variances = torch.linalg.svdvals(_centered(x)).square()
    return (variances[0] / variances.sum()).item()


def _centered(x: Tensor) -> Tensor:
    return x.double() - x.double().mean(0)


def centred_fit(relative: Tensor, anchors: Tensor, seed: int = 0) -> Tensor:
    """Pearson correlation of r with the cosines of the best target vector, on held-out anchors.

    ``held_out_fit`` is a cosine, so it is near 1 whenever all entries of r are similar, even if their differences do
    not match. This function subtracts the mean over the anchors, both before the fit and before the comparison.

    Args:
        relative: (..., k), of prompts that are transferred together. They share the ridge with the best mean.
        anchors: (k, d), of the target.
        seed: of the choice of held-out anchors.

    Returns:
        (...), from −1 to 1.
    """
    return best_fit(held_out_fit(relative, anchors, center=True, seed=seed))
