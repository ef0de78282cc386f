"""From evaluations to tables: both averages of P@1, and their intervals over relations and over facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd

from ..errors import PromptTransferError
from ..tasks.task import Example
from .evaluations import Evaluation

__all__ = ["per_relation", "relation_mean", "summarize", "summarize_relations"]


def summarize(evaluations: Mapping[object, Sequence[Evaluation]] | Sequence[Evaluation], *,
              versus: object | None = None, resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Both averages of P@1, with 95 % percentile-bootstrap intervals over relations and over facts.

    Evaluations of one relation (of several seeds, or pairs of LMs) are averaged first, and so are those of one
    fact: the bootstrap draws relations, or facts, because results that share them are not independent.

    Args:
        evaluations: evaluations over several relations, or {label: evaluations} for a row a label.
        versus: a label; adds each row's paired difference from it, over the same relations.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        Columns ``relation_mean`` (each relation counts the same; often called macro), ``relation_low``,
        ``relation_high``; ``pooled`` (each fact counts the same; micro), ``pooled_low``, ``pooled_high``; of
        evaluations with filtered ranks also the relation mean by these, ``filtered_mean``, ``filtered_low``,
        ``filtered_high``; with ``versus`` also ``difference`` of the relation means, ``difference_low``,
        ``difference_high``; and ``relations``, ``facts``, ``repeats`` (evaluations of a relation, on average), ``ties``
        in all evaluations, ``dropped`` facts and ``candidates``.

    Raises:
        PromptTransferError: ``versus`` is not among the labels, or has other relations.
    """
    groups = evaluations if isinstance(evaluations, Mapping) else {"all": evaluations}
    if not groups or not all(groups.values()):
        raise PromptTransferError("there is nothing to summarize; expected at least one evaluation for each row")
    if versus is not None and versus not in groups:
        raise PromptTransferError(f"versus={versus!r}; expected one of {', '.join(map(repr, groups))}")

    def fact_interval(facts: pd.DataFrame) -> tuple[float, float]:
        # Facts of one mean and count are alike: drawing how many of each kind there are is drawing facts.
        kinds, sizes = np.unique(facts[["mean", "count"]].to_numpy(), axis=0, return_counts=True)
        drawn = np.random.default_rng(seed).multinomial(len(facts), sizes / len(facts), size=resamples)
        return tuple(np.quantile(drawn @ kinds.prod(1) / (drawn @ kinds[:, 1]), [0.025, 0.975]))

    relations = {label: _relation_means(group) for label, group in groups.items()}
    rows = []
    for label, group in groups.items():
        scores, facts = relations[label].to_numpy(), _fact_means(group)
        low, high = relation_interval(scores, resamples, seed)
        pooled_low, pooled_high = fact_interval(facts)
        row = {"relation_mean": scores.mean(), "relation_low": low, "relation_high": high,
               "pooled": np.average(facts["mean"], weights=facts["count"]), "pooled_low": pooled_low,
               "pooled_high": pooled_high}
        if all(evaluation.filtered_ranks is not None for evaluation in group):
            filtered = _relation_means(group, "filtered_p_at_1").to_numpy()
            row["filtered_mean"] = filtered.mean()
            row["filtered_low"], row["filtered_high"] = relation_interval(filtered, resamples, seed)
        if versus is not None:
            if set(relations[versus].index) != set(relations[label].index):
                raise PromptTransferError(f"{label!r} and {versus!r} were not evaluated on the same relations; "
                                          "expected evaluations to pair")
            paired = (relations[label] - relations[versus][relations[label].index]).to_numpy()
            row["difference"] = paired.mean()
            row["difference_low"], row["difference_high"] = relation_interval(paired, resamples, seed)
        repeats = len(group) / len(scores)
        rows.append({**row, "relations": len(scores), "facts": len(facts), "repeats": repeats,
                     "ties": sum(e.ties for e in group), "dropped": round(sum(len(e.dropped) for e in group) / repeats),
                     "candidates": max(e.num_candidates for e in group)})
    labels = list(groups)
    index = pd.MultiIndex.from_tuples(labels) if isinstance(labels[0], tuple) else pd.Index(labels)
    return pd.DataFrame(rows, index=index)


def relation_mean(evaluations: Sequence[Evaluation]) -> float:
    """The average of ``summarize`` alone, in which each relation counts the same: to compare groups by."""
    return _relation_means(evaluations).mean().item()


def per_relation(evaluations: Mapping[object, Sequence[Evaluation]], names: Sequence[str]) -> pd.DataFrame:
    """P@1 of each label and relation, a row each: what a notebook records, so that a sweep can put its runs together.

    Args:
        evaluations: {label: evaluations}; those of one relation (of several seeds, or pairs of LMs) are averaged.
        names: of the label, or of the parts of a label that is a tuple.

    Returns:
        Columns ``names``, ``relation``, ``p_at_1``, ``repeats`` (how many were averaged).
    """
    rows = []
    for label, group in evaluations.items():
        parts = dict(zip(names, label if isinstance(label, tuple) else (label,), strict=True))
        counts = Counter(evaluation.task for evaluation in group)
        rows += [{**parts, "relation": relation, "p_at_1": p_at_1, "repeats": counts[relation]}
                 for relation, p_at_1 in _relation_means(group).items()]
    return pd.DataFrame(rows)


def summarize_relations(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """``summarize``'s average over relations, of tables such as ``per_relation`` makes.

    Args:
        scores: with the columns ``relation`` and ``p_at_1``. Rows of one group and relation (of several seeds, runs or
            pairs of LMs) are averaged first.
        by: columns that tell the groups apart; missing values are a group of their own.

    Returns:
        A row a group, with ``relation_mean``, ``relation_low``, ``relation_high``, ``relations`` and ``repeats`` (rows
        of a relation, on average).
    """
    rows = {}
    for label, group in scores.groupby(list(by), sort=False, dropna=False):
        means = group.groupby("relation", sort=False)["p_at_1"].mean().to_numpy()
        low, high = relation_interval(means)
        rows[label] = {"relation_mean": means.mean(), "relation_low": low, "relation_high": high,
                       "relations": len(means), "repeats": len(group) / len(means)}
    index = pd.MultiIndex.from_tuples(rows, names=list(by)) if len(by) > 1 else pd.Index([x for x, in rows], name=by[0])
    return pd.DataFrame(list(rows.values()), index=index)


def relation_interval(scores: np.ndarray, resamples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean of (n,) scores over relations."""
    return tuple(np.quantile(_shares(len(scores), resamples, seed) @ scores, [0.025, 0.975]))


@cache
def _shares(count: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, count) shares of each relation in a resample; the same for all means, so that they pair."""
    return np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=resamples) / count


def _relation_means(group: Sequence[Evaluation], metric: str = "p_at_1") -> pd.Series:
    """The metric of each relation; an evaluation of no named task is a relation of its own."""
    keys = [evaluation.task or i for i, evaluation in enumerate(group)]
    return pd.Series([getattr(evaluation, metric) for evaluation in group]).groupby(keys, sort=False).mean()


def _fact_means(group: Sequence[Evaluation]) -> pd.DataFrame:
    """For each fact the share of evaluations that got it right, ``mean``, and their ``count``."""
    hits: dict[object, list[bool]] = {}
    for i, evaluation in enumerate(group):
        seen: Counter[Example] = Counter()
        for example, rank in zip(evaluation.examples, evaluation.ranks, strict=True):
            seen[example] += 1  # a fact that a task lists twice is two facts
            hits.setdefault((evaluation.task or i, example, seen[example]), []).append(rank == 1)
    return pd.DataFrame({"mean": [np.mean(of_fact) for of_fact in hits.values()],
                         "count": [len(of_fact) for of_fact in hits.values()]})
