"""An interactive explorer of transfers.

``explore`` gives the data of one setting, ``draw`` a static figure of it, and ``panel`` widgets to change the setting.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from ..errors import PromptTransferError
from ..evaluation.evaluations import Evaluation, evaluate
from ..models.lm import LanguageModel
from ..moving.anchors import shared_anchors
from ..moving.methods import METHODS
from ..moving.relative import encode
from ..moving.search import NORMALIZATIONS, RIDGES
from ..moving.transfer import transfer
from ..prompts.history import Moved
from ..prompts.prompt import Prompt, manual_prompt
from ..tasks.task import Task
from ..tuning.tuning import tune
from .plots import LIGHT_TO_DARK, score_bars
from .tables import over_facts
from .words import nearest_words

__all__ = ["Exploration", "Explorer", "draw", "explore", "panel"]

LOOK = {"style": {"description_width": "8em"}, "layout": {"width": "21em"}}  # of every widget


@dataclass(frozen=True, eq=False, repr=False)
class Exploration:
    """One setting of the explorer and its results. A notebook shows it as the figure of ``draw``.

    Attributes:
        moved: the transferred prompt; its ``history`` holds the setting.
        nearest: the shared words with the highest cosine to each vector, whether they are anchors or not. Rows
            (vector, rank), both from 1; columns ("source" | "moved", "word" | "cosine"), for the tuned vectors in the
            source and the transferred ones in the target.
        strongest: the anchors with the highest cosines to the source's vectors (rows), and these cosines. Columns
            ("source" | "moved", vector).
        evaluations: {label: Evaluation on the task's test examples}, all with the shared words as candidates.
    """

    moved: Prompt
    nearest: pd.DataFrame
    strongest: pd.DataFrame
    evaluations: dict[str, Evaluation]

    @property
    def history(self) -> Moved:
        """The record of the transfer."""
        assert isinstance(self.moved.history, Moved)
        return self.moved.history

    @property
    def fit(self) -> float:
        """√R² on held-out anchors: how well vectors of the target can imitate the prompt. It needs no labels."""
        return self.history.fit

    @property
    def scores(self) -> pd.DataFrame:
        """P@1 of every evaluation: ``p_at_1``, its 95 % Wilson interval over facts (``low``, ``high``), and ``n``."""
        rows = [(e.p_at_1, *e.interval, e.n) for e in self.evaluations.values()]
        return pd.DataFrame(rows, index=list(self.evaluations), columns=["p_at_1", "low", "high", "n"])

    def __repr__(self) -> str:
        about = self.history
        names = [Path(name).name for name in (about.sources[0].lm, self.moved.lm_name)]
        ridge = [f"ridge {about.options['ridge']:g}"] if "ridge" in about.options else []
        scaled = [] if METHODS[about.method].normalize == "none" else [f"normalisation {about.normalize}"]
        setting = [about.method, *ridge, *scaled, f"{about.anchors} anchors", f"fit {self.fit:.2f}"]
        return f"{self.moved.task}: {' → '.join(names)}\n{', '.join(setting)}"

    def _repr_png_(self) -> bytes:
        full, small = io.BytesIO(), io.BytesIO()
        draw(self).savefig(full, format="png")
        Image.open(full).convert("RGB").quantize(128).save(small, format="png")  # a third of the bytes
        return small.getvalue()


def explore(prompt: Prompt, direct: Prompt, *, source: LanguageModel, target: LanguageModel, task: Task,
            num_anchors: int | None = None, select: str = "all", seed: int = 0, num_words: int = 3,
            **options: Any) -> Exploration:
    """Transfer one prompt and examine it: its nearest words, its strongest anchors, and its P@1 beside alternatives.

    Args:
        prompt: m vectors, tuned on ``source`` for ``task``.
        direct: a prompt tuned on ``target``, for comparison.
        source, target: the LMs, which may be the same.
        task: its test examples are evaluated.
        num_anchors, select: of the anchors, as for ``shared_anchors``. The nearest words and the candidates are always
            all words that the two LMs share, so that settings can be compared.
        seed: of everything random.
        num_words: how many nearest words and strongest anchors to show for each vector.
        options: of ``transfer``: ``method``, ``normalize`` and the method's own, such as ``ridge``.

    Raises:
        PromptTransferError: one of its kinds, as ``shared_anchors``, ``transfer`` and ``evaluate`` raise it.
    """
    words = shared_anchors(source, target)
    anchors = shared_anchors(source, target, num=num_anchors, select=select, seed=seed)
    moved = transfer(prompt, source=source, target=target, anchors=anchors, seed=seed, **options)
    rivals = {"direct tuning": direct, "moved": moved}
    if task.manual_template:
        rivals["manual template"] = manual_prompt(target, task)
    rivals["random"] = transfer(prompt, source=source, target=target, anchors=anchors, method="random", seed=seed)
    evaluations = {"on the source": evaluate(source, prompt, task.test, candidates=words.words)} | {
        label: evaluate(target, rival, task.test, candidates=words.words) for label, rival in rivals.items()}
    sides = {"source": (prompt, source), "moved": (moved, target)}
    nearest = {side: nearest_words(*pair, words, num_words) for side, pair in sides.items()}
    top = encode(prompt, source, anchors).topk(min(num_words, len(anchors))).indices.flatten().tolist()
    rows = list(dict.fromkeys(top))
    strongest = {side: pd.DataFrame(encode(*pair, anchors)[:, rows].T.cpu(), index=[anchors.words[i] for i in rows],
                                    columns=range(1, 1 + len(prompt.vectors))) for side, pair in sides.items()}
    return Exploration(moved, pd.concat(nearest, axis=1), pd.concat(strongest, axis=1), evaluations)


class Explorer:
    """LMs and tasks to choose from, and the prompts that were tuned so far.

    Args:
        lms, tasks: the choices that a ``panel`` offers; at least one of each.
        num_vectors, epochs: of the tuning, as for ``tune``.

    Raises:
        PromptTransferError: there are no LMs or no tasks.
    """

    def __init__(self, lms: Sequence[LanguageModel], tasks: Sequence[Task], *, num_vectors: int = 5, epochs: int = 30):
        if not lms or not tasks:
            raise PromptTransferError(f"got {len(lms)} LMs and {len(tasks)} tasks; expected at least one of each")
        self.lms, self.tasks, self.num_vectors, self.epochs = lms, tasks, num_vectors, epochs
        self.prompts: dict[tuple[str, str, int], Prompt] = {}

    def tuned(self, lm: LanguageModel, task: Task, seed: int = 0) -> Prompt:
        """The prompt of an LM, task and seed. It is tuned at the first call and kept for later ones."""
        key = lm.name, task.name, seed
        if key not in self.prompts:
            self.prompts[key] = tune(lm, task, num_vectors=self.num_vectors, epochs=self.epochs, seed=seed,
                                     progress=False)
        return self.prompts[key]

    def explore(self, source: LanguageModel, target: LanguageModel, task: Task, *, seed: int = 0,
                **options: Any) -> Exploration:
        """Call ``explore`` with prompts tuned on the two LMs; ``options`` are those of ``explore``."""
        return explore(self.tuned(source, task, seed), self.tuned(target, task, seed), source=source, target=target,
                       task=task, seed=seed, **options)


def draw(exploration: Exploration) -> Figure:
    """A static figure of an exploration: the setting, nearest words, strongest anchors and P@1."""
    lines, wide = max(len(exploration.nearest), 10), 0.34 * max(len(exploration.moved.vectors), 3)
    figure = Figure(figsize=(8.6 + 2 * wide, 1.9 + 0.26 * lines),
                    layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    table, here, there, bars = figure.subplots(1, 4, width_ratios=[2.9, wide, wide, 2.2])
    _draw_words(exploration.nearest, table)
    low, high = exploration.strongest.min(axis=None), exploration.strongest.max(axis=None)
    for side, ax in (("source", here), ("moved", there)):
        cosines = exploration.strongest[side]
        sns.heatmap(cosines, annot=(100 * cosines).round().astype(int), fmt="d", vmin=low, vmax=high, ax=ax,
                    cmap=LIGHT_TO_DARK, cbar=False, annot_kws={"size": 9}, yticklabels=True)
        ax.set(title=side, xlabel="vector", ylabel="strongest anchors (cosine × 100)" if side == "source" else "")
        ax.tick_params(axis="y", rotation=0, labelleft=side == "source")
    scores = over_facts(exploration.evaluations)
    score_bars(scores, title="P@1 (95 % interval)", ax=bars).set_xlabel(f"% of {scores['facts'].iloc[0]} test facts")
    figure.suptitle(repr(exploration), fontsize=12)
    return figure


def _draw_words(nearest: pd.DataFrame, ax: Axes) -> None:
    """Draw the nearest words as text, one line for each rank. Words that a vector has on both sides are bold."""
    columns = {"source": 0.14, "moved": 0.64}  # left edges of the words
    for side, left in columns.items():
        ax.text(left + 0.03, -1, side, va="center", size=10, style="italic")
    for line, (vector, rank) in enumerate(nearest.index):
        group = nearest.loc[vector]
        both = set(group["source", "word"]) & set(group["moved", "word"])
        if rank == 1:
            ax.axhline(line - 0.5, color="0.8", lw=0.8)
            ax.text(0, line, vector, va="center", size=10)
        for side, left in columns.items():
            word, cosine = group.loc[rank, side]
            ax.text(left, line, f"{100 * cosine:.0f}", va="center", ha="right", size=10)
            ax.text(left + 0.03, line, word, va="center", size=10, weight="bold" if word in both else "normal")
    ax.set(xlim=(0, 1), ylim=(len(nearest), -1.5), title="nearest words (cosine × 100)")
    ax.set_axis_off()


def panel(explorer: Explorer, *, seed: int = 0) -> ipywidgets.VBox:
    """Widgets for every argument of ``Explorer.explore``, and the figure of the current setting.

    If a setting is not possible, the library's error message takes the place of the figure.

    Args:
        explorer: keeps the prompts that the panel tunes.
        seed: the initial value of the seed widget.

    Returns:
        A box with three children: the widgets, a note, and the figure as an image.
    """
    lms = [(lm.name, lm) for lm in explorer.lms]
    powers = [2 ** i for i in range(4, min(len(lm.words) for lm in explorer.lms).bit_length())]
    knobs = {
        "source": _dropdown("source", lms),
        "target": _dropdown("target", lms, index=min(1, len(lms) - 1)),
        "task": _dropdown("relation", [(task.name, task) for task in explorer.tasks]),
        "method": _dropdown("method", [name for name, method in METHODS.items() if not method.needs_mixtures]),
        "ridge": _dropdown("ridge", ["auto", *RIDGES]),
        "normalize": _dropdown("normalisation", NORMALIZATIONS, index=NORMALIZATIONS.index("affine")),
        "num_anchors": _dropdown("anchors", [("all", None), *((str(n), n) for n in powers)]),
        "select": _dropdown("of these", ["random", "frequent"]),  # "all" is a choice of the widget above
        "seed": ipywidgets.BoundedIntText(seed, min=0, max=2 ** 31 - 1, description="seed", **LOOK),
    }
    note, picture = ipywidgets.HTML(), ipywidgets.Image(format="png", layout={"max_width": "100%"})

    def refresh(_: object = None) -> None:
        setting = {name: knob.value for name, knob in knobs.items()}
        if setting["ridge"] == "auto":  # the default of methods with a ridge; the others do not have the option
            del setting["ridge"]
        keys = dict.fromkeys((setting[lm].name, setting["task"].name, setting["seed"]) for lm in ("source", "target"))
        untuned = [key[0] for key in keys if key not in explorer.prompts]
        note.value = f"tuning on {html.escape(' and '.join(untuned))} …" if untuned else "transferring …"
        try:
            picture.value = explorer.explore(**setting)._repr_png_()
        except PromptTransferError as error:
            note.value, picture.layout.display = html.escape(str(error)), "none"
        else:
            note.value, picture.layout.display = "", None

    for knob in knobs.values():
        knob.observe(refresh, "value")
    refresh()
    columns = [ipywidgets.VBox(list(knobs.values())[i:i + 3]) for i in (0, 3, 6)]
    return ipywidgets.VBox([ipywidgets.HBox(columns), note, picture])


def _dropdown(label: str, options: Sequence[Any], index: int = 0) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=options, index=index, description=label, **LOOK)
