"""What every notebook keeps to, and what nbval cannot see."""

import json
from pathlib import Path

import papermill
import pytest
import yaml

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


def test_it_has_been_run_without_an_error(notebook):
    """Readers browse the committed outputs."""
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_test_configuration_names_real_parameters(path):
    [target] = [notebook for notebook in NOTEBOOKS if notebook.stem == path.stem]
    assert yaml.safe_load(path.read_text()).keys() <= papermill.inspect_notebook(str(target)).keys()
