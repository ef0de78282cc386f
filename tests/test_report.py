"""What is read from a sweep's folder, and the report of it."""

import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest
from conftest import ROOT

from ptlib import SweepError
from ptlib.files import write_text
from ptlib.report import collect, link, read_results, render_pages, summarize_results
from ptlib.runs import ERROR, METRICS, STARTS

QUICKSTART = ROOT / "notebooks" / "00_quickstart.ipynb"


def leave_run(out: Path, run: str, parameters: dict, results: dict | None = None, error: str = "") -> Path:
    """A folder as ``run_one`` leaves it."""
    about = {"run": run, "notebook": "tiny", "notebook_digest": "d", "parameters": parameters, "git": {},
             "versions": {"ptlib": "1"}, "host": "here", "started": "2024-01-01T00:00:00+00:00", "seconds": 1.0,
             "results": results or {}}
    if error:
        about["error"] = {"type": "ValueError", "message": error}
    write_text(out / run / (ERROR if error else METRICS), json.dumps(about))
    return out / run


@pytest.fixture
def out(tmp_path) -> Path:
    for seed in (0, 1, 2):
        for x in (1, 2):
            rows = [{"method": m, "relation": r, "p_at_1": 0.1 * x, "seed": "of the table"} for m in "ab" for r in "rs"]
            leave_run(tmp_path, f"run{seed}{x}", {"x": x, "same": [1], "seed": seed},
                      {"scores": rows, "loss": x + seed, "note": "fine", "curve": [1, 2]})
    leave_run(tmp_path, "bad", {"x": 3, "same": [1], "seed": 0}, error="x is <3>")
    write_text(tmp_path / "begun" / STARTS, "now\n")
    return tmp_path


def test_runs_tables_and_what_varies(out):
    results = read_results(out)
    assert (results.varying, results.numbers, results.unfinished) == (("x",), ("loss",), ("begun",))
    assert results.failed.to_dict("records") == [{"run": "bad", "notebook": "tiny", "error": "ValueError: x is <3>",
                                                  "parameters": '{"x": 3, "same": [1], "seed": 0}'}]
    assert len(results.runs) == 6
    assert "scores" not in results.runs
    assert set(results.runs["curve"]) == {"[1, 2]"}
    scores = results.tables["scores"]
    assert list(results.tables) == ["scores"]
    assert list(scores) == ["run", "x", "seed", "method", "relation", "p_at_1"]
    assert len(scores) == 6 * 4
    assert (scores["p_at_1"] == 0.1 * scores["x"]).all()
    assert set(scores["seed"]) == {"of the table"}  # a table's own column wins


def test_collected_files_say_what_was_read(out):
    runs, results = collect(out), read_results(out)
    pd.testing.assert_frame_equal(runs, results.runs)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "table.parquet"), runs)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "scores.parquet"), results.tables["scores"])
    assert pd.read_csv(out / "scores.csv")["p_at_1"].equals(results.tables["scores"]["p_at_1"])
    assert not list(out.glob(".*"))


def test_a_parameter_that_some_runs_lack_varies(tmp_path):
    leave_run(tmp_path, "a", {"seed": 0, "x": 1})
    leave_run(tmp_path, "b", {"seed": 0})
    assert read_results(tmp_path).varying == ("x",)
    with pytest.raises(SweepError, match=r"no run in .*nowhere has finished"):
        read_results(tmp_path / "nowhere")


def test_means_of_results_against_a_known_interval(out):
    """Three values 1 apart: the half width is t(0.975; 2) / √3, with t = 4.302653 from a table."""
    results = read_results(out)
    means = summarize_results(results.runs, results.varying, results.numbers)
    assert means[["x", "result", "mean", "runs"]].to_dict("records") == [
        {"x": 1, "result": "loss", "mean": 2.0, "runs": 3}, {"x": 2, "result": "loss", "mean": 3.0, "runs": 3}]
    half = 4.302653 / np.sqrt(3)
    assert (means["mean"] - means["low"]).tolist() == pytest.approx([half] * 2)
    assert (means["high"] - means["mean"]).tolist() == pytest.approx([half] * 2)
    all_runs = summarize_results(results.runs, [], ["loss"])
    assert all_runs["mean"].item() == 2.5
    one = summarize_results(results.runs[:1], [], ["loss"])
    assert one["mean"].item() == results.runs["loss"][0] and one[["low", "high"]].isna().all(axis=None)
    assert list(summarize_results(results.runs, [], [])) == ["result", "mean", "low", "high", "runs"]


def test_pages_are_rendered_once(out):
    for run in ("run01", "bad", "begun"):
        shutil.copyfile(QUICKSTART, out / run / "tiny.ipynb")
    (out / "notebooks").mkdir()
    shutil.copyfile(QUICKSTART, out / "notebooks" / "tiny.ipynb")  # the sweep's own copy is no run
    assert render_pages(out) == 2
    assert "can I move one prompt" in (out / "run01" / "tiny.html").read_text()
    assert f'href="{(out / "bad" / "tiny.html").relative_to(out)}"' in link("bad", "tiny")
    assert render_pages(out) == 0
    assert not list(out.rglob("*partial*"))


def test_the_report_of_a_sweep_without_scores(out, tmp_path_factory):
    """Of any notebook: what is not there is left out, and what failed is named."""
    for run in ("run01", "bad"):
        shutil.copyfile(QUICKSTART, out / run / "tiny.ipynb")
    for path in out.glob(f"*/{METRICS}"):
        content = json.loads(path.read_text())
        del content["results"]["scores"]
        path.write_text(json.dumps(content))
    executed = tmp_path_factory.mktemp("report") / "report.ipynb"
    papermill.execute_notebook(str(ROOT / "notebooks" / "11_report.ipynb"), str(executed), {"runs": str(out)},
                               progress_bar=False)
    said = json.dumps(nbformat.read(executed, 4))
    assert "6 runs finished, 1 failed, 1 unfinished" in said
    assert "ValueError: x is &lt;3&gt;" in said
    assert "bad/tiny.html" in said and "run01/tiny.html" in said
