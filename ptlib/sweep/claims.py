"""Claims: when several processes want the same file, one makes it and the others wait.

The processes may run on one machine or on several that share a folder. A process claims a file by writing a claim file
beside it, and touches the claim as long as it lives. A claim that is no longer touched belongs to a dead process, and
another process takes it over. If the owner ran on the same machine, the takeover does not wait: the owner's process is
looked up. If two processes take over the same claim at once, both make the file with the same content.
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
    """Claim as many of the ``wanted`` files as possible, for the length of the ``with`` block.

    Yields:
        {name: path} of the files that this process should make.
    """
    mine: dict[Which, Path] = {}
    done = Event()
    alive = Thread(target=keep_touching, args=(mine, done), daemon=True)
    alive.start()
    try:
        for which, path in wanted.items():
            if claim(claim_of(path)):
                mine[which] = path
        # The last owner may have finished after the caller looked and before the claim.
        yield {which: path for which, path in mine.items() if not path.exists()}
    finally:
        done.set()
        alive.join()
        for path in mine.values():
            claim_of(path).unlink(missing_ok=True)


class Others:
    """The claims of other processes, and when each was last seen to change.

    Times are those of this process's clock, because the clocks of machines may differ.
    """

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[int, float]] = {}

    def wait(self, wanted: Iterable[Path]) -> None:
        """Remove the claims of dead owners on the ``wanted`` files, then wait a moment."""
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
            # Another process took the claim over, because it thought this one dead: both go on and save the same.
            with suppress(FileNotFoundError):
                os.utime(claim_of(path))


# --- owners -------------------------------------------------------------------------------------


def is_gone(owner: str) -> bool:
    """Whether the owner ran on this machine and has ended. On other machines, only a claim's age tells."""
    match owner.split():
        case [where, pid, born]:
            return where == machine() and birth(pid) != born
    return False


@cache
def machine() -> str:
    """An id of this boot of this machine and of this container: process numbers are unique within it. Linux only."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def birth(pid: int | str) -> str | None:
    """When a process started, or None if it does not exist. It tells the process from a later one with its number."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = status.rpartition(")")[2].split()  # skips the process's name, which may have spaces
    return None if state in "ZX" else rest[18]
