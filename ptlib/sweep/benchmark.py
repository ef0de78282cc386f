"""Measurements of sweeps: the cost of planning and queueing, and a cluster with processes that can be killed.

``python -m ptlib.sweep.benchmark NOTEBOOK GRID OUT`` prints the cost of planning a grid of finished runs, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import papermill
import psutil
from dask.system import CPU_COUNT
from distributed import Client

from ..laps import Laps
from .engine import prepare
from .grids import expand, read_grid, read_notebook, run_name
from .runs import METRICS_FILE, finished, run_one

__all__ = ["Cluster", "count_finished", "kill", "pace", "papermill_pace", "planning_cost", "setting", "wait_until"]


def setting() -> str:
    """The versions and the number of cores that the costs depend on."""
    return f"distributed {version('distributed')}, papermill {version('papermill')}, {CPU_COUNT} cores"


def memory(pid: int | None = None) -> int:
    """The memory that a process holds now, in bytes; by default this process."""
    return psutil.Process(pid).memory_info().rss


def wait_until(ready: Callable[[], object]) -> None:
    """Wait until ``ready()`` is true, and check every 50 ms."""
    while not ready():
        time.sleep(0.05)


# --- planning and pace ----------------------------------------------------------------------------


def planning_cost(notebook: str | Path, grid: str | Path, out: str | Path) -> dict[str, float]:
    """Measure the planning of a grid with only finished runs, which takes the longest.

    Returns:
        Seconds for each step, and ``MiB``: how much the memory of this process grew.
    """
    plan = read_notebook(notebook)
    before, clock = memory(), Laps()
    content = read_grid(grid)
    clock.lap("read the grid file")
    runs = {run_name(parameters, plan): parameters for parameters in expand(content, plan)}
    clock.lap("expand it and name the runs")
    assert len(finished(Path(out), runs)) == len(runs)
    clock.lap("look for the finished ones")
    return {**clock.seconds, "MiB": (memory() - before) / 2**20}


def papermill_pace(notebook: Path, seeds: Iterable[int]) -> float:
    """Seconds for each run with plain papermill, in sequence. Each writes ``executed.ipynb`` beside the notebook."""
    began, runs = time.time(), list(seeds)
    for seed in runs:
        papermill.execute_notebook(notebook, notebook.with_name("executed.ipynb"), {"seed": seed}, progress_bar=False,
                                   extra_arguments=["--log-level=50"])
    return (time.time() - began) / len(runs)


def count_finished(out: Path) -> int:
    return len(list(out.glob(f"*/{METRICS_FILE}")))


def pace(out: Path, began: float, workers: int) -> dict[str, float]:
    """How fast a sweep went, judged by the times when its runs finished.

    Args:
        out: folder of the sweep.
        began: the time when it was started, in seconds since the epoch.
        workers: how many workers there were; fewer than runs.

    Returns:
        ``start-up``, the seconds until all workers were ready, and ``a run``, the seconds between two finished runs.
    """
    ended = sorted(path.stat().st_mtime for path in out.glob(f"*/{METRICS_FILE}"))
    a_run = (ended[-1] - ended[workers - 1]) / (len(ended) - workers)
    return {"start-up": ended[workers - 1] - began - workers * a_run, "a run": a_run}


# --- a cluster to be killed -----------------------------------------------------------------------


class Cluster:
    """A scheduler and workers, each a process on this machine.

    Args:
        folder: where they write their files.

    Attributes:
        scheduler: process of the newest scheduler.
        address: of the newest scheduler.
        processes: all processes that were started.
    """

    scheduler: subprocess.Popen
    address: str

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: list[subprocess.Popen] = []

    def start_scheduler(self) -> None:
        file = self.folder / f"scheduler-{len(self.processes)}.json"
        self.scheduler = self._start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0,
                                     "--no-dashboard", "--scheduler-file", file)
        wait_until(file.exists)
        self.address = json.loads(file.read_text())["address"]

    def start_workers(self, count: int) -> None:
        """Start workers of the newest scheduler, with one thread each. If they lose it, they end after 30 s."""
        for _ in range(count):
            self._start("distributed.cli.dask_worker", self.address, "--nthreads", 1, "--no-dashboard",
                        "--local-directory", self.folder, "--death-timeout", 30)

    def wait_for_workers(self, count: int) -> None:
        with Client(self.address) as client:
            client.wait_for_workers(count)

    def start_sweep(self, notebook: Path, grid: Path, out: Path) -> subprocess.Popen:
        """Start ``python -m ptlib.sweep`` on the newest scheduler."""
        return self._start("ptlib.sweep", notebook, "--grid", grid, "--out", out, "--scheduler", self.address)

    def queue_cost(self, notebook: Path, out: Path, count: int) -> dict[str, float]:
        """Measure how runs are queued while there is no worker.

        Returns:
            ``before``, the scheduler's memory in bytes with one run, after it imported ptlib; ``grown``, the bytes that
            ``count`` more runs add; and ``seconds``, the time to queue these.
        """
        with Client(self.address) as client:
            common, futures = prepare(read_notebook(notebook), out), []

            def held(numbers: Iterable[int]) -> int:
                runs = [(f"{number:016x}", {"seed": number}) for number in numbers]
                futures.extend(client.map(run_one, runs, pure=False, sweep=common))
                wait_until(lambda: client.run_on_scheduler(_number_of_tasks) == len(futures))
                return memory(self.scheduler.pid)

            before, began = held(range(1)), time.time()
            grown = held(range(1, count + 1)) - before
            return {"before": before, "grown": grown, "seconds": time.time() - began}

    def stop(self) -> None:
        """End the newest scheduler; its workers end by themselves."""
        self.scheduler.terminate()

    def wait(self, timeout: float = 120) -> None:
        """Wait until all processes have ended."""
        for process in self.processes:
            process.wait(timeout=timeout)

    def _start(self, module: str, *words: object) -> subprocess.Popen:
        command = [sys.executable, "-m", module, *map(str, words)]
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return self.processes[-1]


def _number_of_tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def kill(pid: int) -> float:
    """Kill a process with SIGKILL (``kill -9``), and return the time in seconds since the epoch."""
    os.kill(pid, signal.SIGKILL)
    return time.time()


if __name__ == "__main__":
    print(json.dumps(planning_cost(*sys.argv[1:])))
