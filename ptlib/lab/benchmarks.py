"""Helpers of the benchmark notebooks: models that are only an embedding table, and sweeps that log their runs.

``write_table`` makes such a model. ``write_watched_notebook`` makes a notebook that logs when and where its runs go,
and ``noted`` reads the log.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
import pandas as pd
import torch
from matplotlib.axes import Axes
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from ..sweep.grids import expand, read_notebook, run_name
from ..sweep.report import collect, read_results
from ..sweep.runs import METRICS_FILE

__all__ = ["at_work", "differences", "draw_runs", "in_own_process", "noted", "pretend_finished", "recorded_numbers",
           "write_empty_notebook", "write_table", "write_watched_notebook"]

NOTES = "notes"  # the log in a sweep's folder that its watched runs write to
BEGIN = f"""
import os
import time
from pathlib import Path

_worker = os.getppid()


def _note(what):
    with open(Path(out).parent / "{NOTES}", "a") as notes:
        print(what, Path(out).name, _worker, time.time(), file=notes)


_note("began")
"""
END = """
if os.getppid() == _worker:  # otherwise the worker has died, and the results are lost
    _note("ended")
"""


def in_own_process(module: str, *arguments: object) -> dict:
    """Run ``python -m module arguments`` in a new process, and read the JSON in the last line that it prints.

    Raises:
        CalledProcessError: the process failed.
    """
    run = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True,
                         check=True)
    return json.loads(run.stdout.splitlines()[-1])


def write_table(path: Path, tokens: int, width: int) -> float:
    """Write a model's folder in Hugging Face format with only what a transfer reads. It has no layers.

    The folder has a Llama-like configuration, a tokenizer with the tokens w0, w1, ..., and a half-precision embedding
    table, drawn from torch's global generator.

    Args:
        path: the folder.
        tokens: size of the vocabulary.
        width: of the embeddings; a multiple of 8.

    Returns:
        The size of the table on disk, in GiB.
    """
    LlamaConfig(vocab_size=tokens, hidden_size=width, architectures=["LlamaForCausalLM"], num_hidden_layers=2,
                num_attention_heads=8, intermediate_size=width).save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(tokens)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(path)
    save_file({"model.embed_tokens.weight": torch.randn(tokens, width).half()}, path / "model.safetensors")
    return (path / "model.safetensors").stat().st_size / 2**30


# --- notebooks to run -----------------------------------------------------------------------------


def write_empty_notebook(path: Path) -> None:
    """Write a notebook that has only a ``parameters`` cell."""
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("seed: int = 0  # of nothing")])
    empty.cells[0].metadata["tags"] = ["parameters"]
    empty.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(empty, path)


def write_watched_notebook(notebook: Path, path: Path) -> None:
    """Write a copy of a notebook that logs when its runs begin and end, and in which worker, for ``noted``."""
    watched = nbformat.read(notebook, as_version=4)
    [after] = [number for number, cell in enumerate(watched.cells, 1) if "parameters" in cell.metadata.get("tags", [])]
    watched.cells.insert(after, nbformat.v4.new_code_cell(BEGIN))
    watched.cells.append(nbformat.v4.new_code_cell(END))
    nbformat.write(watched, path)


def pretend_finished(notebook: Path, grid: Mapping, out: Path) -> None:
    """Make every run of a grid look finished, without running any."""
    plan = read_notebook(notebook)
    for parameters in expand(grid, plan):
        run = out / run_name(parameters, plan)
        run.mkdir(parents=True, exist_ok=True)
        (run / METRICS_FILE).touch()


# --- the log of watched runs ----------------------------------------------------------------------


def noted(out: Path) -> pd.DataFrame:
    """The log in a sweep's folder, with columns ``what`` ("began" or "ended"), ``run``, ``worker`` and ``time``.

    ``worker`` is the id of the process that started the run's kernel; ``time`` is in seconds since the epoch.
    """
    lines = (out / NOTES).read_text().splitlines() if (out / NOTES).exists() else []
    table = pd.DataFrame([line.split() for line in lines], columns=["what", "run", "worker", "time"])
    return table.astype({"worker": int, "time": float})


def at_work(out: Path) -> list[int]:
    """The process ids of workers with a run that has begun and not ended."""
    notes = noted(out)
    ended = set(notes["run"][notes["what"] == "ended"])
    return notes["worker"][~notes["run"].isin(ended)].tolist()


def draw_runs(notes: pd.DataFrame, kills: Mapping[str, float], *, title: str, ax: Axes) -> Axes:
    """Draw a bar for each run, in the row of its worker. Runs that did not end are white and hatched.

    Args:
        notes: as ``noted`` returns them.
        kills: {what was killed: when}, drawn as vertical lines.
        title: of the figure.
        ax: the axes to draw into.
    """
    began = notes["time"].min()
    ends = {(run, worker): t for what, run, worker, t in notes.itertuples(index=False) if what == "ended"}
    lanes = {worker: lane for lane, worker in enumerate(notes["worker"].unique(), 1)}
    for what, run, worker, t in notes.itertuples(index=False):
        if what == "began":
            has_ended = (run, worker) in ends
            until = ends[run, worker] if has_ended else min(k for k in (*kills.values(), float("inf")) if k > t)
            ax.barh(lanes[worker], until - t, left=t - began, height=0.6, edgecolor="0.2", linewidth=0.8,
                    color="0.75" if has_ended else "w", hatch=None if has_ended else "////")
    for (what, t), style in zip(kills.items(), (":", "--", "-."), strict=False):
        ax.axvline(t - began, color="k", linestyle=style, label=f"kill -9 of the {what}")
    ax.set(yticks=list(lanes.values()), ylabel="worker", title=title)
    ax.grid(False, axis="y")
    return ax


# --- two sweeps of the same grid ------------------------------------------------------------------


def differences(out: Path, other: Path) -> int:
    """How many rows of results and scores, and how many tables of runs, differ between two sweeps of the same grid.

    Times and memory are not compared.

    Raises:
        ValueError: the two sweeps have different tables.
    """
    ours, theirs = written(out), written(other)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{out.name} has {len(ours)} tables and {other.name} {len(theirs)}; expected the same ones")
    results, others = (collect(where).drop(columns=["seconds", "peak_memory", "started"]) for where in (out, other))
    scores, other_scores = (read_results(where).tables["scores"] for where in (out, other))
    return (len(results.compare(others)) + len(scores.compare(other_scores))
            + sum(not table.equals(theirs[path]) for path, table in ours.items()))


def recorded_numbers(out: Path) -> int:
    """How many entries all tables of a sweep's runs have together."""
    return sum(table.size for table in written(out).values())


def written(out: Path) -> dict[Path, pd.DataFrame]:
    """{path: table} of all tables in the runs' folders, without their times."""
    tables = {path.relative_to(out): pd.read_csv(path) for path in out.glob("*/*.csv")}
    return {path: table.drop(columns="seconds", errors="ignore") for path, table in tables.items()}
