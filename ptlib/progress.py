"""One switch for every progress bar."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar", "set_progress"]

# tqdm's own variable, which its notebook bars do not heed.
_enabled = os.environ.get("TQDM_DISABLE", "0") in ("", "0")


def set_progress(enabled: bool) -> None:
    """Show or silence every progress bar of ptlib in this process (from outside: TQDM_DISABLE=1)."""
    global _enabled
    _enabled = enabled


def progress_bar(iterable: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """A tqdm bar that is shown where both the caller and ``set_progress`` allow it."""
    return tqdm(iterable, disable=not (show and _enabled), leave=False, **options)
