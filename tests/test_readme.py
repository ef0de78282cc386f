"""What the README says is so."""

import re
from pathlib import Path

from ptlib import METHODS
from ptlib.lab.figures import figures_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "notebooks/glossary.md",
                                  "ptlib/zoo/README.md")]


def test_its_table_of_methods_is_the_registry():
    rows = re.findall(r"^\| `([\w-]+)` \| (affine|none) \| (.*?) ?\|", (ROOT / "README.md").read_text(), re.M)
    told = {name: (normalize, [option for option in options.split(", ") if option])
            for name, normalize, options in rows}
    assert told == {name: (method.normalize, list(method.options)) for name, method in METHODS.items()}


def test_its_figures_are_those_of_the_notebooks():
    """As ``make figures`` takes them."""
    found = {name: picture for notebook in sorted((ROOT / "notebooks").rglob("*.ipynb"))
             for name, picture in figures_of(notebook)}
    kept = {path.stem: path.read_bytes() for path in (ROOT / "notebooks" / "images").glob("*.png")}
    assert found == kept
    assert all(f"notebooks/images/{name}.png" in (ROOT / "README.md").read_text() for name in found)


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\((?!http)([^)#\s]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
