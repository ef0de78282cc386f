"""From evaluations to tables: both averages of P@1, and their intervals over relations and over facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from ..errors import PromptTransferError
from ..tasks.task import Example
from .evaluations import Evaluation
from .metrics import metric_of

__all__ = ["per_evaluation", "per_relation", "relation_mean", "summarize", "summarize_relations"]


# Evaluations, in any nesting of mappings and sequences: a list, evaluate_many's dict, {label: {pair: {key: ...}}}.
Evaluations = Evaluation | Mapping | Sequence


def summarize(evaluations: Evaluations, *, metric: str = "p_at_1", versus: Hashable | None = None,
              resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Both averages of a metric, with 95 % percentile-bootstrap intervals over relations and over facts.

    Evaluations of one relation (of several seeds, or pairs of LMs) are averaged first, and so are those of one
    fact: the bootstrap draws relations, or facts, because results that share them are not independent.

    Args:
        evaluations: for one row, a list of them or what ``evaluate_many`` returns; for a row a label, {label: as
            many of these as there are, in any nesting}.
        metric: one of ``METRICS``.
        versus: a label; adds each row's paired difference from it, over the same relations.
        resamples, seed: of the bootstrap.

    Returns:
        Columns ``relation_mean`` (each relation counts the same; often called macro), ``relation_low``,
        ``relation_high``; ``pooled`` (each fact counts the same; micro), ``pooled_low``, ``pooled_high``, missing for a
        metric that is no mean over facts; of evaluations with filtered ranks also the relation mean of P@1 by these,
        ``filtered_mean``, ``filtered_low``, ``filtered_high``; with ``versus`` also ``difference`` of the relation
        means, ``difference_low``, ``difference_high``; and ``relations``, ``facts``, ``repeats`` (evaluations of a
        relation, on average), ``ties`` in all evaluations, ``dropped`` facts and ``candidates``.

    Raises:
        PromptTransferError: there is no such metric, or nothing to summarize; ``versus`` is not among the labels, or
            has other relations.
    """
    groups = rows_of(evaluations)
    if versus is not None and versus not in groups:
        raise PromptTransferError(f"versus={versus!r}; expected one of {', '.join(map(repr, groups))}")
    means = {label: relation_means(group, metric) for label, group in groups.items()}
    rows = []
    for label, group in groups.items():
        row = interval_columns("relation", means[label].to_numpy(), resamples, seed)
        row |= pooled_columns(group, metric, resamples, seed)
        if all(evaluation.filtered_ranks is not None for evaluation in group):
            filtered = relation_means(group, "filtered_p_at_1").to_numpy()
            row |= interval_columns("filtered", filtered, resamples, seed)
        if versus is not None:
            difference = paired_difference(means, label, versus)
            row |= interval_columns("difference", difference, resamples, seed)
        rows.append(row | counted_columns(group, len(means[label])))
    labels: list[Any] = list(groups)
    index = pd.MultiIndex.from_tuples(labels) if isinstance(labels[0], tuple) else pd.Index(labels)
    return pd.DataFrame(rows, index=index)


def rows_of(evaluations: Evaluations) -> dict[Hashable, list[Evaluation]]:
    """{label: its evaluations}: the outermost keys are labels, unless evaluations are directly below them."""
    groups: Mapping = {"all": evaluations}
    if isinstance(evaluations, Mapping):
        single = [isinstance(value, Evaluation) for value in evaluations.values()]
        if any(single) and not all(single):
            raise PromptTransferError("some labels have one evaluation and some have several; expected {key: "
                                      "Evaluation} for one row, or {label: [Evaluation, ...]} for a row a label")
        groups = groups if any(single) else evaluations
    rows = {label: list(flattened(group)) for label, group in groups.items()}
    if not rows or not all(rows.values()):
        raise PromptTransferError("there is nothing to summarize; expected at least one evaluation for each row")
    return rows


def flattened(evaluations: Evaluations) -> Iterator[Evaluation]:
    if isinstance(evaluations, Evaluation):
        yield evaluations
    else:
        for inner in evaluations.values() if isinstance(evaluations, Mapping) else evaluations:
            yield from flattened(inner)


# --- the columns of a row -------------------------------------------------------------------------


def interval_columns(name: str, scores: np.ndarray, resamples: int, seed: int) -> dict[str, float]:
    """The mean of (n,) scores over relations, with its interval."""
    low, high = relation_interval(scores, resamples, seed)
    mean = name if name == "difference" else f"{name}_mean"
    return {mean: scores.mean(), f"{name}_low": low, f"{name}_high": high}


def pooled_columns(group: Sequence[Evaluation], metric: str, resamples: int, seed: int) -> dict[str, float]:
    """The mean over facts, with its interval."""
    of_facts = metric_of(metric).of_facts
    facts = fact_means(group, of_facts or (lambda evaluation: evaluation.ranks))
    if of_facts is None:
        return {"facts": len(facts)}
    # Facts of one mean and count are alike: drawing how many of each kind there are is drawing facts.
    kinds, sizes = np.unique(facts[["mean", "count"]].to_numpy(), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(facts), sizes / len(facts), size=resamples)
    low, high = np.quantile(drawn @ kinds.prod(1) / (drawn @ kinds[:, 1]), [0.025, 0.975])
    return {"pooled": np.average(facts["mean"], weights=facts["count"]), "pooled_low": low, "pooled_high": high,
            "facts": len(facts)}


def paired_difference(means: Mapping[Hashable, pd.Series], label: Hashable, versus: Hashable) -> np.ndarray:
    if set(means[versus].index) != set(means[label].index):
        raise PromptTransferError(f"{label!r} and {versus!r} were not evaluated on the same relations; expected "
                                  "evaluations to pair")
    return (means[label] - means[versus][means[label].index]).to_numpy()


def counted_columns(group: Sequence[Evaluation], relations: int) -> dict[str, float]:
    repeats = len(group) / relations
    return {"relations": relations, "repeats": repeats, "ties": sum(e.ties for e in group),
            "dropped": round(sum(len(e.dropped) for e in group) / repeats),
            "candidates": max(e.num_candidates for e in group)}


# --- other tables ---------------------------------------------------------------------------------


def relation_mean(evaluations: Evaluations, metric: str = "p_at_1") -> float:
    """The average of ``summarize`` alone, in which each relation counts the same: to compare groups by."""
    return float(relation_means(list(flattened(evaluations)), metric).mean())


def per_evaluation(evaluations: Evaluations, names: Sequence[str], metric: str = "p_at_1") -> pd.DataFrame:
    """A row an evaluation: to group by seed, or by a part of a label.

    Args:
        evaluations: {label: evaluations}, nested as for ``summarize``.
        names: of the label, or of the parts of a label that is a tuple.

    Returns:
        Columns ``names``, ``relation``, ``seed`` and the metric.
    """
    rows = []
    for label, group in rows_of(evaluations).items():
        parts = dict(zip(names, label if isinstance(label, tuple) else (label,), strict=True))
        rows += [{**parts, "relation": evaluation.task, "seed": evaluation.seed, metric: evaluation.score(metric)}
                 for evaluation in group]
    return pd.DataFrame(rows)


def per_relation(evaluations: Evaluations, names: Sequence[str], metric: str = "p_at_1") -> pd.DataFrame:
    """A row a label and relation: what a notebook records, so that a sweep can put its runs together.

    Args:
        evaluations: {label: evaluations}; those of one relation (of several seeds, or pairs of LMs) are averaged.
        names: of the label, or of the parts of a label that is a tuple.

    Returns:
        Columns ``names``, ``relation``, the metric, ``repeats`` (how many were averaged).
    """
    rows = []
    for label, group in rows_of(evaluations).items():
        parts = dict(zip(names, label if isinstance(label, tuple) else (label,), strict=True))
        counts: Counter[Hashable] = Counter(evaluation.task for evaluation in group)
        rows += [{**parts, "relation": relation, metric: score, "repeats": counts[relation]}
                 for relation, score in relation_means(group, metric).items()]
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
    return tuple(np.quantile(resampled_shares(len(scores), resamples, seed) @ scores, [0.025, 0.975]))


@cache
def resampled_shares(count: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, count) shares of each relation in a resample; the same for all means, so that they pair."""
    return np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=resamples) / count


def relation_means(group: Sequence[Evaluation], metric: str = "p_at_1") -> pd.Series:
    """The metric of each relation; an evaluation of no named task is a relation of its own."""
    keys = [evaluation.task or i for i, evaluation in enumerate(group)]
    return pd.Series([evaluation.score(metric) for evaluation in group]).groupby(keys, sort=False).mean()


def fact_means(group: Sequence[Evaluation], of_facts: Callable[[Evaluation], np.ndarray]) -> pd.DataFrame:
    """For each fact the mean of its values over the evaluations, ``mean``, and their ``count``."""
    found: dict[Hashable, list[float]] = {}
    for i, evaluation in enumerate(group):
        seen: Counter[Example] = Counter()
        for example, value in zip(evaluation.examples, of_facts(evaluation), strict=True):
            seen[example] += 1  # a fact that a task lists twice is two facts
            found.setdefault((evaluation.task or i, example, seen[example]), []).append(value)
    return pd.DataFrame({"mean": [np.mean(values) for values in found.values()],
                         "count": [len(values) for values in found.values()]})
