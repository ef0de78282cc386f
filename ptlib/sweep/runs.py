"""One run of a sweep: a notebook in a kernel of its own, its folder and its ``metrics.json``.

A run's folder gets ``metrics.json`` last and at once: a run has it or is unfinished. A run that raised has
``error.json`` instead, with the same content and the error.
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

__all__ = ["ERROR", "MAX_STARTS", "METRICS", "Outcome", "Sweep", "finished", "run_one"]

METRICS, ERROR, STARTS = "metrics.json", "error.json", "starts"
MAX_STARTS = 3  # of a run whose worker process dies on the way
KERNEL_STARTS, KERNEL_TIMEOUT = 3, 120  # a kernel may find its ports taken or a busy machine; seconds
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "papermill", "distributed")
FULL = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT))


@dataclass(frozen=True)
class Sweep:
    """What the runs of a sweep have in common.

    Attributes:
        id: of this call; a later one over the same folder has another.
        out: folder of the runs.
        notebook: copy of the notebook, which nobody edits while it runs.
        name, digest: the notebook's name and hash.
        sets_out: whether the notebook has a parameter ``out``.
        cwd: folder to run in, so that relative paths mean the same on every worker.
        store: folder of the tuned prompts.
        git: commit of the notebook's repository, and whether it has uncommitted changes; {} without one.
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
    """How a run ended: ``error`` is None or its first line; ``disk_full`` means that no other run will fare better."""

    run: str
    error: str | None = None
    disk_full: bool = False


def finished(out: Path, names: Mapping[str, Any]) -> set[str]:
    """The runs among ``names`` that have their metrics."""
    here = names.keys() & set(os.listdir(out) if out.is_dir() else [])
    # On a network file system each look takes a round trip; many at once take hardly longer than one.
    with ThreadPoolExecutor(32) as pool:
        there = pool.map(lambda name: os.path.exists(out / name / METRICS), here)
        return {name for name, exists in zip(here, there, strict=True) if exists}


def run_one(run: tuple[str, dict[str, Any]], sweep: Sweep) -> Outcome:
    """Run the notebook once; whatever goes wrong is recorded, not raised.

    A run that another process is at is waited for: a worker goes on for half a minute when its scheduler has died, and
    somebody may start the same sweep twice.

    Args:
        run: its name and parameters.
        sweep: what it has in common with the others.
    """
    name, parameters = run
    folder = sweep.out / name
    metrics, others = folder / METRICS, Others()
    try:
        while not metrics.exists():
            with claimed({name: metrics}) as mine:
                if mine:
                    return outcome_of(name, attempt(name, folder, parameters, sweep))
            others.wait([metrics])
        return Outcome(name)
    except Exception as problem:  # of the sweep's own files: no reason for the other runs to stop
        return outcome_of(name, {"type": type(problem).__name__, "message": str(problem)})


def attempt(name: str, folder: Path, parameters: dict[str, Any], sweep: Sweep) -> dict[str, str] | None:
    """Run the notebook and write down what comes out; its error, or that of an earlier attempt in this sweep."""
    if (folder / ERROR).exists():
        # The worker may have died after its work, before it could tell.
        last = json.loads((folder / ERROR).read_text(encoding="utf-8"))
        if last["sweep"] == sweep.id:
            return last["error"]
    remove_partial(folder)
    about = {"run": name, "sweep": sweep.id, "notebook": sweep.name, "notebook_digest": sweep.digest,
             "parameters": parameters, "code": code_on_disk(), "git": sweep.git, "versions": versions(),
             "host": platform.node(), "started": datetime.now(UTC).isoformat(timespec="microseconds")}
    if starts(folder / STARTS, sweep.id) > MAX_STARTS:
        message = (f"its worker process died in each of {MAX_STARTS} attempts: out of memory, or a crash in compiled "
                   "code")
        measured: dict[str, Any] = {}
        error: dict[str, str] | None = {"type": "KilledWorker", "message": message, "traceback": ""}
    else:
        measured, error = execute(folder, parameters, sweep)
    if error:
        write_text(folder / ERROR, json.dumps({**about, **measured, "error": error}, indent=1))
    else:
        (folder / ERROR).unlink(missing_ok=True)
        write_text(folder / METRICS, json.dumps({**about, **measured}, indent=1))
    (folder / STARTS).unlink(missing_ok=True)
    return error


def outcome_of(run: str, error: Mapping[str, str] | None) -> Outcome:
    if not error:
        return Outcome(run)
    text = f"{error['type']}: {error['message']}"
    return Outcome(run, text.splitlines()[0][:300], disk_full=any(full in text for full in FULL))


def starts(path: Path, sweep: str) -> int:
    """Write down one more start in this sweep, and count them: a process that is killed cannot count later."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{sweep} {platform.node()} {os.getpid()}\n")
    return sum(line.startswith(f"{sweep} ") for line in path.read_text(encoding="utf-8").splitlines())


# --- the notebook -------------------------------------------------------------------------------


def execute(folder: Path, parameters: dict[str, Any], sweep: Sweep) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Results, seconds and peak memory of one execution, and its error; the executed notebook goes into ``folder``."""
    began, error = time.monotonic(), None
    usage: dict[str, Any] = {}
    given = parameters | ({OUT: str(folder)} if sweep.sets_out else {})
    # Elsewhere first: papermill saves after each cell, and a worker that is killed would leave half a notebook.
    with TemporaryDirectory(prefix="ptlib-run-") as scratch:
        executed, results = Path(scratch) / "executed.ipynb", Path(scratch) / "results.jsonl"
        environment = {**os.environ, RESULTS: str(results), STORE: str(sweep.store), "TQDM_DISABLE": "1"}
        try:
            with_kernel(sweep.notebook, executed, given, environment=environment, folder=sweep.cwd, usage=usage)
        except PapermillExecutionError as problem:
            error = {"type": problem.ename, "message": problem.evalue, "traceback": str(problem)}
        except Exception as problem:  # the kernel's own: it died, or did not start
            error = {"type": type(problem).__name__, "message": str(problem), "traceback": ""}
        if executed.exists():
            with replacing(folder / f"{sweep.name}.ipynb") as partial:
                shutil.copyfile(executed, partial)
        whole = error is None and results.exists()
        lines = results.read_text(encoding="utf-8").splitlines() if whole else []
    recorded = {name: value for line in lines for name, value in json.loads(line).items()}
    return {"results": recorded, "seconds": round(time.monotonic() - began, 3), **usage}, error


def with_kernel(notebook: Path, executed: Path, parameters: dict[str, Any], **options: Any) -> None:
    """Execute through papermill, once more where the kernel does not come up."""
    for attempt in range(1, KERNEL_STARTS + 1):
        try:
            papermill.execute_notebook(str(notebook), str(executed), parameters, engine_name=Engine.name,
                                       kernel_name="python3", progress_bar=False, start_timeout=KERNEL_TIMEOUT,
                                       **options)
            return
        except DeadKernelError:
            raise
        except RuntimeError:  # jupyter_client's for a kernel that has died or is silent before its first cell
            if attempt == KERNEL_STARTS:
                raise


class Client(PapermillNotebookClient):
    """Notes the peak memory of the kernel before it goes."""

    def papermill_execute_cells(self) -> None:
        super().papermill_execute_cells()
        self.peak = peak_memory(self.km.provisioner.pid)


class Engine(NBClientEngine):
    """Papermill's engine, with an environment and a folder for the kernel: this process's own stay as they are."""

    name = "ptlib"

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, start_timeout: float, environment: dict[str, str],
                                 folder: Path, usage: dict[str, Any], **_: Any) -> None:
        # The kernel's own log would go to the worker's stderr; what the notebook says is in the notebook.
        client = Client(nb_man, kernel_name=kernel_name, startup_timeout=start_timeout, timeout=None, log=logger,
                        extra_arguments=["--log-level=50"])
        client.execute(env=environment, cwd=str(folder))
        usage["peak_memory"] = client.peak


papermill_engines.register(Engine.name, Engine)


def peak_memory(pid: int) -> int | None:
    """Bytes that a process has held at most, where the system keeps count (Linux)."""
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
