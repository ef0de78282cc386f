"""A notebook's results: shown below its cell and, in a sweep, kept in the run's ``metrics.json``."""

from __future__ import annotations

import json
import os
from typing import Any

import pandas as pd

from ..errors import SweepError

__all__ = ["RESULTS", "record"]

# A sweep names the file of a run's results in its kernel's environment: one kernel, one run, one file.
RESULTS = "PTLIB_RESULTS"


def record(**results: Any) -> None:
    """Print results and, in a sweep, put them into the run's ``metrics.json``; a later value of a name replaces it.

    Args:
        results: numbers, strings, booleans, None, and lists and dictionaries of them; arrays and tensors become lists;
            a DataFrame is kept by its columns, without its index, and becomes a table of its own where a sweep is
            collected.

    Raises:
        SweepError: a value is something else.
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
    """``value`` as JSON has it; a DataFrame as a list of rows."""
    given = type(value).__name__
    if isinstance(value, pd.DataFrame):
        value = value.astype(object).where(value.notna(), None).to_dict("records")  # JSON has no NaN
    value = value.tolist() if hasattr(value, "tolist") else value
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise SweepError(f"record({name}=...) was given a {given} that is not plain data ({error}); "
                         "expected numbers, strings, lists and dictionaries, or a DataFrame of them") from None
