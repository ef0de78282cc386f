"""The formats of task files: one reader each.

To add one, write a function that gives (line number, {column: value}) for each row of a file, and raises TaskError with
file and line where it cannot; then add its suffix to ``READERS``. Everything else goes by that.
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
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} cannot be read ({error}); expected a text file in UTF-8") from None


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON, or what cannot be kept: a key twice in an object, half a character (``\\ud800``).
    """
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """{key: value}, without the blanks around keys; a ValueError where one would replace another."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key.strip() in found:
            raise ValueError(f"{key.strip()!r} stands there twice")
        found[key.strip()] = value
    return found


def read_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number, object) of each non-empty line of a JSON-lines file."""
    example = 'expected one JSON object a line such as {"sub_label": "France", "obj_label": "Paris"}'
    for number, line in enumerate(read_text(path).split("\n"), 1):  # splitlines would also split at U+2028 in a string
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
    """The rows of a CSV file; a quote after a comma and a blank is a quote, too."""
    return read_cells(path, {"strict": True, "skipinitialspace": True})


def read_tsv(path: Path) -> Iterator[tuple[int, dict]]:
    """The rows of a TSV file; quotes are part of the text, as in GLUE's."""
    return read_cells(path, {"delimiter": "\t", "quoting": csv.QUOTE_NONE})


def read_cells(path: Path, dialect: Mapping[str, Any]) -> Iterator[tuple[int, dict]]:
    """(line number, {column: cell}) of each row below the header."""
    lines, header = csv.reader(io.StringIO(read_text(path), newline=""), **dialect), None
    try:
        for cells in lines:
            if not "".join(cells).strip() and len(cells) < 2:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                for name, count in Counter(header).items():
                    if name and count > 1:
                        raise TaskError(f"{path} has the column {name!r} {count} times; expected it once: rename or "
                                        "remove the others")
            elif len(cells) == len(header):
                yield lines.line_num, dict(zip(header, cells, strict=True))
            else:
                raise TaskError(f"{path}, line {lines.line_num} has {len(cells)} cells, but the header has "
                                f"{len(header)}; expected as many (text with a comma goes into double quotes in CSV)")
    except csv.Error as error:
        raise TaskError(f"{path}, line {lines.line_num} is not CSV ({error}); expected a header and rows such as "
                        '"Paris, Texas",Texas with double quotes inside text doubled') from None


Reader = Callable[[Path], Iterator[tuple[int, dict]]]
READERS: dict[str, Reader] = {".jsonl": read_lines, ".csv": read_csv, ".tsv": read_tsv}  # suffixes in any case
ALSO: dict[str, Reader] = {".json": read_lines}  # where a file of this name is asked for; in folders it is no task


def or_suffixes() -> str:
    *first, last = READERS
    return f"{', '.join(first)} or {last}"


def reader_of(path: Path) -> Reader:
    """What reads a file of this name.

    Raises:
        TaskError: nothing does.
    """
    suffix = path.suffix.lower()
    reader = (READERS | ALSO).get(suffix)
    if reader is None:
        raise TaskError(f"{path} ends in {suffix!r}; expected a name in .jsonl (JSON lines), "
                        f"{or_suffixes().partition(', ')[2]}")
    return reader
