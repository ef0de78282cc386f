"""Tables as people read them: in per cent, with intervals; and text that is made of a run's own numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from ..evaluation.evaluations import Evaluation
from ..evaluation.summaries import Evaluations, per_evaluation, per_relation

__all__ = ["by_seed", "in_brackets", "over_facts", "percent", "save_table", "say", "wins", "with_share"]

SHARES = ("relation_mean", "relation_low", "relation_high", "share of direct", "difference", "difference_low",
          "difference_high")


def percent(summary: pd.DataFrame, also: Sequence[str] = (), digits: int = 1) -> pd.DataFrame:
    """The means, intervals and differences of a table such as ``summarize``'s, in per cent.

    Args:
        also: other columns to show beside them, as they are.
    """
    columns = [name for name in SHARES if name in summary]
    return (100 * summary[columns]).astype(float).round(digits).join(summary[list(also)])


def in_brackets(summary: pd.DataFrame, name: str = "relation", digits: int = 1) -> pd.Series:
    """A mean in per cent with its interval, as text: ``"35.2 [31.0, 39.1]"``.

    Args:
        name: ``"relation"``, ``"pooled"`` or ``"difference"``: which mean.
    """
    mean = {"relation": "relation_mean"}.get(name, name)
    columns = [mean, f"{name}_low", f"{name}_high"]
    return (100 * summary[columns]).apply(lambda row: "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*row, d=digits), axis=1)


def with_share(summary: pd.DataFrame, of: Any = "direct tuning") -> pd.DataFrame:
    """``summarize``'s table with a column ``share of direct``: each mean over relations, as a share of one row's."""
    return summary.assign(**{"share of direct": summary["relation_mean"] / summary.loc[of, "relation_mean"]})


def wins(cases: Mapping[Hashable, Mapping[tuple, Evaluations]], over: Mapping[str, Evaluations]) -> pd.DataFrame:
    """How often prompts do better on an LM than other prompts there, such as its manual templates.

    Args:
        cases: {label: {(source, target): evaluations}}.
        over: {target: evaluations} of the others.

    Returns:
        A row a label: in how many of its ``cases``, which are its pairs times the relations (each the mean over seeds),
        it is ``better``, and in how many ``equal``, as shares.
    """
    others, rows = per_relation(over, ["target"]), {}
    for label, found in cases.items():
        both = per_relation(found, ["source", "target"]).merge(others, on=["target", "relation"])
        gaps = both["p_at_1_x"] - both["p_at_1_y"]
        rows[label] = {"better": (gaps > 0).mean(), "equal": (gaps == 0).mean(), "cases": len(gaps)}
    return pd.DataFrame.from_dict(rows, orient="index")


def by_seed(evaluations: Evaluations, digits: int = 1) -> pd.DataFrame:
    """Mean P@1 in per cent by the seed of the tuning (rows): what the intervals over relations leave out.

    Args:
        evaluations: {label: evaluations}, nested as for ``summarize``, of tuned prompts; the labels are the columns.
    """
    scores = per_evaluation(evaluations, ["label"])
    means = scores.groupby(["seed", "label"])["p_at_1"].mean().unstack()
    return (100 * means[scores["label"].unique()]).round(digits).rename_axis(columns=None)


def over_facts(evaluations: Mapping[Hashable, Evaluation]) -> pd.DataFrame:
    """P@1 of evaluations on one relation, a row each, as ``score_bars`` draws it.

    Returns:
        Columns ``relation_mean``; ``relation_low`` and ``relation_high``, the 95 % Wilson interval over its facts, as
        there are no relations to draw; ``facts``.
    """
    rows = [(e.p_at_1, *e.interval, e.n) for e in evaluations.values()]
    return pd.DataFrame(rows, list(evaluations), ["relation_mean", "relation_low", "relation_high", "facts"])


def save_table(out: str | None, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Write a table to ``table.csv`` in the folder ``out``, its index called ``names``; nothing if that is None."""
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        table.rename_axis(list(names)).to_csv(Path(out) / "table.csv")


def say(text: str) -> Markdown:
    """Show text, an f-string of this run's values, as the Markdown that it is."""
    return Markdown(textwrap.dedent(text).strip())
