"""What a run reads besides its notebook: ptlib's source, and the files that its parameters name."""

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

ROOT = "root"  # the parameter below whose value other parameters may name files
WORK = "work"  # the parameter that names a folder in which runs keep what they need again; they write to it


@cache
def code_digest() -> str:
    """Of every file of ptlib, its zoo included: what is computed may differ where this does.

    Hidden files (an editor's) and Python's caches do not count.
    """
    root = Path(__file__).parents[1]
    files = sorted(path for path in root.rglob("[!.]*") if path.is_file() and path.suffix not in (".pyc", ".pyo"))
    about = [(path.relative_to(root).as_posix(), content_digest(path)) for path in files]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def code_on_disk() -> str:
    """``code_digest`` of the files as they are now, which the next kernel will import; this process may have others."""
    return code_digest.__wrapped__()


class Inputs:
    """What the runs of a sweep read, by content; what several of them name is looked at once.

    Args:
        code: ptlib's digest; this process's if None.
        without: folders that do not count, though one that a parameter names holds them.
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
        found: dict[str, str] = {}
        for text in _texts([value for name, value in parameters.items() if name != WORK]):
            for base in bases:
                found |= self._named(text, base)
        return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def _places(text: str, base: str) -> Iterator[str]:
    """What exists of a text and of its comma-separated parts, as paths."""
    # A text's "/" or a part's "." is punctuation: a parameter would hardly mean the whole disk by it.
    parts = [part.strip() for part in text.split(",") if any(map(str.isalnum, part))]
    for part in dict.fromkeys([text, *parts] if text.strip("/") else []):
        place = os.path.join(base, part)
        if os.path.exists(os.path.expanduser(place)):
            yield place


def _digest(place: str, without: Collection[str]) -> str:
    """Of a file, its content; of a folder, the names and contents of the files below it."""
    path = os.path.expanduser(place)
    try:
        if os.path.isfile(path):
            return content_digest(Path(path))
        about = [(os.path.relpath(file, path), content_digest(Path(file))) for file in _files_below(path, without)]
    except OSError as error:
        raise SweepError(f"{place}, which a parameter names, cannot be read ({error}); expected files that can, as a "
                         "run is known by their content: make them readable, or name another place") from None
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _files_below(folder: str, without: Collection[str]) -> Iterator[str]:
    """Files that are neither hidden nor Python's caches, each folder once: links may lead in circles."""
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
