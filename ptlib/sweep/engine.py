"""A grid of notebook runs on a Dask cluster: ``python -m ptlib.sweep notebook.ipynb --grid grid.yaml --out runs/NAME``.

Each run has a folder, named by a hash of everything it depends on. Finished runs are skipped, so the same command
continues where an earlier one stopped or died. After an edit of the notebook, of ptlib or of a file that a parameter
names, the hashes change and the runs are made again. By default, the workers are processes on this machine. With the
address of a scheduler, its workers are used; they must see the same folders and Python packages.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import dask
import torch
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster, as_completed
from distributed.scheduler import KilledWorker

from ..errors import SweepError
from ..files import replacing
from ..progress import progress_bar
from .estimates import estimate
from .grids import OUT, Notebook, expand, read_grid, read_notebook, run_name
from .inputs import Inputs, code_on_disk
from .report import read_results
from .runs import ERROR, Outcome, Sweep, finished, run_one
from .store import STORE

__all__ = ["Report", "main", "prepare", "run_sweep"]

GPU = "GPU"  # name of the Dask resource that each worker with a GPU offers once
CONTINUE = "Finished runs are kept in {}; start the same sweep again to continue"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Report:
    """How the runs of a grid ended.

    Attributes:
        skipped: names of the runs that were finished before.
        done: names of the runs that finished now.
        failed: {name: the error}.
    """

    skipped: tuple[str, ...]
    done: tuple[str, ...]
    failed: dict[str, str]


def run_sweep(notebook: str | Path, grid: str | Path | Mapping[str, Any], out: str | Path, *,
              scheduler: str = "local", workers: int | None = None, fresh: bool = False,
              progress: bool = True) -> Report:
    """Run a notebook for every run of a grid that is not finished.

    Each run has a folder ``out/<hash>`` with the executed notebook, the files that it wrote to its parameter ``out``,
    and ``metrics.json``, or ``error.json`` if it failed. A failed run does not stop the others, and the next call tries
    it again. If a run's worker process dies, the run is started again, up to three times in all. If another call is
    working on a run, this one waits for it. In a script, call this under ``if __name__ == "__main__":``, because local
    workers import the script too.

    Parameters may name files and folders. Their content at the start of the sweep is part of the hash. Hidden files do
    not count, nor do ``out`` and the store of prompts, nor the folder in a parameter called ``work``: the runs
    themselves write to these.

    Args:
        notebook: with a ``parameters`` cell.
        grid: a grid file, or its content; see ``grids.expand``.
        out: folder of the sweep. All workers must see it under the same name.
        scheduler: ``"local"`` for processes on this machine, or the address of a Dask scheduler. Its workers should
            have one thread each, a ``--death-timeout`` (without it, a worker that lost its scheduler never ends), and
            the resource GPU=1 if each has its own GPU.
        workers: how many local processes; by default one for each GPU, or one for each core if there is no GPU.
        fresh: delete the finished runs of this grid and the tuned prompts in ``out`` first.
        progress: show a bar, and print the address of Dask's dashboard.

    Raises:
        SweepError: the grid does not fit the notebook, a file that it names cannot be read, the scheduler cannot be
            reached or is lost, or the disk is full.
    """
    out = Path(out).absolute()
    parsed, runs = planned(notebook, grid, out)
    if fresh:
        forget(out, runs)
    skipped = finished(out, runs)
    left = [(name, parameters) for name, parameters in runs.items() if name not in skipped]
    done: list[str] = []
    failed: dict[str, str] = {}
    if left:
        try:
            common = prepare(parsed, out)
        except OSError as error:
            raise SweepError(f"nothing can be written to {out} ({error}); make it writable. "
                             + CONTINUE.format(out)) from None
        with client_of(scheduler, workers) as client:
            if progress:
                print(f"dashboard: {client.dashboard_link}", flush=True)
            with progress_bar(total=len(runs), initial=len(skipped), show=progress, desc=out.name, unit="run") as bar:
                for outcome in work(client, left, common):
                    if outcome.error is None:
                        done.append(outcome.run)
                    else:
                        failed[outcome.run] = outcome.error
                    bar.set_postfix({"done": len(skipped) + len(done), "failed": len(failed),
                                     "left": len(left) - len(done) - len(failed)}, refresh=False)
                    bar.update()
    return Report(tuple(name for name in runs if name in skipped), tuple(done), failed)


def work(client: Client, runs: Sequence[tuple[str, dict[str, Any]]], common: Sweep) -> Iterator[Outcome]:
    """The outcomes of the runs, as they end."""
    client.wait_for_workers(1)
    has_gpus = any(GPU in worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    options: dict[str, Any] = {"pure": False, "sweep": common, "resources": {GPU: 1} if has_gpus else None}
    futures = client.map(run_one, runs, **options)
    run_of = {future.key: run for future, run in zip(futures, runs, strict=True)}
    completed = as_completed(futures)
    del futures
    lost = SweepError(f"the scheduler has lost the runs, or was stopped. {CONTINUE.format(common.out)}")
    for future in completed:
        run = run_of.pop(future.key)
        if future.status in ("cancelled", "lost"):
            raise lost
        if future.status == "error" and isinstance(future.exception(), KilledWorker):
            # The scheduler blames every run that was assigned to a dying worker, even if it had not begun. The runs
            # count their own starts instead, and give up after MAX_STARTS.
            [again] = client.map(run_one, [run], **options)
            run_of[again.key] = run
            completed.add(again)
            continue
        try:
            outcome = future.result() if future.status == "finished" else Outcome(run[0], repr(future.exception()))
        except (OSError, CancelledError):  # the scheduler stopped before it answered
            raise lost from None
        future.release()  # otherwise the scheduler repeats the run if the worker that holds its result dies
        if outcome.disk_full:
            raise SweepError(f"a disk is full ({outcome.error}); free some space. {CONTINUE.format(common.out)}")
        yield outcome


# --- before the runs ----------------------------------------------------------------------------


def planned(notebook: str | Path, grid: str | Path | Mapping[str, Any],
            out: Path) -> tuple[Notebook, dict[str, dict[str, Any]]]:
    """The notebook, and {name: parameters} of all runs of the grid; errors are those of ``run_sweep``."""
    parsed = read_notebook(notebook)
    grid = grid if isinstance(grid, Mapping) else read_grid(grid)
    inputs = Inputs(code_on_disk(), without=(out, store_of(out)))
    return parsed, {run_name(parameters, parsed, inputs): parameters for parameters in expand(grid, parsed)}


def forget(out: Path, runs: Mapping[str, Any]) -> None:
    for name in runs.keys() & set(os.listdir(out) if out.is_dir() else []):
        shutil.rmtree(out / name)
    shutil.rmtree(out / "prompts", ignore_errors=True)


def prepare(notebook: Notebook, out: Path) -> Sweep:
    """What all runs need. The notebook is copied, so that it can be edited while the sweep runs."""
    copy = out / "notebooks" / f"{notebook.path.stem}-{notebook.digest}.ipynb"
    with replacing(copy) as partial:
        shutil.copyfile(notebook.path, partial)
    return Sweep(id=uuid4().hex[:12], out=out, notebook=copy, name=notebook.path.stem, digest=notebook.digest,
                 sets_out=OUT in notebook.parameters, cwd=Path.cwd(), store=store_of(out),
                 git=git_state(notebook.path.absolute().parent))


def store_of(out: Path) -> Path:
    return Path(os.environ.get(STORE) or out / "prompts").absolute()


def git_state(folder: Path) -> dict[str, Any]:
    def ask(*words: str) -> str:
        return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout

    try:
        return {"commit": ask("rev-parse", "HEAD").strip(),
                "uncommitted": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


# --- the cluster --------------------------------------------------------------------------------


@contextmanager
def client_of(scheduler: str, workers: int | None) -> Iterator[Client]:
    """A client of the scheduler at this address, or of a local one with ``workers`` processes that end with it."""
    if scheduler == "local":
        # Dask restarts a worker that dies, but by default gives up if this takes more than 15 s or if the worker dies
        # again meanwhile.
        patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days"})
        with patient, local_cluster(workers) as cluster, Client(cluster) as client:
            yield client
        return
    if workers is not None:
        raise SweepError(f"workers={workers} with the scheduler {scheduler}, which has its own workers; leave out "
                         "workers=, or use scheduler='local'")
    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise SweepError(f"no scheduler answers at {scheduler} ({error}); expected 'local', or the address of a "
                         "running 'dask scheduler' such as tcp://host:8786") from None
    with client:
        yield client


def local_cluster(workers: int | None) -> SpecCluster:
    """A local cluster. Each worker is a process with one thread for runs, a GPU if there are any, and some cores."""
    gpus = visible_gpus()
    workers = workers or len(gpus) or CPU_COUNT
    if gpus and workers > len(gpus):
        raise SweepError(f"workers={workers} with {len(gpus)} GPUs; expected at most one worker for each GPU. Set "
                         "CUDA_VISIBLE_DEVICES= to run on the CPU")
    threads = {name: os.environ.get(name, str(max(1, CPU_COUNT // workers))) for name in THREADS}
    specs = {}
    for number in range(workers):
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {}
        # No memory limit: a run uses memory in its kernel's process, which the worker cannot watch.
        options = {"nthreads": 1, "memory_limit": 0, "env": threads | gpu, "resources": {GPU: 1} if gpus else None,
                   "silence_logs": logging.CRITICAL}
        specs[number] = {"cls": Nanny, "options": options}
    here = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:8787"}
    return SpecCluster(specs, {"cls": Scheduler, "options": here}, silence_logs=logging.CRITICAL)


def visible_gpus() -> list[str]:
    """The GPUs, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


# --- the command --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    The code is 0, or 1 if runs failed, 2 if the sweep could not start or continue, and 130 if it was interrupted.
    """
    parser = argparse.ArgumentParser("python -m ptlib.sweep", description="Run a notebook over a grid of parameters.")
    parser.add_argument("notebook", nargs="?", help="a notebook with a parameters cell")
    parser.add_argument("--grid", help="YAML file with cross, zip, rows, exclude")
    parser.add_argument("--out", help="folder of the sweep, such as runs/NAME")
    parser.add_argument("--scheduler", default="local", help="local, or the address of a Dask scheduler")
    parser.add_argument("--workers", type=int, help="local processes; by default one for each GPU or core")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="skip what is finished (the default)")
    again.add_argument("--fresh", action="store_true", help="run again what is finished")
    again.add_argument("--estimate", action="store_true",
                       help="run nothing; say how long the rest takes on one worker and on eight, from finished runs")
    parser.add_argument("--collect", metavar="RUNS", help="write one table of all finished runs in this folder")
    options = parser.parse_args(arguments)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # SweepError reports a lost scheduler
    try:
        if options.collect:
            results = read_results(options.collect)
            results.save(options.collect)
            print(f"{len(results.runs)} runs written to {Path(options.collect) / 'table.parquet'} and table.csv; "
                  f"{len(results.superseded)} older runs with the same parameters left out")
            return 0
        if not (options.notebook and options.grid and options.out):
            parser.error("expected a notebook, --grid and --out, or else --collect")
        if options.estimate:
            out = Path(options.out).absolute()
            print(estimate(planned(options.notebook, options.grid, out)[1], out))
            return 0
        report = run_sweep(options.notebook, options.grid, options.out, scheduler=options.scheduler,
                           workers=options.workers, fresh=options.fresh)
    except SweepError as error:
        print(f"ptlib.sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ptlib.sweep: stopped. {CONTINUE.format(options.out)}", file=sys.stderr)
        return 130
    print(f"{len(report.done)} runs done, {len(report.skipped)} were done before, {len(report.failed)} failed")
    for name, message in list(report.failed.items())[:5]:
        print(f"  {Path(options.out) / name / ERROR}: {message}")
    if len(report.failed) > 5:
        print(f"  and {len(report.failed) - 5} more: see the folders in {options.out} that have {ERROR}")
    return 1 if report.failed else 0
