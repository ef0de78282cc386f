"""What 05_baselines costs on models that are not at hand: ``python -m ptlib.lab.rehearsal GRID [MODELS]``.

It writes models of the true shapes with random weights, measures each step of the notebook on one relation of the zoo
(time and memory), and prints these and an estimate for the grid on one machine like this and on eight. The numbers of
facts and of shared words, on which the estimate depends, are the constants below. It takes time by the clock: on a
machine that does other work meanwhile, the estimate is too long.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pandas as pd
import torch
import transformers

from ..evaluation.evaluations import evaluate_many
from ..models.loading import ZOO, load_lm
from ..moving.anchors import shared_anchors
from ..moving.transfer import transfer_many
from ..parameters import listed
from ..progress import set_progress
from ..sweep.estimates import WORKERS, span
from ..sweep.grids import expand, read_grid, read_notebook
from ..sweep.runs import peak_memory
from ..tasks.loading import load_task
from ..tuning.tuning import tune_seeds

__all__ = ["SHAPES", "Shape", "counted", "measure", "seconds_of", "write_model"]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "05_baselines.ipynb"
RELATION = "zoo/P19"  # a fifth as many facts to select on as to train on, like a relation of OptiPrompt
TRAIN, TEST = 800, 830  # facts of a relation: at most 1,000 less a fifth to select on; 34,039 in 41 relations
SHARED = 14_700  # invented words in all vocabularies; with the zoo's about the 17,230 shared words of the paper
STEPS, ALL_STEPS = 20, 2000  # of the gradient search: measured, and in the sweep


class Shape(NamedTuple):
    """A model: the zoo's model of its family, and what its configuration has in another size."""

    zoo: str
    sizes: dict[str, int]

    @property
    def width(self) -> int:
        """Of the embedding table."""
        return next(self.sizes[name] for name in ("embedding_size", "hidden_size", "n_embd") if name in self.sizes)


def _sizes(vocab_size: int, hidden_size: int, layers: int, heads: int, positions: int, **more: int) -> dict[str, int]:
    return {"vocab_size": vocab_size, "hidden_size": hidden_size, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": 4 * hidden_size, "max_position_embeddings": positions,
            **more}


# As their configurations on the hub have them.
SHAPES = {
    "google-bert/bert-base-cased": Shape("bert-mini", _sizes(28996, 768, 12, 12, 512)),
    "google-bert/bert-large-cased": Shape("bert-mini", _sizes(28996, 1024, 24, 16, 512)),
    "FacebookAI/roberta-base": Shape("roberta-mini", _sizes(50265, 768, 12, 12, 514)),
    "FacebookAI/roberta-large": Shape("roberta-mini", _sizes(50265, 1024, 24, 16, 514)),
    "albert/albert-base-v2": Shape("albert-mini", _sizes(30000, 768, 12, 12, 512, embedding_size=128)),
    "albert/albert-large-v2": Shape("albert-mini", _sizes(30000, 1024, 24, 16, 512, embedding_size=128)),
    "openai-community/gpt2": Shape("gpt2-mini", {"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12,
                                                 "n_positions": 1024}),
}


# --- models of the true shapes --------------------------------------------------------------------


def write_model(shape: Shape, folder: Path) -> None:
    """Write a model of this shape with random weights, and the zoo's tokenizer with invented words, to a new folder."""
    shutil.copytree(ZOO / shape.zoo, folder, ignore=shutil.ignore_patterns("model.safetensors", "loss.csv"))
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    widen(content["model"], shape.sizes["vocab_size"], shape.zoo.partition("-")[0].rstrip("2"))
    file.write_text(json.dumps(content), encoding="utf-8")
    config = transformers.AutoConfig.from_pretrained(folder, dtype=torch.float32, **shape.sizes)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        getattr(transformers, config.architectures[0])(config).save_pretrained(folder)


def widen(model: dict[str, Any], size: int, family: str) -> None:
    """Add invented words to the model of a tokenizer until it has ``size``: first those that all families have."""
    words = (f"{'qx' if i < SHARED else family}{letters(i)}" for i in range(size - len(model["vocab"])))
    if model["type"] == "Unigram":
        model["vocab"] += [[f"▁{word}", 0.0] for word in words]
    else:
        space = "Ġ" if model["type"] == "BPE" else ""
        model["vocab"] |= {space + word: i for i, word in enumerate(words, len(model["vocab"]))}


def letters(number: int) -> str:
    """Four letters for each number below 26⁴."""
    return "".join(chr(ord("a") + number // 26**place % 26) for place in range(4))


# --- each step ------------------------------------------------------------------------------------


def measure(names: Sequence[str], methods: Sequence[str], prompts: int, folder: Path, *, num_vectors: int = 5,
            normalize: str = "affine", shapes: Mapping[str, Shape] = SHAPES) -> pd.DataFrame:
    """Measure the steps of a run of 05_baselines on one relation.

    Args:
        names: of models in ``shapes``.
        methods, num_vectors, normalize: as in the notebook. Each method moves prompts into each model from one other.
        prompts: how many are tuned and moved together: the relations of a run times its seeds.
        folder: an empty one, for the models.

    Returns:
        A row for each (step, model). ``seconds``: of one load, one search for the words that all share, one move of all
        prompts, one pass over one train fact (with the selection on its share of dev facts), or one test fact.
        ``peak GiB``: the most memory that was held until then, of the GPU if there is one, else of the process.
    """
    rows: dict[tuple[str, str], dict[str, float]] = {}

    def timed(step: str, name: str, do: Callable[[], Any], share: float = 1) -> Any:
        began = time.perf_counter()
        result = do()
        rows[step, name] = {"seconds": (time.perf_counter() - began) * share, "peak GiB": held() / 2**30}
        return result

    paths = {name: folder / f"random-{name.replace('/', '-')}" for name in names}
    for name, path in paths.items():
        write_model(shapes[name], path)
    lms = {name: timed("load", name, partial(load_lm, path)) for name, path in paths.items()}
    words = timed("shared words", "all", partial(shared_anchors, *lms.values())).words
    task, tuned = load_task(RELATION), {}
    for name, lm in lms.items():
        tuned[name] = timed("tune", name, partial(tune_seeds, lm, [task], seeds=range(prompts), num_vectors=num_vectors,
                                                  epochs=1, progress=False), 1 / (prompts * len(task.train)))
        timed("evaluate", name, partial(evaluate_many, lm, tuned[name], [task], candidates=words),
              1 / (prompts * len(task.test)))
    for target, method in product(names, methods):
        alike = [name for name in names if method != "copy" or lms[name].dim == lms[target].dim]
        source = next((name for name in alike if name != target), target)
        steps: dict[str, Any] = {"steps": STEPS} if method == "gradient" else {}
        move = partial(transfer_many, tuned[source], source=lms[source], target=lms[target], method=method,
                       normalize=normalize, **steps)
        moved = timed(f"move: {method}", target, move)
        if steps:  # the search alone takes longer, not the words or the check of the prompts
            took = next(iter(moved.values())).history.seconds
            rows[f"move: {method}", target]["seconds"] += took * (ALL_STEPS / STEPS - 1)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["step", "model"])


def held() -> float:
    """The most memory held so far, in bytes; not a number if the system does not tell."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return peak_memory(os.getpid()) or float("nan")


# --- the whole ------------------------------------------------------------------------------------


def counted(run: Mapping[str, Any], widths: Mapping[str, int]) -> Counter[tuple[str, str]]:
    """{(step, model): how often} of a run of 05_baselines on masked models with these widths, in units of ``measure``.

    Direct tuning and the control with random weights tune; these two, the manual templates and all moved prompts are
    evaluated.
    """
    relations, methods = len(listed(run["relations"])), listed(run["methods"])
    prompts = relations * run["num_seeds"]
    found = Counter({("shared words", "all"): 1})
    for target, width in widths.items():
        moves = {method: sum(method != "copy" or other == width for other in widths.values()) for method in methods}
        found["load", target] = 1
        found["tune", target] = run["epochs"] * TRAIN * (prompts + relations)
        found["evaluate", target] = TEST * (prompts + 2 * relations + prompts * sum(moves.values()))
        found.update({(f"move: {method}", target): count for method, count in moves.items()})
    return found


def seconds_of(run: Mapping[str, Any], widths: Mapping[str, int], measured: pd.DataFrame) -> float:
    """How long a run takes, in seconds."""
    return sum(count * measured["seconds"][step] for step, count in counted(run, widths).items())


def main() -> None:
    parser = argparse.ArgumentParser("python -m ptlib.lab.rehearsal", description="What a grid of 05_baselines costs.")
    parser.add_argument("grid", help="that names its models and relations, such as notebooks/sweeps/paper.yaml")
    parser.add_argument("models", nargs="?", help="to measure and estimate the grid for; by default the grid's own")
    options = parser.parse_args()
    runs = expand(read_grid(options.grid), read_notebook(NOTEBOOK))
    first, names = runs[0], listed(options.models or runs[0]["models"])
    if set(names) - SHAPES.keys() or not all(run["relations"] for run in runs):
        parser.error(f"expected a grid that names its relations, and models among {', '.join(SHAPES)}")
    set_progress(False)
    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory(prefix="ptlib-rehearsal-") as folder:
        measured = measure(names, listed(first["methods"]), len(listed(first["relations"])) * first["num_seeds"],
                           Path(folder), num_vectors=first["num_vectors"], normalize=first["normalize"])
    widths = {name: SHAPES[name].width for name in names}
    times = pd.Series({step: sum(counted(run, widths)[step] for run in runs) for step in measured.index})
    table = measured.assign(times=times, hours=measured["seconds"] * times / 3600)
    print(table.to_string(float_format="{:.4g}".format))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"{len(runs)} runs of {len(names)} models, with each step as fast as here ({device}):")
    for workers in WORKERS:
        seconds = span((seconds_of(run, widths, measured) for run in runs), workers)
        print(f"on {workers} worker{'s'[:workers > 1]}: {seconds / 3600:.1f} h")


if __name__ == "__main__":
    main()
