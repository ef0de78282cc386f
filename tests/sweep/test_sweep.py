"""Grids, the engine, what a run leaves behind, and the store: with real kernels and real worker processes."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from uuid import uuid4

import dask
import nbformat
import pandas as pd
import pytest
import torch
from conftest import ROOT, wait_for, write_notebook
from distributed import Client, LocalCluster

import ptlib
from ptlib import SweepError
from ptlib.files import replacing, write_text
from ptlib.sweep import claims, engine, runs, store
from ptlib.sweep.__main__ import main
from ptlib.sweep.engine import run_sweep
from ptlib.sweep.grids import expand, read_grid, read_notebook, run_name
from ptlib.sweep.inputs import Inputs, code_digest
from ptlib.sweep.record import RESULTS, record
from ptlib.sweep.report import collect, read_results
from ptlib.sweep.runs import ERROR, MAX_STARTS, METRICS_FILE, Outcome, Sweep, finished, run_one
from ptlib.sweep.store import groups, tuned

pytestmark = pytest.mark.slow

PARAMETERS = """
x: int = 0  # a number
scale: float = 1.0  # to multiply it with
words: Optional[str] = None  # some text
what: str = "record"  # what to do
flag: bool = False  # a switch
sizes: list = [1, 2]  # a list
work: str = ""  # folder for notes
seed: int = 0  # of what is random
out: Optional[str] = None  # folder for a figure
"""
DO = """
import os, signal, time
from pathlib import Path

if work:
    with open(Path(work) / f"started-{x}", "a") as notes:
        notes.write(f"{os.getppid()}\\n")
if what == "raise":
    raise ValueError(f"x is {x}")
if what == "kill":
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "wait":
    while not (Path(work) / "go").exists():
        time.sleep(0.05)
if what == "record":
    from ptlib import record
    record(y=x * scale, seed="as the parameter")
    Path(out, "figure.png").write_text("lines")
"""


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_notebook(tmp_path_factory.mktemp("notebook") / "tiny.ipynb", "from typing import Optional", PARAMETERS,
                          DO)


@pytest.fixture(scope="module")
def notebook(path):
    return read_notebook(path)


# --- grids --------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_then_the_rows(notebook):
    grid = {"cross": {"x": [1, 2, 3], "what": ["a", "b"]}, "zip": {"seed": [0, 1], "words": ["c", None]},
            "rows": [{"x": 9}, {"seed": 4, "scale": 2}], "exclude": [{"x": 2, "what": "b"}, {"seed": 1, "x": 3}]}
    default = {"x": 0, "scale": 1.0, "words": None, "what": "record", "flag": False, "sizes": [1, 2], "work": "",
               "seed": 0}
    expected = [{**default, "x": x, "what": what, "seed": seed, "words": words}
                for x, what, (seed, words) in product([1, 2, 3], ["a", "b"], [(0, "c"), (1, None)])
                if not (x == 2 and what == "b") and not (seed == 1 and x == 3)]
    assert expand(grid, notebook) == [*expected, {**default, "x": 9}, {**default, "seed": 4, "scale": 2.0}]


@pytest.mark.parametrize("seed", range(20))
def test_random_grids_against_brute_force(notebook, seed):
    draw = random.Random(seed)
    axes = {"x": [0, 1, 2], "seed": [0, 1], "what": ["record", "b"], "flag": [True, False]}
    chosen = draw.sample(sorted(axes), 3)
    cross = {name: draw.sample(axes[name], draw.randint(1, len(axes[name]))) for name in chosen}
    exclude = [{name: draw.choice(axes[name]) for name in draw.sample(sorted(axes), 2)} for _ in range(2)]
    [complete] = expand({"rows": [{"x": 0}]}, notebook)
    everything = [{**complete, **dict(zip(axes, values, strict=True))} for values in product(*axes.values())]
    expected = [row for row in everything if all(row[name] in cross.get(name, [complete[name]]) for name in axes)
                and not any(all(row[name] == value for name, value in entry.items()) for entry in exclude)]

    def in_order(rows):
        return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))

    if expected:
        assert in_order(expand({"cross": cross, "exclude": exclude}, notebook)) == in_order(expected)
    else:
        with pytest.raises(SweepError, match="leaves none"):
            expand({"cross": cross, "exclude": exclude}, notebook)


def test_the_same_run_counts_once(notebook):
    grid = {"cross": {"scale": [1, 1.0, 2]}, "rows": [{"scale": 2.0}, {"seed": 0}]}
    assert [run["scale"] for run in expand(grid, notebook)] == [1.0, 2.0]


def test_a_default_that_the_notebook_computes_stays_its_own(tmp_path):
    cells = "from pathlib import Path", "place: str = str(Path.home())  # where\npair = (1, 2)\nseed: int = 0", "1"
    [run] = expand({"rows": [{"seed": 1}]}, read_notebook(write_notebook(tmp_path / "n.ipynb", *cells)))
    assert run == {"seed": 1}


@pytest.mark.parametrize(("grid", "said"), [
    ({"cross": {"sede": [0]}}, "'sede', which is no parameter of .*did you mean 'seed'"),
    ({"exclude": [{"no": 0}], "rows": [{"seed": 0}]}, "'no', which is no parameter of .*its parameters are x, scale"),
    ({"zip": {"out": ["here"]}}, "'out', which a sweep sets itself"),
    ({"cross": {"x": [1, "two"]}}, r"x to 'two' \(str\); .*tiny.ipynb expects int"),
    ({"cross": {"x": [1.5]}}, "expects int"),
    ({"rows": [{"x": True}]}, "expects int"),
    ({"rows": [{"flag": 1}]}, "expects bool"),
    ({"rows": [{"words": False}]}, r"False \(bool\).*expects Optional\[str\]; put it in quotes"),
    ({"rows": [{"x": None}]}, "expects int"),
    ({"rows": [{"sizes": 3}]}, "expects list"),
    ({"rows": [{"sizes": [{1, 2}]}]}, "expects plain data"),
    ({"rows": [{"scale": "1e-5"}]}, "YAML takes 1e-5 for text, write 1.0e-5"),
    ({"cross": {"x": 3}}, r"cross: {'x': 3}; expected cross: {parameter: \[values\]}"),
    ({"rows": {"x": 3}}, r"expected rows: \[{parameter: value}\]"),
    ({"zip": {"x": [1, 2], "seed": [1]}}, "2 of x, 1 of seed; expected as many"),
    ({"zip": {"x": [1]}, "cross": {"x": [1]}}, "x under cross and under zip"),
    ({"grid": {"x": [1]}}, "the sections grid; expected cross"),
    ({}, "expected cross"), (None, "expected cross"),
    ({"exclude": [{"x": 0}]}, "leaves none of its 0 runs")])
def test_a_grid_that_does_not_fit_is_one_clear_error(notebook, grid, said):
    with pytest.raises(SweepError, match=said):
        expand(grid, notebook)


def test_a_grid_file(tmp_path):
    (tmp_path / "grid.yaml").write_text("cross: {x: [1, 2]}\nrows:\n  - {words: 'no'}\n")
    assert read_grid(tmp_path / "grid.yaml") == {"cross": {"x": [1, 2]}, "rows": [{"words": "no"}]}
    (tmp_path / "bad.yaml").write_text("cross: {x: [1, 2]")
    for name in ("bad.yaml", "none.yaml"):
        with pytest.raises(SweepError, match=f"{name} cannot be read"):
            read_grid(tmp_path / name)


def test_a_notebook_without_parameters(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), tmp_path / "bare.ipynb")
    (tmp_path / "text.ipynb").write_text("text")
    for name, said in (("bare", "has no parameters"), ("text", "cannot be read"), ("none", "cannot be read")):
        with pytest.raises(SweepError, match=said):
            read_notebook(tmp_path / f"{name}.ipynb")


def test_every_notebook_of_the_repository_can_be_swept():
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        assert expand({"cross": {"seed": [0, 1]}}, read_notebook(path)), path


# --- names --------------------------------------------------------------------------------------


def test_names_are_the_same_in_every_process(by_hash_seed):
    one, other = (run["runs"] for run in by_hash_seed)
    assert one == other
    assert len(set(one)) == 3


def test_a_name_depends_on_the_notebooks_code_and_the_parameters(notebook, path, tmp_path):
    parameters = {"x": 1, "seed": 2}
    name = run_name(parameters, notebook)
    assert run_name({"seed": 2, "x": 1}, notebook) == name
    assert run_name({"x": 1, "seed": 3}, notebook) != name
    content = nbformat.read(path, 4)
    content.cells[2].outputs = [nbformat.v4.new_output("stream", text="printed")]
    content.cells.insert(0, nbformat.v4.new_markdown_cell("Prose."))
    nbformat.write(content, tmp_path / "run.ipynb")
    assert run_name(parameters, read_notebook(tmp_path / "run.ipynb")) == name
    content.cells[-1].source += "\n1"
    nbformat.write(content, tmp_path / "changed.ipynb")
    assert run_name(parameters, read_notebook(tmp_path / "changed.ipynb")) != name


@pytest.mark.parametrize("named", [
    {"words": "facts.csv"}, {"words": "one"}, {"words": "P36, one/facts.csv ,P19"}, {"sizes": [1, ["one/facts.csv"]]},
    {"words": "."}, {"root": "one", "words": "facts.csv"}, {"root": "one", "words": "../facts.csv"},
    {"words": "linked"}, {"words": "with, comma.csv"}])
def test_a_name_depends_on_the_content_of_what_parameters_name(named, notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [tmp_path / name for name in ("facts.csv", "one/facts.csv", "one/deep/er/facts.csv", "with, comma.csv")]
    for file in files:
        write_text(file, "Peru,Lima")
    (tmp_path / "linked").symlink_to("one/deep")
    (tmp_path / "one" / "deep" / "circle").symlink_to(tmp_path / "one")
    name = run_name(named, notebook)
    assert run_name(named, notebook) == name
    for file in files:
        write_text(file, "Peru,Cusco")
    edited = run_name(named, notebook)
    assert edited != name
    for file in files:
        write_text(file, "Peru,Lima")
    assert run_name(named, notebook) == name


def test_a_folder_counts_by_the_names_and_contents_of_what_is_not_hidden_below_it(notebook, tmp_path):
    def name(folder: str) -> str:
        return Inputs().named({"words": str(tmp_path / folder)})[str(tmp_path / folder)]

    for folder in ("a", "b"):
        write_text(tmp_path / folder / "facts" / "P36.jsonl", "{}")
    assert name("a") == name("b")
    for unimportant in (".git/HEAD", ".P36.partial", "facts/.venv/lib.py", "facts/__pycache__/x.pyc"):
        write_text(tmp_path / "b" / unimportant, "1")
    assert name("a") == name("b")
    (tmp_path / "b" / "facts").rename(tmp_path / "b" / "others")
    assert name("a") != name("b")


def test_a_name_does_not_depend_on_what_parameters_merely_look_like(notebook, tmp_path, monkeypatch):
    """What is no file counts as text; neither punctuation nor a folder that runs write to is read."""
    monkeypatch.chdir(tmp_path)
    texts = ["", "/", "//", ".,/", "none.csv", "~nobody/none", "a\0b", "a" * 5000, "[X] is , /, [Y] ."]
    runs = [{"words": text} for text in texts] + [{"work": "."}, {"x": 1, "flag": True, "scale": None}]
    names = [run_name(run, notebook) for run in runs]
    assert len(set(names)) == len(runs)
    write_text(tmp_path / "new", "1")
    assert [run_name(run, notebook) for run in runs] == names


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="Linux has a file that nobody can read from its start")
def test_a_file_that_cannot_be_read_is_one_clear_error(notebook):
    with pytest.raises(SweepError, match=r"/proc/self/mem, which a parameter names, cannot be read .*name another"):
        run_name({"words": "/proc/self/mem"}, notebook)


NAMES = """
import sys, ptlib
from pathlib import Path
from ptlib.sweep import store
from ptlib.sweep.grids import read_notebook, run_name
from ptlib.sweep.inputs import Inputs, code_on_disk

notebook, facts, lm, edit = sys.argv[1:]
notebook = read_notebook(notebook)
print(run_name({"seed": 1}, notebook, Inputs(code_on_disk())))
with open(Path(ptlib.__file__).parent / "tuning" / "training.py", "a") as source:
    source.write(edit)
print(run_name({"seed": 1}, notebook, Inputs(code_on_disk())))
print(store.prompt_key(ptlib.load_task(facts), 0, {"lm": ptlib.load_lm(lm), "epochs": 1}))
"""


def test_an_edit_of_ptlib_is_another_name(path, facts_file, toys, tmp_path):
    """Of a copy, which is edited by a process that has imported it: kernels import it anew, the process does not."""
    shutil.copytree(ROOT / "ptlib", tmp_path / "ptlib", ignore=shutil.ignore_patterns("__pycache__", "models"))
    command = [sys.executable, "-c", NAMES, str(path), str(facts_file), toys["bert"].name]
    options = {"text": True, "cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(tmp_path)}}
    run, later_run, prompt = subprocess.check_output([*command, "# edited"], **options).split()
    next_run, same_run, next_prompt = subprocess.check_output([*command, ""], **options).split()
    assert run != later_run == next_run == same_run
    assert prompt != next_prompt


def test_planning_many_finished_runs_is_fast(notebook, tmp_path):
    """A grid of 100,000 may take 30 s: this one, of a tenth, 3."""
    grid = {"cross": {"x": list(range(1000)), "seed": list(range(10))}}
    for parameters in expand(grid, notebook):
        folder = tmp_path / run_name(parameters, notebook)
        folder.mkdir()
        (folder / METRICS_FILE).touch()
    began = time.process_time()
    report = run_sweep(notebook.path, grid, tmp_path)
    assert len(report.skipped) == 10_000
    assert time.process_time() - began < 3


# --- a sweep ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(path, tmp_path_factory):
    """Two good runs, one that raises, one that kills its worker: the folder, the notes and the report."""
    out, notes = tmp_path_factory.mktemp("runs") / "mixed", str(tmp_path_factory.mktemp("notes"))
    rows = [{"x": 3, "what": "raise"}, {"x": 4, "what": "kill"}]
    grid = {"cross": {"x": [1, 2], "scale": [0.5]}, "rows": rows}
    grid = {"cross": {**grid["cross"], "work": [notes]}, "rows": [{**row, "work": notes} for row in rows]}
    # After two deaths the scheduler gives a run up, guilty or not: counting is the sweep's own business.
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        return out, Path(notes), grid, run_sweep(path, grid, out, workers=1, progress=False)


def by_x(out: Path, name: str) -> dict[int, dict]:
    found = [json.loads(path.read_text()) for path in out.glob(f"*/{name}")]
    return {content["parameters"]["x"]: content for content in found}


def starts_of(notes: Path, x: int) -> int:
    return len((notes / f"started-{x}").read_text().splitlines())


def test_good_runs_leave_their_results(swept):
    out, _, _, report = swept
    metrics = by_x(out, METRICS_FILE)
    assert sorted(metrics) == [1, 2]
    assert {content["run"] for content in metrics.values()} == set(report.done)
    for x, content in metrics.items():
        folder = out / content["run"]
        assert content["results"] == {"y": 0.5 * x, "seed": "as the parameter"}
        assert content["seconds"] > 0
        assert content["peak_memory"] > 2**24
        assert content["versions"]["ptlib"] == ptlib.__version__
        assert content["code"] == code_digest()
        assert {path.name for path in folder.iterdir()} == {METRICS_FILE, "figure.png", "tiny.ipynb"}
        assert "y = " in (folder / "tiny.ipynb").read_text()


def test_failed_runs_leave_their_error_and_the_others_go_on(swept):
    out, _, _, report = swept
    errors = by_x(out, ERROR)
    assert sorted(errors) == [3, 4]
    assert {content["run"] for content in errors.values()} == set(report.failed)
    raised = errors[3]
    assert (raised["error"]["type"], raised["error"]["message"]) == ("ValueError", "x is 3")
    assert "raise ValueError" in raised["error"]["traceback"]
    assert "x is 3" in (out / raised["run"] / "tiny.ipynb").read_text()
    assert report.failed[raised["run"]] == "ValueError: x is 3"


def test_each_run_ends_once_and_one_that_kills_its_worker_fails(swept):
    out, notes, _, report = swept
    killed = by_x(out, ERROR)[4]
    assert "its worker process died in each of 3 attempts" in report.failed[killed["run"]]
    assert [starts_of(notes, x) for x in (1, 2, 3, 4)] == [1, 1, 1, MAX_STARTS]


def test_no_partial_files(swept):
    out, *_ = swept
    assert not [path for path in out.rglob("*") if "partial" in path.name or path.name == "starts"]


def test_the_same_call_again_does_what_is_left(swept, path, tmp_path):
    out, notes, grid, _ = swept
    before = {path: path.stat().st_mtime_ns for path in out.glob(f"*/{METRICS_FILE}")}
    some = {"cross": grid["cross"], "rows": [{"x": 5, "what": "nothing", "work": str(notes)}]}
    victim = by_x(out, METRICS_FILE)[2]["run"]
    (out / victim / METRICS_FILE).rename(tmp_path / METRICS_FILE)
    again = run_sweep(path, some, out, workers=1, progress=False)
    assert (len(again.skipped), len(again.done), len(again.failed)) == (1, 2, 0)
    assert victim in again.done
    assert [starts_of(notes, x) for x in (1, 2, 5)] == [1, 2, 1]
    [kept] = again.skipped
    assert (out / kept / METRICS_FILE).stat().st_mtime_ns == before[out / kept / METRICS_FILE]
    assert run_sweep(path, some, out).skipped == (kept, *again.done)


def test_what_a_run_names_is_edited_and_it_runs_again(path, tmp_path, monkeypatch):
    """Its own folder may lie inside of the named one."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path / "data" / "facts.csv", "Peru,Lima")
    grid, out = {"rows": [{"words": "data", "what": "nothing"}]}, tmp_path / "data" / "runs" / "first"
    options = {"workers": 1, "progress": False}
    [first] = run_sweep(path, grid, out, **options).done
    assert run_sweep(path, grid, out).skipped == (first,)
    write_text(tmp_path / "data" / "facts.csv", "Peru,Cusco")
    [again] = run_sweep(path, grid, out, **options).done
    assert run_sweep(path, grid, out).skipped == (again,)
    results = read_results(out)
    assert (results.runs["run"].tolist(), results.superseded) == ([again], (first,))


def test_collect_is_the_finished_runs(swept):
    out, *_ = swept
    metrics = {content["run"]: content for content in by_x(out, METRICS_FILE).values()}
    table = collect(out)
    assert set(table["run"]) == metrics.keys()
    for row in table.to_dict("records"):
        content = metrics[row["run"]]
        assert (row["x"], row["seed"]) == (content["parameters"]["x"], 0)
        assert json.loads(row["sizes"]) == [1, 2]
        assert row["seconds"] == content["seconds"]
        if content["results"]:  # one run recorded nothing
            assert (row["y"], row["result.seed"]) == (content["results"]["y"], "as the parameter")
        else:
            assert pd.isna(row["y"]) and pd.isna(row["result.seed"])
    pd.testing.assert_frame_equal(pd.read_parquet(out / "table.parquet"), table)
    assert pd.read_csv(out / "table.csv")["y"].equals(table["y"])


def test_fresh_runs_again_what_is_finished(path, notebook, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text("rows: [{what: nothing}]")
    [parameters] = expand(read_grid(tmp_path / "grid.yaml"), notebook)
    out, prompt = tmp_path / "out", tmp_path / "out" / "prompts" / "a.safetensors"
    of_grid, other = out / run_name(parameters, notebook) / METRICS_FILE, out / "0123456789abcdef" / METRICS_FILE
    for file in (of_grid, other, prompt):
        write_text(file, "{}")
    command = [str(path), "--grid", str(tmp_path / "grid.yaml"), "--out", str(out), "--workers", "1"]
    assert main(command) == 0
    assert "0 runs done, 1 were done before" in capsys.readouterr().out
    assert main([*command, "--fresh"]) == 0
    assert "1 runs done, 0 were done before" in capsys.readouterr().out
    assert json.loads(of_grid.read_text())["parameters"] == parameters
    assert other.read_text() == "{}"
    assert not prompt.exists()


# --- other processes ----------------------------------------------------------------------------


def test_two_workers_of_a_scheduler_one_of_which_is_killed(path, tmp_path, cluster, capsys):
    at = cluster("--no-nanny").address
    grid = {"cross": {"what": ["wait"], "x": [1, 2, 3, 4], "work": [str(tmp_path)]}}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))
    with ThreadPoolExecutor() as pool:
        code = pool.submit(main, [str(path), "--grid", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out"),
                                  "--scheduler", at])
        wait_for(lambda: len(list(tmp_path.glob("started-*"))) == 2)
        victim, survivor = (int(note.read_text()) for note in tmp_path.glob("started-*"))
        os.kill(victim, signal.SIGKILL)
        (tmp_path / "go").touch()
        assert code.result() == 0
    assert "4 runs done, 0 were done before, 0 failed" in capsys.readouterr().out
    assert sorted(by_x(tmp_path / "out", METRICS_FILE)) == [1, 2, 3, 4]
    pids = [note.read_text().split() for note in tmp_path.glob("started-*")]
    assert sorted(map(len, pids)) == [1, 1, 1, 2]
    assert {last for *_, last in pids} == {str(survivor)}


def test_an_interrupt_keeps_what_is_done_and_leaves_no_process(path, tmp_path, started):
    rows = [{"x": 1, "what": "nothing"}, {"x": 2, "what": "wait"}, {"x": 3, "what": "wait"}]
    (tmp_path / "grid.yaml").write_text(json.dumps({"rows": [{**row, "work": str(tmp_path)} for row in rows]}))
    command = started("-m", "ptlib.sweep", str(path), "--grid", str(tmp_path / "grid.yaml"), "--out",
                      str(tmp_path / "out"), "--workers", "1", start_new_session=True, stderr=subprocess.PIPE,
                      stdout=subprocess.PIPE,
                      # Where the tests themselves run in the background, interrupts are ignored, and so they are below.
                      preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for((tmp_path / "started-2").exists)
    worker = int((tmp_path / "started-2").read_text())
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does
    out, err = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "start the same sweep again to continue" in err and "Traceback" not in err
    assert "dashboard: http://127.0.0.1" in out
    assert list(by_x(tmp_path / "out", METRICS_FILE)) == [1]
    assert not (tmp_path / "started-3").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_the_command_says_what_is_wrong(path, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text("cross: {sead: [1]}")
    arguments = [str(path), "--grid", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "did you mean 'seed'" in capsys.readouterr().err
    (tmp_path / "grid.yaml").write_text("cross: {seed: [1]}")
    assert main([*arguments, "--scheduler", "nonsense://x"]) == 2
    assert "no scheduler answers at nonsense://x" in capsys.readouterr().err
    assert main([*arguments, "--scheduler", "tcp://127.0.0.1:9", "--workers", "2"]) == 2
    assert main(["--collect", str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err
    for nonsense in ([str(path)], [*arguments, "--resume", "--fresh"]):
        with pytest.raises(SystemExit):
            main(nonsense)


def test_the_command_says_how_many_failed_and_where_to_look(path, tmp_path, monkeypatch, capsys):
    report = engine.Report(("a",), ("b", "c"), {f"f{i}": f"ValueError: {i}" for i in range(7)})
    monkeypatch.setattr(engine, "run_sweep", lambda *_, **__: report)
    assert main([str(path), "--grid", "g", "--out", "runs/NAME"]) == 1
    said = capsys.readouterr().out
    assert "2 runs done, 1 were done before, 7 failed" in said
    assert f"runs/NAME/f0/{ERROR}: ValueError: 0" in said
    assert "and 2 more" in said


# --- files and full disks -----------------------------------------------------------------------


def test_a_file_is_there_in_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "a.json", "old")
    with pytest.raises(OSError, match="No space"), replacing(tmp_path / "a.json") as partial:
        partial.write_text("ne")
        assert (tmp_path / "a.json").read_text() == "old"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"


@pytest.fixture
def common(notebook, tmp_path) -> Sweep:
    return engine.prepare(notebook, tmp_path / "out")


def test_a_disk_that_is_full_at_the_end_leaves_an_unfinished_run(common, tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(runs, "execute", lambda *_: ({"results": {}, "seconds": 1.0}, None))
    monkeypatch.setattr(runs, "write_text", full)
    outcome = run_one(("name", {"x": 1}), common)
    assert outcome.disk_full and "No space left on device" in outcome.error and METRICS_FILE in outcome.error
    assert not finished(common.out, {"name": {}})
    monkeypatch.undo()
    monkeypatch.setattr(runs, "execute", lambda *_: ({"results": {}, "seconds": 1.0}, None))
    assert run_one(("name", {"x": 1}), common) == Outcome("name")
    assert [path.name for path in (common.out / "name").iterdir()] == [METRICS_FILE]


def test_a_full_disk_ends_the_sweep(common, monkeypatch):
    def full(run, sweep):
        return Outcome(run[0], "OSError: [Errno 28] No space left on device", disk_full=True)

    monkeypatch.setattr(engine, "run_one", full)
    with (LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client,
          pytest.raises(SweepError, match=r"a disk is full .*No space left.*free some space")):
        list(engine.work(client, [("a", {}), ("b", {})], common))


def test_a_gpu_is_one_slot(common, tmp_path, monkeypatch):
    at_work = tmp_path / "at-work"

    def alone(run, sweep):
        at_work.touch(exist_ok=False)
        time.sleep(0.1)
        at_work.unlink()
        return Outcome(run[0])

    monkeypatch.setattr(engine, "run_one", alone)
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "dashboard_address": None}
    with LocalCluster(**options, resources={"GPU": 1}) as cluster, Client(cluster) as client:
        outcomes = list(engine.work(client, [(name, {}) for name in "abcd"], common))
    assert sorted(outcome.run for outcome in outcomes) == list("abcd")
    assert not [outcome.error for outcome in outcomes if outcome.error]


def test_local_workers_share_out_gpus_and_cores(monkeypatch):
    specs = {}
    monkeypatch.setattr(engine, "SpecCluster", lambda workers, *_, **__: specs.update(workers))
    monkeypatch.setattr(engine, "CPU_COUNT", 8)
    monkeypatch.setattr(engine.torch.cuda, "device_count", lambda: 2)
    for name in engine.THREADS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    engine.local_cluster(None)
    options = [spec["options"] for spec in specs.values()]
    assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in options] == ["5", "7"]
    assert all(one["resources"] == {"GPU": 1} and one["env"]["OMP_NUM_THREADS"] == "4" for one in options)
    with pytest.raises(SweepError, match="workers=3 with 2 GPUs"):
        engine.local_cluster(3)
    monkeypatch.setattr(engine.torch.cuda, "device_count", lambda: 0)
    specs.clear()
    engine.local_cluster(None)
    assert len(specs) == 8
    assert all(spec["options"]["env"] == dict.fromkeys(engine.THREADS, "1") for spec in specs.values())


def test_a_failed_run_is_not_repeated_in_the_same_sweep(common, monkeypatch):
    """Dask asks again for what a worker did if it dies before the answer has arrived."""
    calls = []
    failure = {"type": "ValueError", "message": "no", "traceback": ""}
    monkeypatch.setattr(runs, "execute", lambda *_: (calls.append(1), ({"results": {}, "seconds": 1.0}, failure))[1])
    outcomes = [run_one(("name", {"x": 1}), common) for _ in range(2)]
    assert outcomes == [Outcome("name", "ValueError: no")] * 2
    assert len(calls) == 1
    later = Sweep(**{**vars(common), "id": uuid4().hex})
    run_one(("name", {"x": 1}), later)
    assert len(calls) == 2


def test_a_run_removes_what_a_killed_one_has_left(common, monkeypatch):
    monkeypatch.setattr(runs, "execute", lambda *_: ({"results": {}, "seconds": 1.0}, None))
    write_text(common.out / "name" / ".tiny.0123456789ab.partial.ipynb", "{")
    assert run_one(("name", {"x": 1}), common) == Outcome("name")
    assert [path.name for path in (common.out / "name").iterdir()] == [METRICS_FILE]


def test_a_kernel_that_dies_is_a_failed_run(common, notebook):
    [parameters] = expand({"rows": [{"what": "die"}]}, notebook)
    outcome = run_one(("name", parameters), common)
    assert "DeadKernelError" in outcome.error
    error = json.loads((common.out / "name" / ERROR).read_text())
    assert error["error"]["type"] == "DeadKernelError"
    assert (common.out / "name" / "tiny.ipynb").exists()


# --- record -------------------------------------------------------------------------------------


def test_record_shows_and_in_a_sweep_keeps(tmp_path, monkeypatch, capsys):
    import numpy as np

    monkeypatch.delenv(RESULTS, raising=False)
    record(p_at_1=0.5, curve=[1, 2])
    assert capsys.readouterr().out == "p_at_1 = 0.5\ncurve = [1, 2]\n"
    monkeypatch.setenv(RESULTS, str(tmp_path / "results"))
    record(a=np.float64(0.5), b=torch.tensor([1.0, 2.0]), c=None)
    record(a=2)
    lines = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    assert lines == [{"a": 0.5}, {"b": [1.0, 2.0]}, {"c": None}, {"a": 2}]
    with pytest.raises(SweepError, match=r"record\(table=...\) was given a DataFrame"):
        record(ok=1, table=pd.DataFrame({"a": [object()]}))
    assert len((tmp_path / "results").read_text().splitlines()) == 4
    capsys.readouterr()
    record(table=pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=["no", "matter"]))
    assert capsys.readouterr().out == "table: 2 rows of a, b\n"
    assert json.loads((tmp_path / "results").read_text().splitlines()[-1]) == {
        "table": [{"a": 1, "b": "x"}, {"a": 2, "b": None}]}


# --- the store ----------------------------------------------------------------------------------

TUNE = """
import json, sys, time, ptlib
from ptlib.sweep import store

def slow(lm, tasks, **options):
    with open(sys.argv[3], "a") as log:
        log.write("".join(f"{task.name} {options['seeds']}\\n" for task in tasks))
    time.sleep(1)
    return tune_seeds(lm, tasks, **options)

tune_seeds, store.tune_seeds = store.tune_seeds, slow
slow.__signature__ = store.inspect.signature(tune_seeds)
ptlib.set_progress(False)
lm, task = ptlib.load_lm(sys.argv[1]), ptlib.load_task(sys.argv[2])
found = store.tuned(lm, [task], seeds=[0, 1], epochs=1)
print(json.dumps({str(key): prompt.vectors.tolist() for key, prompt in found.items()}))
"""


def test_two_processes_want_the_same_prompts_and_they_are_tuned_once(toys, facts_file, tmp_path):
    command = [sys.executable, "-c", TUNE, toys["bert"].name, str(facts_file), str(tmp_path / "log")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                                  env={**os.environ, "PTLIB_STORE": str(tmp_path / "store")}) for _ in range(2)]
    one, other = (json.loads(process.communicate()[0]) for process in processes)
    assert one == other
    assert len(one) == 2
    assert (tmp_path / "log").read_text().splitlines() == [f"{facts_file} [0, 1]"]
    assert {path.suffix for path in (tmp_path / "store").iterdir()} == {".safetensors"}


def test_the_store_gives_what_tuning_gives(toys, capitals, tmp_path, monkeypatch):
    lm, options = toys["bert"], {"epochs": 1, "progress": False}
    expected = ptlib.tune_seeds(lm, [capitals], seeds=[0, 1], **options)
    calls = []
    monkeypatch.setattr(store, "tune_seeds", counting(calls, ptlib.tune_seeds))
    first = tuned(lm, [capitals], seeds=[1], folder=tmp_path, **options)
    assert first.keys() == {(1, "capitals")}
    both = tuned(lm, [capitals], seeds=[0, 1], folder=tmp_path, **options)
    assert [call["seeds"] for call in calls] == [[1], [0]]
    assert list(both) == list(expected)
    for which, prompt in expected.items():
        assert both[which].vectors.equal(prompt.vectors)
        assert (both[which].meta, both[which].template, both[which].task) == (prompt.meta, prompt.template, prompt.task)
    tuned(lm, [capitals], seeds=[1], folder=tmp_path, epochs=2, progress=False)
    tuned(toys["uncased"], [capitals], seeds=[1], folder=tmp_path, **options)
    tuned(ptlib.load_lm(lm.name, dtype=torch.bfloat16), [capitals], seeds=[1], folder=tmp_path, **options)
    assert len(calls) == 5


def counting(calls, function):
    from functools import wraps

    @wraps(function)
    def counted(*arguments, **options):
        calls.append(options)
        return function(*arguments, **options)

    return counted


def test_without_a_folder_nothing_is_stored(toys, capitals, tmp_path, monkeypatch):
    monkeypatch.delenv("PTLIB_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tuned(toys["bert"], [capitals], epochs=1, progress=False).keys() == {(0, "capitals")}
    assert not list(tmp_path.iterdir())


def test_the_claim_of_a_dead_process_is_taken_over(toys, capitals, tmp_path, monkeypatch):
    options = {"epochs": 1, "progress": False, "folder": tmp_path}
    tuned(toys["bert"], [capitals], **options)
    [path] = tmp_path.iterdir()
    path.rename(path.with_suffix(".claim"))
    monkeypatch.setattr(claims, "STALE", 0.5)
    began = time.monotonic()
    tuned(toys["bert"], [capitals], **options)
    assert time.monotonic() - began > 0.5
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_tuning_that_fails_gives_its_claims_back(toys, capitals, tmp_path):
    from dataclasses import replace

    with pytest.raises(ptlib.TaskError):
        tuned(toys["bert"], [replace(capitals, train=())], folder=tmp_path, epochs=1, progress=False)
    assert not list(tmp_path.iterdir())


def test_groups_are_the_pairs_asked_for():
    pairs = [(0, "a"), (0, "b"), (1, "a"), (1, "b"), (2, "b")]
    assert groups(pairs) == [([0, 1], ["a", "b"]), ([2], ["b"])]
    assert sorted(pair for seeds, names in groups(pairs) for pair in product(seeds, names)) == pairs
