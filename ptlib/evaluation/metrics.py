"""The metrics. All are computed from the ranks and predictions of an ``Evaluation``.

To add one, add a line to ``METRICS``. ``Evaluation.score`` and the ``metric=`` of every summary then accept its name.
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
    """A way to sum up an evaluation in one number.

    Attributes:
        of: gives the number for an evaluation.
        of_facts: gives (n,) numbers, one for each fact, with this number as their mean; None if the metric is no mean
            over facts.
    """

    of: Callable[[Evaluation], float]
    of_facts: Callable[[Evaluation], np.ndarray] | None = None


def mean_over_facts(of_facts: Callable[[Evaluation], np.ndarray]) -> Metric:
    return Metric(lambda ev: float(of_facts(ev).mean()), of_facts)


def filtered_hits(ev: Evaluation) -> np.ndarray:
    if ev.filtered_ranks is None:
        raise PromptTransferError(f"the evaluation of {ev.task} on {ev.lm_name} has no filtered ranks; compute them "
                                  "with evaluate(..., facts=...) or evaluate_many(..., filtered=True)")
    return ev.filtered_ranks == 1


def macro_f1(ev: Evaluation) -> float:
    """The mean F1 over the classes, which are the objects of the examples."""
    truth, guess = ev.predictions["object"], ev.predictions["prediction"]
    return float(np.mean([2 * ((truth == c) & (guess == c)).sum() / ((truth == c).sum() + (guess == c).sum())
                          for c in truth.unique()]))


METRICS = {
    "p_at_1": mean_over_facts(lambda ev: ev.ranks == 1),
    "p_at_10": mean_over_facts(lambda ev: ev.ranks <= 10),
    "mrr": mean_over_facts(lambda ev: 1 / ev.ranks),
    "filtered_p_at_1": mean_over_facts(filtered_hits),
    "accuracy": mean_over_facts(lambda ev: ev.ranks == 1),  # P@1 among label words
    "macro_f1": Metric(macro_f1),
}


def metric_of(name: str) -> Metric:
    """The metric with this name.

    Raises:
        PromptTransferError: there is no such metric.
    """
    if name not in METRICS:
        raise PromptTransferError(f"metric={name!r}; expected one of {', '.join(METRICS)}")
    return METRICS[name]
