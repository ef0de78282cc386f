"""What the README and the pages behind it say is so."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from documents import assert_alike, printed, with_output
from PIL import Image

from ptlib import METHODS
from ptlib.lab.figure import as_png
from ptlib.lab.figures import figures_of
from ptlib.lab.ideas import IDEAS

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "notebooks" / "images"
SITE = ROOT / "notebooks" / "site"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks/glossary.md",
                                  "ptlib/zoo/README.md")] + sorted(SITE.glob("*.md"))
TUTORIAL = {"00_quickstart": "idea"} | {name: name for name in IDEAS if name != "idea"}  # {notebook: its figure}


def markdown_of(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def test_the_table_of_methods_is_the_registry():
    text = (SITE / "how_it_works.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (affine|none) \| (.*?) ?\|", text, re.M)
    told = {name: (normalize, [option for option in options.split(", ") if option])
            for name, normalize, options in rows}
    assert told == {name: (method.normalize, list(method.options)) for name, method in METHODS.items()}


def test_the_table_of_notebooks_has_all():
    links = re.findall(r"\]\(([^)]+\.ipynb)\)", (SITE / "notebooks.md").read_text())
    notebooks = [path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    assert set(notebooks) <= {(SITE / link).resolve() for link in links}


def test_figures_are_those_of_the_notebooks():
    """As ``make figures`` takes them. The explorer is a picture of its page, and ideas are drawn."""
    found = {name: picture for notebook in sorted((ROOT / "notebooks").rglob("*.ipynb"))
             for name, picture in figures_of(notebook)}
    kept = {path.stem: path.read_bytes() for path in IMAGES.glob("*.png") if path.stem not in {"explorer", *IDEAS}}
    assert found == kept


@pytest.mark.parametrize("name", IDEAS)
def test_a_figure_of_an_idea_is_the_one_that_is_drawn(name, tmp_path):
    drawn, kept = tmp_path / f"{name}.png", IMAGES / f"{name}.png"
    with plt.style.context("default"):
        drawn.write_bytes(as_png(IDEAS[name]()))
    pictures = [np.asarray(Image.open(path).convert("L"), dtype=float) for path in (drawn, kept)]
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 1  # of 255: another font renderer blurs letters otherwise


def test_every_figure_is_shown_and_small():
    """On a page, or in the text of a notebook."""
    texts = "".join(page.read_text() for page in PAGES)
    texts += "".join(markdown_of(notebook) for notebook in (ROOT / "notebooks").rglob("*.ipynb"))
    for path in IMAGES.glob("*.png"):
        assert f"images/{path.name}" in texts
        assert path.stat().st_size < 120_000


@pytest.mark.parametrize("notebook", TUTORIAL)
def test_each_part_of_the_tutorial_shows_its_idea(notebook):
    """In its text, with words for who cannot see it."""
    shown = re.findall(r"^!\[(.*)\]\(images/(.*)\.png\)$", markdown_of(ROOT / "notebooks" / f"{notebook}.ipynb"), re.M)
    assert [name for _, name in shown] == [TUTORIAL[notebook]]
    assert len(shown[0][0].split()) > 10


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#\s]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_commands_are_those_of_the_makefile():
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    told = {command for page in PAGES for command in re.findall(r"^(?:\w+=\S+ )?make (\w+)", page.read_text(), re.M)}
    assert told and told <= targets


@pytest.mark.slow
def test_the_readme_s_code_prints_what_stands_under_it():
    [(code, output)] = with_output((ROOT / "README.md").read_text())
    assert_alike(printed(code), output)


def test_an_output_is_compared_word_by_word_and_number_by_number():
    assert_alike("P@1 97%, fit 0.52\n", "P@1 100%, fit 0.5\n")
    for other in ("P@1 77%, fit 0.50\n", "P@1 97%, fit 0.9\n", "P@2 97%, fit 0.52\n", "no 97%, fit 0.52\n", ""):
        with pytest.raises(AssertionError):
            assert_alike(other, "P@1 97%, fit 0.52\n")
