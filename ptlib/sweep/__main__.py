"""The command ``python -m ptlib.sweep``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import SweepError
from .engine import run_sweep
from .report import read_results
from .runs import ERROR

__all__ = ["main"]


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
    for name, error in list(report.failed.items())[:5]:
        print(f"  {Path(options.out) / name / ERROR}: {error}")
    if len(report.failed) > 5:
        print(f"  and {len(report.failed) - 5} more: those folders in {options.out} with {ERROR}")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
