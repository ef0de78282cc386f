"""How long the steps of a program take."""

from __future__ import annotations

import time

__all__ = ["Laps"]


class Laps:
    """A clock that starts when it is made.

    Attributes:
        seconds: {step: how many seconds it took}.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def lap(self, step: str) -> None:
        """Record the time since the previous call as the time of ``step``."""
        now = time.perf_counter()
        self.seconds[step], self._began = now - self._began, time.perf_counter()
