"""One transfer, examined: its nearest words, strongest anchors and answers beside its alternatives.

``explore`` examines one; an ``Explorer`` keeps the prompts that it tunes and what does not change between settings.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from ..errors import PromptTransferError
from ..evaluation.evaluations import Evaluation, evaluate
from ..evaluation.scores import answer_distributions
from ..models.lm import LanguageModel
from ..moving.anchors import Anchors, shared_anchors
from ..moving.calibration import calibrate
from ..moving.methods import METHODS
from ..moving.relative import encode
from ..moving.transfer import transfer
from ..prompts.history import Calibrated, Moved
from ..prompts.prompt import Prompt, manual_prompt
from ..sweep import store
from ..tasks.loading import title_of
from ..tasks.task import Task
from .figure import as_png, draw
from .recipe import code_of
from .words import nearest_words

__all__ = ["CALIBRATED", "Exploration", "Explorer", "Kept", "explore", "gained_and_lost"]

CALIBRATED = "moved, calibrated"  # the label of this evaluation
T = TypeVar("T")
Weights = Mapping[tuple[int, str], float]  # {(vector, word): weight}, as for ``Prompt.with_weights``


class Kept:
    """Results to use again, by what they are of. When there are too many, those used longest ago go."""

    def __init__(self, most: int = 200):
        self.most, self.results = most, OrderedDict[Hashable, Any]()

    def once(self, make: Callable[[], T], *key: Hashable) -> T:
        """The result for a key, made if it is not there."""
        if key not in self.results:
            self.results[key] = make()
        self.results.move_to_end(key)
        while len(self.results) > self.most:
            self.results.popitem(last=False)
        return self.results[key]


@dataclass(frozen=True, eq=False, repr=False)
class Exploration:
    """One setting of the explorer and its results.

    Attributes:
        moved: the transferred prompt, with offsets if it was calibrated; its ``history`` holds the setting.
        nearest: the shared words with the highest cosine to each vector, whether they are anchors or not. Rows
            (vector, rank), both from 1; columns ("source" | "moved", "word" | "cosine"), for the tuned vectors in the
            first source and the transferred ones in the target.
        strongest: the anchors with the highest cosines to the first source's vectors (rows), and these cosines. Columns
            ("source" | "moved", vector).
        evaluations: {label: Evaluation on the task's test examples}, all with the shared words as candidates.
        prompts, sources: the prompts that were transferred, and the LM of each.
        target, task: the LM and the task.
        words: that all LMs share.
        setting: the keywords of ``explore`` that made it.
    """

    moved: Prompt
    nearest: pd.DataFrame
    strongest: pd.DataFrame
    evaluations: dict[str, Evaluation]
    prompts: tuple[Prompt, ...]
    sources: tuple[LanguageModel, ...]
    target: LanguageModel
    task: Task
    words: Anchors
    setting: dict[str, Any] = field(default_factory=dict)

    @property
    def history(self) -> Moved:
        """The record of the transfer."""
        record = self.moved.history
        if isinstance(record, Calibrated):
            record = record.before
        assert isinstance(record, Moved)
        return record

    @property
    def fit(self) -> float:
        """√R² on held-out anchors: how well vectors of the target can imitate the prompt. It needs no labels."""
        return self.history.fit

    @property
    def outcome(self) -> Evaluation:
        """The evaluation of ``moved`` as it is: calibrated, if it was."""
        return self.evaluations["moved" if self.moved.offsets is None else CALIBRATED]

    @property
    def scores(self) -> pd.DataFrame:
        """P@1 of every evaluation: ``p_at_1``, its 95 % Wilson interval over facts (``low``, ``high``), and ``n``."""
        rows = [(e.p_at_1, *e.interval, e.n) for e in self.evaluations.values()]
        return pd.DataFrame(rows, index=list(self.evaluations), columns=["p_at_1", "low", "high", "n"])

    def answers(self, subject: str, count: int = 5) -> pd.DataFrame:
        """The most probable of the shared words as answers for a subject.

        Returns:
            Rows: ranks from 1. Columns (LM name, "word" | "probability"): the first source with its prompt, and the
            target with ``moved``.

        Raises:
            PromptTransferError: the subject is empty.
        """
        if not subject.strip():
            raise PromptTransferError("the subject is empty; expected a name, such as one of the task's subjects")
        tables = {}
        for side, lm, prompt in (("source", self.sources[0], self.prompts[0]), ("target", self.target, self.moved)):
            asked = [word for word, i in zip(self.words.words, lm.word_ids(self.words.words), strict=True)
                     if i is not None]
            top = answer_distributions(lm, prompt, [subject], asked)[0].topk(min(count, len(asked)))
            tables[side] = pd.DataFrame({"word": [asked[i] for i in top.indices], "probability": top.values},
                                        index=range(1, 1 + len(top.values)))
        return pd.concat(tables, axis=1)

    @property
    def code(self) -> str:
        """The lines that make ``moved`` and its P@1 again, with ptlib alone."""
        return code_of(self)

    @property
    def title(self) -> str:
        """The task and the models."""
        names = [" + ".join(Path(lm.name).name for lm in self.sources), Path(self.target.name).name]
        return f"{title_of(self.task.name)}: {' → '.join(names)}"

    @property
    def summary(self) -> str:
        """How the prompt was moved, and its fit."""
        about = self.history
        ridge = [f"ridge {about.options['ridge']:g}"] if isinstance(about.options.get("ridge"), float) else []
        scaled = [] if METHODS[about.method].normalize == "none" else [f"normalisation {about.normalize}"]
        record = self.moved.history
        meant = [f"calibrated {record.strength:g}"] if isinstance(record, Calibrated) else []
        return ", ".join([about.method, *ridge, *scaled, f"{about.anchors} anchors", *meant, f"fit {self.fit:.2f}"])

    def __repr__(self) -> str:
        return f"{self.title}\n{self.summary}"

    def _repr_png_(self) -> bytes:
        return as_png(draw(self))


def gained_and_lost(before: Evaluation, now: Evaluation) -> pd.DataFrame:
    """The facts that only one of two evaluations on the same examples has right.

    Returns:
        Rows: facts, gained ones first. Columns ``change`` ("gained" | "lost"), ``subject``, ``object``, and
        ``instead``, the wrong answer of the other evaluation.
    """
    was = {example: (answer, rank) for example, answer, rank in zip(before.examples, before.answers, before.ranks,
                                                                    strict=True)}
    rows = []
    for example, answer, rank in zip(now.examples, now.answers, now.ranks, strict=True):
        if example in was and (rank == 1) != (was[example][1] == 1):
            gained = rank == 1
            rows.append(("gained" if gained else "lost", example.subject, example.object,
                         was[example][0] if gained else answer))
    return pd.DataFrame(sorted(rows), columns=["change", "subject", "object", "instead"])


def explore(prompt: Prompt | Sequence[Prompt], direct: Prompt, *, source: LanguageModel | Sequence[LanguageModel],
            target: LanguageModel, task: Task, num_anchors: int | None = None, select: str = "all", seed: int = 0,
            num_nearest: int = 3, strength: float | str | None = None, kept: Kept | None = None,
            **options: Any) -> Exploration:
    """Transfer one prompt and examine it: its nearest words, its strongest anchors, and its P@1 beside alternatives.

    Args:
        prompt: m vectors, tuned on ``source`` for ``task``; one for each source.
        direct: a prompt tuned on ``target``, for comparison.
        source, target: the LMs, which may be the same; of sources there may be several.
        task: its test examples are evaluated.
        num_anchors, select: of the anchors, as for ``shared_anchors``; without ``num_anchors`` those that ``transfer``
            takes. The nearest words and the candidates are always all words that the LMs share, so that settings can be
            compared.
        seed: of everything random.
        num_nearest: how many nearest words and strongest anchors to show for each vector.
        strength: of a calibration on the task's train subjects, from 0 to 1, or "auto" to choose it. None: no
            calibration.
        kept: results of earlier calls to use again; new ones are added. What does not depend on the setting, such as
            the evaluation of ``direct``, is then computed once.
        options: of ``transfer``: ``method``, ``normalize`` and the method's own, such as ``ridge``.

    Raises:
        PromptTransferError: one of its kinds, as ``shared_anchors``, ``transfer``, ``calibrate`` and ``evaluate`` raise
            it.
    """
    if isinstance(strength, str) and strength != "auto":
        raise PromptTransferError(f"strength={strength!r}; expected a number from 0 to 1, 'auto', or None")
    once = (kept or Kept()).once
    sources = (source,) if isinstance(source, LanguageModel) else tuple(source)
    prompts = (prompt,) if isinstance(prompt, Prompt) else tuple(prompt)
    words = once(lambda: shared_anchors(*sources, target), "words", *sources, target)
    anchors = None if num_anchors is None else once(
        lambda: shared_anchors(*sources, target, num=num_anchors, select=select, seed=seed),
        "anchors", *sources, target, num_anchors, select, seed)
    pair: dict[str, Any] = {"source": list(sources), "target": target, "seed": seed}
    moved = transfer(list(prompts), **pair, anchors=anchors, **options)

    def score(lm: LanguageModel, one: Prompt) -> Evaluation:
        return evaluate(lm, one, task.test, candidates=words.words)

    record = moved.history
    assert isinstance(record, Moved)
    evaluations = {}
    for lm, one in zip(sources, prompts, strict=True):
        label = "on the source" if len(sources) == 1 else f"on {lm.name}"
        evaluations[label] = once(partial(score, lm, one), lm, one, words)
    evaluations["direct tuning"] = once(partial(score, target, direct), target, direct, words)
    evaluations["moved"] = score(target, moved)
    if strength is not None:
        moved = calibrate(moved, target, source=list(sources), teacher=list(prompts),
                          inputs=[example.subject for example in task.train],
                          strength=None if isinstance(strength, str) else strength)
        evaluations[CALIBRATED] = score(target, moved)
    if task.manual_template:
        evaluations["manual template"] = once(lambda: score(target, manual_prompt(target, task)),
                                              "template", target, task.name, words)
    about = (target, task.name, prompts[0].template, prompts[0].history.tuning_seed, seed)
    evaluations["random"] = once(
        lambda: score(target, transfer(list(prompts), **pair, anchors=words, method="random")), "random", *about, words)
    sides = {"source": (prompts[0], sources[0]), "moved": (moved, target)}
    nearest = {side: nearest_words(*both, words, num_nearest) for side, both in sides.items()}
    used = anchors or words.frequent(record.anchors)
    top = encode(prompts[0], sources[0], used).topk(min(num_nearest, len(used))).indices.flatten().tolist()
    rows = list(dict.fromkeys(top))
    strongest = {side: pd.DataFrame(encode(*both, used)[:, rows].T.cpu(), index=[used.words[i] for i in rows],
                                    columns=range(1, 1 + len(prompts[0].vectors))) for side, both in sides.items()}
    setting = {"num_anchors": num_anchors, "select": select, "seed": seed, "strength": strength, **options}
    return Exploration(moved, pd.concat(nearest, axis=1), pd.concat(strongest, axis=1), evaluations, prompts, sources,
                       target, task, words, setting)


class Explorer:
    """LMs and tasks to choose from, and the prompts that were tuned so far.

    Args:
        lms, tasks: the choices that a ``panel`` offers; at least one of each.
        num_vectors, epochs: of the tuning, as for ``tune``.

    Raises:
        PromptTransferError: there are no LMs or no tasks.
    """

    def __init__(self, lms: Sequence[LanguageModel], tasks: Sequence[Task], *, num_vectors: int = 5,
                 epochs: int | None = None):
        if not lms or not tasks:
            raise PromptTransferError(f"got {len(lms)} LMs and {len(tasks)} tasks; expected at least one of each")
        self.lms, self.tasks, self.num_vectors, self.epochs = lms, tasks, num_vectors, epochs
        self.prompts: dict[tuple[tuple[str, ...], str, int, str], Prompt] = {}
        self.kept = Kept()

    def prepare(self, lm: LanguageModel | Sequence[LanguageModel], tasks: Sequence[Task], seeds: Sequence[int] = (0,),
                parameterization: str = "vectors", progress: bool = False) -> None:
        """Tune the prompts of an LM (or one mixture on several) that are not there yet, all in one batch."""
        lms = (lm,) if isinstance(lm, LanguageModel) else tuple(lm)
        names = tuple(one.name for one in lms)
        missing = [task for task in tasks
                   if any((names, task.name, seed, parameterization) not in self.prompts for seed in seeds)]
        if missing:
            found = store.tuned(lms if len(lms) > 1 else lms[0], missing, seeds=seeds, epochs=self.epochs,
                                num_vectors=self.num_vectors, parameterization=parameterization, progress=progress)
            self.prompts |= {(names, name, seed, parameterization): prompt for (seed, name), prompt in found.items()
                             if (names, name, seed, parameterization) not in self.prompts}

    def tuned(self, lm: LanguageModel | Sequence[LanguageModel], task: Task, seed: int = 0,
              parameterization: str = "vectors", progress: bool = False) -> Prompt:
        """The prompt of an LM, task and seed. It is tuned at the first call and kept for later ones."""
        names = (lm.name,) if isinstance(lm, LanguageModel) else tuple(one.name for one in lm)
        self.prepare(lm, [task], [seed], parameterization, progress)
        return self.prompts[names, task.name, seed, parameterization]

    def explore(self, source: LanguageModel | Sequence[LanguageModel], target: LanguageModel, task: Task, *,
                seed: int = 0, parameterization: str = "vectors", weights: Weights | None = None,
                progress: bool = False, **options: Any) -> Exploration:
        """Call ``explore`` with prompts tuned on the LMs.

        Args:
            source, target, task: as for ``explore``. Of several sources, each has its own free vectors, but all have
                one mixture, tuned on them together.
            seed: of the tuning and of everything random.
            parameterization: ``"vectors"`` or ``"mixture"``, of the sources' prompts; the target's is free vectors.
            weights: {(vector, word): weight} to change in a mixture, as for ``Prompt.with_weights``.
            progress: show a bar while prompts are tuned.
            options: those of ``explore``.
        """
        sources = [source] if isinstance(source, LanguageModel) else list(source)
        if not sources:
            raise PromptTransferError("no source is chosen; expected at least one LM that prompts come from")
        if weights or parameterization == "mixture":
            mixture = self.tuned(sources, task, seed, parameterization, progress)
            if weights:
                mixture = mixture.with_weights(sources[0], weights)
            prompts = [mixture, *(mixture.on(lm) for lm in sources[1:])]
        else:
            prompts = [self.tuned(lm, task, seed, parameterization, progress) for lm in sources]
        direct = self.tuned(target, task, seed, progress=progress)
        return explore(prompts, direct, source=sources, target=target, task=task, seed=seed, kept=self.kept, **options)
