"""What the benchmark notebooks measure with."""

import os

import nbformat
import pandas as pd
import pytest

import ptlib
from ptlib import lab
from ptlib.lab import benchmarks
from ptlib.sweep.benchmark import count_finished, pace
from ptlib.sweep.grids import read_notebook
from ptlib.sweep.runs import METRICS_FILE


def test_pace_tells_the_start_from_the_runs(tmp_path):
    """Two workers, ready after 4 s; then a run finishes every 3 s."""
    for number, ended in enumerate((1007, 1010, 1013, 1016)):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / METRICS_FILE).touch()
        os.utime(tmp_path / str(number) / METRICS_FILE, (ended, ended))
    assert count_finished(tmp_path) == 4
    assert pace(tmp_path, began=1000, workers=2) == {"start-up": 4, "a run": 3}


def test_notes_tell_who_is_at_work(tmp_path):
    assert benchmarks.at_work(tmp_path) == []
    (tmp_path / benchmarks.NOTES).write_text("began a 7 1.5\nbegan b 8 2\nended a 7 3\n")
    assert benchmarks.noted(tmp_path)["time"].tolist() == [1.5, 2, 3]
    assert benchmarks.at_work(tmp_path) == [8]


def test_a_watched_notebook_notes_after_its_parameters_and_at_its_end(tmp_path):
    benchmarks.write_empty_notebook(tmp_path / "empty.ipynb")
    benchmarks.write_watched_notebook(tmp_path / "empty.ipynb", tmp_path / "watched.ipynb")
    cells = nbformat.read(tmp_path / "watched.ipynb", as_version=4).cells
    assert [cell.source for cell in cells[1:]] == [benchmarks.BEGIN, benchmarks.END]
    assert list(read_notebook(tmp_path / "watched.ipynb").parameters) == ["seed"]


def test_planning_counts_the_runs_that_are_pretended_to_be_finished(tmp_path):
    grid = {"cross": {"seed": [0, 1, 2]}}
    benchmarks.write_empty_notebook(tmp_path / "empty.ipynb")
    benchmarks.pretend_finished(tmp_path / "empty.ipynb", grid, tmp_path / "out")
    assert count_finished(tmp_path / "out") == 3


@pytest.mark.slow
def test_a_table_alone_is_enough_to_transfer_from_and_to(tmp_path):
    for name, width in {"source": 16, "target": 8}.items():
        benchmarks.write_table(tmp_path / name, 40, width)
    cost = benchmarks.in_own_process("ptlib.moving.benchmark", tmp_path, 30, 2, 3, 0)
    assert set(cost) == {"seconds", "peak GiB", "threads"} and all(value > 0 for value in cost["seconds"].values())


@pytest.fixture
def evaluations():
    task = ptlib.load_task("zoo/P36")
    return {"majority": ptlib.evaluate_majority(task, {example.object for example in task.test})}


def test_intervals_over_facts_are_those_of_the_evaluation(evaluations):
    found, [evaluation] = lab.over_facts(evaluations), evaluations.values()
    expected = [evaluation.p_at_1, *evaluation.interval, evaluation.n]
    assert found.loc["majority"].tolist() == expected
    assert isinstance(found, pd.DataFrame) and found["facts"].dtype.kind == "i"
