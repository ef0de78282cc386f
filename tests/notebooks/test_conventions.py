"""What every notebook keeps to, and what nbval cannot see."""

import json
import warnings
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from nbclient.exceptions import CellExecutionError

from ptlib.lab.execute import execute, is_edited, is_of_other_source, meaning

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param


def test_parameters_are_typed_and_hold_a_seed(notebook):
    parameters = papermill.inspect_notebook(str(notebook))
    assert parameters["seed"]["inferred_type_name"] == "int"
    for name, about in parameters.items():
        assert about["inferred_type_name"] != "None", f"{name} has no type"
        assert about["help"], f"{name} has no help"


def test_it_runs_anywhere(notebook):
    """One kernel name, and no trace of the machine or tool that it was last run with."""
    content = json.loads(notebook.read_text())
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    assert not {"papermill", "widgets", "jupytext"} & content["metadata"].keys()
    assert str(ROOT) not in notebook.read_text()


def test_it_is_small_enough_to_browse(notebook):
    assert notebook.stat().st_size < 300_000


def test_it_has_been_run_without_an_error(notebook):
    """Readers browse the committed outputs. One without a stamp is on its way: it is named until it is run."""
    content = json.loads(notebook.read_text())
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    never = sum(not cell["execution_count"] for cell in cells)
    if never and "ptlib" not in content["metadata"]:
        warnings.warn(f"{notebook.stem} has {never} cells that were never run; make notebooks runs them", stacklevel=1)
    else:
        assert not never
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]


def test_its_outputs_are_those_of_its_code(notebook):
    """A notebook that was edited after it was run shows numbers that its code did not make: run ``make notebooks``."""
    stamped = "ptlib" in json.loads(notebook.read_text())["metadata"]
    if not stamped or is_of_other_source(notebook):
        warnings.warn(f"{notebook.stem} was run with another ptlib than this one; make notebooks runs it again",
                      stacklevel=1)
    if stamped:
        assert not is_edited(notebook)


def test_an_edit_and_another_source_are_told(tmp_path):
    path = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), path)
    assert is_edited(path) and is_of_other_source(path)
    execute(path)
    done = nbformat.read(path, as_version=4)
    assert done.cells[0].outputs[0].data["text/plain"] == "2"
    assert not is_edited(path) and not is_of_other_source(path)
    done.cells.append(nbformat.v4.new_markdown_cell("words change no number"))
    nbformat.write(done, path)
    assert not is_edited(path)
    done.cells[0].source, done.metadata["ptlib"]["source"] = "1 + 2", "another"
    nbformat.write(done, path)
    assert is_edited(path) and is_of_other_source(path)
    done.cells[0].source = "1 / 0"
    nbformat.write(done, path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError):
        execute(path)
    assert path.read_bytes() == before, "a run that fails should leave the notebook as it was"


def test_words_about_the_code_are_not_the_code(tmp_path):
    """Comments, docstrings and layout change no number; anything else might."""
    texts = {"plain": "def f(x):\n    return x + 1\n", "other": "def f(x):\n    return x + 2\n",
             "told": 'def f(x):\n    """Adds."""\n    return (x +\n  1)  # one\n'}
    found = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        found[name] = meaning(tmp_path / f"{name}.py")
    assert found["plain"] == found["told"] != found["other"]


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_test_configuration_names_real_parameters(path):
    [target] = [notebook for notebook in NOTEBOOKS if notebook.stem == path.stem]
    assert yaml.safe_load(path.read_text()).keys() <= papermill.inspect_notebook(str(target)).keys()
