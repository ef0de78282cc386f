"""Figures of the README and of the tutorial's texts: ``python -m ptlib.lab.figures``, as ``make figures`` does.

Those of ideas are drawn by ``ideas.py``. A notebook's cell with the tag ``readme-NAME`` makes
``notebooks/images/NAME.png``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import nbformat

from ..files import replacing
from .figure import as_png
from .ideas import IDEAS

__all__ = ["figures_of", "main"]

TAG = "readme-"
NOTEBOOKS = Path("notebooks")


def figures_of(notebook: Path) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of each tagged cell that was run."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        for tag in cell.metadata.get("tags", ()):
            if tag.startswith(TAG) and cell.execution_count:
                [picture] = [shown.data["image/png"] for shown in cell.outputs if "image/png" in shown.get("data", {})]
                yield tag.removeprefix(TAG), base64.b64decode(picture)


def main() -> None:
    pictures = [(name, as_png(draw()), "drawn") for name, draw in IDEAS.items()]
    for notebook in sorted(NOTEBOOKS.rglob("*.ipynb")):
        pictures += [(name, picture, str(notebook)) for name, picture in figures_of(notebook)]
    for name, picture, origin in pictures:
        with replacing(NOTEBOOKS / "images" / f"{name}.png") as partial:
            partial.write_bytes(picture)
        print(f"{NOTEBOOKS / 'images' / name}.png: {origin}")


if __name__ == "__main__":
    main()
