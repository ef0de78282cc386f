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
from ptlib.sweep.inputs import code_digest
from ptlib.sweep.report import collect, link, read_results, render_pages, summarize_results
from ptlib.sweep.runs import ERROR, METRICS_FILE, STARTS

QUICKSTART = ROOT / "notebooks" / "00_quickstart.ipynb"


def leave_run(out: Path, run: str, parameters: dict, results: dict | None = None, error: str = "",
              **others: str) -> Path:
    """A folder as ``run_one`` leaves it; as 0.1.0 did, unless ``others`` say more."""
    about = {"run": run, "notebook": "tiny", "notebook_digest": "d", "parameters": parameters, "git": {},
             "versions": {"ptlib": "1"}, "host": "here", "started": "2024-01-01T00:00:00+00:00", "seconds": 1.0,
             "results": results or {}, **others}
    if error:
        about["error"] = {"type": "ValueError", "message": error}
    write_text(out / run / (ERROR if error else METRICS_FILE), json.dumps(about))
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


def at(second: str) -> str:
    return f"2025-01-01T00:00:{second}+00:00"


def test_of_runs_with_the_same_parameters_the_newest_counts(tmp_path):
    """They differ in the code or the files that they read, not in a seed, and are not to be averaged."""
    for run, second, loss in (("c", "01", 3.0), ("a", "02.000002", 1.0), ("b", "02.000001", 2.0)):
        leave_run(tmp_path, run, {"x": 1, "seed": 0}, {"loss": loss, "scores": [{"p_at_1": loss}]}, started=at(second),
                  code=run)
    leave_run(tmp_path, "d", {"x": 1, "seed": 1}, {"loss": 4.0}, code="a")
    leave_run(tmp_path, "e", {"x": 1, "seed": 0}, {"loss": 5.0}, notebook="other")
    results = read_results(tmp_path)
    assert results.superseded == ("b", "c")
    assert results.runs[["run", "loss", "code"]].astype(object).where(results.runs.notna(), None).values.tolist() == [
        ["a", 1.0, "a"], ["d", 4.0, "a"], ["e", 5.0, None]]
    assert results.tables["scores"]["p_at_1"].tolist() == [1.0]
    assert collect(tmp_path)["run"].tolist() == ["a", "d", "e"]


def test_a_failed_run_counts_until_its_parameters_have_run_again(tmp_path):
    for x, (failed, finished) in enumerate([("01", "02"), ("02", "01")]):
        leave_run(tmp_path, f"failed{x}", {"x": x}, error="no", started=at(failed))
        leave_run(tmp_path, f"finished{x}", {"x": x}, started=at(finished))
    for number in (1, 2):
        leave_run(tmp_path, f"twice{number}", {"x": 2}, error="no", started=at(f"0{number}"))
    results = read_results(tmp_path)
    assert results.runs["run"].tolist() == ["finished0", "finished1"]
    assert results.failed["run"].tolist() == ["failed1", "twice2"]
    assert results.superseded == ("failed0", "twice1")


def test_runs_of_which_the_code_is_not_known_still_load(out):
    runs = collect(out)
    assert len(runs) == 6 and runs["code"].isna().all()
    assert pd.read_parquet(out / "table.parquet")["code"].isna().all()


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
    assert "can I transfer one prompt" in (out / "run01" / "tiny.html").read_text()
    assert f'href="{(out / "bad" / "tiny.html").relative_to(out)}"' in link("bad", "tiny")
    assert render_pages(out) == 0
    assert not list(out.rglob("*partial*"))


@pytest.mark.slow
def test_the_report_of_a_sweep_without_scores(out, tmp_path_factory):
    """Of any notebook: what is not there is left out, and what failed is named."""
    for run in ("run01", "bad"):
        shutil.copyfile(QUICKSTART, out / run / "tiny.ipynb")
    for path in out.glob(f"*/{METRICS_FILE}"):
        content = json.loads(path.read_text())
        del content["results"]["scores"]
        content |= {} if content["run"] == "run02" else {"code": code_digest()}
        path.write_text(json.dumps(content))
    leave_run(out, "later", {"x": 2, "same": [1], "seed": 1}, {"loss": 3}, started=at("00"), code="edited")
    executed = tmp_path_factory.mktemp("report") / "report.ipynb"
    papermill.execute_notebook(str(ROOT / "notebooks" / "11_report.ipynb"), str(executed), {"runs": str(out)},
                               progress_bar=False)
    said = json.dumps(nbformat.read(executed, 4))
    assert "6 runs finished, 1 failed, 1 unfinished" in said
    assert "ValueError: x is &lt;3&gt;" in said
    assert "Of 6 runs that count, 2 were made by other code than this ptlib; 1 older ones" in said
    assert "edited" in said and "not recorded" in said and "later/tiny.html" in said
    assert "bad/tiny.html" in said and "run01/tiny.html" in said
