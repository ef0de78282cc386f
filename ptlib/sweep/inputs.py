"""Digests of what a run reads besides its notebook: ptlib's source, and the files that its parameters name."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from ..errors import SweepError
from ..files import content_digest

__all__ = ["Inputs", "code_digest", "code_on_disk"]

ROOT = "root"  # the parameter with a folder that paths in other parameters may be relative to
WORK = "work"  # the parameter with a folder that the runs write to, so its content cannot be part of their names


@cache
def code_digest() -> str:
    """Digest of all files of ptlib, including its zoo. With the same digest, the same results can be expected.

    Hidden files (an editor's) and Python's caches do not count.
    """
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("[!.]*") if path.is_file() and path.suffix not in (".pyc", ".pyo"))
    about = [(path.relative_to(root).as_posix(), content_digest(path)) for path in files]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def code_on_disk() -> str:
    """``code_digest`` of the files as they are now. The next kernel imports these; this process may have older ones."""
    return code_digest.__wrapped__()


class Inputs:
    """The content of what the runs of a sweep read. A file that several runs name is read only once.

    Args:
        code: ptlib's digest; ``code_digest()`` if None.
        without: folders that do not count, even inside a folder that a parameter names.
    """

    def __init__(self, code: str | None = None, without: Iterable[str | Path] = ()):
        self.code = code or code_digest()
        left_out = {os.path.realpath(folder) for folder in without}
        digest = cache(lambda place: _digest(place, left_out))
        self._named = cache(lambda text, base: {place: digest(place) for place in _places(text, base)})

    def named(self, parameters: Mapping[str, Any]) -> dict[str, str]:
        """{path: digest} of the files and folders that parameters name, in the working folder or below ``root``."""
        root = parameters.get(ROOT)
        bases = ("", root) if root and isinstance(root, str) else ("",)
        digests: dict[str, str] = {}
        for text in _texts([value for name, value in parameters.items() if name != WORK]):
            for base in bases:
                digests |= self._named(text, base)
        return digests


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _places(text: str, base: str) -> Iterator[str]:
    """The existing paths among a text and its comma-separated parts."""
    # A lone "/" or "." is taken for punctuation: no parameter is likely to mean the whole disk.
    parts = [part.strip() for part in text.split(",") if any(map(str.isalnum, part))]
    for part in dict.fromkeys([text, *parts] if text.strip("/") else []):
        place = os.path.join(base, part)
        if os.path.exists(os.path.expanduser(place)):
            yield place


def _digest(place: str, without: Collection[str]) -> str:
    """Digest of a file's content, or of the names and contents of all files below a folder."""
    path = os.path.expanduser(place)
    try:
        if os.path.isfile(path):
            return content_digest(Path(path))
        about = [(os.path.relpath(file, path), content_digest(Path(file))) for file in _files_below(path, without)]
    except OSError as error:
        raise SweepError(f"{place}, which a parameter names, cannot be read ({error}). Its content is part of the "
                         "run's name: make it readable, or name another path") from None
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _files_below(folder: str, without: Collection[str]) -> Iterator[str]:
    """All files below a folder, except hidden ones and Python's caches. Each folder is read once: links may loop."""
    seen = set(without)
    for place, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        visible = (os.path.join(place, name) for name in sorted(files) if not name.startswith("."))
        yield from filter(os.path.isfile, visible)


def _raise(error: OSError) -> NoReturn:
    raise error
