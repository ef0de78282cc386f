"""P@k of a prompt over a candidate vocabulary, with intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from .errors import TaskError
from .lm import LanguageModel
from .progress import progress_bar
from .prompts import Prompt
from .scoring import candidate_scores, candidate_tokens
from .tasks import Example, Task
from .templates import Template

__all__ = ["Evaluation", "evaluate", "evaluate_majority", "evaluate_many", "wilson_interval"]

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
        ranks: (n,) rank of each example's object among the candidates, from 1.
        dropped: (example, reason) of the examples that could not be scored.
        lm_name, task: where.
        num_candidates: how many words were ranked.
        ks: the k of ``p_at_k``.
    """

    examples: tuple[Example, ...]
    answers: tuple[str, ...]
    ranks: np.ndarray
    dropped: tuple[tuple[Example, str], ...]
    lm_name: str
    task: str | None
    num_candidates: int
    ks: tuple[int, ...] = (1, 10)

    @property
    def n(self) -> int:
        return len(self.examples)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row an example: subject, object, prediction, rank. Made when asked for: a sweep keeps many evaluations."""
        return pd.DataFrame({"subject": [e.subject for e in self.examples], "object": [e.object for e in self.examples],
                             "prediction": self.answers, "rank": self.ranks})

    @property
    def accuracy(self) -> float:
        """What P@1 is called where the candidates are the words of classes."""
        return self.p_at_1

    @cached_property
    def p_at_k(self) -> dict[int, float]:
        """{k: share of examples whose object is among the k best candidates}."""
        return {k: float((self.ranks <= k).mean()) for k in self.ks}

    @cached_property
    def p_at_1(self) -> float:
        return float((self.ranks == 1).mean())

    @cached_property
    def macro_f1(self) -> float:
        """Mean F1 over the classes, which are the objects of the examples."""
        truth, guess = self.predictions["object"], self.predictions["prediction"]
        return float(np.mean([2 * ((truth == c) & (guess == c)).sum() / ((truth == c).sum() + (guess == c).sum())
                              for c in truth.unique()]))

    @cached_property
    def mrr(self) -> float:
        """Mean reciprocal rank."""
        return float((1 / self.ranks).mean())

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of P@1 over the examples."""
        return wilson_interval(int((self.ranks == 1).sum()), self.n)

    def __repr__(self) -> str:
        low, high = self.interval
        return (f"Evaluation(P@1 {self.p_at_1:.1%} [{low:.1%}, {high:.1%}], n={self.n}, dropped={len(self.dropped)}, "
                f"{self.num_candidates} candidates, {self.lm_name}, {self.task})")


def _scorable(examples: Iterable[Example], candidates: Mapping[str, object]):
    """The examples whose object is a candidate, and the others with the reason."""
    kept, dropped = [], []
    for example in examples:
        if example.object in candidates:
            kept.append(example)
        else:
            dropped.append((example, f"object {example.object!r} is not among the {len(candidates)} candidate words"))
    if not kept:
        raise TaskError(f"none of the {len(dropped)} examples can be scored" + (f": {dropped[0][1]}" if dropped else "")
                        + "; give examples whose objects are single words of the model, other candidates=, or "
                        "multi_token=True")
    return kept, tuple(dropped)


def evaluate(lm: LanguageModel, prompt: Prompt, examples: Sequence[Example], *, candidates: Iterable[str] | None = None,
             k: Sequence[int] = (1, 10), multi_token: bool = False, progress: bool = False) -> Evaluation:
    """Rank the candidate words at the answer slot of every example.

    Args:
        lm: the LM that ``prompt`` was made for.
        examples: usually ``task.test``.
        candidates: words to rank; by default the label words of a classification task, else all whole words of
            the vocabulary. To compare LMs on facts, give the words that all of them share. Words that are not
            one token of ``lm`` are left out.
        k: for ``p_at_k``.
        multi_token: rank candidates of several tokens too, by the mean log-probability of their tokens: each at a
            blank of its own, or for a causal LM after those before it. By default the candidates are then the label
            words or the objects of the examples.
        progress: show a bar.

    Returns:
        An Evaluation; examples whose object is no candidate are in ``dropped``, with the reason.

    Raises:
        PromptMismatchError: the prompt was made for another LM.
        TaskError: no example can be scored; a label word is not one token (with ``multi_token``: not made of
            tokens) of ``lm``; ``multi_token`` for a sequence-to-sequence LM.
    """
    prompt.check(lm)
    if multi_token and lm.kind == "seq2seq":
        raise TaskError(f"multi_token=True, but {lm.name} is a sequence-to-sequence LM; expected a masked or causal "
                        "one, or to rank single words")
    tokens = candidate_tokens(lm, examples, candidates, multi_token)
    kept, dropped = _scorable(examples, tokens)
    words = list(tokens)
    where = {word: i for i, word in enumerate(words)}
    targets = torch.tensor([where[example.object] for example in kept], device=lm.device)
    layouts = Template(prompt.template).layout(lm, [example.subject for example in kept])
    ranks, best = np.zeros(len(kept), dtype=int), np.zeros(len(kept), dtype=int)
    with torch.inference_mode(), progress_bar(total=len(kept), show=progress, desc=f"evaluating on {lm.name}") as bar:
        for rows, scores in candidate_scores(lm, layouts, prompt.vectors.to(lm.device), list(tokens.values())):
            own = scores.gather(1, targets[rows, None])
            ranks[rows] = (1 + (scores > own).sum(1)).cpu().numpy()
            best[rows] = scores.argmax(1).cpu().numpy()
            bar.update(len(rows))
    answers = tuple(words[i] for i in best)
    return Evaluation(tuple(kept), answers, ranks, dropped, lm.name, prompt.task, len(words), tuple(k))


def evaluate_many(lm: LanguageModel, prompts: Mapping[Hashable, Prompt], tasks: Sequence[Task], *,
                  candidates: Iterable[str] | None = None) -> list[Evaluation]:
    """``evaluate`` of every prompt on the test examples of the task that it is for.

    Args:
        prompts: as ``tune_many`` and ``transfer_many`` return them; a prompt of no task is for the one that its
            key names.
        tasks: all that the prompts are for.

    Raises:
        TaskError: a prompt is for another task.
    """
    words = None if candidates is None else list(candidates)
    by_name = {task.name: task for task in tasks}
    evaluations = []
    for key, prompt in prompts.items():
        name = prompt.task or key
        if name not in by_name:
            raise TaskError(f"prompt {key!r} is for task {name!r}; expected one of {', '.join(by_name)}")
        evaluations.append(replace(evaluate(lm, prompt, by_name[name].test, candidates=words), task=name))
    return evaluations


def evaluate_majority(task: Task, candidates: Iterable[str] | None = None) -> Evaluation:
    """The baseline that ranks words by how often they are the object of a train example.

    Args:
        candidates: words to rank; by default the task's label words.

    Raises:
        TaskError: no example can be scored; no candidates, and the task has no label words.
    """
    if candidates is None:
        if task.label_words is None:
            raise TaskError(f"task {task.name!r} has no label words; expected candidates=, such as anchors.words")
        candidates = task.label_words.values()
    words = dict.fromkeys(sorted(set(candidates)))
    kept, dropped = _scorable(task.test, words)
    counts = Counter(example.object for example in task.train)
    order = sorted(words, key=lambda word: (-counts[word], word))
    rank = {word: i for i, word in enumerate(order, 1)}
    ranks = np.array([rank[example.object] for example in kept])
    return Evaluation(tuple(kept), (order[0],) * len(kept), ranks, dropped, "majority object", task.name, len(words))
