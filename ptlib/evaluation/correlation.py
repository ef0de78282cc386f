"""How well one number predicts the order of another: rank correlations with honest intervals."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import pandas as pd

from ..errors import PromptTransferError

__all__ = ["rank_correlation", "spearman"]

Numbers = Sequence[float] | np.ndarray | pd.Series


def spearman(x: Numbers, y: Numbers, weights: np.ndarray | None = None) -> np.ndarray:
    """Spearman's rank correlation of x and y (n,), tied values at their mean rank; nan where either is constant.

    Args:
        weights: (..., n), how often each pair counts; once if None.

    Returns:
        (...), one number for each row of weights.
    """
    weights = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=float)
    total = weights.sum(-1, keepdims=True)
    ranks = [_ranks(np.asarray(values), weights) for values in (x, y)]
    with np.errstate(invalid="ignore", divide="ignore"):
        one, two = (r - (weights * r).sum(-1, keepdims=True) / total for r in ranks)
        spreads = (weights * one**2).sum(-1) * (weights * two**2).sum(-1)
        # Ranks are multiples of a half: below this, a spread is rounding.
        return np.where(spreads > 1e-6, (weights * one * two).sum(-1) / np.sqrt(spreads), np.nan)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean ranks of values (n,), each there as often as weights (..., n) say."""
    distinct, where = np.unique(values, return_inverse=True)
    mass = weights @ np.eye(len(distinct))[where]
    return (np.cumsum(mass, axis=-1) - mass / 2)[..., where]


def rank_correlation(x: Numbers, y: Numbers, *, within: Iterable[Hashable] | None = None,
                     clusters: Iterable[Iterable[Hashable]] = (), resamples: int = 1000,
                     seed: int = 0) -> dict[str, float]:
    """Spearman's correlation of x and y with a 95 % percentile-bootstrap interval over what they share.

    Args:
        x, y: n numbers each.
        within: n labels; the correlation is computed among the rows of each label and averaged, a label counting as
            often as it has rows. Labels without a correlation, because x or y is constant there, are left out.
        clusters: one or more lists of n labels. The bootstrap draws labels, of all lists together, and a row counts
            as often as the product of its labels: rows with a common label stay together, and with
            ``clusters=[sources, targets]`` a model that is drawn twice counts twice as source and as target. The
            rows themselves are drawn if there are none.
        resamples, seed: of the bootstrap.

    Returns:
        ``correlation``, ``low``, ``high``.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    columns = [list(column) for column in clusters] or [list(range(len(x)))]
    labels = [0] * len(x) if within is None else list(within)
    if len({len(x), len(y), len(labels), *map(len, columns)}) > 1 or not len(x):
        raise PromptTransferError(f"x has {len(x)} numbers, y {len(y)}, within {len(labels)} labels and clusters "
                                  f"{[len(column) for column in columns]}; expected as many of each, and at least one")
    units = {label: i for i, label in enumerate(dict.fromkeys(label for column in columns for label in column))}
    drawn = np.random.default_rng(seed).multinomial(len(units), [1 / len(units)] * len(units), size=resamples)
    counts = np.prod([drawn[:, [units[label] for label in column]] for column in columns], axis=0)
    weights = np.vstack([np.ones(len(x)), counts])  # the first row is the data as they are
    sums, shares = np.zeros(len(weights)), np.zeros(len(weights))
    for rows in pd.Series(labels).groupby(labels, sort=False).indices.values():
        found, mass = spearman(x[rows], y[rows], weights[:, rows]), weights[:, rows].sum(1)
        sums += np.where(np.isnan(found), 0, found * mass)
        shares += np.where(np.isnan(found), 0, mass)
    means = np.divide(sums, shares, out=np.full(len(sums), np.nan), where=shares > 0)
    low, high = np.nanquantile(means[1:], [0.025, 0.975]) if np.isfinite(means[1:]).any() else (np.nan, np.nan)
    return {"correlation": float(means[0]), "low": float(low), "high": float(high)}
