"""Time and memory of a transfer: ``python -m ptlib.moving.benchmark FOLDER ANCHORS PROMPTS VECTORS SEED`` prints JSON.

It runs as a program of its own, so that the peak memory it reports belongs to the transfer and not to a notebook.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..laps import Laps
from ..models.loading import load_lm
from ..progress import set_progress
from ..prompts.prompt import random_prompt
from .anchors import shared_anchors
from .transfer import transfer_many

__all__ = ["transfer_cost"]


def transfer_cost(folder: str | Path, num_anchors: int, num_prompts: int, num_vectors: int, seed: int) -> dict:
    """Measure a transfer of random prompts by the closed form. Only the embedding tables of the models are read.

    Args:
        folder: holds the models ``source`` and ``target``, for example as ``ptlib.lab.benchmarks.write_table`` writes
            them.
        num_anchors: how many shared words are used.
        num_prompts, num_vectors: how many prompts are transferred together, and how many vectors each has.
        seed: of the random prompts.

    Returns:
        ``seconds`` for each step, ``peak GiB``, the peak memory of this process so far, and the number of ``threads``.
    """
    clock = Laps()
    source, target = (load_lm(Path(folder) / name, embeddings_only=True) for name in ("source", "target"))
    clock.lap("read both tables")
    prompts = {i: random_prompt(source, num_vectors, seed=seed + i) for i in range(num_prompts)}
    clock.lap("fingerprint, prompts")
    anchors = shared_anchors(source, target, num=num_anchors, select="frequent")
    clock.lap("find the shared words")
    moved = transfer_many(prompts, source=source, target=target, anchors=anchors, method="closed-form")
    clock.lap("fit, ridge and closed form")
    assert all(prompt.vectors.isfinite().all() for prompt in moved.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": clock.seconds, "peak GiB": peak, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    set_progress(False)
    with TemporaryDirectory() as empty:
        os.environ["XDG_CACHE_HOME"] = empty  # so that what an earlier run has found out is found out again
        print(json.dumps(transfer_cost(sys.argv[1], *map(int, sys.argv[2:]))))
