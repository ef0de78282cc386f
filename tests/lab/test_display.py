"""How notebooks keep figures and tables: small, in full colour, in words, and with relations by their names."""

import base64
import io

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ptlib import lab
from ptlib.lab.display import VISIBLE, alternative_text, with_palette
from ptlib.lab.execute import execute, is_shown_without_a_kernel
from ptlib.tasks.loading import title_of

matplotlib.use("Agg")


@pytest.fixture
def heatmap():
    """A figure with text, a grid of numbers and a colour bar."""
    scores = pd.DataFrame(np.linspace(0, 1, 36).reshape(6, 6), list("abcdef"), list("abcdef"))
    ax = lab.score_heatmap(scores, title="every pair")
    yield ax
    plt.close(ax.figure)


def png_of(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def test_a_figure_is_small_and_looks_the_same(heatmap):
    full = png_of(heatmap.figure)
    small = with_palette(full)
    assert len(small) < 0.6 * len(full)
    assert np.abs(pixels(small) - pixels(full)).max() < VISIBLE
    bar = np.unique(pixels(small).reshape(-1, 3), axis=0)
    assert len(bar) > 150, "a colour bar in a few dozen colours has bands"


def test_a_picture_of_too_many_colours_stays_as_it_is():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, format="png")
    assert with_palette(file.getvalue()) == file.getvalue()


def test_the_alternative_text_names_what_is_drawn(heatmap):
    text = alternative_text(heatmap.figure)
    for part in ("every pair", "horizontal: target", "vertical: source", "mean P@1, %"):
        assert part in text
    assert alternative_text(plt.figure()) == "Figure"


def test_numbers_on_a_heatmap_have_contrast(heatmap):
    """WCAG 2 asks for a ratio of 4.5; the better of black and white always has more."""
    def luminance(color) -> float:
        return sum(w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
                   for w, c in zip((0.2126, 0.7152, 0.0722), color[:3], strict=True))

    meshes = heatmap.collections
    heatmap.figure.canvas.draw()
    cells = [color for mesh in meshes for color, value in zip(
        mesh.get_facecolors(), np.ma.asarray(mesh.get_array()).flatten(), strict=True) if value is not np.ma.masked]
    assert len(cells) == len(heatmap.texts) == 36
    for number, cell in zip(heatmap.texts, cells, strict=True):
        light, dark = sorted([luminance(cell), luminance(matplotlib.colors.to_rgb(number.get_color()))])[::-1]
        assert (light + 0.05) / (dark + 0.05) > 4.5


def test_numbers_of_bars_stand_beside_the_frame():
    """At 0 and 100 % too, where a whisker would run through them."""
    scores = pd.DataFrame({"relation_mean": [0.0, 1.0], "relation_low": [0.0, 0.9], "relation_high": [0.1, 1.0]},
                          index=["zoo/P36", "all"])
    ax = lab.score_bars(scores)
    ax.figure.canvas.draw()
    edge = ax.get_window_extent().x1
    assert [text.get_text() for text in ax.texts] == ["0.0", "100.0"]
    assert all(text.get_window_extent().x0 > edge for text in ax.texts)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["capital (P36)", "all"]
    plt.close(ax.figure)


def test_relations_have_names():
    assert title_of("zoo/P36") == title_of("lama/P36").replace("lama", "zoo") == "capital (P36)"
    assert title_of("data/P36.jsonl") == "capital (P36)"
    assert title_of("zoo/bert-mini") == "zoo/bert-mini"
    table = lab.named(pd.DataFrame({"P36": [1], "fit": [2]}, index=[("zoo/P19")]))
    assert table.columns.tolist() == ["capital (P36)", "fit"] and table.index.tolist() == ["place of birth (P19)"]


@pytest.mark.slow
def test_a_notebook_keeps_its_figures_so(tmp_path):
    path = tmp_path / "figure.ipynb"
    code = """import matplotlib.pyplot as plt
from ptlib import lab
lab.begin()
plt.plot([1, 2]); plt.title("up"); plt.show()"""
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), path)
    execute(path)
    figure = nbformat.read(path, as_version=4).cells[0].outputs[-1]
    assert figure.metadata["image/png"]["alt"] == "Figure. up"
    assert Image.open(io.BytesIO(base64.b64decode(figure.data["image/png"]))).mode == "P"


def test_live_widgets_do_not_stay_in_a_notebook():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "VBox(...)"}
    bar = nbformat.v4.new_output("display_data", data=dict(widget))
    panel = nbformat.v4.new_output("execute_result", data={**widget, "image/png": base64.b64encode(b"x").decode()})
    text = nbformat.v4.new_output("stream", text="done")
    assert [is_shown_without_a_kernel(output) for output in (bar, panel, text)] == [False, True, True]
    assert panel.data.keys() == {"image/png", "text/plain"}
