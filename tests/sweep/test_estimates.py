"""How long the rest of a sweep is expected to take."""

import json

import nbformat
import pytest
from conftest import write_notebook

from ptlib import SweepError
from ptlib.files import write_text
from ptlib.sweep.engine import main, planned
from ptlib.sweep.estimates import estimate, span
from ptlib.sweep.runs import METRICS_FILE


def finish(out, name, seconds, memory=None):
    write_text(out / name / METRICS_FILE, json.dumps({"seconds": seconds, "peak_memory": memory}))


def test_k_equal_runs_take_k_times_as_long_as_the_measured_one(tmp_path):
    runs = {f"run{seed}": {"x": 1, "seed": seed} for seed in range(9)}
    finish(tmp_path, "run3", 3600.0, 2**31)
    found = estimate(runs, tmp_path)
    assert found.done == {"run3": 3600} and found.left == dict.fromkeys(runs.keys() - {"run3"}, 3600)
    assert str(found) == ("1 runs done, 60.0 min each, at most 2.0 GiB of memory; 8 to do\n"
                          "on 1 worker: 8.00 h\non 8 workers: 1.00 h")


def test_a_run_takes_as_long_as_those_most_like_it(tmp_path):
    runs = {f"{x}{seed}": {"x": x, "seed": seed, "same": 0} for x in "ab" for seed in (0, 1, 2)}
    for name, seconds in {"a0": 10, "a1": 20, "b0": 100}.items():
        finish(tmp_path, name, seconds)
    found = estimate(runs, tmp_path)
    assert found.left == {"a2": 15, "b1": 100, "b2": 100}
    assert found.memory is None and "memory not known" in str(found)


def test_what_is_all_done_takes_no_time(tmp_path):
    finish(tmp_path, "a", 10)
    finish(tmp_path, "of another grid", 10**9)
    found = estimate({"a": {"x": 1}}, tmp_path)
    assert not found.left and "on 1 worker: 0.00 h" in str(found)


def test_workers_take_runs_in_order_as_they_become_free():
    assert span([3, 1, 1, 1], 2) == 3
    assert span([1, 1, 1, 3], 2) == 4
    assert span([2] * 9, 8) == 4
    assert span([2, 3], 1) == 5 and span([], 4) == 0


def test_without_a_finished_run_there_is_nothing_to_estimate_from(tmp_path):
    with pytest.raises(SweepError, match=r"none of the 1 runs .* let the sweep finish one .* ptlib\.lab\.rehearsal"):
        estimate({"a": {"x": 1}}, tmp_path)


def test_the_command_estimates_and_runs_nothing(tmp_path, capsys):
    notebook = write_notebook(tmp_path / "tiny.ipynb", "", "seed: int = 0  # of nothing", "1 / 0")
    write_text(tmp_path / "grid.yaml", "cross: {seed: [0, 1, 2]}")
    out = tmp_path / "out"
    command = [str(notebook), "--grid", str(tmp_path / "grid.yaml"), "--out", str(out), "--estimate"]
    assert main(command) == 2
    assert "nothing to estimate from" in capsys.readouterr().err and not out.exists()
    _, runs = planned(notebook, tmp_path / "grid.yaml", out)
    finish(out, next(iter(runs)), 1800.0)
    assert main(command) == 0
    assert "2 to do\non 1 worker: 1.00 h\non 8 workers: 0.50 h" in capsys.readouterr().out
    content = nbformat.read(notebook, as_version=4)
    content.cells[2].source = "2 / 0"  # an edit makes every run anew
    nbformat.write(content, notebook)
    assert main(command) == 2
