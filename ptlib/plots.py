"""Figures that at least two notebooks draw. All read in greyscale: order is told by position or lightness."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

__all__ = ["score_bars", "score_heatmap", "use_style"]

LIGHT_TO_DARK = "crest"


def use_style() -> None:
    """The look of every figure: call once at the top of a notebook."""
    sns.set_theme(style="whitegrid", context="notebook", palette=LIGHT_TO_DARK)
    plt.rcParams["figure.dpi"] = 100


def score_bars(summary: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """One bar a row of ``summarize``'s table: mean P@1 over relations, with its 95 % interval and its number.

    Args:
        summary: the index labels the bars, from top to bottom.
        title: what is compared, on what.
        ax: drawn into; a new one if None.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.8 + 0.42 * len(summary)))
    mean = 100 * summary["relation_mean"].to_numpy()
    low, high = 100 * summary["relation_low"].to_numpy(), 100 * summary["relation_high"].to_numpy()
    rows = np.arange(len(summary))
    ax.barh(rows, mean, color=sns.color_palette(LIGHT_TO_DARK)[1], xerr=[mean - low, high - mean], capsize=3,
            error_kw={"ecolor": "0.2", "lw": 1.2})
    for row, value, end in zip(rows, mean, high, strict=True):
        ax.text(end + 1.5, row, f"{value:.1f}", va="center")
    ax.set(yticks=rows, yticklabels=[_label(label) for label in summary.index], xlim=(0, 116), title=title,
           xlabel="mean P@1 over relations, % (95 % interval)")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return ax


def score_heatmap(scores: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Mean P@1 of every source (row) and target (column), in percent; missing pairs stay blank."""
    if ax is None:
        _, ax = plt.subplots(figsize=(1.5 + 0.85 * scores.shape[1], 1.2 + 0.6 * scores.shape[0]))
    sns.heatmap(100 * scores, annot=True, fmt=".0f", vmin=0, vmax=100, cmap=LIGHT_TO_DARK, ax=ax, square=True,
                cbar_kws={"label": "mean P@1, %"}, linewidths=0.5)
    ax.set(xlabel="target", ylabel="source", title=title)
    ax.tick_params(axis="x", rotation=35)
    ax.tick_params(axis="y", rotation=0)
    for label in ax.get_xticklabels():
        label.set_ha("right")
    return ax


def _label(label: object) -> str:
    return " / ".join(map(str, label)) if isinstance(label, tuple) else str(label)
