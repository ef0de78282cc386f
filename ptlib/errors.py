"""Errors: one sentence that says what was given, what was expected and the way out."""

__all__ = ["AnchorError", "ModelLoadError", "PromptLoadError", "PromptMismatchError", "PromptTransferError",
           "SweepError", "TaskError"]


class PromptTransferError(Exception):
    """Base of every error that ptlib raises about its inputs."""


class ModelLoadError(PromptTransferError):
    """A language model cannot be loaded."""


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
