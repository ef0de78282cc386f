"""Progress bars, with one switch that shows or hides all of them."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar", "set_progress"]

# TQDM_DISABLE is tqdm's own variable, but tqdm's notebook bars ignore it.
_enabled = os.environ.get("TQDM_DISABLE", "0") in ("", "0")


def set_progress(enabled: bool) -> None:
    """Show or hide every progress bar of ptlib in this process. To hide them from outside, set TQDM_DISABLE=1."""
    global _enabled
    _enabled = enabled


def progress_bar(iterable: Iterable[Any] | None = None, *, show: bool = True, **options: Any) -> tqdm:
    """A tqdm bar, shown only if both the caller and ``set_progress`` allow it."""
    return tqdm(iterable, disable=not (show and _enabled), leave=False, **options)
