"""Figures of the README: ``python -m ptlib.lab.figures``, as ``make figures`` does.

``notebooks/images/idea.png`` is drawn here. A notebook's cell with the tag ``readme-NAME`` makes
``notebooks/images/NAME.png``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import nbformat
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..files import replacing
from ..moving.relative import relative_representation
from ..moving.search import closed_form
from .figure import as_png

__all__ = ["figures_of", "idea", "main"]

TAG = "readme-"
NOTEBOOKS = Path("notebooks")
# Embeddings of the same words in two models, in the plane, and a vector of a prompt: made up, to show the idea.
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
    _draw_space(here, SOURCE, PROMPT, "1. tuned on the source")
    _draw_space(there, TARGET, found, "3. the vector of the target\nwith nearly the same cosines")
    rows = torch.arange(len(WORDS))
    between.barh(rows - 0.18, relative, 0.34, color="0.25", label="in the source")
    between.barh(rows + 0.18, relative_representation(found, TARGET), 0.34, color="0.85", edgecolor="0.25",
                 label="in the target")
    between.axvline(0, color="0.25", lw=0.8)
    between.set(yticks=rows, yticklabels=WORDS, xlim=(-1, 1), xlabel="cosine of the vector to each shared word",
                title="2. described by words\nthat both models know")
    between.tick_params(labelsize=11)
    between.invert_yaxis()
    between.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def _draw_space(ax: Axes, words: Tensor, vector: Tensor, title: str) -> None:
    """Draw words as lines from the origin, and a prompt's vector as a star."""
    named = [*zip(WORDS, words, strict=True), ("prompt", vector)]
    for name, point in named:
        (x, y), (right, up) = point.tolist(), (10 * point / point.norm()).tolist()
        color, width, marker, size, weight = (("0.1", 2, "*", 16, "bold") if name == "prompt" else
                                              ("0.6", 1, "o", 5, "normal"))
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-", "color": color, "lw": width})
        ax.plot(x, y, marker, color=color, ms=size)
        ax.annotate(name, (x, y), (right, up), textcoords="offset points", fontsize=11, va="center",
                    ha="left" if x > 0 else "right", weight=weight)
    ax.set(xlim=(-2.6, 2.2), ylim=(-1.4, 1.6), title=title, aspect="equal", xticks=[], yticks=[],
           xlabel="embedding space")


def figures_of(notebook: Path) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each tagged cell that was run."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        for tag in cell.metadata.get("tags", ()):
            if tag.startswith(TAG) and cell.execution_count:
                [picture] = [shown.data["image/png"] for shown in cell.outputs if "image/png" in shown.get("data", {})]
                yield tag.removeprefix(TAG), base64.b64decode(picture)


def main() -> None:
    pictures = [("idea", as_png(idea()), "drawn")]
    for notebook in sorted(NOTEBOOKS.rglob("*.ipynb")):
        pictures += [(name, picture, str(notebook)) for name, picture in figures_of(notebook)]
    for name, picture, origin in pictures:
        with replacing(NOTEBOOKS / "images" / f"{name}.png") as partial:
            partial.write_bytes(picture)
        print(f"{NOTEBOOKS / 'images' / name}.png: {origin}")


if __name__ == "__main__":
    main()
