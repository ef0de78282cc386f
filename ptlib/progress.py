"""One switch for every progress bar."""

from tqdm.auto import tqdm

__all__ = ["progress_bar", "set_progress"]

_enabled = True


def set_progress(enabled: bool) -> None:
    """Show or silence every progress bar of ptlib in this process (from outside: TQDM_DISABLE=1)."""
    global _enabled
    _enabled = enabled


def progress_bar(iterable=None, *, show: bool = True, **options) -> tqdm:
    """A tqdm bar that is shown where both the caller and ``set_progress`` allow it."""
    if not (show and _enabled):
        options["disable"] = True
    return tqdm(iterable, leave=False, **options)
