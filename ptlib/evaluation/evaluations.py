"""P@k of a prompt over a candidate vocabulary, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import TaskError
from ..models.lm import LanguageModel
from ..progress import progress_bar
from ..prompts.prompt import Prompt
from ..prompts.templates import Layout, Template
from ..tasks.task import Example, Task
from .candidates import Candidates, candidates_of, scorable
from .metrics import metric_of
from .ranking import rank
from .scores import candidate_scores

__all__ = ["Evaluation", "evaluate", "evaluate_majority", "evaluate_many", "wilson_interval"]

KS = 1, 10  # of P@k, by default
Z = 1.959964  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): honest near 0 and 1, where the normal one is not."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z * Z / n
    middle, half = (p + z2 / 2) / (1 + z2), Z * np.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    # The bounds meet p itself at 0 and 1, but for rounding.
    return float(min(p, max(0.0, middle - half))), float(max(p, min(1.0, middle + half)))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a prompt answered.

    Attributes:
        examples: those that were scored.
        answers: the best candidate for each.
        ranks: (n,) rank of each example's object among the candidates, from 1, the last of equal ones.
        dropped: (example, reason) of the examples that could not be scored.
        lm_name, task: where.
        seed: that the prompt was tuned with; None where it was not.
        num_candidates: how many words were ranked.
        ks: the k of ``p_at_k``.
        ties: examples whose object shares its score with another candidate.
        filtered_ranks: (n,) ranks without the other true objects of the example's subject; None if not asked for.
    """

    examples: tuple[Example, ...]
    answers: tuple[str, ...]
    ranks: np.ndarray
    dropped: tuple[tuple[Example, str], ...]
    lm_name: str
    task: str | None
    num_candidates: int
    ks: tuple[int, ...] = KS
    ties: int = 0
    filtered_ranks: np.ndarray | None = None
    seed: int | None = None

    @property
    def n(self) -> int:
        return len(self.examples)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row an example: subject, object, prediction, rank. Made when asked for: a sweep keeps many evaluations."""
        filtered = {} if self.filtered_ranks is None else {"filtered_rank": self.filtered_ranks}
        return pd.DataFrame({"subject": [e.subject for e in self.examples], "object": [e.object for e in self.examples],
                             "prediction": self.answers, "rank": self.ranks, **filtered})

    def score(self, metric: str = "p_at_1") -> float:
        """One of ``METRICS``: "p_at_1", "p_at_10", "mrr", "filtered_p_at_1", "accuracy" or "macro_f1"."""
        return metric_of(metric).of(self)

    @cached_property
    def p_at_k(self) -> dict[int, float]:
        """{k: share of examples whose object is among the k best candidates}."""
        return {k: float((self.ranks <= k).mean()) for k in self.ks}

    @cached_property
    def p_at_1(self) -> float:
        return self.score("p_at_1")

    @property
    def accuracy(self) -> float:
        """What P@1 is called where the candidates are the words of classes."""
        return self.score("accuracy")

    @cached_property
    def filtered_p_at_1(self) -> float | None:
        """P@1 by ``filtered_ranks``."""
        return None if self.filtered_ranks is None else self.score("filtered_p_at_1")

    @cached_property
    def macro_f1(self) -> float:
        """Mean F1 over the classes, which are the objects of the examples."""
        return self.score("macro_f1")

    @cached_property
    def mrr(self) -> float:
        """Mean reciprocal rank."""
        return self.score("mrr")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of P@1 over the examples."""
        return wilson_interval(int((self.ranks == 1).sum()), self.n)

    def __repr__(self) -> str:
        low, high = self.interval
        return (f"Evaluation(P@1 {self.p_at_1:.1%} [{low:.1%}, {high:.1%}], n={self.n}, dropped={len(self.dropped)}, "
                f"{f'ties={self.ties}, ' if self.ties else ''}{self.num_candidates} candidates, {self.lm_name}, "
                f"{self.task})")


def evaluate(lm: LanguageModel, prompt: Prompt, examples: Sequence[Example], *, candidates: Iterable[str] | None = None,
             k: Sequence[int] = KS, multi_token: bool = False, facts: Iterable[Example] | None = None,
             progress: bool = False) -> Evaluation:
    """Rank the candidate words at the answer slot of every example, by the rule of ``ranking.rank``.

    Args:
        lm: the LM that ``prompt`` was made for.
        examples: usually ``task.test``.
        candidates: words to rank; by default the label words of a classification task, else all whole words of
            the vocabulary. To compare LMs on facts, give the words that all of them share. Words that are not
            one token of ``lm`` at the answer's place are left out, and words that are the same token are one.
        k: for ``p_at_k``.
        multi_token: rank candidates of several tokens too, by the mean log-probability of their tokens: each at a
            blank of its own, or for a causal LM after those before it. By default the candidates are then the label
            words or the objects of the examples.
        facts: all that is known to be true, of every split: adds ``filtered_ranks``, among which the other true
            objects of a subject do not count, as in link prediction (Bordes et al. 2013).
        progress: show a bar.

    Returns:
        An Evaluation; examples whose object is no candidate are in ``dropped``, with the reason.

    Raises:
        PromptMismatchError: the prompt was made for another LM.
        TaskError: no example can be scored; a label word is not one token (with ``multi_token``: not made of
            tokens) of ``lm``; ``multi_token`` for a sequence-to-sequence LM.
        NotFiniteError: logits are not finite.
    """
    prompt.check(lm)
    questions = _questions(lm, prompt.template, examples, candidates, multi_token, facts)
    return _answered(lm, prompt, questions, k, progress)


@dataclass(frozen=True, eq=False)
class Questions:
    """Examples as an LM reads them in one template: the same for every prompt of that template.

    Attributes:
        candidates: that are ranked.
        examples, layouts, columns: n that can be scored, filled in, and the places of their objects among the
            candidates.
        true: (n, C) bool, all true objects of each subject; None where ranks are not filtered.
        dropped: (example, reason) of the others.
    """

    candidates: Candidates
    examples: Sequence[Example]
    layouts: Sequence[Layout]
    columns: Tensor
    true: Tensor | None
    dropped: tuple[tuple[Example, str], ...]


def _questions(lm: LanguageModel, text: str, examples: Sequence[Example], given: Iterable[str] | None,
               multi_token: bool, facts: Iterable[Example] | None) -> Questions:
    if multi_token and lm.kind == "seq2seq":
        raise TaskError(f"multi_token=True, but {lm.name} is a sequence-to-sequence LM; expected a masked or causal "
                        "one, or to rank single words")
    template = Template(text)
    candidates = candidates_of(lm, template, examples, given, multi_token)
    kept, columns, others = scorable(lm, examples, candidates)
    dropped = tuple((example, f"object {example.object!r} is {why}") for example, why in others)
    _check_scorable(kept, dropped)
    true = None if facts is None else _true_columns(lm, kept, list(facts), candidates)
    layouts = template.layout(lm, [example.subject for example in kept])
    return Questions(candidates, kept, layouts, torch.tensor(columns), true, dropped)


def _answered(lm: LanguageModel, prompt: Prompt, asked: Questions, k: Sequence[int], progress: bool) -> Evaluation:
    n, ranked = len(asked.examples), asked.candidates
    found = {name: np.zeros(n, dtype=int) for name in ("ranks", "best", "tied", "filtered")}
    with torch.inference_mode(), progress_bar(total=n, show=progress, desc=f"evaluating on {lm.name}") as bar:
        for rows, scores in candidate_scores(lm, asked.layouts, prompt.vectors.to(lm.device), ranked.tokens):
            own = asked.columns[rows].to(lm.device)
            found["ranks"][rows], found["best"][rows], found["tied"][rows] = (x.cpu() for x in rank(scores, own))
            if asked.true is not None:
                found["filtered"][rows] = rank(scores, own, asked.true[rows].to(lm.device)).ranks.cpu()
            bar.update(len(rows))
    # An object's spelling may differ from that of the candidate which is its token.
    answers = tuple(example.object if first else ranked.words[best]
                    for example, first, best in zip(asked.examples, found["ranks"] == 1, found["best"], strict=True))
    return Evaluation(tuple(asked.examples), answers, found["ranks"], asked.dropped, lm.name, prompt.task, len(ranked),
                      tuple(k), int(found["tied"].sum()), None if asked.true is None else found["filtered"],
                      prompt.history.tuning_seed)


def _check_scorable(kept: Sequence[Example], dropped: Sequence[tuple[Example, str]]) -> None:
    if not kept:
        raise TaskError(f"none of the {len(dropped)} examples can be scored" + (f": {dropped[0][1]}" if dropped else "")
                        + "; give examples whose objects are single words of the model, other candidates=, or "
                        "multi_token=True")


def _true_columns(lm: LanguageModel, examples: Sequence[Example], facts: Sequence[Example],
                  candidates: Candidates) -> Tensor:
    """(n, C) bool: the true objects of each example's subject."""
    known, columns, _ = scorable(lm, facts, candidates)
    of_subject: dict[str, list[int]] = {}
    for fact, column in zip(known, columns, strict=True):
        of_subject.setdefault(fact.subject, []).append(column)
    true = torch.zeros(len(examples), len(candidates), dtype=torch.bool)
    for row, example in enumerate(examples):
        true[row, of_subject.get(example.subject, [])] = True
    return true


def evaluate_many(lm: LanguageModel, prompts: Mapping[Hashable, Prompt], tasks: Sequence[Task], *,
                  candidates: Iterable[str] | None = None, filtered: bool = False) -> dict[Hashable, Evaluation]:
    """``evaluate`` of every prompt on the test examples of the task that it is for.

    Args:
        prompts: as ``tune_many``, ``tune_seeds`` and ``transfer_many`` return them; a prompt of no task is for the one
            that its key names.
        tasks: all that the prompts are for.
        candidates: as for ``evaluate``.
        filtered: also rank without the other true objects of a subject, of all that a task holds.

    Returns:
        {key: Evaluation}, the keys of ``prompts``. Each knows its ``task`` and ``seed``.

    Raises:
        TaskError: a prompt is for another task.
    """
    words = None if candidates is None else list(candidates)
    by_name = {task.name: task for task in tasks}
    asked: dict[tuple[str, str], Questions] = {}
    evaluations = {}
    for key, prompt in prompts.items():
        name = prompt.task or key
        prompt.check(lm)
        if name not in by_name:
            raise TaskError(f"prompt {key!r} is for task {name!r}; expected one of {', '.join(by_name)}")
        if (name, prompt.template) not in asked:
            task = by_name[name]
            facts = [*task.train, *task.dev, *task.test] if filtered else None
            asked[name, prompt.template] = _questions(lm, prompt.template, task.test, words, False, facts)
        evaluations[key] = replace(_answered(lm, prompt, asked[name, prompt.template], KS, False), task=name)
    return evaluations


def evaluate_majority(task: Task, candidates: Iterable[str] | None = None) -> Evaluation:
    """The baseline that ranks words by how often they are the object of a train example, then by the alphabet.

    Args:
        candidates: words to rank; by default the task's label words.

    Raises:
        TaskError: no example can be scored; no candidates, and the task has no label words.
    """
    if candidates is None:
        if task.label_words is None:
            raise TaskError(f"task {task.name!r} has no label words; expected candidates=, such as anchors.words")
        candidates = task.label_words.values()
    words = set(candidates)
    kept = [example for example in task.test if example.object in words]
    dropped = tuple((example, f"object {example.object!r} is not among the {len(words)} candidate words")
                    for example in task.test if example.object not in words)
    _check_scorable(kept, dropped)
    counts = Counter(example.object for example in task.train)
    order = sorted(words, key=lambda word: (-counts[word], word))
    place = {word: i for i, word in enumerate(order, 1)}
    ranks = np.array([place[example.object] for example in kept])
    return Evaluation(tuple(kept), (order[0],) * len(kept), ranks, dropped, "majority object", task.name, len(words))
