"""What YAML and notebooks can hold besides what a grid wants: each is told, or read as it is meant."""

import json

import pytest
from conftest import write_notebook

from ptlib import SweepError
from ptlib.sweep.grids import expand, read_grid, read_notebook

PARAMETERS = """
x: int = 0
scale: float = 1.0
words: str = "a"
sizes: list = [1]
"""


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    return read_notebook(write_notebook(tmp_path_factory.mktemp("notebook") / "tiny.ipynb", "1", PARAMETERS, "x"))


def runs(tmp_path, notebook, text):
    (tmp_path / "grid.yaml").write_text(text, encoding="utf-8")
    return expand(read_grid(tmp_path / "grid.yaml"), notebook)


@pytest.mark.parametrize("text", [
    "cross: {x: [1]}\nrows: [{x: 3}]\ncross: {x: [2]}", "cross: {x: [1], 'x': [2]}", "rows: [{x: 1, x: 1}]",
    "rows: [{sizes: [{a: 1, a: 2}]}]", "rows:\n- &a {x: 1}\n- {<<: *a, x: 2, x: 3}"])
def test_a_key_that_stands_twice_is_told(tmp_path, notebook, text):
    with pytest.raises(SweepError, match=r"grid\.yaml cannot be read \('(cross|x|a)' occurs twice"):
        runs(tmp_path, notebook, text)


def test_anchors_and_merges_are_no_keys_twice(tmp_path, notebook):
    text = """
        rows:
        - sizes: &list [1, 2]
        - &outer
          sizes: [&inner {a: 1, b: 2}, {<<: *inner, b: 3}]
          x: 1
        - {<<: *outer, x: 2}
        - {<<: [*outer, {words: c}], sizes: *list}
        """
    found = runs(tmp_path, notebook, text)
    assert [run["sizes"] for run in found] == [[1, 2], *[[{"a": 1, "b": 2}, {"a": 1, "b": 3}]] * 2, [1, 2]]
    assert [(run["x"], run["words"]) for run in found] == [(0, "a"), (1, "a"), (2, "a"), (1, "c")]


@pytest.mark.parametrize("value", ["2026-02-30", "0b_", "!!bool maybe", "!!timestamp soon", "!!int one", "1" * 5000,
                                   "!!python/name:os.system", "\0", "*nothing", "{[1]: 2}"], ids=lambda v: v[:20])
def test_what_yaml_cannot_read_is_told(tmp_path, notebook, value):
    with pytest.raises(SweepError, match=r"grid\.yaml cannot be read \(.+\); expected a YAML file") as error:
        runs(tmp_path, notebook, f"rows: [{{x: {value}}}]")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("setting", "said"), [
    ("x: 2026-02-03", r"date\(2026, 2, 3\) \(date\).*expects int"), ("words: 2026-02-03", "put it in quotes"),
    ("words: no", r"False \(bool\).*put it in quotes"), ("scale: .nan", "expects plain data"),
    ("x: .inf", "expects int"), ("scale: 1" + "0" * 400, "expects float"), ("sizes: [.nan]", "expects plain data"),
    ("sizes: &a [*a]", "expects plain data"), ("sizes: {1: 2}", "expects list"), ("sizes: [{1: 2}]", "plain data"),
    ("sizes: " + "[" * 2000 + "]" * 2000, "expects plain data"), ("sizes: !!set {a}", "expects list")],
    ids=lambda text: text[:30])
def test_values_that_no_run_can_have_are_told(tmp_path, notebook, setting, said):
    for text in (f"rows: [{{{setting}}}]", f"cross: {{x: [1]}}\nexclude: [{{{setting}}}]"):
        with pytest.raises(SweepError, match=said):
            runs(tmp_path, notebook, text)


@pytest.mark.parametrize("text", ["", "- 1", "text", "[" * 2000 + "]" * 2000, "cross:", "a: 1\n---\nb: 2"],
                         ids=lambda text: text[:20])
def test_a_file_that_is_no_grid_is_told(tmp_path, notebook, text):
    with pytest.raises(SweepError, match="grid"):
        runs(tmp_path, notebook, text)


def test_a_byte_order_mark_is_no_part_of_a_grid(tmp_path, notebook):
    assert [run["x"] for run in runs(tmp_path, notebook, "\ufeffcross: {x: [1, 2]}")] == [1, 2]


def test_a_folder_in_the_place_of_a_file(tmp_path):
    for read in (read_grid, read_notebook):
        with pytest.raises(SweepError, match="cannot be read"):
            read(tmp_path)


@pytest.mark.parametrize("change", [
    {"cells": None}, {"cells": [3]}, {"metadata": None}, {"nbformat": "four"}, {"cells": [{"cell_type": "code"}]}])
def test_a_notebook_that_is_none_is_told(tmp_path, notebook, change):
    content = json.loads(notebook.path.read_text(encoding="utf-8"))
    (tmp_path / "tiny.ipynb").write_text(json.dumps({**content, **change}), encoding="utf-8")
    with pytest.raises(SweepError, match=r"tiny\.ipynb (cannot be read|has no parameters)"):
        read_notebook(tmp_path / "tiny.ipynb")


def test_a_default_that_python_cannot_make_is_the_notebooks_own(tmp_path):
    path = write_notebook(tmp_path / "n.ipynb", "1", "x: int = 0\nodd: dict = {[1]: 2}", "x")
    [run] = expand({"rows": [{"x": 1}]}, read_notebook(path))
    assert (run["x"], "odd" in run) == (1, False)
