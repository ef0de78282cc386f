"""Writing files atomically, so that a reader never sees half a file, and hashing their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

__all__ = ["Stamp", "cache_folder", "content_digest", "kept", "remembered", "remove_partial", "replacing", "stamp_of",
           "text_digest", "write_text"]

Content = TypeVar("Content")

Stamp = tuple[str, int, int, int]  # path, size and times of change; as long as these stay the same, so does the content
LARGE = 2**24  # bytes; hashing a smaller file takes less time than looking its hash up


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, then rename it to ``path`` in one step. On an error, remove it.

    The temporary name is unique, even among several machines that share the folder.
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
    """Remove the temporary files that killed processes left in ``folder``. Nobody else may be writing there."""
    for path in folder.glob(".*.partial*"):
        path.unlink()


def stamp_of(path: Path) -> Stamp:
    path = path.resolve()
    about = path.stat()
    return str(path), about.st_size, about.st_mtime_ns, about.st_ctime_ns


def remembered(hash_file: Callable[[Path], str]) -> Callable[[Path], str]:
    """Cache ``hash_file``, so that it runs once for each file content.

    The cache lasts for this process. Hashes of large files are also kept on disk for later processes.
    """

    @cache
    def of_stamp(stamp: Stamp) -> str:
        def make() -> str:
            return hash_file(Path(stamp[0]))

        return kept("hashes", (hash_file.__name__, stamp), make) if stamp[1] >= LARGE else make()

    return lambda path: of_stamp(stamp_of(path))


def kept(content: str, key: object, make: Callable[[], Content]) -> Content:
    """What ``make`` returns, kept in the user's cache so that later processes read it there.

    Args:
        content: the cache's folder for this kind of content.
        key: everything that the result depends on, with a ``repr`` that tells it apart.
        make: returns what JSON can hold; a tuple comes back as a list.
    """
    path = cache_folder(content) / f"{text_digest(repr(key))}.json"
    with suppress(OSError, ValueError):
        digest, text = path.read_text(encoding="utf-8").split("\n", 1)
        if digest == text_digest(text):  # otherwise somebody has spoilt the file
            return json.loads(text)
    made = make()
    text = json.dumps(made)
    with suppress(OSError):  # without a writable cache, the next process only makes it again
        write_text(path, f"{text_digest(text)}\n{text}")
    return made


def text_digest(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def cache_folder(content: str) -> Path:
    """The folder of the user's cache for one kind of content, by default below ``~/.cache/ptlib``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ptlib" / content


@remembered
def content_digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
