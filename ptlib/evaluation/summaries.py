"""Tables of evaluations: the relation mean and the pooled mean of a metric, with bootstrap intervals."""

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


# Evaluations in any nesting of mappings and sequences, such as a list or the result of evaluate_many.
Evaluations = Evaluation | Mapping | Sequence


def summarize(evaluations: Evaluations, *, metric: str = "p_at_1", versus: Hashable | None = None,
              resamples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """The relation mean and the pooled mean of a metric, with 95 % percentile-bootstrap intervals.

    Several evaluations of one relation (with several seeds, or pairs of LMs) are averaged first, because they are not
    independent. The bootstrap then draws relations. For the pooled mean, the same is done with facts.

    Args:
        evaluations: a list of evaluations or the result of ``evaluate_many``, for a table with one row. For a table
            with one row for each label: {label: evaluations}, nested as deeply as you like below the labels.
        metric: a name in ``METRICS``.
        versus: a label. The table then also has each row's difference from this label, paired by relation.
        resamples, seed: the number of bootstrap samples, and their seed.

    Returns:
        A table with these columns:

        - ``relation_mean``, ``relation_low``, ``relation_high``: each relation counts the same (a macro average).
        - ``pooled``, ``pooled_low``, ``pooled_high``: each fact counts the same (a micro average). They are missing for
          a metric that is no mean over facts.
        - ``filtered_mean``, ``filtered_low``, ``filtered_high``: the relation mean of filtered P@1, if all evaluations
          have filtered ranks.
        - ``difference``, ``difference_low``, ``difference_high``: of the relation means, with ``versus``.
        - ``relations`` and ``facts``: how many there are.
        - ``repeats``: the mean number of evaluations for each relation.
        - ``ties``: the number of ties in all evaluations.
        - ``dropped``: how many facts could not be scored, for one repeat.
        - ``candidates``: the largest number of candidate words.

    Raises:
        PromptTransferError: there is no such metric or nothing to summarize; ``versus`` is not among the labels, or it
            was evaluated on other relations.
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


def rows_of(evaluations: Evaluations) -> dict[Any, list[Evaluation]]:
    """{label: list of evaluations}. The outermost keys are labels, unless each of them has a single evaluation."""
    groups: Mapping = {"all": evaluations}
    if isinstance(evaluations, Mapping):
        single = [isinstance(value, Evaluation) for value in evaluations.values()]
        if any(single) and not all(single):
            raise PromptTransferError("some labels have one evaluation and some have several; expected {key: "
                                      "Evaluation} for one row, or {label: [Evaluation, ...]} for a row for each label")
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
    """The mean over facts, with its interval, and the number of facts."""
    of_facts = metric_of(metric).of_facts
    facts = fact_means(group, of_facts or (lambda evaluation: evaluation.ranks))
    if of_facts is None:
        return {"facts": len(facts)}
    # Facts with the same mean and count are interchangeable. So it is enough to draw how many there are of each kind.
    kinds, sizes = np.unique(facts[["mean", "count"]].to_numpy(), axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(len(facts), sizes / len(facts), size=resamples)
    low, high = np.quantile(drawn @ kinds.prod(1) / (drawn @ kinds[:, 1]), [0.025, 0.975])
    return {"pooled": np.average(facts["mean"], weights=facts["count"]), "pooled_low": low, "pooled_high": high,
            "facts": len(facts)}


def paired_difference(means: Mapping[Any, pd.Series], label: Hashable, versus: Hashable) -> np.ndarray:
    """(relations,) the difference between two labels in each relation."""
    if set(means[versus].index) != set(means[label].index):
        raise PromptTransferError(f"{label!r} and {versus!r} were not evaluated on the same relations, so their "
                                  "difference cannot be paired; evaluate both on the same ones")
    return (means[label] - means[versus][means[label].index]).to_numpy()


def counted_columns(group: Sequence[Evaluation], relations: int) -> dict[str, float]:
    repeats = len(group) / relations
    return {"relations": relations, "repeats": repeats, "ties": sum(e.ties for e in group),
            "dropped": round(sum(len(e.dropped) for e in group) / repeats),
            "candidates": max(e.num_candidates for e in group)}


# --- other tables ---------------------------------------------------------------------------------


def relation_mean(evaluations: Evaluations, metric: str = "p_at_1") -> float:
    """The ``relation_mean`` of ``summarize`` as a number, in which each relation counts the same."""
    return float(relation_means(list(flattened(evaluations)), metric).mean())


def named_parts(label: Any, names: Sequence[str]) -> dict[str, Any]:
    """{name: part} of a label, which is a tuple or a single part."""
    return dict(zip(names, label if isinstance(label, tuple) else (label,), strict=True))


def per_evaluation(evaluations: Evaluations, names: Sequence[str], metric: str = "p_at_1") -> pd.DataFrame:
    """A table with one row for each evaluation, to group by seed or by a part of the label.

    Args:
        evaluations: {label: evaluations}, nested as for ``summarize``.
        names: the column name for the label, or one for each part of a label that is a tuple.
        metric: a name in ``METRICS``.

    Returns:
        A table with the columns ``names``, ``relation``, ``seed`` and the metric.
    """
    rows = []
    for label, group in rows_of(evaluations).items():
        parts = named_parts(label, names)
        rows += [{**parts, "relation": evaluation.task, "seed": evaluation.seed, metric: evaluation.score(metric)}
                 for evaluation in group]
    return pd.DataFrame(rows)


def per_relation(evaluations: Evaluations, names: Sequence[str], metric: str = "p_at_1") -> pd.DataFrame:
    """A table with one row for each label and relation. Notebooks record it, so that a sweep can combine its runs.

    Args:
        evaluations: {label: evaluations}. Evaluations of one relation (several seeds, or pairs of LMs) are averaged.
        names: the column name for the label, or one for each part of a label that is a tuple.
        metric: a name in ``METRICS``.

    Returns:
        A table with the columns ``names``, ``relation``, the metric and ``repeats`` (how many were averaged).
    """
    rows = []
    for label, group in rows_of(evaluations).items():
        parts = named_parts(label, names)
        counts: Counter[Hashable] = Counter(evaluation.task for evaluation in group)
        rows += [{**parts, "relation": relation, metric: score, "repeats": counts[relation]}
                 for relation, score in relation_means(group, metric).items()]
    return pd.DataFrame(rows)


def summarize_relations(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The relation mean with its interval, as in ``summarize``, computed from tables such as those of ``per_relation``.

    Args:
        scores: a table with the columns ``relation`` and ``p_at_1``. Rows with the same group and relation (from
            several seeds, runs or pairs of LMs) are averaged first.
        by: the columns to group by. Missing values form a group of their own.

    Returns:
        A table with one row for each group, and the columns ``relation_mean``, ``relation_low``, ``relation_high``,
        ``relations`` and ``repeats`` (the mean number of rows for each relation).
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
    """(resamples, count) the share of each relation in each bootstrap sample.

    The samples are the same for all means over ``count`` relations.
    """
    return np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=resamples) / count


def relation_means(group: Sequence[Evaluation], metric: str = "p_at_1") -> pd.Series:
    """The metric's mean for each relation. Each evaluation without a task name counts as a relation of its own."""
    keys = [evaluation.task or i for i, evaluation in enumerate(group)]
    return pd.Series([evaluation.score(metric) for evaluation in group]).groupby(keys, sort=False).mean()


def fact_means(group: Sequence[Evaluation], of_facts: Callable[[Evaluation], np.ndarray]) -> pd.DataFrame:
    """A table with the ``mean`` of each fact's values over the evaluations, and with their ``count``."""
    values_of: dict[Any, list[float]] = {}
    for i, evaluation in enumerate(group):
        seen: Counter[Example] = Counter()
        for example, value in zip(evaluation.examples, of_facts(evaluation), strict=True):
            seen[example] += 1  # a fact that a task lists twice is two facts
            values_of.setdefault((evaluation.task or i, example, seen[example]), []).append(value)
    return pd.DataFrame({"mean": [np.mean(values) for values in values_of.values()],
                         "count": [len(values) for values in values_of.values()]})
