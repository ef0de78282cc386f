"""What a transfer costs: ``python -m ptlib.moving.benchmark FOLDER ANCHORS PROMPTS VECTORS SEED`` prints it as JSON.

A program of its own, so that its peak memory is that of the transfer and not of a notebook's plots.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from ..laps import Laps
from ..models.loading import load_lm
from ..progress import set_progress
from ..prompts.prompt import random_prompt
from .anchors import shared_anchors
from .transfer import transfer_many

__all__ = ["transfer_cost"]


def transfer_cost(folder: str | Path, num_anchors: int, num_prompts: int, num_vectors: int, seed: int) -> dict:
    """Transfer random prompts by the closed form, reading embedding tables alone.

    Args:
        folder: with the models ``source`` and ``target`` in it, such as ``ptlib.lab.benchmarks.write_tables`` writes.
        num_anchors: shared words that are used.
        num_prompts, num_vectors: prompts that are transferred together, and vectors in each.
        seed: of the prompts.

    Returns:
        ``seconds`` by step, ``peak GiB`` of this process so far, and ``threads``.
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
    print(json.dumps(transfer_cost(sys.argv[1], *map(int, sys.argv[2:]))))
