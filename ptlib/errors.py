"""Errors: one sentence that says what was given, what was expected and the way out."""

__all__ = ["AnchorError", "ModelLoadError", "NotFiniteError", "PromptLoadError", "PromptMismatchError",
           "PromptTransferError", "SweepError", "TaskError", "first_line"]


class PromptTransferError(Exception):
    """Base of every error that ptlib raises about its inputs."""


class ModelLoadError(PromptTransferError):
    """A language model cannot be loaded."""


class NotFiniteError(PromptTransferError):
    """A prompt, a logit or a loss is not a finite number: whatever is made of it would be wrong."""


class TaskError(PromptTransferError):
    """A task cannot be loaded, or lacks what a step needs."""


class AnchorError(PromptTransferError):
    """Models share too few words."""


class PromptMismatchError(PromptTransferError):
    """A prompt does not belong to the language model or the template it is used with."""


class PromptLoadError(PromptTransferError):
    """A prompt file is missing or unreadable."""


class SweepError(PromptTransferError):
    """A grid does not fit its notebook, or a sweep cannot go on."""


def first_line(error: BaseException) -> str:
    """What an error of the libraries below says, at its shortest."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
