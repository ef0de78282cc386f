"""The errors that ptlib raises. Each message says what was given, what was expected and what to do about it."""

__all__ = ["AnchorError", "ModelLoadError", "NotFiniteError", "PromptLoadError", "PromptMismatchError",
           "PromptTransferError", "SweepError", "TaskError", "first_line"]


class PromptTransferError(Exception):
    """The base class of every error that ptlib raises about its inputs."""


class ModelLoadError(PromptTransferError):
    """A language model cannot be loaded."""


class NotFiniteError(PromptTransferError):
    """A prompt, a logit or a loss is not finite, so that any result computed from it would be wrong."""


class TaskError(PromptTransferError):
    """A task cannot be loaded, or it lacks something that a step needs."""


class AnchorError(PromptTransferError):
    """The models share too few words to serve as anchors."""


class PromptMismatchError(PromptTransferError):
    """A prompt does not fit the language model or the template that it is used with."""


class PromptLoadError(PromptTransferError):
    """A prompt file is missing or unreadable."""


class SweepError(PromptTransferError):
    """A grid does not fit its notebook, or a sweep cannot continue."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error message, without the full stop, to quote in an error of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
