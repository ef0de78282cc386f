"""Claims: of several processes that want the same file, on one machine or on several that share a folder, one makes it.

Who wants to make a file claims it with another one beside it; whoever comes second waits for the first. A claim is
touched while its owner lives, so that one that stays untouched is a dead process's and is taken over; where the owner
was a process of the same machine, as soon as that is gone. If two take it over at once, both make the file, and the
last one's, with the same content, stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

__all__ = ["Others", "claimed"]

TOUCH, STALE, POLL = 5.0, 60.0, 0.2  # seconds
Which = TypeVar("Which")


@contextmanager
def claimed(wanted: Mapping[Which, Path]) -> Iterator[dict[Which, Path]]:
    """Those of the ``wanted`` files that are this process's to make, as long as it is inside."""
    mine: dict[Which, Path] = {}
    done = Event()
    alive = Thread(target=keep_touching, args=(mine, done), daemon=True)
    alive.start()
    try:
        for which, path in wanted.items():
            if claim(claim_of(path)):
                mine[which] = path
        # Between the look and the claim, the last owner may have finished.
        yield {which: path for which, path in mine.items() if not path.exists()}
    finally:
        done.set()
        alive.join()
        for path in mine.values():
            claim_of(path).unlink(missing_ok=True)


class Others:
    """Others' claims, and since when they are untouched by this process's clock: machines' clocks may differ."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}

    def wait(self, wanted: Iterable[Path]) -> None:
        """Wait a moment; the claims of dead owners on the ``wanted`` files are gone then."""
        for path in wanted:
            self._release(claim_of(path))
        time.sleep(POLL)

    def _release(self, path: Path) -> None:
        now = time.monotonic()
        try:
            touched, owner = path.stat().st_mtime_ns, path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        if is_gone(owner):
            path.unlink(missing_ok=True)
        elif self._seen.get(path, (None,))[0] != touched:
            self._seen[path] = touched, now
        elif now - self._seen[path][1] > STALE:
            path.unlink(missing_ok=True)


def claim_of(path: Path) -> Path:
    return path.with_suffix(".claim")


def claim(path: Path) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        path.write_text(f"{machine()} {os.getpid()} {birth(os.getpid())}", encoding="utf-8")
    except OSError:  # the disk is full
        path.unlink()
        raise
    return True


def keep_touching(claims: Mapping[Which, Path], done: Event) -> None:
    while not done.wait(TOUCH):
        for path in list(claims.values()):
            # Taken over by one that thought this process dead: both go on, and save the same.
            with suppress(FileNotFoundError):
                os.utime(claim_of(path))


# --- owners -------------------------------------------------------------------------------------


def is_gone(owner: str) -> bool:
    """Whether it was a process of this machine and has ended; of any other, only the touching tells."""
    match owner.split():
        case [where, pid, born]:
            return where == machine() and birth(pid) != born
    return False


@cache
def machine() -> str:
    """Within what a process's number means that process: this machine since its start, this container; Linux only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def birth(pid: int | str) -> str | None:
    """When a process began, which tells it from a later one of the same number; None if there is none."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = status.rpartition(")")[2].split()  # behind the name, which may have spaces
    return None if state in "ZX" else rest[18]
