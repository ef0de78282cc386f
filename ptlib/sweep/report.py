"""Results of a sweep: a table of its runs, the tables that the runs recorded, means over runs, and an HTML page a run.

``collect`` writes the tables to the sweep's folder. ``read_results`` returns them as a ``Results``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nbconvert import HTMLExporter
from scipy import stats

from ..errors import SweepError
from ..files import replacing, write_text
from ..progress import progress_bar
from .runs import ERROR, METRICS_FILE, STARTS

__all__ = ["Results", "collect", "link", "read_results", "render_pages", "summarize_results"]

SEED = "seed"  # runs that differ only in this parameter are repetitions
QUIET = logging.getLogger("ptlib.pages")  # nbconvert would warn about figures without an alternative text
QUIET.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Results:
    """The content of a sweep's folder.

    Attributes:
        runs: one row for each finished run; see ``collect``.
        tables: {name: the rows of all runs that recorded a DataFrame of this name}. The columns are the run, its
            varying parameters and seed, then the DataFrame's own, which replace parameters of the same name.
        varying: the parameters that differ between runs, except the seed.
        numbers: names of the results that are numbers.
        failed: one row for each failed run: run, notebook, parameters as JSON text, error.
        unfinished: runs that began and neither finished nor failed: they are still running, or were killed.
        superseded: runs that are left out because a newer run has the same notebook and parameters. Code or input files
            changed in between, and a mean over both would treat them as two seeds.
    """

    runs: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    varying: tuple[str, ...]
    numbers: tuple[str, ...]
    failed: pd.DataFrame
    unfinished: tuple[str, ...]
    superseded: tuple[str, ...]

    def save(self, out: str | Path) -> None:
        """Write ``runs`` as ``table.parquet`` and ``table.csv``, and each of ``tables`` likewise under its name."""
        for name, table in {**self.tables, "table": self.runs}.items():
            with replacing(Path(out) / f"{name}.parquet") as unfinished:
                table.to_parquet(unfinished, index=False)
            with replacing(Path(out) / f"{name}.csv") as unfinished:
                table.to_csv(unfinished, index=False)


def read_results(out: str | Path) -> Results:
    """Read the runs in a sweep's folder. Several sweeps may have written to it.

    Raises:
        SweepError: no run in the folder has finished.
    """
    out = Path(out)
    ended = _read(out, METRICS_FILE)
    rows = _newest(ended)
    if not rows:
        raise SweepError(f"no run in {out} has finished; expected the folder of a sweep, with files */{METRICS_FILE}")
    parameters = list(dict.fromkeys(name for row in rows for name in row["parameters"]))
    values = {name: {json.dumps(row["parameters"].get(name)) for row in rows} for name in parameters}
    varying = tuple(name for name in parameters if len(values[name]) > 1 and name != SEED)
    runs, numbers = _runs(rows, parameters)
    raised = _read(out, ERROR)
    after = {_setting(row): _started(row) for row in rows}
    errors = [row for row in _newest(raised) if _setting(row) not in after or _started(row) > after[_setting(row)]]
    failed = pd.DataFrame([{"run": row["run"], "notebook": row["notebook"], "parameters": json.dumps(row["parameters"]),
                            "error": f"{row['error']['type']}: {row['error']['message']}"} for row in errors],
                          columns=["run", "notebook", "parameters", "error"])
    begun = {path.parent.name for path in out.glob(f"*/{STARTS}")}
    superseded = {row["run"] for row in ended + raised} - {row["run"] for row in rows + errors}
    return Results(runs, _tables(rows, varying), varying, numbers, failed, tuple(sorted(begun)),
                   tuple(sorted(superseded)))


def collect(out: str | Path) -> pd.DataFrame:
    """Write the results of a sweep into its folder, as ``table.parquet`` and ``table.csv``.

    Each row is a finished run: the newest one with its notebook and parameters. The columns are ``run``, the
    parameters, the results, then facts about the run: seconds, peak memory in bytes, notebook, versions, ``code``
    (ptlib's ``code_digest``; missing in runs of ptlib 0.1.0), commit, host. If a result has the name of another column,
    it is called ``result.name``. Lists, dictionaries and columns of mixed types are written as JSON text. DataFrames
    that the runs recorded are joined, and written to files of their name.

    Returns:
        The table of the runs.

    Raises:
        SweepError: no run in the folder has finished.
    """
    results = read_results(out)
    results.save(out)
    return results.runs


def summarize_results(runs: pd.DataFrame, by: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """The mean of each result over the runs of a group, usually seeds, with its 95 % interval (Student's t).

    Args:
        runs: as in ``Results``.
        by: the columns that define the groups; without any, all runs are one group.
        numbers: names of the results.

    Returns:
        One row for each group and result, with the columns ``by``, ``result``, ``mean``, ``low``, ``high`` and
        ``runs``. ``low`` and ``high`` are missing if the group has one run.
    """
    rows = []
    for label, group in runs.groupby(list(by), sort=False, dropna=False) if by else [((), runs)]:
        for name in numbers:
            values = group[name].dropna().to_numpy(float)
            if len(values):
                mean, n = values.mean(), len(values)
                half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
                rows.append({**dict(zip(by, label, strict=True)), "result": name, "mean": mean, "low": mean - half,
                             "high": mean + half, "runs": n})
    return pd.DataFrame(rows, columns=[*by, "result", "mean", "low", "high", "runs"])


# --- pages --------------------------------------------------------------------------------------


def render_pages(out: str | Path) -> int:
    """Render the notebook of every run to HTML, unless its page is up to date. Return the number of new pages."""
    notebooks = [path for path in sorted(Path(out).glob("*/*.ipynb"))
                 if {METRICS_FILE, ERROR} & {beside.name for beside in path.parent.iterdir()}]
    missing = [path for path in notebooks if not _is_newer(path.with_suffix(".html"), path)]
    exporter = HTMLExporter(log=QUIET)
    for path in progress_bar(missing, desc="pages"):
        page, _ = exporter.from_filename(str(path))
        write_text(path.with_suffix(".html"), page)
    return len(missing)


def link(run: str, notebook: str) -> str:
    """An HTML link to a run's page, for a page in the sweep's folder."""
    return f'<a href="{run}/{notebook}.html">{run}</a>'


def _is_newer(page: Path, source: Path) -> bool:
    return page.exists() and page.stat().st_mtime >= source.stat().st_mtime


# --- runs ---------------------------------------------------------------------------------------


def _read(out: Path, name: str) -> list[dict[str, Any]]:
    """The content of the runs' JSON files of this name, in the order of their folders."""
    paths = sorted(out.glob(f"*/{name}"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in progress_bar(paths, desc="reading runs")]


def _newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The run that started last for each notebook and parameters, in the order of ``rows``."""
    newest = {_setting(row): row["run"] for row in sorted(rows, key=_started)}
    return [row for row in rows if newest[_setting(row)] == row["run"]]


def _setting(row: dict[str, Any]) -> str:
    return json.dumps([row["notebook"], row["parameters"]], sort_keys=True)


def _started(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["started"])


# --- tables -------------------------------------------------------------------------------------


def _runs(rows: Sequence[dict[str, Any]], parameters: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table with one row for each run, and the names of the results that are numbers."""
    facts = [{"seconds": row["seconds"], "peak_memory": row.get("peak_memory"), "notebook": row["notebook"],
              "notebook_digest": row["notebook_digest"], "ptlib": row["versions"]["ptlib"], "code": row.get("code"),
              "torch": row["versions"].get("torch"), "commit": row["git"].get("commit"),
              "uncommitted": row["git"].get("uncommitted"), "host": row["host"], "started": row["started"]}
             for row in rows]
    taken = {"run", *parameters, *facts[0]}
    results = [{f"result.{name}" if name in taken else name: value for name, value in row["results"].items()
                if not _is_table(value)} for row in rows]
    runs = pd.DataFrame([
        {"run": row["run"], **{name: row["parameters"].get(name) for name in parameters}, **result, **fact}
        for row, result, fact in zip(rows, results, facts, strict=True)])
    names = dict.fromkeys(name for result in results for name in result)
    runs = runs[["run", *parameters, *names, *facts[0]]].apply(_of_one_type)
    return runs, tuple(name for name in names if pd.api.types.is_numeric_dtype(runs[name]))


def _tables(rows: Sequence[dict[str, Any]], varying: Sequence[str]) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for row in rows:
        about = {"run": row["run"], **{name: row["parameters"].get(name) for name in (*varying, SEED)}}
        for name, value in row["results"].items():
            if _is_table(value):
                parts.setdefault(name, []).append(pd.DataFrame([{**about, **entry} for entry in value]))
    return {name: pd.concat(tables, ignore_index=True).apply(_of_one_type) for name, tables in parts.items()}


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _of_one_type(column: pd.Series) -> pd.Series:
    present = [value for value in column if _is_present(value)]
    nested = any(isinstance(value, list | dict) for value in present)
    if column.dtype != object or (len({type(value) for value in present}) <= 1 and not nested):
        return column
    return pd.Series([json.dumps(value) if _is_present(value) else None for value in column], column.index)


def _is_present(value: Any) -> bool:
    return value is not None and value == value  # pandas fills missing values with NaN, which is unequal to itself
