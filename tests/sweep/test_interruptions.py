"""Sweeps that are killed, at every place, and disks that are full: the same call goes on, and nothing is done twice."""

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import Cluster, wait_for, write_notebook
from distributed import Client, Future

from ptlib.sweep.__main__ import main
from ptlib.sweep.record import RESULTS
from ptlib.sweep.report import collect
from ptlib.sweep.runs import METRICS_FILE

pytestmark = pytest.mark.slow

PARAMETERS = """
x: int = 0  # a number
work: str = ""  # folder for notes, and for the leave to end
seed: int = 0  # of nothing
"""
# It writes its result down as ``record`` does: ptlib takes longer to import than all the rest of a run.
DO = f"""
import json, os, time
from pathlib import Path

worker = os.getppid()

def note(what):
    with open(Path(work, what), "a") as notes:
        print(x, os.getpid(), worker, file=notes)

note("started")
while not Path(work, "go-" + str(x)).exists():
    time.sleep(0.05)
Path(os.environ["{RESULTS}"]).write_text(json.dumps(dict(square=x**2)))
if os.getppid() == worker:  # or nobody is left to hand it in to, and the kernel is about to notice
    note("ended")
"""


@pytest.fixture
def path(tmp_path) -> Path:
    return write_notebook(tmp_path / "patient.ipynb", "1", PARAMETERS, DO)


@pytest.fixture
def call(path, tmp_path):
    """The command's words, for a grid of so many runs."""
    (tmp_path / "notes").mkdir()

    def arguments(runs: int, out: str, *options: str) -> list[str]:
        grid = {"cross": {"x": list(range(runs)), "work": [str(tmp_path / "notes")]}}
        (tmp_path / "grid.yaml").write_text(json.dumps(grid))
        return [str(path), "--grid", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / out), *options]

    return arguments


@pytest.fixture
def sweep_in_a_process(call, started):
    def start(*words) -> subprocess.Popen:
        return started("-m", "ptlib.sweep", *call(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


class Notes:
    """What the runs note down, as (x, kernel, worker)."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __getitem__(self, what: str) -> list[tuple[int, ...]]:
        try:
            return [tuple(map(int, line.split())) for line in (self.folder / what).read_text().splitlines()]
        except FileNotFoundError:
            return []

    def count(self, what: str) -> Counter:
        return Counter(x for x, *_ in self[what])

    def at_work(self) -> dict[int, tuple[int, int]]:
        """The kernel and worker that came last to each run that has not ended."""
        return {x: at for x, *at in self["started"] if x not in self.count("ended")}

    def let_go(self, *runs: int) -> None:
        for x in runs:
            (self.folder / f"go-{x}").touch()


@pytest.fixture
def notes(tmp_path) -> Notes:
    return Notes(tmp_path / "notes")


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def unfinished_files(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if "partial" in path.name or path.name == "starts" or
            path.suffix == ".claim"]


def test_a_worker_then_the_scheduler_then_the_client_are_killed(call, sweep_in_a_process, cluster, notes, tmp_path):
    out = tmp_path / "out"
    old: Cluster = cluster()
    client = sweep_in_a_process(5, "out", "--scheduler", old.address)
    wait_for(lambda: len(notes.at_work()) == 2)
    (victim, (kernel, worker)), (other, _) = notes.at_work().items()
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not is_alive(kernel))
    wait_for(lambda: notes.count("started")[victim] == 2)  # or Dask may have it wait behind the other worker's next run
    notes.let_go(victim, other)
    wait_for(lambda: len(list(out.glob(f"*/{METRICS_FILE}"))) == 2 and len(notes.at_work()) == 2)
    assert notes.count("started")[victim] == 2

    # The old workers go on with the runs that they are at, for half a minute; the new ones wait for them.
    orphans = notes.at_work()
    old.scheduler.kill()
    _, said = client.communicate(timeout=120)
    assert client.returncode == 2
    assert "the scheduler has lost the runs" in said and str(out) in said and "Traceback" not in said
    new: Cluster = cluster()
    client = sweep_in_a_process(5, "out", "--scheduler", new.address)
    with Client(new.address) as dask:
        wait_for(lambda: "claims.py" in str(dask.call_stack()) or
                 not any(is_alive(worker) for _, worker in orphans.values()))
    notes.let_go(*orphans)
    wait_for(lambda: len(list(out.glob(f"*/{METRICS_FILE}"))) == 4 and len(notes.at_work()) == 1)

    # Again, and in the hurry twice.
    client.kill()
    both = [sweep_in_a_process(5, "out", "--scheduler", new.address) for _ in range(2)]
    notes.let_go(*range(5))
    for client in both:
        said, _ = client.communicate(timeout=120)
        assert client.returncode == 0 and "0 failed" in said
    assert notes.count("ended") == dict.fromkeys(range(5), 1)
    assert {x for x, count in notes.count("started").items() if count > 1} <= {victim, *orphans}
    assert not unfinished_files(out)
    for worker in old.workers:
        worker.wait(timeout=120)
    wait_for(lambda: not any(is_alive(kernel) for _, kernel, _ in notes["started"]))

    assert main(call(5, "undisturbed", "--scheduler", new.address)) == 0
    tables = [collect(folder).drop(columns=["seconds", "peak_memory", "started"])
              for folder in (out, tmp_path / "undisturbed")]
    pd.testing.assert_frame_equal(*tables)
    assert sorted(tables[0]["square"]) == [0, 1, 4, 9, 16]


def test_a_scheduler_that_dies_while_it_is_asked_for_an_outcome(call, cluster, notes, monkeypatch, capsys):
    running, ask = cluster("--no-nanny"), Future.result

    def too_late(future):
        running.scheduler.kill()
        running.scheduler.wait()
        return ask(future)

    monkeypatch.setattr(Future, "result", too_late)
    notes.let_go(0)
    assert main(call(1, "out", "--scheduler", running.address)) == 2
    assert "the scheduler has lost the runs" in capsys.readouterr().err


def test_a_killed_sweep_takes_its_workers_and_kernels_along(call, sweep_in_a_process, notes, tmp_path, capsys):
    command = sweep_in_a_process(2, "out", "--workers", "1")
    wait_for(notes.at_work)
    below = [process.pid for process in psutil.Process(command.pid).children(recursive=True)]
    assert {pid for at in notes.at_work().values() for pid in at} <= set(below)
    command.kill()
    wait_for(lambda: not any(map(is_alive, below)), seconds=20)
    notes.let_go(0, 1)
    assert main(call(2, "out", "--workers", "1")) == 0
    assert "2 runs done, 0 were done before" in capsys.readouterr().out
    assert (notes.count("started"), notes.count("ended")) == ({0: 2, 1: 1}, {0: 1, 1: 1})
    assert not unfinished_files(tmp_path / "out")


def test_a_disk_that_is_full_is_one_clear_error_and_the_same_call_goes_on(small_disk, tmp_path, capsys):
    wordy = write_notebook(tmp_path / "wordy.ipynb", "1", "seed: int = 0  # of nothing", "print('word ' * 40_000)")
    (tmp_path / "grid.yaml").write_text("cross: {seed: [0, 1, 2]}")
    arguments = [str(wordy), "--grid", str(tmp_path / "grid.yaml"), "--out", str(small_disk), "--workers", "1"]
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(450_000))  # beside two executed notebooks, not three
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "a disk is full" in said and "No space left on device" in said and str(small_disk) in said
    assert "Traceback" not in said
    assert len(list(small_disk.glob(f"*/{METRICS_FILE}"))) == len(list(small_disk.glob("*/wordy.ipynb"))) == 2
    assert not [path for path in small_disk.rglob("*") if "partial" in path.name or path.suffix == ".claim"]

    with pytest.raises(OSError), open(ballast, "ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    assert main(arguments) == 2
    assert "nothing can be written to" in capsys.readouterr().err
    ballast.unlink()
    assert main(arguments) == 0
    assert "1 runs done, 2 were done before, 0 failed" in capsys.readouterr().out
    assert len(collect(small_disk)) == 3
    assert not unfinished_files(small_disk)
