"""Copy notebooks, with the small parameters that their tests run with: ``python prepare.py FOLDER NOTEBOOK ...``."""

import logging
import sys
from pathlib import Path

import yaml
from papermill import execute_notebook

SMALL = Path(__file__).parent  # of NAME.yaml, which a notebook without parameters of its own for tests lacks


def main(folder: Path, notebooks: list[Path]) -> None:
    logging.getLogger("papermill").setLevel(logging.ERROR)
    folder.mkdir(parents=True)
    for notebook in notebooks:
        small = SMALL / f"{notebook.stem}.yaml"
        parameters = yaml.safe_load(small.read_text()) if small.exists() else {}
        execute_notebook(notebook, folder / notebook.name, parameters, prepare_only=True, progress_bar=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [*map(Path, sys.argv[2:])])
