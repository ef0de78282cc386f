"""One run of a sweep: it executes the notebook in its own kernel and writes the run's folder.

``metrics.json`` is written last and atomically, so a run that has it is finished. A run that failed has ``error.json``
instead, with the same content and the error.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger

import ptlib

from ..files import remove_partial, replacing, write_text
from .claims import Others, claimed
from .grids import OUT
from .inputs import code_on_disk
from .record import RESULTS
from .store import STORE

__all__ = ["ERROR", "MAX_STARTS", "METRICS_FILE", "Outcome", "Sweep", "finished", "run_one"]

METRICS_FILE, ERROR, STARTS = "metrics.json", "error.json", "starts"
MAX_STARTS = 3  # how often a run is started if its worker process dies
KERNEL_STARTS, KERNEL_TIMEOUT = 3, 120  # tries and seconds: ports may be taken, or the machine busy
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "papermill", "distributed")
FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True)
class Sweep:
    """What all runs of a sweep have in common.

    Attributes:
        id: of this call. A later call with the same folder has another id.
        out: folder of the runs.
        notebook: a copy of the notebook, so that the original can be edited during the sweep.
        name, digest: the notebook's name and hash.
        sets_out: whether the notebook has a parameter ``out``.
        cwd: folder to run in, so that relative paths mean the same on every worker.
        store: folder of the tuned prompts.
        git: commit of the notebook's repository and whether it has uncommitted changes; {} without a repository.
    """

    id: str
    out: Path
    notebook: Path
    name: str
    digest: str
    sets_out: bool
    cwd: Path
    store: Path
    git: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: its name.
        error: the first line of its error; None if it succeeded.
        disk_full: whether it failed because a disk is full, so that the other runs would fail too.
    """

    run: str
    error: str | None = None
    disk_full: bool = False


def finished(out: Path, names: Mapping[str, Any]) -> set[str]:
    """The runs among ``names`` that are finished."""
    begun = names.keys() & set(os.listdir(out) if out.is_dir() else [])
    # On a network file system each check takes a round trip, so many are made at once.
    with ThreadPoolExecutor(32) as pool:
        has_metrics = pool.map(lambda name: os.path.exists(out / name / METRICS_FILE), begun)
        return {name for name, exists in zip(begun, has_metrics, strict=True) if exists}


def run_one(run: tuple[str, dict[str, Any]], sweep: Sweep) -> Outcome:
    """Run the notebook once. Errors are recorded, not raised.

    If another process is working on the same run, wait for it. This happens if somebody starts the same sweep twice, or
    if a scheduler died: its workers continue for half a minute.

    Args:
        run: its name and parameters.
        sweep: what all runs have in common.
    """
    name, parameters = run
    folder = sweep.out / name
    metrics, others = folder / METRICS_FILE, Others()
    try:
        while not metrics.exists():
            with claimed({name: metrics}) as mine:
                if mine:
                    return outcome_of(name, attempt(name, folder, parameters, sweep))
            others.wait([metrics])
        return Outcome(name)
    except Exception as problem:  # an error in the sweep's own files should not stop the other runs
        return outcome_of(name, {"type": type(problem).__name__, "message": str(problem)})


def attempt(name: str, folder: Path, parameters: dict[str, Any], sweep: Sweep) -> dict[str, str] | None:
    """Run the notebook and write its metrics or its error. Return the error, if there is one.

    If the run has already failed in this sweep, it is not run again, and the earlier error is returned.
    """
    if (folder / ERROR).exists():
        # The worker may have died after it wrote the error and before it reported it.
        last = json.loads((folder / ERROR).read_text(encoding="utf-8"))
        if last["sweep"] == sweep.id:
            return last["error"]
    remove_partial(folder)
    about = {"run": name, "sweep": sweep.id, "notebook": sweep.name, "notebook_digest": sweep.digest,
             "parameters": parameters, "code": code_on_disk(), "git": sweep.git, "versions": versions(),
             "host": platform.node(), "started": datetime.now(UTC).isoformat(timespec="microseconds")}
    if starts(folder / STARTS, sweep.id) > MAX_STARTS:
        message = (f"its worker process died in each of {MAX_STARTS} attempts; it probably ran out of memory or "
                   "crashed in compiled code")
        measured: dict[str, Any] = {}
        error: dict[str, str] | None = {"type": "KilledWorker", "message": message, "traceback": ""}
    else:
        measured, error = execute(folder, parameters, sweep)
    if error:
        write_text(folder / ERROR, json.dumps({**about, **measured, "error": error}, indent=1))
    else:
        (folder / ERROR).unlink(missing_ok=True)
        write_text(folder / METRICS_FILE, json.dumps({**about, **measured}, indent=1))
    (folder / STARTS).unlink(missing_ok=True)
    return error


def outcome_of(run: str, error: Mapping[str, str] | None) -> Outcome:
    if not error:
        return Outcome(run)
    text = f"{error['type']}: {error['message']}"
    return Outcome(run, text.splitlines()[0][:300], disk_full=any(full in text for full in FULL))


def starts(path: Path, sweep: str) -> int:
    """Record one more start of the run in this sweep, and return how many there are.

    It is recorded before the run, because a process that is killed cannot do it afterwards.
    """
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{sweep} {platform.node()} {os.getpid()}\n")
    return sum(line.startswith(f"{sweep} ") for line in path.read_text(encoding="utf-8").splitlines())


# --- the notebook -------------------------------------------------------------------------------


def execute(folder: Path, parameters: dict[str, Any], sweep: Sweep) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Execute the notebook and save it in ``folder``. Return its results, seconds and peak memory, and its error."""
    began, error = time.monotonic(), None
    usage: dict[str, Any] = {}
    given = parameters | ({OUT: str(folder)} if sweep.sets_out else {})
    # Use a temporary folder: papermill saves after each cell, and a killed worker would leave half a notebook.
    with TemporaryDirectory(prefix="ptlib-run-") as scratch:
        executed, results = Path(scratch) / "executed.ipynb", Path(scratch) / "results.jsonl"
        environment = {**os.environ, RESULTS: str(results), STORE: str(sweep.store), "TQDM_DISABLE": "1"}
        try:
            with_kernel(sweep.notebook, executed, given, environment=environment, folder=sweep.cwd, usage=usage)
        except PapermillExecutionError as problem:
            error = {"type": problem.ename, "message": problem.evalue, "traceback": str(problem)}
        except Exception as problem:  # the kernel died, or did not start
            error = {"type": type(problem).__name__, "message": str(problem), "traceback": ""}
        if executed.exists():
            with replacing(folder / f"{sweep.name}.ipynb") as partial:
                shutil.copyfile(executed, partial)
        complete = error is None and results.exists()
        lines = results.read_text(encoding="utf-8").splitlines() if complete else []
    recorded = {name: value for line in lines for name, value in json.loads(line).items()}
    return {"results": recorded, "seconds": round(time.monotonic() - began, 3), **usage}, error


def with_kernel(notebook: Path, executed: Path, parameters: dict[str, Any], **options: Any) -> None:
    """Execute a notebook through papermill. If the kernel does not start, try again, up to ``KERNEL_STARTS`` times."""
    for attempt in range(1, KERNEL_STARTS + 1):
        try:
            papermill.execute_notebook(str(notebook), str(executed), parameters, engine_name=Engine.name,
                                       kernel_name="python3", progress_bar=False, start_timeout=KERNEL_TIMEOUT,
                                       **options)
            return
        except DeadKernelError:
            raise
        except RuntimeError:  # jupyter_client raises it if the kernel dies or stays silent before its first cell
            if attempt == KERNEL_STARTS:
                raise


class Client(PapermillNotebookClient):
    """A notebook client that reads the kernel's peak memory before the kernel ends."""

    def papermill_execute_cells(self) -> None:
        super().papermill_execute_cells()
        self.peak = peak_memory(self.km.provisioner.pid)


class Engine(NBClientEngine):
    """Papermill's engine, with an environment and a working folder for the kernel only, not for this process."""

    name = "ptlib"

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, start_timeout: float, environment: dict[str, str],
                                 folder: Path, usage: dict[str, Any], **_: Any) -> None:
        # Silence the kernel's log, which would go to the worker's stderr. Output of cells is in the notebook anyway.
        client = Client(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, timeout=None, log=logger,
                        extra_arguments=["--log-level=50"])
        client.execute(env=environment, cwd=str(folder))
        usage["peak_memory"] = client.peak


papermill_engines.register(Engine.name, Engine)


def peak_memory(pid: int) -> int | None:
    """The most memory that a process has held, in bytes; None if the system does not tell (only Linux does)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


@cache
def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "ptlib": ptlib.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
