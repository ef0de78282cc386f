"""Published numbers, to show beside ours. They are in ``published.csv``, in percent.

*Wu et al. 2024*: mean P@1 on LAMA T-REx (41 relations) by Wu, Wu and Mou (ICLR 2024, arXiv 2310.01691), as reviews of
the paper report them; take them as approximate. ``gradient`` is the paper's search. Its step was chosen by labelled
facts of the target, and facts count if their object is in the paper's common vocabulary, so that they are not the same
measurement as this repository's. The source of the projector's numbers is taken to be BERT-base, and the versions of
ALBERT to be v2. Not in the file: two sources.

*POST*: accuracy of classification by Wang et al. (ICML 2025, arXiv 2506.16196), on Llama-2-7b from a small model that
is distilled from it. ``manual template`` is its zero-shot row, ``gradient`` its run of the search by Wu et al.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

__all__ = ["beside_published", "published_by_post"]

PUBLISHED = Path(__file__).with_name("published.csv")
KEYS = ["source", "target", "method"]


def numbers_of(paper: str) -> pd.DataFrame:
    """The rows of one paper."""
    published = pd.read_csv(PUBLISHED, keep_default_na=False)
    return published[published["paper"] == paper].reset_index(drop=True)


def published_by_post() -> pd.DataFrame:
    """POST's accuracy in percent: a row for each method, a column for each task; missing where it gives none."""
    rows = numbers_of("POST")
    return rows.pivot(index="method", columns="task", values="p_at_1")[rows["task"].unique()].loc[
        rows["method"].unique()].astype(float)


def beside_published(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table for which the paper has a number, with this number in the column ``paper``, in percent.

    Args:
        table: with the index levels ``source``, ``target`` and ``method``. Models are known by the last part of their
            names, such as "roberta-base"; the source is "" where nothing was transferred.
    """
    published = numbers_of("Wu et al. 2024")
    names = published[["source", "target"]].apply(lambda column: column.str.rpartition("/")[2])
    index = pd.MultiIndex.from_frame(names.join(published["method"]))
    ours = table.reorder_levels(KEYS)
    short = [(source.rpartition("/")[2], target.rpartition("/")[2], method) for source, target, method in ours.index]
    paper = pd.Series(published["p_at_1"].to_numpy(float), index).reindex(pd.MultiIndex.from_tuples(short, names=KEYS))
    return ours.assign(paper=paper.to_numpy())[paper.notna().to_numpy()]
