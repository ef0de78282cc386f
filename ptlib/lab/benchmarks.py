"""What the benchmark notebooks measure with: models that are tables alone, and sweeps that note what they do."""

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
from ..sweep.runs import METRICS

__all__ = ["at_work", "differences", "draw_runs", "in_own_process", "noted", "pretend_finished", "recorded_numbers",
           "write_empty_notebook", "write_table", "write_watched_notebook"]

NOTES = "notes"  # the file in a sweep's folder that its watched runs write to
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
if os.getppid() == _worker:  # or else the worker has died, and nobody is there to take the results
    _note("ended")
"""


def in_own_process(module: str, *arguments: object) -> dict:
    """Run ``python -m module arguments`` and read the JSON of its last line.

    Raises:
        CalledProcessError: it failed.
    """
    run = subprocess.run([sys.executable, "-m", module, *map(str, arguments)], capture_output=True, text=True,
                         check=True)
    return json.loads(run.stdout.splitlines()[-1])


def write_table(path: Path, tokens: int, width: int) -> float:
    """A model's folder in Hugging Face format that holds all a transfer reads: no layers, and a random table.

    A Llama-like configuration, a tokenizer whose tokens are the words w0, w1, ..., and a half-precision embedding
    table, drawn from torch's global generator.

    Args:
        width: of the table; a multiple of 8.

    Returns:
        GiB of the table on the disk.
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
    """A notebook with nothing but its ``parameters`` cell."""
    empty = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("seed: int = 0  # of nothing")])
    empty.cells[0].metadata["tags"] = ["parameters"]
    empty.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(empty, path)


def write_watched_notebook(notebook: Path, path: Path) -> None:
    """A notebook with a cell before the rest and one behind it, which note when a run begins and ends, and where."""
    watched = nbformat.read(notebook, as_version=4)
    [behind] = [number for number, cell in enumerate(watched.cells, 1) if "parameters" in cell.metadata.get("tags", [])]
    watched.cells.insert(behind, nbformat.v4.new_code_cell(BEGIN))
    watched.cells.append(nbformat.v4.new_code_cell(END))
    nbformat.write(watched, path)


def pretend_finished(notebook: Path, grid: Mapping, out: Path) -> None:
    """Write for every run of a grid what tells that it is finished."""
    plan = read_notebook(notebook)
    for parameters in expand(grid, plan):
        run = out / run_name(parameters, plan)
        run.mkdir(parents=True, exist_ok=True)
        (run / METRICS).touch()


# --- what watched runs have noted -----------------------------------------------------------------


def noted(out: Path) -> pd.DataFrame:
    """The notes of the runs in a sweep's folder: columns ``what`` ("began" or "ended"), ``run``, ``worker``, ``time``.

    ``worker`` is the process that the run's kernel belongs to.
    """
    lines = (out / NOTES).read_text().splitlines() if (out / NOTES).exists() else []
    table = pd.DataFrame([line.split() for line in lines], columns=["what", "run", "worker", "time"])
    return table.astype({"worker": int, "time": float})


def at_work(out: Path) -> list[int]:
    """The workers of the runs that have begun and not ended."""
    notes = noted(out)
    ended = set(notes["run"][notes["what"] == "ended"])
    return notes["worker"][~notes["run"].isin(ended)].tolist()


def draw_runs(notes: pd.DataFrame, kills: Mapping[str, float], *, title: str, ax: Axes) -> Axes:
    """A bar a run, in the row of its worker; white where it did not end.

    Args:
        notes: see ``noted``.
        kills: {what was killed: when}, drawn as lines.
    """
    began = notes["time"].min()
    ends = {(run, worker): t for what, run, worker, t in notes.itertuples(index=False) if what == "ended"}
    lanes = {worker: lane for lane, worker in enumerate(notes["worker"].unique(), 1)}
    for what, run, worker, t in notes.itertuples(index=False):
        if what == "began":
            whole = (run, worker) in ends
            until = ends[run, worker] if whole else min(k for k in (*kills.values(), float("inf")) if k > t)
            ax.barh(lanes[worker], until - t, left=t - began, height=0.6, edgecolor="0.2", linewidth=0.8,
                    color="0.75" if whole else "w", hatch=None if whole else "////")
    for (what, t), style in zip(kills.items(), (":", "--", "-."), strict=False):
        ax.axvline(t - began, color="k", linestyle=style, label=f"kill -9 of the {what}")
    ax.set(yticks=list(lanes.values()), ylabel="worker", title=title)
    ax.grid(False, axis="y")
    return ax


# --- two sweeps of the same grid ------------------------------------------------------------------


def differences(out: Path, other: Path) -> int:
    """How many rows of results and scores, and how many tables of runs, differ between two sweeps of one grid.

    Times and memory do not count.

    Raises:
        ValueError: they do not have the same tables.
    """
    ours, theirs = written(out), written(other)
    if ours.keys() != theirs.keys():
        raise ValueError(f"{out.name} has {len(ours)} tables and {other.name} {len(theirs)}; expected the same ones")
    results, others = (collect(where).drop(columns=["seconds", "peak_memory", "started"]) for where in (out, other))
    scores, other_scores = (read_results(where).tables["scores"] for where in (out, other))
    return (len(results.compare(others)) + len(scores.compare(other_scores))
            + sum(not table.equals(theirs[path]) for path, table in ours.items()))


def recorded_numbers(out: Path) -> int:
    """How many entries the tables of a sweep's runs have."""
    return sum(table.size for table in written(out).values())


def written(out: Path) -> dict[Path, pd.DataFrame]:
    """{path: table} of all tables in the runs' folders, without their times."""
    tables = {path.relative_to(out): pd.read_csv(path) for path in out.glob("*/*.csv")}
    return {path: table.drop(columns="seconds", errors="ignore") for path, table in tables.items()}
