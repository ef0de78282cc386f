"""Tables for readers: in percent and with intervals. ``say`` shows text with the numbers of the current run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from ..evaluation.evaluations import Evaluation
from ..evaluation.summaries import Evaluations, flattened, per_evaluation, per_relation
from ..tasks.loading import title_of

__all__ = ["by_seed", "in_brackets", "kinds_of_answers", "named", "over_facts", "percent", "save_table", "say",
           "wins", "with_share"]

SHARES = ("relation_mean", "relation_low", "relation_high", "share of direct", "difference", "difference_low",
          "difference_high")


def percent(summary: pd.DataFrame, also: Sequence[str] = (), digits: int = 1) -> pd.DataFrame:
    """The means, intervals and differences of a table such as ``summarize``'s, in percent.

    Args:
        summary: the table.
        also: other columns to show, unchanged.
        digits: how many decimals.
    """
    columns = [name for name in SHARES if name in summary]
    return (100 * summary[columns]).astype(float).round(digits).join(summary[list(also)])


def in_brackets(summary: pd.DataFrame, name: str = "relation", digits: int = 1) -> pd.Series:
    """A mean in percent with its interval, as text such as ``"35.2 [31.0, 39.1]"``.

    Args:
        summary: a table such as ``summarize``'s.
        name: of the mean: ``"relation"``, ``"pooled"`` or ``"difference"``.
        digits: how many decimals.
    """
    mean = {"relation": "relation_mean"}.get(name, name)
    columns = [mean, f"{name}_low", f"{name}_high"]
    return (100 * summary[columns]).apply(lambda row: "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*row, d=digits), axis=1)


def with_share(summary: pd.DataFrame, of: Any = "direct tuning") -> pd.DataFrame:
    """``summarize``'s table with a column ``share of direct``: each relation mean divided by the one in row ``of``."""
    return summary.assign(**{"share of direct": summary["relation_mean"] / summary.loc[of, "relation_mean"]})


def wins(cases: Mapping[Any, Mapping[tuple, Evaluations]], over: Mapping[str, Evaluations]) -> pd.DataFrame:
    """How often prompts do better than others on the same LM, for example than its manual templates.

    Args:
        cases: {label: {(source, target): evaluations}}.
        over: {target: evaluations of the other prompts}.

    Returns:
        One row for each label. ``cases`` is the number of comparisons, one for each pair and relation, with P@1
        averaged over seeds. ``better`` and ``equal`` are the shares of cases in which it is so.
    """
    others, rows = per_relation(over, ["target"]), {}
    for label, by_pair in cases.items():
        both = per_relation(by_pair, ["source", "target"]).merge(others, on=["target", "relation"])
        gaps = both["p_at_1_x"] - both["p_at_1_y"]
        rows[label] = {"better": (gaps > 0).mean(), "equal": (gaps == 0).mean(), "cases": len(gaps)}
    return pd.DataFrame.from_dict(rows, orient="index")


def kinds_of_answers(scores: Mapping[Any, Evaluations], objects: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """What LMs answer when they choose among many words: what is lost, the answer or its kind?

    Args:
        scores: {label: evaluations}, nested as for ``summarize``.
        objects: {task.name: the objects of the task}.

    Returns:
        One row for each label, with shares that sum to 1, each relation counting the same: ``right``; ``another
        object`` of the task, which is the right kind of answer; and ``another word``.
    """
    rows = {}
    for label, found in scores.items():
        shares = []
        for one in flattened(found):
            is_object = np.isin(one.answers, objects[one.task or ""])
            right = one.ranks == 1
            shares.append((one.task, right.mean(), (is_object & ~right).mean(), (~is_object & ~right).mean()))
        table = pd.DataFrame(shares, columns=["task", "right", "another object", "another word"])
        rows[label] = table.groupby("task").mean().mean()
    return pd.DataFrame.from_dict(rows, orient="index")


def by_seed(evaluations: Evaluations, digits: int = 1) -> pd.DataFrame:
    """Mean P@1 in percent for each seed of the tuning (rows). Intervals over relations do not show this variation.

    Args:
        evaluations: {label: evaluations of tuned prompts}, nested as for ``summarize``. The labels become the columns.
        digits: how many decimals.
    """
    scores = per_evaluation(evaluations, ["label"])
    means = scores.groupby(["seed", "label"])["p_at_1"].mean().unstack()
    return (100 * means[scores["label"].unique()]).round(digits).rename_axis(columns=None)


def over_facts(evaluations: Mapping[Any, Evaluation]) -> pd.DataFrame:
    """P@1 of evaluations on one relation, one row for each, as a table for ``score_bars``.

    Returns:
        Columns ``relation_mean``, ``relation_low``, ``relation_high`` and ``facts`` (how many). The interval is the
        95 % Wilson interval over facts, because with one relation there is none over relations.
    """
    rows = [(e.p_at_1, *e.interval, e.n) for e in evaluations.values()]
    return pd.DataFrame(rows, list(evaluations), ["relation_mean", "relation_low", "relation_high", "facts"])


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The table with relations called by their names, ``"capital (P36)"``, in its index and its columns."""
    return table.rename(index=_title, columns=_title)


def _title(label: Any) -> Any:
    return title_of(label) if isinstance(label, str) else label


def save_table(out: str | None, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Write a table to ``out/table.csv``, with its index levels called ``names``. Do nothing if ``out`` is None."""
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)
        table.rename_axis(list(names)).to_csv(Path(out) / "table.csv")


def say(text: str) -> Markdown:
    """Show text as Markdown, for example an f-string with this run's numbers."""
    return Markdown(textwrap.dedent(text).strip())
