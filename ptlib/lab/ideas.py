"""Drawings of ideas: ``make figures`` keeps them in ``notebooks/images``.

The words and numbers in them are made up. What is done with them is done by ptlib's own functions, where the drawing
is of one. All can be read in greyscale, by position, lightness or line style.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..moving.relative import relative_representation
from ..moving.search import closed_form

__all__ = ["IDEAS", "idea"]

# Embeddings of the same words in two models, in the plane, and a vector of a prompt.
WORDS = ("piano", "plays", "music", "city", "born")
SOURCE = torch.tensor([[1.0, 0.5], [0.05, 1.05], [0.8, -0.2], [-0.85, 0.4], [-0.5, -0.75]], dtype=torch.double)
TARGET = torch.tensor([[-0.62, 0.95], [-1.0, -0.15], [0.12, 0.9], [-0.15, -1.0], [0.78, -0.42]], dtype=torch.double)
PROMPT = torch.tensor([0.78, 1.05], dtype=torch.double)


def idea() -> Figure:
    """The idea as a figure: a prompt's vector, its cosines to shared words, and the target's vector with the same ones.

    The words are made up; what is done with them is what ``transfer`` does, section 3.2 and 3.3 of the paper.
    """
    relative = relative_representation(PROMPT, SOURCE)
    found = closed_form(relative, TARGET) * PROMPT.norm()
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    here, between, there = figure.subplots(1, 3, width_ratios=[1, 1.15, 1])
    _draw_space(here, SOURCE, {"prompt": PROMPT}, "1. tuned on the source")
    _draw_space(there, TARGET, {"prompt": found}, "3. the vector of the target\nwith nearly the same cosines")
    _draw_pairs(between, {"in the source": relative, "in the target": relative_representation(found, TARGET)},
                "2. described by words\nthat both models know")
    between.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def _draw_space(ax: Axes, words: Tensor, vectors: Mapping[str, Tensor], title: str) -> None:
    """Draw words as lines from the origin, and a prompt's vectors as stars."""
    named = [*zip(WORDS, words, strict=True), *vectors.items()]
    for name, point in named:
        (x, y), (right, up) = point.tolist(), (10 * point / point.norm()).tolist()
        color, width, marker, size, weight = (("0.1", 2, "*", 16, "bold") if name in vectors else
                                              ("0.6", 1, "o", 5, "normal"))
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-", "color": color, "lw": width})
        ax.plot(x, y, marker, color=color, ms=size)
        ax.annotate(name, (x, y), (right, up), textcoords="offset points", fontsize=11, va="center",
                    ha="center" if abs(x) < 0.2 else "left" if x > 0 else "right", weight=weight)
    ax.set(xlim=(-2.6, 2.2), ylim=(-1.4, 1.6), title=title, aspect="equal", xticks=[], yticks=[],
           xlabel="embedding space")


def _draw_pairs(ax: Axes, cosines: Mapping[str, Tensor], title: str) -> None:
    """Draw two relative representations as pairs of bars, dark and light."""
    rows = torch.arange(len(WORDS))
    for (label, values), shift, color in zip(cosines.items(), (-0.18, 0.18), ("0.25", "0.85"), strict=True):
        ax.barh(rows + shift, values, 0.34, color=color, edgecolor="0.25", label=label)
    ax.axvline(0, color="0.25", lw=0.8)
    ax.set(yticks=rows, yticklabels=WORDS, xlim=(-1, 1), xlabel="cosine of the vector to each shared word", title=title)
    ax.tick_params(labelsize=11)
    ax.invert_yaxis()


IDEAS: dict[str, Callable[[], Figure]] = {"idea": idea}
