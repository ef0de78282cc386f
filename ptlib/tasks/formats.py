"""The formats of task files (JSON lines, CSV, TSV), with one reader for each.

To add a format, write a function that yields (line number, {column: value}) for each row of a file and raises a
``TaskError`` that names file and line if it cannot read a row. Then add it to ``READERS`` under the files' suffix.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import TaskError

__all__ = ["READERS", "or_suffixes", "parse_json", "read_lines", "read_text", "reader_of"]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        TaskError: the file cannot be read, or it is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} cannot be read ({error}); expected a text file in UTF-8") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is not JSON, an object has a key twice, or a string has half a character (``\\ud800``).
    """
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """{key: value}, without spaces around the keys.

    Raises:
        ValueError: two pairs have the same key.
    """
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key.strip() in values:
            raise ValueError(f"the key {key.strip()!r} occurs twice")
        values[key.strip()] = value
    return values


def read_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number, object) for each non-empty line of a JSON-lines file."""
    example = 'expected a JSON object on each line, such as {"sub_label": "France", "obj_label": "Paris"}'
    for number, line in enumerate(read_text(path).split("\n"), 1):  # splitlines also splits at U+2028 within strings
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise TaskError(f"{path}, line {number} cannot be read ({getattr(error, 'msg', error)}); "
                            f"{example}") from None
        if not isinstance(record, dict):
            raise TaskError(f"{path}, line {number} is {line.strip()[:40]!r}; {example}")
        yield number, record


def read_csv(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield the rows of a CSV file. A quoted cell may have spaces before it."""
    return read_cells(path, {"strict": True, "skipinitialspace": True})


def read_tsv(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield the rows of a TSV file. Quotation marks are part of the text, as in GLUE's files."""
    return read_cells(path, {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def read_cells(path: Path, dialect: Mapping[str, Any]) -> Iterator[tuple[int, dict]]:
    """Yield (line number, {column: cell}) for each row below the header.

    Args:
        dialect: options of ``csv.reader``.

    Raises:
        TaskError: a column occurs twice, or a row cannot be read.
    """
    lines, header = csv.reader(io.StringIO(read_text(path), newline=""), **dialect), None
    try:
        for cells in lines:
            if not "".join(cells).strip() and len(cells) < 2:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                for name, count in Counter(header).items():
                    if name and count > 1:
                        raise TaskError(f"{path} has the column {name!r} {count} times; expected each column once: "
                                        "rename or remove the others")
            elif len(cells) == len(header):
                yield lines.line_num, dict(zip(header, cells, strict=True))
            else:
                raise TaskError(f"{path}, line {lines.line_num} has {len(cells)} cells, but the header has "
                                f"{len(header)}; expected the same number (in CSV, put text with a comma in double "
                                "quotes)")
    except csv.Error as error:
        raise TaskError(f"{path}, line {lines.line_num} is not CSV ({error}); expected a header and rows such as "
                        '"Paris, Texas",Texas (write a double quote inside quoted text twice)') from None


Reader = Callable[[Path], Iterator[tuple[int, dict]]]
READERS: dict[str, Reader] = {".jsonl": read_lines, ".csv": read_csv, ".tsv": read_tsv}  # by suffix in lower case
# Suffixes that are read if a user names such a file, but are not taken for a task when a folder is listed.
ALSO: dict[str, Reader] = {".json": read_lines}


def or_suffixes() -> str:
    """The suffixes of ``READERS`` for an error message: ".jsonl, .csv or .tsv"."""
    *first, last = READERS
    return f"{', '.join(first)} or {last}"


def reader_of(path: Path) -> Reader:
    """The function that reads a file, chosen by its suffix.

    Raises:
        TaskError: there is no reader for the suffix.
    """
    suffix = path.suffix.lower()
    reader = (READERS | ALSO).get(suffix)
    if reader is None:
        raise TaskError(f"{path} ends in {suffix!r}; expected a file name that ends in .jsonl (JSON lines), "
                        f"{or_suffixes().partition(', ')[2]}")
    return reader
