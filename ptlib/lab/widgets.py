"""Turn the knobs of a transfer and look: one setting as data, as a static figure, and as a panel of widgets."""

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

LOOK = {"style": {"description_width": "8em"}, "layout": {"width": "21em"}}  # of every knob


@dataclass(frozen=True, eq=False, repr=False)
class Exploration:
    """One setting of the knobs and what came of it. A notebook shows it as its figure.

    Attributes:
        moved: the prompt on the target; its ``history`` holds the setting.
        nearest: the shared words nearest each vector, whichever of them are anchors. Rows (vector, rank), both from
            1; columns ("source" | "moved", "word" | "cosine"): the tuned vectors in the source, the moved ones in
            the target.
        strongest: the anchors nearest some source vector (rows) and their cosines, columns ("source" | "moved",
            vector).
        evaluations: {what was evaluated: how it did on the task's test examples}, all over the shared words.
    """

    moved: Prompt
    nearest: pd.DataFrame
    strongest: pd.DataFrame
    evaluations: dict[str, Evaluation]

    @property
    def history(self) -> Moved:
        """How the prompt was moved."""
        assert isinstance(self.moved.history, Moved)
        return self.moved.history

    @property
    def fit(self) -> float:
        """√R² on held-out anchors: how well any vectors of the target can imitate the prompt, without labels."""
        return self.history.fit

    @property
    def scores(self) -> pd.DataFrame:
        """P@1 of every evaluation: ``p_at_1``, its 95 % Wilson interval over facts (``low``, ``high``) and ``n``."""
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
    """Move one prompt and look at it: its words, its strongest anchors, its accuracy beside the alternatives.

    Args:
        prompt: m vectors, tuned on ``source`` for ``task``.
        direct: tuned on ``target``.
        source, target: may be the same.
        num_anchors, select: of the anchors, as for ``shared_anchors``. The words that are compared and ranked are
            all that the two LMs share, whatever the anchors, so that settings compare.
        seed: of everything random.
        num_words: nearest words, and strongest anchors, of each vector.
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
    """LMs and tasks to choose from, and the prompts tuned so far.

    Args:
        lms, tasks: what a ``panel`` offers; at least one of each.
        num_vectors, epochs: of the tuning, as for ``tune``.
    """

    def __init__(self, lms: Sequence[LanguageModel], tasks: Sequence[Task], *, num_vectors: int = 5, epochs: int = 30):
        if not lms or not tasks:
            raise PromptTransferError(f"{len(lms)} LMs and {len(tasks)} tasks; expected one of each at least")
        self.lms, self.tasks, self.num_vectors, self.epochs = lms, tasks, num_vectors, epochs
        self.prompts: dict[tuple[str, str, int], Prompt] = {}

    def tuned(self, lm: LanguageModel, task: Task, seed: int = 0) -> Prompt:
        """The prompt of an LM, task and seed: tuned when it is first asked for, kept for the next time."""
        key = lm.name, task.name, seed
        if key not in self.prompts:
            self.prompts[key] = tune(lm, task, num_vectors=self.num_vectors, epochs=self.epochs, seed=seed,
                                     progress=False)
        return self.prompts[key]

    def explore(self, source: LanguageModel, target: LanguageModel, task: Task, *, seed: int = 0,
                **options: Any) -> Exploration:
        """``explore`` with prompts that are tuned on both LMs; ``options`` are its own."""
        return explore(self.tuned(source, task, seed), self.tuned(target, task, seed), source=source, target=target,
                       task=task, seed=seed, **options)


def draw(exploration: Exploration) -> Figure:
    """A static figure with everything in ``exploration``: nearest words, strongest anchors, P@1 and the setting."""
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
    """The table as text, a line a rank; a word that a vector has on both sides is bold."""
    columns = {"source": 0.14, "moved": 0.64}  # where the words begin
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
    """Knobs for every argument of ``Explorer.explore``, and the figure of what they are set to.

    A setting that does not exist shows the library's one-line error in place of the figure.

    Args:
        explorer: keeps the prompts that the panel tunes.
        seed: where the knob of that name starts.

    Returns:
        A box of three children: the knobs, a note, and the figure as an image.
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
        "select": _dropdown("of these", ["random", "frequent"]),  # "all" is a number of anchors here
        "seed": ipywidgets.BoundedIntText(seed, min=0, max=2 ** 31 - 1, description="seed", **LOOK),
    }
    note, picture = ipywidgets.HTML(), ipywidgets.Image(format="png", layout={"max_width": "100%"})

    def refresh(_: object = None) -> None:
        setting = {name: knob.value for name, knob in knobs.items()}
        if setting["ridge"] == "auto":  # what the methods with a ridge do unasked; the others have no such option
            del setting["ridge"]
        keys = dict.fromkeys((setting[lm].name, setting["task"].name, setting["seed"]) for lm in ("source", "target"))
        untuned = [key[0] for key in keys if key not in explorer.prompts]
        note.value = f"tuning on {html.escape(' and '.join(untuned))} …" if untuned else "moving …"
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
