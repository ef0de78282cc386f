"""Studies: the models, tasks and seeds that a notebook compares on, all over the same candidate words."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
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
from ..moving.anchors import shared_anchors
from ..moving.transfer import transfer_many
from ..parameters import listed
from ..progress import progress_bar
from ..prompts.history import Moved
from ..prompts.prompt import Prompt, manual_prompt
from ..sweep import store
from ..tasks.loading import load_tasks
from ..tasks.task import Example, Task
from ..tuning.refinement import refine_many
from ..tuning.tuning import starting_prompt

__all__ = ["Prompts", "Scores", "Study", "load_study", "mean_fit", "target_passes"]

Prompts = Mapping[Hashable, Prompt]  # mostly {(seed, task.name): prompt}
Scores = dict[Hashable, Evaluation]  # with the keys of the prompts


@dataclass(frozen=True, eq=False)
class Study:
    """What a notebook compares on.

    Attributes:
        lms: {name: LM}.
        tasks: the relations.
        words: the candidates of every evaluation, which all LMs have as one token; None for tasks with label words,
            which are the candidates then.
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
                         f"{len(self.seeds)} tuning seeds")
        else:
            lines.append(f"{len(self.tasks)} relations, {facts} test facts, {len(self.words)} candidate words, "
                         f"{len(self.dropped)} test facts with another object dropped; {len(self.seeds)} tuning seeds")
        return "\n".join(lines)

    @cached_property
    def dropped(self) -> list[Example]:
        """The test facts whose object is no candidate: no evaluation counts them."""
        if self.words is None:
            return []
        known = set(self.words)
        return [example for task in self.tasks for example in task.test if example.object not in known]

    # --- which models ---

    @cached_property
    def short(self) -> dict[str, str]:
        """{name: its last part}, for tables and figures."""
        return {name: Path(name).name for name in self.lms}

    @cached_property
    def family(self) -> dict[str, str]:
        """{name: model type}; if all LMs are of one type, each is a family of its own."""
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
        """``"itself"``, or whether the families are the ``"same"`` or ``"different"``."""
        same = "same" if self.family[source] == self.family[target] else "different"
        return "itself" if source == target else same

    # --- prompts and what they score ---

    @cached_property
    def subjects(self) -> dict[str, list[str]]:
        """{task.name: the subjects of its train examples}, without their objects."""
        return {task.name: [example.subject for example in task.train] for task in self.tasks}

    def tuned(self, **options: Any) -> dict[str, dict[tuple[int, str], Prompt]]:
        """{name: {(seed, task.name): Prompt}}, tuned on each LM; ``options`` are those of ``tune_seeds``."""
        return {name: self.tuned_on([name], **options) for name in progress_bar(self.lms, desc="tuning")}

    def tuned_on(self, names: Sequence[str], **options: Any) -> dict[tuple[int, str], Prompt]:
        """Prompts tuned on one LM, or mixtures tuned on several at once."""
        lms = [self.lms[name] for name in names]
        options = {"seeds": self.seeds, "progress": False, **options}
        return store.tuned(lms[0] if len(lms) == 1 else lms, self.tasks, **options)

    def score(self, target: str, prompts: Prompts) -> Scores:
        """The evaluations of prompts on the test facts."""
        return evaluate_many(self.lms[target], prompts, self.tasks, candidates=self.words)

    def move(self, prompts: Mapping[Hashable, Prompt | Sequence[Prompt]], source: str | Sequence[str], target: str,
             **options: Any) -> dict[Hashable, Prompt]:
        """``transfer_many`` by name."""
        sources = self.lms[source] if isinstance(source, str) else [self.lms[name] for name in source]
        return transfer_many(prompts, source=sources, target=self.lms[target], **options)

    def carry(self, prompts: Prompts, target: str) -> dict[Hashable, Prompt]:
        """Mixtures of words as they are on another LM: those of several sources have no one source to ``move`` from."""
        return {key: prompt.on(self.lms[target]) for key, prompt in prompts.items()}

    def distill(self, prompts: Prompts, teachers: Prompts, source: str, target: str,
                inputs: Mapping[str, Sequence[str]] | None, **options: Any) -> dict[Hashable, Prompt]:
        """``refine_many`` without labels: on the target, prompts learn the answers that the source gives.

        Args:
            prompts: on the target, where they start.
            teachers: the source's own prompts, with the keys of ``prompts``.
            inputs: {task.name: what both LMs read}, such as ``subjects``; if None, plain words.
            options: of ``refine_many``.
        """
        read = None if inputs is None else {key: inputs[prompt.task or ""] for key, prompt in prompts.items()}
        return refine_many(prompts, self.lms[target], source=self.lms[source], teacher=teachers, inputs=read,
                           **{"progress": False} | options)

    # --- what to compare with ---

    def untuned(self, name: str, init: str, **options: Any) -> dict[tuple[int, str], Prompt]:
        """{(seed, task.name): where tuning on the LM would start}.

        Args:
            init: ``"random"`` vectors, or the words of the ``"manual"`` template.
            options: of ``starting_prompt``.
        """
        return {(seed, task.name): starting_prompt(self.lms[name], task, init=init, seed=seed, **options)
                for seed in self.seeds for task in self.tasks}

    def direct(self, *tuned: Mapping[str, Prompts]) -> dict[str, Scores]:
        """{name: the evaluations of the prompts that do best there}: the ceiling, which uses labels of the target."""
        return {name: max((self.score(name, prompts[name]) for prompts in tuned), key=relation_mean)
                for name in self.lms}

    def manual(self) -> dict[str, Scores]:
        """{name: the evaluations of the manual templates}; {} where a task has none."""
        if not all(task.manual_template for task in self.tasks):
            return {}
        return {name: self.score(name, {task.name: manual_prompt(lm, task) for task in self.tasks})
                for name, lm in self.lms.items()}

    def majority(self) -> Scores:
        """{task.name: the evaluation of the most frequent object}, the same for every LM."""
        return {task.name: evaluate_majority(task, self.words) for task in self.tasks}

    # --- tables ---

    def grid(self, scores: pd.Series) -> pd.DataFrame:
        """A score a pair as a table of sources (rows) and targets (columns), by their short names, in the LMs' order.

        Args:
            scores: its index holds the pairs (source, target).
        """
        order = list(self.short.values())
        table = scores.unstack().rename(index=self.short, columns=self.short)
        return table.reindex(index=order, columns=order)


def target_passes(prompts: Prompts) -> float:
    """What refinement or tuning has cost the LM that prompts are for: sequences read forward and sequences gone back
    through, added up, the mean over prompts; 0 for prompts that were only moved."""
    records = [prompt.history for prompt in prompts.values()]
    return sum(getattr(record, "forwards", 0) + getattr(record, "backwards", 0) for record in records) / len(records)


def load_study(models: str = "zoo", tasks: str = "zoo", root: str | None = None, relations: str | None = None, *,
               num_seeds: int = 1, seed: int = 0, every: int = 1, kinds: Sequence[str] = ("masked",),
               first: str | None = None) -> Study:
    """Load what a notebook's parameters name.

    Args:
        models: comma-separated names or folders; "zoo" is all of the zoo's.
        tasks, root, relations: as for ``load_tasks``.
        num_seeds, seed: how many seeds there are, and the first of them.
        every: of all relations, take one in so many; where ``relations`` names some, all of these.
        kinds: of the LMs that are kept.
        first: the LM to put first; the others stay in their order.

    Raises:
        PromptTransferError: no LM is left; and what ``load_lm`` and ``load_tasks`` raise.
    """
    names = list_lms() if models == "zoo" else listed(models)
    lms = {lm.name: lm for lm in map(load_lm, names) if lm.kind in kinds}
    if not lms:
        raise PromptTransferError(f"models={models!r} has no {' or '.join(kinds)} LM; expected one at least")
    lms = {name: lms[name] for name in sorted(lms, key=lambda name: name != first)}
    chosen = load_tasks(tasks, root, relations)[::1 if relations else every]
    return Study(lms, chosen, shared_anchors(*lms.values()).words, range(seed, seed + num_seeds))


def mean_fit(moved: Mapping[Hashable, Prompt]) -> float:
    """The mean ``history.fit`` of moved prompts: √R² on held-out anchors, which needs no label."""
    records = [prompt.history for prompt in moved.values()]
    return sum(record.fit for record in records if isinstance(record, Moved)) / len(records)
