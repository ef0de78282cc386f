"""P@k of a prompt over a candidate vocabulary, with intervals and both averages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from .errors import TaskError
from .lm import LanguageModel
from .progress import progress_bar
from .prompts import Prompt
from .tasks import Example, Task
from .templates import Template, batches

__all__ = ["Evaluation", "evaluate", "evaluate_majority", "evaluate_many", "summarize", "wilson_interval"]

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
        predictions: a row an example: subject, object, prediction, rank (1 is best) among the candidates.
        dropped: (example, reason) of the examples that could not be scored.
        lm_name, task: where.
        num_candidates: how many words were ranked.
        ks: the k of ``p_at_k``.
    """

    predictions: pd.DataFrame
    dropped: tuple[tuple[Example, str], ...]
    lm_name: str
    task: str | None
    num_candidates: int
    ks: tuple[int, ...] = (1, 10)

    @property
    def n(self) -> int:
        return len(self.predictions)

    @cached_property
    def p_at_k(self) -> dict[int, float]:
        """{k: share of examples whose object is among the k best candidates}."""
        return {k: float((self.predictions["rank"] <= k).mean()) for k in self.ks}

    @cached_property
    def p_at_1(self) -> float:
        return float((self.predictions["rank"] == 1).mean())

    @cached_property
    def mrr(self) -> float:
        """Mean reciprocal rank."""
        return float((1 / self.predictions["rank"]).mean())

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of P@1 over the examples."""
        return wilson_interval(int((self.predictions["rank"] == 1).sum()), self.n)

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
                        + "; give examples whose objects are single words of the model, or other candidates=")
    return kept, tuple(dropped)


def evaluate(lm: LanguageModel, prompt: Prompt, examples: Sequence[Example], *, candidates: Iterable[str] | None = None,
             k: Sequence[int] = (1, 10), progress: bool = False) -> Evaluation:
    """Rank the candidate words at the answer slot of every example.

    Args:
        lm: the LM that ``prompt`` was made for.
        examples: usually ``task.test``.
        candidates: words to rank; by default all whole words of the vocabulary. To compare LMs, give the
            words that all of them share. Words that are not one token of ``lm`` are left out.
        k: for ``p_at_k``.
        progress: show a bar.

    Returns:
        An Evaluation; examples whose object is no candidate are in ``dropped``, with the reason.

    Raises:
        PromptMismatchError: the prompt was made for another LM.
        TaskError: no example can be scored.
    """
    prompt.check(lm)
    if candidates is None:
        ids = lm.words
    else:
        words = sorted(set(candidates))
        ids = {word: i for word, i in zip(words, lm.word_ids(words), strict=True) if i is not None}
    kept, dropped = _scorable(examples, ids)
    words, columns = list(ids), torch.tensor(list(ids.values()), device=lm.device)
    where = {word: i for i, word in enumerate(words)}
    targets = torch.tensor([where[example.object] for example in kept], device=lm.device)
    layouts = Template(prompt.template).layout(lm, [example.subject for example in kept])
    vectors = prompt.vectors.to(lm.device)
    ranks, best = np.zeros(len(kept), dtype=int), np.zeros(len(kept), dtype=int)
    with torch.inference_mode(), progress_bar(total=len(kept), show=progress, desc=f"evaluating on {lm.name}") as bar:
        for rows, batch in batches(layouts, lm.device):
            scores = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)[:, columns].float()
            own = scores.gather(1, targets[rows, None])
            ranks[rows] = (1 + (scores > own).sum(1)).cpu().numpy()
            best[rows] = scores.argmax(1).cpu().numpy()
            bar.update(len(rows))
    table = pd.DataFrame({"subject": [e.subject for e in kept], "object": [e.object for e in kept],
                          "prediction": [words[i] for i in best], "rank": ranks})
    return Evaluation(table, dropped, lm.name, prompt.task, len(words), tuple(k))


def evaluate_many(lm: LanguageModel, prompts: Mapping[str, Prompt], tasks: Sequence[Task], *,
                  candidates: Iterable[str] | None = None) -> list[Evaluation]:
    """``evaluate`` on the test examples of every task, with the prompt of the task's name."""
    words = None if candidates is None else list(candidates)
    return [replace(evaluate(lm, prompts[task.name], task.test, candidates=words), task=task.name) for task in tasks]


def evaluate_majority(task: Task, candidates: Iterable[str]) -> Evaluation:
    """The baseline that ranks words by how often they are the object of a train example."""
    words = dict.fromkeys(sorted(set(candidates)))
    kept, dropped = _scorable(task.test, words)
    counts = Counter(example.object for example in task.train)
    order = sorted(words, key=lambda word: (-counts[word], word))
    rank = {word: i for i, word in enumerate(order, 1)}
    table = pd.DataFrame({"subject": [e.subject for e in kept], "object": [e.object for e in kept],
                          "prediction": order[0], "rank": [rank[e.object] for e in kept]})
    return Evaluation(table, dropped, "majority object", task.name, len(words))


def summarize(evaluations: Mapping[object, Sequence[Evaluation]] | Sequence[Evaluation], *, resamples: int = 2000,
              seed: int = 0) -> pd.DataFrame:
    """Both averages of P@1 over relations, with 95 % intervals.

    Evaluations of one relation (of several seeds, or pairs of LMs) are averaged first: the bootstrap draws
    relations, because results that share a relation are not independent.

    Args:
        evaluations: evaluations over several relations, or {label: evaluations} for a row a label.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Columns ``relation_mean`` (each relation counts the same; often called macro) and ``relation_low``,
        ``relation_high`` (percentile bootstrap over relations); ``pooled`` (each fact counts the same; micro) and
        ``pooled_low``, ``pooled_high`` (Wilson); ``relations``, ``facts``, ``dropped``, ``candidates``.
    """
    groups = evaluations if isinstance(evaluations, Mapping) else {"all": evaluations}
    rows = []
    for group in groups.values():
        of_relation: dict[object, list[float]] = {}
        for i, evaluation in enumerate(group):
            of_relation.setdefault(evaluation.task or i, []).append(evaluation.p_at_1)
        scores = np.array([np.mean(of_one) for of_one in of_relation.values()])
        draws = np.random.default_rng(seed).integers(len(scores), size=(resamples, len(scores)))
        low, high = np.quantile(scores[draws].mean(1), [0.025, 0.975])
        facts, hits = (sum(e.n for e in group), sum(int((e.predictions["rank"] == 1).sum()) for e in group))
        pooled_low, pooled_high = wilson_interval(hits, facts)
        rows.append({"relation_mean": scores.mean(), "relation_low": low, "relation_high": high,
                     "pooled": hits / facts, "pooled_low": pooled_low, "pooled_high": pooled_high,
                     "relations": len(scores), "facts": facts, "dropped": sum(len(e.dropped) for e in group),
                     "candidates": max(e.num_candidates for e in group)})
    labels = list(groups)
    index = pd.MultiIndex.from_tuples(labels) if isinstance(labels[0], tuple) else pd.Index(labels)
    return pd.DataFrame(rows, index=index)
