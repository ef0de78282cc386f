"""Lists in notebooks' parameters, as papermill hands them over."""

import ast
from pathlib import Path

import nbformat
import papermill
import pytest
from conftest import ROOT
from papermill.cli import _resolve_type

from ptlib import PromptTransferError
from ptlib.parameters import listed

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))


@pytest.mark.parametrize(("value", "kind", "entries"), [
    ("a, b ,c", str, ["a", "b", "c"]), ("zoo/bert-mini", str, ["zoo/bert-mini"]), (36, str, ["36"]),
    (["a", " b"], str, ["a", "b"]), ("1,2", int, [1, 2]), (2, int, [2]), (2.0, int, [2]), ([1, "2"], int, [1, 2]),
    ((4, 16), int, [4, 16]), ("0, 0.5", float, [0.0, 0.5]), (0.5, float, [0.5]), (1, float, [1.0])])
def test_entries(value, kind, entries):
    found = listed(value, kind)
    assert found == entries
    assert {type(entry) for entry in found} == {kind}


@pytest.mark.parametrize(("value", "kind", "said"), [
    ("1,two", int, r"a parameter is '1,two'; expected whole numbers separated by commas: write it like '1,2'"),
    (0.5, int, "is 0.5; expected whole numbers"), ("1,1.5", int, "expected whole numbers"),
    (float("inf"), int, "is inf; expected whole numbers"), ("a", float, "is 'a'; expected numbers .* like '0.5,1'"),
    ("", str, "is ''; expected texts"), ("a,,b", str, "expected texts"), (None, str, "is None; expected texts"),
    (True, int, "is True; expected whole"), ([["a"]], str, "expected texts"), ({"a": 1}, str, "expected texts")])
def test_anything_else_is_one_clear_error(value, kind, said):
    with pytest.raises(PromptTransferError, match=said):
        listed(value, kind)


@pytest.mark.parametrize("words", ["2", "0.5", "1e3", "1,2"])
def test_papermill_may_take_a_single_number_for_one(words):
    """What ``-p sizes 2`` makes of its 2 is the same list as the text's."""
    assert listed(_resolve_type(words), float) == listed(words, float)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_notebook_splits_a_parameter_by_itself(path: Path):
    parameters = papermill.inspect_notebook(str(path))
    for cell in nbformat.read(path, 4).cells:
        for node in ast.walk(ast.parse(cell.source)) if cell.cell_type == "code" else ():
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr="split"):
                    assert name not in parameters, f"{cell.source}: listed({name}) takes a single number, too"
                case ast.Call(func=ast.Attribute(attr="split"), args=[ast.Constant(value=",")]):
                    pytest.fail(f"{cell.source}: listed(...) takes a single number, too")
