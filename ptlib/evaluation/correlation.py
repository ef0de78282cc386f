"""How well one number predicts the order of another: rank correlations with bootstrap intervals.

The intervals allow for rows that are not independent, such as results that share a model.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd

from ..errors import PromptTransferError

__all__ = ["rank_correlation", "spearman"]

Numbers = Sequence[float] | np.ndarray | pd.Series


def spearman(x: Numbers, y: Numbers, weights: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rank correlation of x and y. Tied values have their mean rank.

    Args:
        x, y: (n,) numbers.
        weights: (..., n), how often each pair (x, y) counts; once if None.

    Returns:
        (...), one number for each row of weights; nan if x or y is constant.
    """
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=float)
    total = weights.sum(-1, keepdims=True)
    ranks = [_ranks(np.asarray(values), weights) for values in (x, y)]
    with np.errstate(invalid="ignore", divide="ignore"):
        x_ranks, y_ranks = (r - (weights * r).sum(-1, keepdims=True) / total for r in ranks)
        spreads = (weights * x_ranks**2).sum(-1) * (weights * y_ranks**2).sum(-1)
        # Ranks are multiples of 1/2, so a spread this small is a rounding error of zero.
        return np.where(spreads > 1e-6, (weights * x_ranks * y_ranks).sum(-1) / np.sqrt(spreads), np.nan)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean ranks of values (n,). Weights (..., n) are how often each value occurs."""
    distinct, where = np.unique(values, return_inverse=True)
    mass = weights @ np.eye(len(distinct))[where]
    return (np.cumsum(mass, axis=-1) - mass / 2)[..., where]


def rank_correlation(x: Numbers, y: Numbers, *, within: Iterable[Hashable] | None = None,
                     clusters: Iterable[Iterable[Hashable]] = (), resamples: int = 1000,
                     seed: int = 0) -> dict[str, float]:
    """Spearman's correlation of x and y, with a 95 % percentile-bootstrap interval.

    Args:
        x, y: n numbers each.
        within: n labels. The correlation is computed among the rows of each label, then averaged with the number of
            rows as weight. A label is left out if x or y is constant among its rows.
        clusters: one or more lists of n labels, for rows that are not independent. The bootstrap draws labels instead
            of rows, from all lists together. A row counts as often as its labels were drawn: with several lists, the
            product of their counts. With ``clusters=[sources, targets]``, a model that is drawn twice counts twice as
            source and twice as target. Without clusters, the bootstrap draws rows.
        resamples, seed: the number of bootstrap samples, and their seed.

    Returns:
        ``correlation`` and the bounds of its interval, ``low`` and ``high``.

    Raises:
        PromptTransferError: the lists have different lengths, or none has an entry.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    columns = [list(column) for column in clusters] or [list(range(len(x)))]
    labels = [0] * len(x) if within is None else list(within)
    if len({len(x), len(y), len(labels), *map(len, columns)}) > 1 or not len(x):
        raise PromptTransferError(f"x has {len(x)} numbers, y has {len(y)}, within has {len(labels)} labels and "
                                  f"clusters have {[len(column) for column in columns]}; expected as many of each, and "
                                  "at least one")
    units = {label: i for i, label in enumerate(dict.fromkeys(label for column in columns for label in column))}
    drawn = np.random.default_rng(seed).multinomial(len(units), [1 / len(units)] * len(units), size=resamples)
    counts = np.prod([drawn[:, [units[label] for label in column]] for column in columns], axis=0)
    weights = np.vstack([np.ones(len(x)), counts])  # the first row is the original data
    sums, shares = np.zeros(len(weights)), np.zeros(len(weights))
    for rows in pd.Series(labels).groupby(labels, sort=False).indices.values():
        correlations, mass = spearman(x[rows], y[rows], weights[:, rows]), weights[:, rows].sum(1)
        sums += np.where(np.isnan(correlations), 0, correlations * mass)
        shares += np.where(np.isnan(correlations), 0, mass)
    means = np.divide(sums, shares, out=np.full(len(sums), np.nan), where=shares > 0)
    low, high = np.nanquantile(means[1:], [0.025, 0.975]) if np.isfinite(means[1:]).any() else (np.nan, np.nan)
    return {"correlation": float(means[0]), "low": float(low), "high": float(high)}
