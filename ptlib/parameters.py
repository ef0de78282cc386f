"""Lists in a notebook's parameters, written as text with commas: ``"1,2"``.

papermill turns a text such as ``"1"`` into a number, so that a list of one number arrives as a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

from .errors import PromptTransferError

__all__ = ["listed"]

Kind = TypeVar("Kind", str, int, float)
EXPECTED = {str: ("texts", "a,b"), int: ("whole numbers", "1,2"), float: ("numbers", "0.5,1")}


@overload
def listed(value: str | float | Sequence[str | float]) -> list[str]: ...


@overload
def listed(value: str | float | Sequence[str | float], kind: type[Kind]) -> list[Kind]: ...


def listed(value: str | float | Sequence[str | float], kind: type[Any] = str) -> list[Any]:
    """The entries of a parameter such as ``"1,2"``. A single number or a list is accepted, too.

    Args:
        value: the value that the notebook was given.
        kind: the type of the entries: str, int or float.

    Raises:
        PromptTransferError: the value is something else.
    """
    entries = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        return [_read(entry, kind) for entry in entries]
    except ValueError:
        what, example = EXPECTED[kind]
        raise PromptTransferError(f"a parameter is {value!r}; expected {what} separated by commas: write it like "
                                  f"{example!r}") from None


def _read(entry: Any, kind: type[Kind]) -> Kind:
    entry = entry.strip() if isinstance(entry, str) else entry
    if entry == "" or isinstance(entry, bool) or not isinstance(entry, str | int | float):
        raise ValueError
    if kind is int and isinstance(entry, float) and not entry.is_integer():
        raise ValueError
    return kind(entry)
