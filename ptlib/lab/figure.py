"""The static picture of an exploration, for pages without a kernel and for files."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .display import with_palette
from .plots import LIGHT_TO_DARK, darken_numbers, score_bars
from .tables import over_facts

if TYPE_CHECKING:
    from .explorations import Exploration

__all__ = ["as_png", "draw"]


def draw(exploration: Exploration) -> Figure:
    """A static figure of an exploration: the setting, nearest words, strongest anchors and P@1.

    Colours are cosines on one scale from 0 to 1, so that figures can be compared; cosines below 0 have the colour of 0.
    """
    lines = max(len(exploration.nearest), 10)
    figure = Figure(figsize=(9.5, 2.4 + 0.5 * lines), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    halves = figure.add_gridspec(2, 1)
    above, below = figure.add_subfigure(halves[0]), figure.add_subfigure(halves[1])
    table, bars = above.subplots(1, 2, width_ratios=[3, 2])
    here, there, scale = below.subplots(1, 3, width_ratios=[1, 1, 0.04])
    _draw_words(exploration.nearest, table)
    for side, ax in (("source", here), ("moved", there)):
        cosines = exploration.strongest[side]
        sns.heatmap(cosines, annot=(100 * cosines).round().astype(int), fmt="d", vmin=0, vmax=1, ax=ax,
                    cmap=LIGHT_TO_DARK, cbar=side == "moved", cbar_ax=scale if side == "moved" else None,
                    annot_kws={"size": 9}, yticklabels=True)
        darken_numbers(ax)
        ax.set(title=side, xlabel="vector", ylabel="strongest anchors (cosine × 100)" if side == "source" else "")
        ax.tick_params(axis="y", rotation=0, labelleft=side == "source")
    scale.set_ylabel("cosine")
    scores = over_facts(exploration.evaluations)
    score_bars(scores, title="P@1 (95 % interval)", ax=bars).set_xlabel(f"% of {scores['facts'].iloc[0]} test facts")
    figure.suptitle(repr(exploration), fontsize=12)
    return figure


def as_png(figure: Figure) -> bytes:
    """A figure as a small PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return with_palette(file.getvalue())


def _draw_words(nearest: pd.DataFrame, ax: Axes) -> None:
    """Draw the nearest words as text, one line for each rank. Words that a vector has on both sides are bold."""
    columns = {"source": 0.2, "moved": 0.67}  # left edges of the words
    for side, left in columns.items():
        ax.text(left + 0.03, -1, side, va="center", size=10, style="italic")
    for line, (vector, rank) in enumerate(nearest.index):
        group = nearest.loc[vector]
        both = set(group["source", "word"]) & set(group["moved", "word"])
        if rank == 1:
            ax.axhline(line - 0.5, color="0.8", lw=0.8)
            ax.text(0, line, vector, va="center", size=10)
        for side, left in columns.items():
            word, cosine = group.loc[rank, side]
            ax.text(left, line, f"{100 * cosine:.0f}", va="center", ha="right", size=10)
            ax.text(left + 0.03, line, word, va="center", size=10, weight="bold" if word in both else "normal")
    ax.set(xlim=(0, 1), ylim=(len(nearest), -1.5), title="nearest words (cosine × 100)")
    ax.set_axis_off()
