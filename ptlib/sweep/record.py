"""Results of a notebook: printed below its cell and, in a sweep, saved in the run's ``metrics.json``."""

from __future__ import annotations

import json
import os
from typing import Any

import pandas as pd

from ..errors import SweepError

__all__ = ["RESULTS", "record"]

# A sweep sets this environment variable in each run's kernel, to the file for the run's results.
RESULTS = "PTLIB_RESULTS"


def record(**results: Any) -> None:
    """Print results and, in a sweep, save them in the run's ``metrics.json``. A later value replaces one with its name.

    Args:
        results: numbers, strings, booleans, None, and lists and dictionaries of these. Arrays and tensors become lists.
            A DataFrame is saved without its index; when a sweep is collected, it becomes a table of its own.

    Raises:
        SweepError: a value is of another kind.
    """
    lines = [json.dumps({name: plain(name, value)}) + "\n" for name, value in results.items()]
    for name, value in results.items():
        if isinstance(value, pd.DataFrame):
            print(f"{name}: {len(value)} rows of {', '.join(map(str, value.columns))}")
        else:
            print(f"{name} = {value}")
    if path := os.environ.get(RESULTS):
        with open(path, "a", encoding="utf-8") as file:
            file.writelines(lines)


def plain(name: str, value: Any) -> Any:
    """``value`` as it reads back from JSON; a DataFrame as a list of rows."""
    given = type(value).__name__
    if isinstance(value, pd.DataFrame):
        value = value.astype(object).where(value.notna(), None).to_dict("records")  # JSON has no NaN
    value = value.tolist() if hasattr(value, "tolist") else value
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise SweepError(f"record({name}=...) was given a {given} that is not plain data ({error}); "
                         "expected numbers, strings, lists, dictionaries, or a DataFrame of these") from None
