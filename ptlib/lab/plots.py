"""Figures that at least two notebooks draw. All can be read in greyscale, by position, lightness or line style."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from ..prompts.mixtures import Mixture
from ..tasks.loading import title_of

__all__ = ["LINES", "answer_bars", "darken_numbers", "difference_points", "score_bars", "score_heatmap", "score_lines",
           "use_style", "word_picture"]

LIGHT_TO_DARK = "crest"
LINES = [("0.1", "-", "o"), ("0.45", "--", "s"), ("0.1", ":", "^"), ("0.6", "-.", "D"), ("0.3", "--", "v"),
         ("0.6", ":", "P"), ("0.1", "-.", "X"), ("0.45", "-", "<")]


def use_style() -> None:
    """Set the style of all figures. Call it once at the top of a notebook."""
    sns.set_theme(style="whitegrid", context="notebook", palette=LIGHT_TO_DARK)
    plt.rcParams["figure.dpi"] = 100


def score_bars(summary: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw mean P@1 over relations as bars, with 95 % intervals and numbers.

    Args:
        summary: the table of ``summarize``; one bar for each row, labelled by the index, from top to bottom.
        title: of the figure.
        ax: the axes to draw into; new ones if None.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.8 + 0.42 * len(summary)))
    mean = 100 * summary["relation_mean"].to_numpy()
    low, high = 100 * summary["relation_low"].to_numpy(), 100 * summary["relation_high"].to_numpy()
    rows = np.arange(len(summary))
    ax.barh(rows, mean, color=sns.color_palette(LIGHT_TO_DARK)[1], xerr=[mean - low, high - mean], capsize=3,
            error_kw={"ecolor": "0.2", "lw": 1.2})
    for row, value in enumerate(mean):  # beside the frame, where no whisker runs through them
        ax.text(1.02, row, f"{value:.1f}", va="center", transform=ax.get_yaxis_transform())
    ax.set(yticks=rows, yticklabels=[_label(label) for label in summary.index], xlim=(0, 100), title=title,
           xlabel="mean P@1 over relations, % (95 % interval)")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return ax


def answer_bars(kinds: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw the shares of right answers, other answers of the right kind, and other words, as one bar for each row.

    Args:
        kinds: the table of ``kinds_of_answers``.
        title: of the figure.
        ax: the axes to draw into; new ones if None.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 0.8 + 0.42 * len(kinds)))
    left = np.zeros(len(kinds))
    for (name, share), color in zip(kinds.items(), ("0.25", "0.6", "0.9"), strict=True):
        ax.barh(range(len(kinds)), 100 * share, left=100 * left, color=color, edgecolor="0.2", lw=0.5, label=name)
        left = left + share.to_numpy()
    ax.set(yticks=range(len(kinds)), yticklabels=[_label(label) for label in kinds.index], xlim=(0, 100), title=title,
           xlabel="share of the answers, %")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3, frameon=False)
    return ax


def difference_points(summary: pd.DataFrame, *, xlabel: str, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw paired differences as points, with 95 % intervals.

    Args:
        summary: the table of ``summarize(..., versus=...)``; one point for each row, labelled by the index, from top to
            bottom.
        xlabel: what the prompts are compared with, and the unit of the difference.
        title: of the figure.
        ax: the axes to draw into; new ones if None.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 0.8 + 0.26 * len(summary)))
    shown = 100 * summary[["difference", "difference_low", "difference_high"]]
    ax.errorbar(shown["difference"], range(len(shown)), fmt="o", color="0.1", capsize=3,
                xerr=[shown["difference"] - shown["difference_low"], shown["difference_high"] - shown["difference"]])
    ax.axvline(0, color="0.4", lw=1, ls="--")
    ax.set(yticks=range(len(shown)), yticklabels=[_label(label) for label in shown.index], xlabel=xlabel, title=title)
    ax.invert_yaxis()
    return ax


def score_lines(summary: pd.DataFrame, *, xlabel: str, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw mean P@1 over relations against a quantity: one line for each label, with 95 % intervals.

    Args:
        summary: the table of ``summarize`` with an index (label, x). The values of x are evenly spaced, in their order.
        xlabel: the name of x.
        title: of the figure.
        ax: the axes to draw into; new ones if None.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.5, 3.6))
    ticks = [str(x) for x in dict.fromkeys(summary.index.get_level_values(1))]
    labels = summary.index.get_level_values(0).unique()
    shifts = np.linspace(-0.03, 0.03, len(labels)) * (len(labels) - 1)  # so that no whisker hides another one
    for label, aside, (color, dashes, marker) in zip(labels, shifts, cycle(LINES)):
        rows = summary.loc[[label]]
        at = [ticks.index(str(x)) + aside for x in rows.index.get_level_values(1)]
        mean, low, high = (100 * rows[f"relation_{which}"] for which in ("mean", "low", "high"))
        ax.errorbar(at, mean, [mean - low, high - mean], color=color, linestyle=dashes, marker=marker, label=label,
                    elinewidth=1, capsize=2)
    ax.set(xticks=range(len(ticks)), xticklabels=ticks, xlabel=xlabel, ylabel="mean P@1, %", title=title)
    ax.set_ylim(bottom=0)
    if len(labels) > 1:
        ax.legend()
    return ax


def score_heatmap(scores: pd.DataFrame, *, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw mean P@1 for every source (row) and target (column), in percent.

    Missing pairs are blank, and self-transfer is grey.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(1.5 + 0.85 * scores.shape[1], 1.2 + 0.6 * scores.shape[0]))
    itself = np.array([[row == column for column in scores.columns] for row in scores.index])
    style = {"annot": True, "fmt": ".0f", "vmin": 0, "vmax": 100, "ax": ax, "square": True, "linewidths": 0.5}
    bar = {"label": "mean P@1, %", "shrink": 0.75}  # no higher than the squares, whose title may be wider than they are
    sns.heatmap(100 * scores, mask=itself, cmap=LIGHT_TO_DARK, cbar_kws=bar, **style)
    sns.heatmap(100 * scores, mask=~itself | scores.isna(), cmap=["0.88"], cbar=False,
                annot_kws={"style": "italic"}, **style)
    darken_numbers(ax)
    ax.set(xlabel="target", ylabel="source", title=title)
    ax.grid(False)
    ax.tick_params(axis="x", rotation=35)
    ax.tick_params(axis="y", rotation=0)
    for label in ax.get_xticklabels():
        label.set_horizontalalignment("right")
    return ax


def darken_numbers(ax: Axes) -> None:
    """Make the numbers of heatmaps black wherever that has more contrast with their cells than white."""
    meshes = [mesh for mesh in ax.collections if isinstance(mesh, QuadMesh)]
    shown = [mesh.norm(np.ma.compressed(np.asanyarray(mesh.get_array()))) for mesh in meshes]
    cells = [np.asarray(mesh.cmap(values))[:, :3] for mesh, values in zip(meshes, shown, strict=True)]
    for number, rgb in zip(ax.texts, np.concatenate(cells), strict=True):
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        luminance = linear @ [0.2126, 0.7152, 0.0722]  # of WCAG 2, by whose ratio 1.05 / (L + 0.05) = (L + 0.05) / 0.05
        number.set_color("black" if luminance > 0.179 else "white")


def word_picture(mixtures: Sequence[Mixture], labels: Sequence[str], *, title: str = "",
                 ax: Axes | None = None) -> Axes:
    """Draw the word with the most weight in each vector. The more weight it has, the darker it is.

    Args:
        mixtures: one for each row, all with the same number of vectors.
        labels: of the rows.
        title: of the figure.
        ax: the axes to draw into; new ones if None.
    """
    leading = [[next(iter(mixture.leading(i, 1).items())) for i in range(len(mixture.gains))] for mixture in mixtures]
    if ax is None:
        _, ax = plt.subplots(figsize=(1.25 * len(leading[0]) + 2.2, 0.55 * len(leading) + 0.6))
    # The scale goes beyond 1, because black would hide the words.
    ax.imshow([[weight for _, weight in row] for row in leading], cmap="Greys", vmin=0, vmax=2.5, aspect="auto")
    for i, row in enumerate(leading):
        for j, (word, weight) in enumerate(row):
            ax.text(j, i, f"{word}\n{weight:.0%}", ha="center", va="center", fontsize=9)
    ax.set(xticks=range(len(leading[0])), xticklabels=[f"vector {j + 1}" for j in range(len(leading[0]))],
           yticks=range(len(labels)), yticklabels=labels, title=title)
    ax.grid(False)
    return ax


def _label(label: object) -> str:
    """A label as readers know it: a relation by its name, ``"capital (P36)"``."""
    parts = label if isinstance(label, tuple) else (label,)
    return " / ".join(title_of(str(part)) for part in parts)
