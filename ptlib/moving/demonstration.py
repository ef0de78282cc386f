"""Demonstrations: the kind of answer that is meant, shown to the target by the source's own answers.

A prompt that was moved often makes the target say a function word: which kind of answer is meant is lost on the way.
``demonstrate`` puts a few inputs before the question, each in the prompt's template and with the answer that the source
gives to it. It needs neither labels nor a forward pass of the target.

Relatives: few-shot prompting (Brown et al. 2020, arXiv 2005.14165), where answers of the right kind help nearly as much
as right ones (Min et al. 2022, arXiv 2202.12837).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..errors import PromptMismatchError, PromptTransferError
from ..evaluation.scores import mean_answers
from ..models.lm import LanguageModel
from ..prompts.history import Demonstrated
from ..prompts.prompt import Prompt, behind, varied
from ..prompts.templates import Template
from ..tasks.task import Example, LabelWord, words_of_class
from .selection import answer_words, check_inputs, pairs

__all__ = ["demonstrate"]


def demonstrate(prompt: Prompt, lm: LanguageModel, *, source: LanguageModel | Sequence[LanguageModel],
                teacher: Prompt | Sequence[Prompt], inputs: Sequence[str], count: int = 5,
                candidates: Iterable[LabelWord] | None = None) -> Prompt:
    """Put inputs before the question, each with the source's answer.

    Args:
        prompt: for ``lm``: transferred, tuned there, or a manual template.
        lm: the target.
        source: the LM that answers, or several, whose mean distribution counts.
        teacher: the prompt that was tuned on the source for this task; one for each source.
        inputs: unlabelled subjects, of which those are taken that the source is surest of, first of all with different
            answers.
        count: how many are shown, or fewer if ``lm`` could not read the longest of the inputs behind them.
        candidates: the words to answer with, such as the label words of a classification: of a class of several, a
            tuple, the first. By default, all words that the LMs share.

    Returns:
        The Prompt. Its template holds the inputs and answers, its vectors (or mixture) are repeated in each of them.
        ``meta["demonstrated"]`` holds inputs and answers.

    Raises:
        PromptMismatchError: a prompt was not made for its LM, ``prompt`` is calibrated already, an input holds a slot
            such as [X], or ``lm`` can read none of them before the question.
        PromptTransferError: there are fewer inputs than ``count``, or sources and teachers differ in number.
        TaskError: there are no inputs, some are not text, or fewer than two candidates are one token in every LM.
        AnchorError: the LMs share no words.
    """
    prompt.check(lm)
    if prompt.offsets is not None:
        raise PromptMismatchError("the prompt is calibrated for the question alone; show demonstrations first, then "
                                  "calibrate it")
    sources, teachers = pairs(source, teacher)
    if not sources:
        raise PromptTransferError("no source given; expected source= and teacher=, whose answers are shown")
    check_inputs(inputs)
    if not 1 <= count <= len(inputs):
        raise PromptTransferError(f"count={count} of {len(inputs)} inputs; expected a number from 1 to the number of "
                                  "inputs")
    words, _ = answer_words([(lm, prompt), *zip(sources, teachers, strict=True)], candidates)
    sureness, best = mean_answers(sources, teachers, inputs, words).max(-1)
    order = sureness.argsort(descending=True, stable=True).tolist()
    answered = [Example(inputs[i], words_of_class(words[best[i]])[0]) for i in order]
    shown = varied(answered, count)
    longest = max(map(len, lm.tokenize_after(f" {text}" for text in inputs)))
    while shown and not fits(found := behind(shown, prompt), lm, longest):
        shown.pop()
    if not shown:
        raise PromptMismatchError(f"{lm.name} reads at most {lm.max_length} tokens, too few for an input before the "
                                  "question; use the prompt as it is, or calibrate it")
    record = Demonstrated(prompt.history, tuple((example.subject, example.object) for example in shown),
                          tuple(one.name for one in sources), source_forwards=len(inputs) * len(sources))
    return replace(found, meta=record.as_json())


def fits(prompt: Prompt, lm: LanguageModel, longest: int) -> bool:
    """Whether the LM can read a subject of as many tokens in the prompt's template."""
    return lm.max_length is None or Template(prompt.template).length(lm) + longest <= lm.max_length
