"""Demonstrations: the kind of answer that is meant, shown to the target by the source's own answers.

A prompt that was moved often makes the target say a function word: which kind of answer is meant is lost on the way.
``demonstrate`` puts a few inputs before the question, each in the prompt's template and with the answer that the source
gives to it. It needs neither labels nor a forward pass of the target.

Relatives: few-shot prompting (Brown et al. 2020, arXiv 2005.14165), where answers of the right kind help nearly as much
as right ones (Min et al. 2022, arXiv 2202.12837).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import PromptTransferError
from ..evaluation.candidates import answerable
from ..evaluation.scores import mean_answers
from ..models.lm import LanguageModel
from ..prompts.history import Demonstrated
from ..prompts.prompt import Prompt, behind, varied
from ..tasks.task import Example
from .anchors import shared_anchors
from .selection import check_inputs, pairs

__all__ = ["demonstrate"]


def demonstrate(prompt: Prompt, *, source: LanguageModel | Sequence[LanguageModel], teacher: Prompt | Sequence[Prompt],
                inputs: Sequence[str], count: int = 5) -> Prompt:
    """Put ``count`` inputs before the question, each with the source's answer.

    Args:
        prompt: for the target: transferred, tuned there, or a manual template.
        source: the LM that answers, or several, whose mean distribution counts.
        teacher: the prompt that was tuned on the source for this task; one for each source.
        inputs: unlabelled subjects, of which those are taken that the source is surest of, first of all with different
            answers.
        count: how many.

    Returns:
        The Prompt for the same LM. Its template holds the inputs and answers, its vectors (or mixture) are repeated in
        each of them, and it has no ``offsets``. ``meta["demonstrated"]`` holds inputs and answers.

    Raises:
        PromptMismatchError: a prompt was not made for its LM, or an input holds a slot such as [X].
        PromptTransferError: there are fewer inputs than ``count``, or sources and teachers differ in number.
        TaskError: there are no inputs, or some are not text.
        AnchorError: the sources share no words.
    """
    sources, teachers = pairs(source, teacher)
    if not sources:
        raise PromptTransferError("no source given; expected source= and teacher=, whose answers are shown")
    check_inputs(inputs)
    if not 1 <= count <= len(inputs):
        raise PromptTransferError(f"count={count} of {len(inputs)} inputs; expected a number from 1 to the number of "
                                  "inputs")
    words = answerable(shared_anchors(*sources).words,
                       [(lm, made.template) for lm, made in zip(sources, teachers, strict=True)])
    sureness, best = mean_answers(sources, teachers, inputs, words).max(-1)
    answered = [Example(inputs[i], words[best[i]]) for i in sureness.argsort(descending=True, stable=True).tolist()]
    shown = varied(answered, count)
    record = Demonstrated(prompt.history, tuple((example.subject, example.object) for example in shown),
                          tuple(lm.name for lm in sources), source_forwards=len(inputs) * len(sources))
    return replace(behind(shown, prompt), meta=record.as_json())
