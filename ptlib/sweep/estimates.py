"""How long the rest of a sweep takes, from its finished runs: ``python -m ptlib.sweep ... --estimate``."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SweepError
from .report import SEED
from .runs import METRICS_FILE, finished

__all__ = ["WORKERS", "Estimate", "estimate", "span"]

WORKERS = (1, 8)  # one GPU, and a machine with eight


@dataclass(frozen=True)
class Estimate:
    """What is left of a sweep.

    Attributes:
        done: {run: the seconds that it took}.
        left: {run: the seconds that it is expected to take}.
        memory: the most that the process of a finished run held, in bytes, without that of its GPU; None if no run
            tells.
        workers: the numbers of workers that ``str`` shows.
    """

    done: dict[str, float]
    left: dict[str, float]
    memory: int | None
    workers: Sequence[int] = WORKERS

    def __str__(self) -> str:
        mean = sum(self.done.values()) / len(self.done)
        held = "memory not known" if self.memory is None else f"at most {self.memory / 2**30:.1f} GiB of memory"
        lines = [f"{len(self.done)} runs done, {mean / 60:.1f} min each, {held}; {len(self.left)} to do"]
        lines += [f"on {count} worker{'s'[:count > 1]}: {span(self.left.values(), count) / 3600:.2f} h"
                  for count in self.workers]
        return "\n".join(lines)


def estimate(runs: Mapping[str, Mapping[str, Any]], out: Path, workers: Sequence[int] = WORKERS) -> Estimate:
    """Estimate how long the runs that are not finished take.

    A run is expected to take the mean of the finished runs that differ from it in the fewest parameters, the seed left
    out. Their time includes what they waited for: data, and prompts that another run was tuning.

    Args:
        runs: {name: parameters} of the grid.
        out: folder of the sweep.
        workers: numbers of workers to show the estimate for.

    Raises:
        SweepError: no run of the grid is finished.
    """
    done = finished(out, runs)
    metrics = {name: json.loads((out / name / METRICS_FILE).read_text(encoding="utf-8")) for name in runs
               if name in done}
    if not metrics:
        raise SweepError(f"none of the {len(runs)} runs of this grid is finished in {out}, so there is nothing to "
                         "estimate from; let the sweep finish one (stop it then: it goes on where it was), or measure "
                         "its steps with random weights by python -m ptlib.lab.rehearsal")
    took = {name: float(about["seconds"]) for name, about in metrics.items()}
    left = {name: _expected(parameters, {other: runs[other] for other in took}, took)
            for name, parameters in runs.items() if name not in took}
    memory = [about["peak_memory"] for about in metrics.values() if about.get("peak_memory")]
    return Estimate(took, left, max(memory, default=None), workers)


def span(seconds: Iterable[float], workers: int) -> float:
    """The seconds until the last run ends, if each worker that is free takes the next run in their order."""
    ends = [0.0] * workers
    for took in seconds:
        heapq.heapreplace(ends, ends[0] + took)
    return max(ends)


def _expected(parameters: Mapping[str, Any], measured: Mapping[str, Mapping[str, Any]],
              took: Mapping[str, float]) -> float:
    """The mean seconds of the measured runs that differ from ``parameters`` in the fewest values besides the seed."""
    distance = {name: sum(other.get(key) != parameters.get(key) for key in (other.keys() | parameters.keys()) - {SEED})
                for name, other in measured.items()}
    nearest = [took[name] for name in measured if distance[name] == min(distance.values())]
    return sum(nearest) / len(nearest)
