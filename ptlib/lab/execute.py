"""Run notebooks in place, as ``make notebooks`` does: ``python -m ptlib.lab.execute notebooks/*.ipynb``.

An executed notebook has two digests in its metadata: of its own code, and of ptlib's. They tell whether its outputs
were made by the code as it is now.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import ptlib

from ..files import content_digest, replacing
from ..sweep.grids import digest_of

__all__ = ["execute", "is_edited", "is_of_other_source", "source_digest"]

STAMP = "ptlib"  # the key in a notebook's metadata
WIDGET = "application/vnd.jupyter.widget-view+json"  # a reference to a live widget
UNTIL_RUN = "until-run"  # the tag of a cell that goes when the notebook is run


def execute(path: str | Path) -> None:
    """Run a notebook in its own folder, and save it with its outputs and digests. After an error nothing is saved."""
    path = Path(path)
    notebook = nbformat.read(path, as_version=4)
    # The text of an earlier run stands in for cells that were never run; now they are.
    notebook.cells = [cell for cell in notebook.cells if UNTIL_RUN not in cell.metadata.get("tags", ())]
    NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False, store_widget_state=False,
                   resources={"metadata": {"path": str(path.parent)}}).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if is_shown_without_a_kernel(output)]
    notebook.metadata[STAMP] = {"code": digest_of(notebook), "source": source_digest()}
    with replacing(path) as partial:
        nbformat.write(notebook, partial)


def is_shown_without_a_kernel(output: nbformat.NotebookNode) -> bool:
    """Take the live widget out of an output; whether anything else is left for a page without a kernel.

    The text that stands for a widget (its Python representation, or a progress bar that was never more than at its
    start) tells a reader nothing.
    """
    if WIDGET not in output.get("data", {}):
        return True
    del output.data[WIDGET]
    return output.data.keys() > {"text/plain"}


def is_edited(path: str | Path) -> bool:
    """Whether the notebook's code has changed since its outputs were made."""
    notebook = nbformat.read(path, as_version=4)
    return STAMP not in notebook.metadata or notebook.metadata[STAMP]["code"] != digest_of(notebook)


def is_of_other_source(path: str | Path) -> bool:
    """Whether ptlib has changed since the notebook's outputs were made."""
    stamp = nbformat.read(path, as_version=4).metadata.get(STAMP, {})
    return stamp.get("source") != source_digest()


@cache
def source_digest() -> str:
    """Digest of ptlib's code, without comments, docstrings and layout, and of the files of its zoo."""
    root = Path(ptlib.__file__).parent
    about = [(path.relative_to(root).as_posix(), meaning(path)) for path in sorted(root.rglob("*.py"))]
    about += [(path.relative_to(root).as_posix(), content_digest(path))
              for path in sorted(root.glob("zoo/[fm]*/**/*")) if path.is_file()]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def meaning(path: Path) -> str:
    """A module's syntax tree as text, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def main(paths: Sequence[str]) -> None:
    for path in paths:
        began = time.monotonic()
        execute(path)
        print(f"{path}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
