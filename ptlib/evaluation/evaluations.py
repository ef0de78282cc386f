"""Evaluating prompts: how an LM with a prompt ranks the candidate words for each example.

``evaluate`` takes one prompt, ``evaluate_many`` many, and ``evaluate_majority`` is a baseline without any LM.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import TaskError
from ..models.lm import LanguageModel
from ..progress import progress_bar
from ..prompts.prompt import Prompt
from ..prompts.templates import Layout, Template
from ..tasks.task import Example, Task, words_of_class
from .candidates import Candidates, candidates_of, chosen_words, scorable
from .metrics import metric_of
from .ranking import rank
from .scores import candidate_scores

__all__ = ["Evaluation", "evaluate", "evaluate_majority", "evaluate_many", "wilson_interval"]

KS = 1, 10  # of P@k, by default
Z = 1.959964  # two-sided 95 % quantile of the normal distribution


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927). Unlike the normal interval, it is valid near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z * Z / n
    middle, half = (p + z2 / 2) / (1 + z2), Z * np.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    # At 0 and 1, one bound equals p, except for rounding errors.
    return float(min(p, max(0.0, middle - half))), float(max(p, min(1.0, middle + half)))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The results of a prompt on a list of examples.

    Attributes:
        examples: the n examples that were scored.
        answers: the candidate that was ranked first for each example.
        ranks: (n,) the rank of each example's object among the candidates, from 1. If other candidates have the same
            score, it is the last of the equal ranks.
        dropped: (example, reason) for each example that could not be scored.
        lm_name, task: the names of the LM and of the task.
        seed: the seed that the prompt was tuned with, or None.
        num_candidates: how many words were ranked.
        ks: the values of k in ``p_at_k``.
        ties: the number of examples with another candidate at their object's score.
        filtered_ranks: (n,) ranks without the other true objects of the example's subject; None if not computed.
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
        """The number of examples that were scored."""
        return len(self.examples)

    @property
    def predictions(self) -> pd.DataFrame:
        """A table of one row an example, with its subject, object, prediction, rank and, if computed, filtered_rank.

        It is made on each access, because a sweep keeps many evaluations in memory.
        """
        filtered = {} if self.filtered_ranks is None else {"filtered_rank": self.filtered_ranks}
        return pd.DataFrame({"subject": [e.subject for e in self.examples], "object": [e.object for e in self.examples],
                             "prediction": self.answers, "rank": self.ranks, **filtered})

    def score(self, metric: str = "p_at_1") -> float:
        """The value of a metric in ``METRICS``, such as "p_at_1", "mrr" or "macro_f1"."""
        return metric_of(metric).of(self)

    @cached_property
    def p_at_k(self) -> dict[int, float]:
        """{k: share of the examples with their object among the k best candidates}."""
        return {k: float((self.ranks <= k).mean()) for k in self.ks}

    @cached_property
    def p_at_1(self) -> float:
        """The share of the examples with their object ranked first."""
        return self.score("p_at_1")

    @property
    def accuracy(self) -> float:
        """P@1 under the name that it has in classification, where the candidates are the label words."""
        return self.score("accuracy")

    @cached_property
    def filtered_p_at_1(self) -> float | None:
        """P@1 computed from ``filtered_ranks``; None if there are none."""
        return None if self.filtered_ranks is None else self.score("filtered_p_at_1")

    @cached_property
    def macro_f1(self) -> float:
        """The mean F1 over the classes, which are the objects of the examples."""
        return self.score("macro_f1")

    @cached_property
    def mrr(self) -> float:
        """The mean reciprocal rank of the examples' objects."""
        return self.score("mrr")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % Wilson interval of P@1 over the examples."""
        return wilson_interval(int((self.ranks == 1).sum()), self.n)

    def __repr__(self) -> str:
        low, high = self.interval
        return (f"Evaluation(P@1 {self.p_at_1:.1%} [{low:.1%}, {high:.1%}], n={self.n}, dropped={len(self.dropped)}, "
                f"{f'ties={self.ties}, ' if self.ties else ''}{self.num_candidates} candidates, {self.lm_name}, "
                f"{self.task})")


def evaluate(lm: LanguageModel, prompt: Prompt, examples: Sequence[Example], *, candidates: Iterable[str] | None = None,
             k: Sequence[int] = KS, multi_token: bool = False, facts: Iterable[Example] | None = None,
             progress: bool = False) -> Evaluation:
    """Rank the candidate words at the answer slot of every example. ``ranking.rank`` says how ties are ranked.

    Args:
        lm: the LM that ``prompt`` was made for.
        prompt: the prompt to evaluate.
        examples: usually ``task.test``.
        candidates: the words to rank. The default is the classes of a classification task, each with the mean logit of
            its label words, and all whole words of the vocabulary for any other task. A label word of several tokens
            counts by the first. To compare LMs on facts, give the words that all of them share.
            ``"task"`` ranks only the objects of ``examples`` and ``facts``: this asks whether the model knows the
            answer, apart from whether the prompt asks for such a word. Words that are not one token of ``lm`` at the
            answer slot are left out. Words with the same token are one candidate.
        k: the values of k in ``p_at_k``.
        multi_token: rank candidates of several tokens, too. The score of a candidate is then the mean log-probability
            of its tokens. A masked LM reads a candidate as one blank for each token, a causal LM one token after
            another. The default candidates are then the label words or the objects of the examples.
        facts: all known facts, of every split. They add ``filtered_ranks``, for which the other true objects of a
            subject do not count as candidates, as in link prediction (Bordes et al. 2013).
        progress: show a progress bar.

    Returns:
        An Evaluation. Its ``dropped`` lists the examples without a candidate as their object, with the reason.

    Raises:
        PromptMismatchError: the prompt was made for another LM.
        TaskError: no example can be scored; a label word is unknown to ``lm``, or begins with the same token as that of
            another class; ``multi_token`` was given for a sequence-to-sequence LM, or for a calibrated prompt and
            candidates of several tokens.
        NotFiniteError: some logits are not finite.
    """
    prompt.check(lm)
    facts = None if facts is None else list(facts)
    words = chosen_words(candidates, [*examples, *(facts or ())])
    questions = _questions(lm, prompt.template, examples, words, multi_token, facts)
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
               multi_token: bool, facts: Sequence[Example] | None) -> Questions:
    if multi_token and lm.kind == "seq2seq":
        raise TaskError(f"multi_token=True, but {lm.name} is a sequence-to-sequence LM; use a masked or causal LM, or "
                        "leave multi_token out")
    template = Template(text)
    candidates = candidates_of(lm, template, examples, given, multi_token)
    kept, columns, not_scorable = scorable(lm, examples, candidates)
    dropped = tuple((example, f"object {example.object!r} is {reason}") for example, reason in not_scorable)
    _check_scorable(kept, dropped)
    true = None if facts is None else _true_columns(lm, kept, facts, candidates)
    layouts = template.layout(lm, [example.subject for example in kept])
    return Questions(candidates, kept, layouts, torch.tensor(columns), true, dropped)


def _answered(lm: LanguageModel, prompt: Prompt, asked: Questions, k: Sequence[int], progress: bool) -> Evaluation:
    n, ranked = len(asked.examples), asked.candidates
    results = {name: np.zeros(n, dtype=int) for name in ("ranks", "best", "tied", "filtered")}
    with torch.inference_mode(), progress_bar(total=n, show=progress, desc=f"evaluating on {lm.name}") as bar:
        vectors = prompt.vectors.to(lm.device)
        for rows, scores in candidate_scores(lm, asked.layouts, vectors, ranked.tokens, prompt.offsets):
            scores, own = ranked.pooled(scores), asked.columns[rows].to(lm.device)
            results["ranks"][rows], results["best"][rows], results["tied"][rows] = (x.cpu() for x in rank(scores, own))
            if asked.true is not None:
                results["filtered"][rows] = rank(scores, own, asked.true[rows].to(lm.device)).ranks.cpu()
            bar.update(len(rows))
    # A right answer has the object's spelling, which may differ from the candidate's with the same token.
    answers = tuple(example.object if is_right else ranked.words[best]
                    for example, is_right, best in zip(asked.examples, results["ranks"] == 1, results["best"],
                                                       strict=True))
    return Evaluation(tuple(asked.examples), answers, results["ranks"], asked.dropped, lm.name, prompt.task,
                      len(ranked), tuple(k), int(results["tied"].sum()),
                      None if asked.true is None else results["filtered"], prompt.history.tuning_seed)


def _check_scorable(kept: Sequence[Example], dropped: Sequence[tuple[Example, str]]) -> None:
    if not kept:
        raise TaskError(f"none of the {len(dropped)} examples can be scored" + (f": {dropped[0][1]}" if dropped else "")
                        + "; give other candidates=, multi_token=True, or examples with single words of the model as "
                        "objects")


def _true_columns(lm: LanguageModel, examples: Sequence[Example], facts: Sequence[Example],
                  candidates: Candidates) -> Tensor:
    """(n, C) bool: which candidates are true objects of each example's subject."""
    known, columns, _ = scorable(lm, facts, candidates)
    of_subject: dict[str, list[int]] = {}
    for fact, column in zip(known, columns, strict=True):
        of_subject.setdefault(fact.subject, []).append(column)
    true = torch.zeros(len(examples), len(candidates), dtype=torch.bool)
    for row, example in enumerate(examples):
        true[row, of_subject.get(example.subject, [])] = True
    return true


def evaluate_many(lm: LanguageModel, prompts: Mapping[Any, Prompt], tasks: Sequence[Task], *,
                  candidates: Iterable[str] | None = None, filtered: bool = False) -> dict[Any, Evaluation]:
    """Evaluate every prompt on the test examples of its task.

    Args:
        lm: the LM that all prompts were made for.
        prompts: {key: prompt}, as ``tune_many``, ``tune_seeds`` and ``transfer_many`` return them. If a prompt has no
            ``task``, its key is the name of its task.
        tasks: the tasks of all prompts.
        candidates: the words to rank, as for ``evaluate``; ``"task"`` means the objects of each task, in all splits.
        filtered: also compute ``filtered_ranks``, with the examples of all three splits as the known facts.

    Returns:
        {key: Evaluation} with the keys of ``prompts``. Each Evaluation has its ``task`` and ``seed``.

    Raises:
        TaskError: the task of a prompt is not among ``tasks``; also as ``evaluate``.
        PromptMismatchError, NotFiniteError: as ``evaluate``.
    """
    if not isinstance(candidates, str) and candidates is not None:
        candidates = list(candidates)
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
            facts = [*task.train, *task.dev, *task.test]
            asked[name, prompt.template] = _questions(lm, prompt.template, task.test, chosen_words(candidates, facts),
                                                      False, facts if filtered else None)
        evaluations[key] = replace(_answered(lm, prompt, asked[name, prompt.template], KS, False), task=name)
    return evaluations


def evaluate_majority(task: Task, candidates: Iterable[str] | None = None) -> Evaluation:
    """A baseline without any LM: the more train examples have a word as their object, the higher it ranks.

    Words with equal counts rank in alphabetical order.

    Args:
        task: the task with the train examples to count and the test examples to score.
        candidates: the words to rank; by default the task's label words. ``"task"`` means the task's objects.

    Raises:
        TaskError: no example can be scored, or there are neither candidates nor label words.
    """
    if candidates is None:
        if task.label_words is None:
            raise TaskError(f"task {task.name!r} has no label words; give candidates=, such as anchors.words")
        candidates = [words_of_class(words)[0] for words in task.label_words.values()]
    words = set(chosen_words(candidates, [*task.train, *task.dev, *task.test]) or ())
    kept = [example for example in task.test if example.object in words]
    dropped = tuple((example, f"object {example.object!r} is not among the {len(words)} candidate words")
                    for example in task.test if example.object not in words)
    _check_scorable(kept, dropped)
    counts = Counter(example.object for example in task.train)
    order = sorted(words, key=lambda word: (-counts[word], word))
    rank_of = {word: i for i, word in enumerate(order, 1)}
    ranks = np.array([rank_of[example.object] for example in kept])
    return Evaluation(tuple(kept), (order[0],) * len(kept), ranks, dropped, "majority object", task.name, len(words))
