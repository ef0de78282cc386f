"""Files that are there in whole or not at all, and the hashes that their content is known by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

__all__ = ["Stamp", "content_digest", "remembered", "remove_partial", "replacing", "stamp_of", "write_text"]

Stamp = tuple[str, int, int, int]  # path, size, times of change: while it stays, so does the content
LARGE = 2**24  # bytes; what is smaller is sooner hashed than looked up


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to: at the end it becomes ``path`` at once; on an error it is removed.

    The name is like no other writer's, on this machine or on another that shares the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{uuid4().hex[:12]}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def remove_partial(folder: Path) -> None:
    """Remove what writers that were killed have left there; for a folder in which nobody else is writing."""
    for path in folder.glob(".*.partial*"):
        path.unlink()


def stamp_of(path: Path) -> Stamp:
    path = path.resolve()
    about = path.stat()
    return str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns


def remembered(hashed: Callable[[Path], str]) -> Callable[[Path], str]:
    """``hashed``, called once for each content: in this process, and of large files also by the next ones."""

    @cache
    def of_stamp(stamp: Stamp) -> str:
        note = memory() / hashlib.sha256(repr((hashed.__name__, stamp)).encode()).hexdigest()
        large = stamp[1] >= LARGE
        if large and note.is_file():
            return note.read_text(encoding="utf-8")
        found = hashed(Path(stamp[0]))
        if large:
            with suppress(OSError):  # a cache that cannot be written costs time, nothing else
                write_text(note, found)
        return found

    return lambda path: of_stamp(stamp_of(path))


def memory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptlib" / "hashes"


@remembered
def content_digest(path: Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
