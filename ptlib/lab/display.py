"""How a notebook keeps its figures: small PNGs that look the same, with a text for who cannot see them."""

from __future__ import annotations

import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from IPython.core.getipython import get_ipython
from IPython.core.pylabtools import print_figure
from matplotlib.figure import Figure
from PIL import Image

__all__ = ["alternative_text", "keep_figures_small", "with_palette"]

VISIBLE = 12  # of 255: a pixel that differs by less in every channel looks the same


def keep_figures_small() -> None:
    """Make the running notebook, if there is one, keep its figures by ``with_palette`` with ``alternative_text``."""
    shell = get_ipython()
    if shell is not None and shell.display_formatter is not None:
        plt.switch_backend(matplotlib.get_backend())  # loads it now, because it sets a formatter then
        shell.display_formatter.formatters["image/png"].for_type(Figure, _shown)


def _shown(figure: Figure) -> tuple[bytes, dict[str, str]] | None:
    png = print_figure(figure, "png")
    if png is None:  # nothing is drawn in it
        return None
    return with_palette(png), {"alt": alternative_text(figure)}


def with_palette(png: bytes) -> bytes:
    """A PNG with a palette of 256 colours, about a third of the bytes, if no pixel changes visibly; else as it was.

    Figures are mostly one background, text and a colour scale: 256 colours of their own hold them, where the few of a
    fixed palette would show bands.
    """
    full = Image.open(io.BytesIO(png)).convert("RGB")
    small = full.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    difference = np.abs(np.asarray(full, dtype=int) - np.asarray(small.convert("RGB"), dtype=int))
    if difference.max() >= VISIBLE:
        return png
    file = io.BytesIO()
    small.save(file, format="png", optimize=True)
    return file.getvalue()


def alternative_text(figure: Figure) -> str:
    """What a figure shows, in words: its titles, and what its axes are of."""
    parts = [figure.get_suptitle()]
    for ax in figure.axes:
        axes = [f"{name}: {label}" for name, label in (("horizontal", ax.get_xlabel()), ("vertical", ax.get_ylabel()))
                if label]
        lines = [str(text) for text in ax.get_legend_handles_labels()[1] if not str(text).startswith("_")]
        parts += [ax.get_title(), "; ".join(axes), "lines or bars: " + ", ".join(lines) if lines else ""]
    said = ". ".join(dict.fromkeys(" ".join(part.split()) for part in parts if part.strip()))
    return f"Figure. {said}" if said else "Figure"
