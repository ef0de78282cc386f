"""Studies: the models, tasks and seeds that a notebook compares, with the same candidate words for all models.

``load_study`` loads one from a notebook's parameters. A ``Study`` tunes, transfers and scores prompts by model name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import PromptTransferError
from ..evaluation.evaluations import Evaluation, evaluate_majority, evaluate_many
from ..evaluation.summaries import relation_mean
from ..models.lm import LanguageModel
from ..models.loading import list_lms, load_lm
from ..models.real import REAL, fetch
from ..moving.anchors import shared_anchors
from ..moving.calibration import calibrate
from ..moving.demonstration import demonstrate
from ..moving.transfer import transfer_many
from ..parameters import listed
from ..progress import progress_bar
from ..prompts.history import Moved, Tuned
from ..prompts.prompt import Prompt, demonstrated_prompt, manual_prompt
from ..sweep import store
from ..tasks.loading import load_tasks
from ..tasks.task import Example, LabelWord, Task
from ..tuning.averaging import average
from ..tuning.refinement import refine_many
from ..tuning.tuning import starting_prompt

__all__ = ["Prompts", "Scores", "Study", "load_study", "mean_fit", "target_passes"]

Prompts = Mapping[Any, Prompt]  # mostly {(seed, task.name): prompt}
Scores = dict[Any, Evaluation]  # with the keys of the prompts


@dataclass(frozen=True, eq=False)
class Study:
    """The models, tasks, candidate words and seeds of a notebook.

    Attributes:
        lms: {name: LM}.
        tasks: the relations.
        words: the candidate words of every evaluation, each one token in all LMs. None for tasks with label words: then
            these are the candidates.
        seeds: of the tuning.
    """

    lms: dict[str, LanguageModel]
    tasks: list[Task]
    words: tuple[str, ...] | None
    seeds: range

    def __repr__(self) -> str:
        facts = sum(len(task.test) for task in self.tasks)
        lines = [f"{self.short[name]}: {lm.vocab_size} x {lm.dim}, {lm.kind}" for name, lm in self.lms.items()]
        if self.words is None:
            lines.append(f"{len(self.tasks)} tasks with label words, {facts} test examples; "
                         f"tuning seeds: {len(self.seeds)}")
        else:
            lines.append(f"{len(self.tasks)} relations, {facts} test facts, {len(self.words)} candidate words, "
                         f"{len(self.dropped)} test facts with another object dropped; tuning seeds: {len(self.seeds)}")
        return "\n".join(lines)

    @cached_property
    def dropped(self) -> list[Example]:
        """The test facts that no evaluation counts, because their object is not a candidate word."""
        if self.words is None:
            return []
        return [example for task in self.tasks for example in task.test if example.object not in self.known]

    @cached_property
    def known(self) -> frozenset[str]:
        """The candidate words as a set; empty for tasks with label words."""
        return frozenset(self.words or ())

    def with_test_facts(self, least: int) -> Study:
        """The study of only those tasks with at least so many test facts whose object is a candidate word."""
        kept = [task for task in self.tasks if sum(example.object in self.known for example in task.test) >= least]
        return replace(self, tasks=kept)

    # --- which models ---

    @cached_property
    def short(self) -> dict[str, str]:
        """{name: its last part, without the ending of a file}, as labels for tables and figures."""
        return {name: Path(name).name.removesuffix(".gguf") for name in self.lms}

    @cached_property
    def family(self) -> dict[str, str]:
        """{name: model type}. If all LMs have the same type, each LM is its own family."""
        types = {name: lm.model.config.model_type for name, lm in self.lms.items()}
        return types if len(set(types.values())) > 1 else {name: name for name in self.lms}

    @cached_property
    def members(self) -> dict[str, list[str]]:
        """{family: the names of its LMs}."""
        return {family: [name for name in self.lms if self.family[name] == family]
                for family in dict.fromkeys(self.family.values())}

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs (source, target) of two different LMs."""
        return list(permutations(self.lms, 2))

    @cached_property
    def across(self) -> list[tuple[str, str]]:
        """Pairs (source, target) of different families."""
        return [(a, b) for a, b in self.pairs if self.family[a] != self.family[b]]

    def kinship(self, source: str, target: str) -> str:
        """``"itself"`` for the same LM; otherwise ``"same"`` or ``"different"``, for the two families."""
        same = "same" if self.family[source] == self.family[target] else "different"
        return "itself" if source == target else same

    # --- prompts and what they score ---

    @cached_property
    def subjects(self) -> dict[str, list[str]]:
        """{task.name: the subjects of its train examples}, without their objects."""
        return {task.name: [example.subject for example in task.train] for task in self.tasks}

    @cached_property
    def label_words(self) -> dict[str | None, list[LabelWord]]:
        """{task.name: what stands for each of its classes}, of the classification tasks."""
        return {task.name: list(task.label_words.values()) for task in self.tasks if task.label_words}

    def tuned(self, **options: Any) -> dict[str, dict[tuple[int, str], Prompt]]:
        """Tune prompts on each LM: {name: {(seed, task.name): Prompt}}. ``options`` are those of ``tune_seeds``."""
        return {name: self.tuned_on([name], **options) for name in progress_bar(self.lms, desc="tuning")}

    def tuned_on(self, names: Sequence[str], **options: Any) -> dict[tuple[int, str], Prompt]:
        """Tune prompts on one LM, or mixtures on several at once. ``options`` are those of ``tune_seeds``."""
        lms = [self.lms[name] for name in names]
        options = {"seeds": self.seeds, "progress": False, **options}
        return store.tuned(lms[0] if len(lms) == 1 else lms, self.tasks, **options)

    @cached_property
    def objects(self) -> dict[str, list[str]]:
        """{task.name: the objects of all its facts that are candidate words}."""
        return {task.name: sorted({example.object for example in (*task.train, *task.dev, *task.test)} & self.known)
                for task in self.tasks}

    def score(self, target: str, prompts: Prompts, among: str = "all") -> Scores:
        """Evaluate prompts on the target and the test facts: {key: Evaluation}.

        Args:
            target: the name of the LM.
            prompts: for the target.
            among: rank ``"all"`` candidate words, or only the ``"objects"`` of each task among them. The same facts
                are scored.
        """
        if among == "all":
            return evaluate_many(self.lms[target], prompts, self.tasks, candidates=self.words)
        scores: Scores = {}
        for task in self.tasks:
            own = {key: prompt for key, prompt in prompts.items() if prompt.task == task.name}
            scores |= evaluate_many(self.lms[target], own, [task], candidates=self.objects[task.name])
        return {key: scores[key] for key in prompts}

    def move(self, prompts: Mapping[Any, Prompt | Sequence[Prompt]], source: str | Sequence[str], target: str,
             **options: Any) -> dict[Any, Prompt]:
        """Call ``transfer_many`` with LMs given by name."""
        sources = self.lms[source] if isinstance(source, str) else [self.lms[name] for name in source]
        return transfer_many(prompts, source=sources, target=self.lms[target], **options)

    def carry(self, prompts: Prompts, target: str) -> dict[Any, Prompt]:
        """Take mixtures of words to another LM. Unlike ``move``, this works for mixtures tuned on several LMs."""
        return {key: prompt.on(self.lms[target]) for key, prompt in prompts.items()}

    def average(self, tuned: Sequence[Prompts], target: str) -> dict[str | None, Prompt]:
        """Average each task's mixtures, of all seeds and sources, for the target: {task.name: Prompt}."""
        of_task: dict[str | None, list[Prompt]] = {}
        for prompt in (prompt for prompts in tuned for prompt in prompts.values()):
            of_task.setdefault(prompt.task, []).append(prompt)
        return {name: average(prompts, self.lms[target]) for name, prompts in of_task.items()}

    def teachers(self, *tuned: Mapping[str, Prompts]) -> dict[str, dict[Any, Prompt]]:
        """Of several {name: prompts}, for each LM and key the prompt with the best P@1 on its own dev examples."""
        return {name: {key: max((prompts[name][key] for prompts in tuned), key=dev_p_at_1) for key in tuned[0][name]}
                for name in self.lms}

    def distill(self, prompts: Prompts, teachers: Prompts, source: str, target: str,
                inputs: Mapping[str, Sequence[str]] | None, **options: Any) -> dict[Any, Prompt]:
        """Distil prompts on the target with ``refine_many``: they learn the source's answers, without labels.

        Args:
            prompts: the prompts to start from, for the target.
            teachers: the source's own prompts, with the same keys.
            source, target: names of the LMs.
            inputs: {task.name: what both LMs read}, such as ``subjects``; if None, shared words.
            options: of ``refine_many``.
        """
        read = None if inputs is None else {key: inputs[prompt.task or ""] for key, prompt in prompts.items()}
        meant = {key: self.label_words[prompt.task] for key, prompt in prompts.items()} if self.label_words else None
        return refine_many(prompts, self.lms[target], source=self.lms[source], teacher=teachers, inputs=read,
                           **{"progress": False, "candidates": meant} | options)

    def calibrate(self, prompts: Prompts, teachers: Prompts, source: str, target: str,
                  inputs: Mapping[str, Sequence[str]], **options: Any) -> dict[Any, Prompt]:
        """Calibrate prompts on the target with ``calibrate``: they are given the source's prior over answers.

        Args:
            prompts: for the target.
            teachers: the source's own prompts, with the same keys.
            source, target: names of the LMs.
            inputs: {task.name: what both LMs read}, such as ``subjects``.
            options: of ``calibrate``.
        """
        return {key: calibrate(prompt, self.lms[target], source=self.lms[source], teacher=teachers[key],
                               inputs=inputs[prompt.task or ""], **options) for key, prompt in prompts.items()}

    def demonstrate(self, prompts: Prompts, teachers: Prompts, source: str, target: str,
                    inputs: Mapping[str, Sequence[str]], **options: Any) -> dict[Any, Prompt]:
        """Show the source's answers before the question with ``demonstrate``. Arguments are those of ``calibrate``.

        The source answers with label words, where a task has them.
        """
        return {key: demonstrate(prompt, self.lms[target], source=self.lms[source], teacher=teachers[key],
                                 inputs=inputs[prompt.task or ""],
                                 **{"candidates": self.label_words.get(prompt.task)} | options)
                for key, prompt in prompts.items()}

    # --- baselines ---

    def untuned(self, name: str, init: str, **options: Any) -> dict[tuple[int, str], Prompt]:
        """Prompts as tuning on the LM would start from them: {(seed, task.name): Prompt}.

        Args:
            name: of the LM.
            init: ``"random"`` vectors, or the words of the ``"manual"`` template.
            options: of ``starting_prompt``.
        """
        return {(seed, task.name): starting_prompt(self.lms[name], task, init=init, seed=seed, **options)
                for seed in self.seeds for task in self.tasks}

    def direct(self, *tuned: Mapping[str, Prompts], among: str = "all") -> dict[str, Scores]:
        """Score directly tuned prompts on their own LM, the ceiling of a transfer: {name: Scores}.

        Args:
            tuned: one or more {name: prompts}. For each LM, those with the best relation mean count.
            among: as for ``score``.
        """
        return {name: max((self.score(name, prompts[name], among) for prompts in tuned), key=relation_mean)
                for name in self.lms}

    def manual(self, among: str = "all") -> dict[str, Scores]:
        """Score the manual templates on each LM: {name: Scores}. The result is {} if a task has no manual template."""
        if not all(task.manual_template for task in self.tasks):
            return {}
        return {name: self.score(name, self.templates(name), among) for name in self.lms}

    def demonstrated(self, among: str = "all", count: int = 5) -> dict[str, Scores]:
        """Score ``demonstrated_prompt`` on each LM, with as many train facts in the text, new ones for each seed."""
        if not all(task.manual_template for task in self.tasks):
            return {}
        return {name: self.score(name, {(seed, task.name): demonstrated_prompt(lm, task, count, seed)
                                        for seed in self.seeds for task in self.tasks}, among)
                for name, lm in self.lms.items()}

    def templates(self, name: str) -> dict[str, Prompt]:
        """The manual templates of the tasks as prompts for an LM: {task.name: Prompt}."""
        return {task.name: manual_prompt(self.lms[name], task) for task in self.tasks}

    def majority(self) -> Scores:
        """Score the most frequent object of each task as the answer: {task.name: Evaluation}, the same for every LM.

        It is the same among all words and among a task's objects.
        """
        return {task.name: evaluate_majority(task, self.words) for task in self.tasks}

    # --- tables ---

    def grid(self, scores: pd.Series) -> pd.DataFrame:
        """A table with a row for each source and a column for each target, by short names in the order of the LMs.

        Args:
            scores: one for each pair (source, target) in the index.
        """
        order = list(self.short.values())
        table = scores.unstack().rename(index=self.short, columns=self.short)
        return table.reindex(index=order, columns=order)


def dev_p_at_1(prompt: Prompt) -> float:
    """P@1 of a tuned prompt on its dev examples."""
    assert isinstance(prompt.history, Tuned)
    return prompt.history.dev_p_at_1


def target_passes(prompts: Prompts) -> float:
    """Forward plus backward passes of tuning, refinement or selection on the prompts' LM: the mean over prompts.

    It is counted in sequences, and 0 for prompts that were only transferred.
    """
    return sum(prompt.history.passes for prompt in prompts.values()) / len(prompts)


def load_study(models: str = "zoo", tasks: str | Sequence[Task] = "zoo", root: str | None = None,
               relations: str | None = None, *, num_seeds: int = 1, seed: int = 0, every: int = 1,
               kinds: Sequence[str] = ("masked",), first: str | None = None, dtype: str | None = None) -> Study:
    """Load the study that a notebook's parameters describe.

    Args:
        models: comma-separated names or folders; "zoo" means all models of the zoo, and a key of ``REAL`` a real model
            that is fetched.
        tasks, root, relations: as for ``load_tasks``; or tasks with label words, such as ``load_texts`` returns.
        num_seeds, seed: how many seeds, and the first of them.
        every: take every n-th relation. It has no effect if ``relations`` names some.
        kinds: the kinds of LMs to keep, such as "masked".
        first: the LM to put first; the others stay in their order.
        dtype: as for ``load_lm``.

    Raises:
        PromptTransferError: no LM is left. ``load_lm`` and ``load_tasks`` raise other errors of its kinds.
    """
    names = list_lms() if models == "zoo" else [str(fetch(name)) if name in REAL else name for name in listed(models)]
    lms = {lm.name: lm for lm in (load_lm(name, dtype=dtype) for name in names) if lm.kind in kinds}
    if not lms:
        raise PromptTransferError(f"models={models!r} has no {' or '.join(kinds)} LM; expected at least one")
    lms = {name: lms[name] for name in sorted(lms, key=lambda name: name != first)}
    seeds = range(seed, seed + num_seeds)
    if not isinstance(tasks, str):
        return Study(lms, list(tasks), None, seeds)
    chosen = load_tasks(tasks, root, relations)[::1 if relations else every]
    return Study(lms, chosen, shared_anchors(*lms.values()).words, seeds)


def mean_fit(moved: Mapping[Any, Prompt]) -> float:
    """The mean ``history.fit`` of transferred prompts: √R² on held-out anchors, which needs no label."""
    records = [prompt.history for prompt in moved.values()]
    return sum(record.fit for record in records if isinstance(record, Moved)) / len(records)
