"""A grid of notebook runs on a Dask cluster: ``python -m ptlib.sweep notebook.ipynb --grid grid.yaml --out runs/NAME``.

A run is named by what it computes and has a folder; one that is finished is skipped, so that the same call again goes
on where the last one stopped, or died. After an edit, of the notebook, of ptlib or of a file that a parameter names,
runs have other names and run again. By default the workers are processes of this machine; given the address of a
scheduler, whatever works for it, as long as it sees the same folders and Python packages.
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
from .grids import OUT, Notebook, expand, read_grid, read_notebook, run_name
from .inputs import Inputs, code_on_disk
from .report import read_results
from .runs import ERROR, Outcome, Sweep, finished, run_one
from .store import STORE

__all__ = ["Report", "main", "prepare", "run_sweep"]

GPU = "GPU"  # the resource of which a worker with a GPU has one
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Report:
    """What became of the runs of a grid: their names, and the errors of those that failed."""

    skipped: tuple[str, ...]
    done: tuple[str, ...]
    failed: dict[str, str]


def run_sweep(notebook: str | Path, grid: str | Path | Mapping[str, Any], out: str | Path, *, scheduler: str = "local",
          workers: int | None = None, fresh: bool = False, progress: bool = True) -> Report:
    """Run a notebook with every row of a grid that is not finished.

    Each run has a folder ``out/<hash>`` with the executed notebook, what it wrote to its parameter ``out``, and
    ``metrics.json``, or ``error.json`` if it failed. A failed run does not stop the others; it is tried again at
    the next call. A run whose worker process dies is started again, three times in all. A run that another call is
    at is waited for. A script calls this under ``if __name__ == "__main__":``, because local workers import the
    script too.

    A run's parameters may name files and folders: as they are when the sweep begins, their content is part of the
    run's name. Hidden files, ``out`` and the store of prompts are not, nor is a folder that a parameter called
    ``work`` names: it is for what the runs themselves keep there.

    Args:
        notebook: with a ``parameters`` cell.
        grid: a grid file, or its content; see ``grids.expand``.
        out: folder of the sweep; seen by all workers under the same name.
        scheduler: ``"local"`` for processes on this machine, or the address of a Dask scheduler, whose workers should
            have one thread each, a --death-timeout, without which one that does not find its scheduler stays for ever,
            and the resource GPU=1 where each has one of its own.
        workers: how many local processes; by default one a GPU, without any one a core.
        fresh: forget the finished runs of this grid and the tuned prompts in ``out``.
        progress: show a bar, and print the address of Dask's dashboard.

    Raises:
        SweepError: the grid does not fit the notebook; a file that it names cannot be read; the scheduler cannot be
            reached, or is lost; the disk is full.
    """
    parsed = read_notebook(notebook)
    grid = grid if isinstance(grid, Mapping) else read_grid(grid)
    out = Path(out).absolute()
    inputs = Inputs(code_on_disk(), without=(out, store_of(out)))
    runs = {run_name(parameters, parsed, inputs): parameters for parameters in expand(grid, parsed)}
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
            raise SweepError(f"nothing can be written to {out} ({error}); what is done there is kept: the same call "
                             "goes on from there when something can") from None
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
    """The outcomes, as they come in."""
    client.wait_for_workers(1)
    has_gpus = any(GPU in worker["resources"] for worker in client.scheduler_info(n_workers=-1)["workers"].values())
    options: dict[str, Any] = {"pure": False, "sweep": common, "resources": {GPU: 1} if has_gpus else None}
    futures = client.map(run_one, runs, **options)
    run_of = {future.key: run for future, run in zip(futures, runs, strict=True)}
    completed = as_completed(futures)
    del futures
    lost = SweepError(f"the scheduler has lost the runs, or was stopped; what is done is kept in {common.out}: the "
                      "same call goes on from there")
    for future in completed:
        run = run_of.pop(future.key)
        if future.status in ("cancelled", "lost"):
            raise lost
        if future.status == "error" and isinstance(future.exception(), KilledWorker):
            # The scheduler suspects every run that a dying worker had been given, begun or not. Which ones really kill
            # their worker is counted by the runs themselves, and ends there.
            [again] = client.map(run_one, [run], **options)
            run_of[again.key] = run
            completed.add(again)
            continue
        try:
            outcome = future.result() if future.status == "finished" else Outcome(run[0], repr(future.exception()))
        except (OSError, CancelledError):  # it went while it was asked
            raise lost from None
        future.release()  # or the scheduler would have it again if the worker that holds it dies
        if outcome.disk_full:
            raise SweepError(f"a disk is full ({outcome.error}); what is done is kept in {common.out}: free some "
                             "space, and the same call goes on from there")
        yield outcome


# --- before the runs ----------------------------------------------------------------------------


def forget(out: Path, runs: Mapping[str, Any]) -> None:
    for name in runs.keys() & set(os.listdir(out) if out.is_dir() else []):
        shutil.rmtree(out / name)
    shutil.rmtree(out / "prompts", ignore_errors=True)


def prepare(notebook: Notebook, out: Path) -> Sweep:
    """Copy the notebook, so that it can be edited while the sweep runs."""
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
    """A client of the scheduler at an address, or of one here with ``workers`` processes, which end with it."""
    if scheduler == "local":
        # A worker that dies is started again. By default, Dask gives it up if that is not through after 15 s, and also
        # if it happens to die another time just then.
        patient = dask.config.set({"distributed.deploy.lost-worker-timeout": "365 days"})
        with patient, local_cluster(workers) as cluster, Client(cluster) as client:
            yield client
        return
    if workers is not None:
        raise SweepError(f"workers={workers} with the scheduler {scheduler}, which has its own; leave it out, or use "
                         "scheduler='local'")
    try:
        client = Client(scheduler)
    except (OSError, ValueError) as error:
        raise SweepError(f"no scheduler answers at {scheduler} ({error}); expected 'local' or an address such as "
                         "tcp://host:8786, where 'dask scheduler' runs") from None
    with client:
        yield client


def local_cluster(workers: int | None) -> SpecCluster:
    """A process a worker, with one thread for runs, a GPU if there are any, and its share of the cores."""
    gpus = visible_gpus()
    workers = workers or len(gpus) or CPU_COUNT
    if gpus and workers > len(gpus):
        raise SweepError(f"workers={workers} with {len(gpus)} GPUs; expected one a GPU at most, or "
                         "CUDA_VISIBLE_DEVICES= to run on the cores")
    threads = {name: os.environ.get(name, str(max(1, CPU_COUNT // workers))) for name in THREADS}
    specs = {}
    for number in range(workers):
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {}
        # The memory of a run is its kernel's, which a worker neither sees nor can limit.
        options = {"nthreads": 1, "memory_limit": 0, "env": threads | gpu, "resources": {GPU: 1} if gpus else None,
                   "silence_logs": logging.CRITICAL}
        specs[number] = {"cls": Nanny, "options": options}
    here = {"host": "127.0.0.1", "port": 0, "dashboard": True, "dashboard_address": "127.0.0.1:8787"}
    return SpecCluster(specs, {"cls": Scheduler, "options": here}, silence_logs=logging.CRITICAL)


def visible_gpus() -> list[str]:
    """Their names for CUDA_VISIBLE_DEVICES."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


# --- the command --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 if runs failed, 2 if the sweep could not start or go on, 130 if it was interrupted."""
    parser = argparse.ArgumentParser("python -m ptlib.sweep", description="Run a notebook over a grid of parameters.")
    parser.add_argument("notebook", nargs="?", help="a notebook with a parameters cell")
    parser.add_argument("--grid", help="YAML file with cross, zip, rows, exclude")
    parser.add_argument("--out", help="folder of the sweep, such as runs/NAME")
    parser.add_argument("--scheduler", default="local", help="local, or the address of a Dask scheduler")
    parser.add_argument("--workers", type=int, help="local processes; by default one a GPU or a core")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="skip what is finished (the default)")
    again.add_argument("--fresh", action="store_true", help="run again what is finished")
    parser.add_argument("--collect", metavar="RUNS", help="write one table of all finished runs in this folder")
    options = parser.parse_args(arguments)
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # a lost scheduler is a SweepError
    try:
        if options.collect:
            results = read_results(options.collect)
            results.save(options.collect)
            print(f"{len(results.runs)} runs: {Path(options.collect) / 'table.parquet'} and table.csv; "
                  f"{len(results.superseded)} older ones of the same parameters left out")
            return 0
        if not (options.notebook and options.grid and options.out):
            parser.error("expected a notebook, --grid and --out; or --collect")
        report = run_sweep(options.notebook, options.grid, options.out, scheduler=options.scheduler,
                       workers=options.workers, fresh=options.fresh)
    except SweepError as error:
        print(f"ptlib.sweep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ptlib.sweep: stopped; what is done is kept in {options.out}: the same call goes on from there",
              file=sys.stderr)
        return 130
    print(f"{len(report.done)} runs done, {len(report.skipped)} were done before, {len(report.failed)} failed")
    for name, message in list(report.failed.items())[:5]:
        print(f"  {Path(options.out) / name / ERROR}: {message}")
    if len(report.failed) > 5:
        print(f"  and {len(report.failed) - 5} more: those folders in {options.out} with {ERROR}")
    return 1 if report.failed else 0
