"""Metrics: all are read off the ranks and predictions of an evaluation, so that they agree.

To add one, add a line to ``METRICS``: it is then ``ev.score(name)``, and ``metric=name`` of every summary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import PromptTransferError

if TYPE_CHECKING:
    from .evaluations import Evaluation

__all__ = ["METRICS", "Metric", "metric_of"]


class Metric(NamedTuple):
    """A number that an evaluation comes to.

    Attributes:
        label: as tables and figures have it.
        of: the number.
        of_facts: (n,) numbers of which it is the mean; None where it is no mean over facts.
    """

    label: str
    of: Callable[[Evaluation], float]
    of_facts: Callable[[Evaluation], np.ndarray] | None = None


def mean_over_facts(label: str, of_facts: Callable[[Evaluation], np.ndarray]) -> Metric:
    return Metric(label, lambda ev: float(of_facts(ev).mean()), of_facts)


def filtered_hits(ev: Evaluation) -> np.ndarray:
    if ev.filtered_ranks is None:
        raise PromptTransferError(f"the evaluation of {ev.task} on {ev.lm_name} has no filtered ranks; expected some: "
                                  "evaluate(..., facts=...), or evaluate_many(..., filtered=True)")
    return ev.filtered_ranks == 1


def macro_f1(ev: Evaluation) -> float:
    """Mean F1 over the classes, which are the objects of the examples."""
    truth, guess = ev.predictions["object"], ev.predictions["prediction"]
    return float(np.mean([2 * ((truth == c) & (guess == c)).sum() / ((truth == c).sum() + (guess == c).sum())
                          for c in truth.unique()]))


METRICS = {
    "p_at_1": mean_over_facts("P@1", lambda ev: ev.ranks == 1),
    "p_at_10": mean_over_facts("P@10", lambda ev: ev.ranks <= 10),
    "mrr": mean_over_facts("MRR", lambda ev: 1 / ev.ranks),
    "filtered_p_at_1": mean_over_facts("filtered P@1", filtered_hits),
    "accuracy": mean_over_facts("accuracy", lambda ev: ev.ranks == 1),  # P@1 among the words of classes
    "macro_f1": Metric("macro-F1", macro_f1),
}


def metric_of(name: str) -> Metric:
    """The metric of this name.

    Raises:
        PromptTransferError: there is none.
    """
    if name not in METRICS:
        raise PromptTransferError(f"metric={name!r}; expected one of {', '.join(METRICS)}")
    return METRICS[name]
