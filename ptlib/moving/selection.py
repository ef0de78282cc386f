"""Choice among transferred prompts without labels, by the answers that the target gives with them.

A prompt can be transferred by many methods, and the best method differs from prompt to prompt. ``select`` asks the
source: with its own prompt, it answers the same inputs, and the transferred prompt that makes the target answer most
like it is chosen. Answers are compared as distributions over words that the LMs share, by their overlap Σ min(p, q).
With few inputs, this says more than the share of equal answers. Without a source, the prompts are compared with each
other. Then only each prompt's best word counts, because a vague distribution overlaps with many others.

The target only runs forward and no label is read. Still, choosing learns from the source's answers: with more prompts
to choose from, the agreement of the best one rises, even if all are random.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptMismatchError, PromptTransferError, TaskError
from ..evaluation.candidates import answerable
from ..evaluation.scores import answer_distributions, mean_answers
from ..models.lm import LanguageModel
from ..prompts.history import Selected
from ..prompts.prompt import Prompt
from ..tasks.task import LabelWord, words_of_class
from .anchors import shared_anchors

__all__ = ["agreement", "answer_words", "check_inputs", "overlap", "pairs", "select"]


def agreement(lm: LanguageModel, prompts: Mapping[Any, Prompt], inputs: Sequence[str], *,
              source: LanguageModel | Sequence[LanguageModel] | None = None,
              teacher: Prompt | Sequence[Prompt] | None = None,
              candidates: Iterable[LabelWord] | None = None) -> dict[Any, float]:
    """How much each prompt's answers agree with those of the source, or with those of the other prompts.

    It needs no labels.

    Args:
        lm: the target.
        prompts: {name: prompt}, all for ``lm`` and one task; for example, transferred by different methods.
        inputs: subjects (or texts to classify) without their objects. About 20 are enough.
        source: the LM that gives the reference answers. With several LMs, their mean distribution is the reference. If
            None, each prompt is compared with the others.
        teacher: the prompt that was tuned on the source for this task; one for each source.
        candidates: words that may answer, such as the label words of a classification, with a tuple for a class of
            several. Words that are not one token in every LM are left out. By default, all words that the LMs share.

    Returns:
        {name: agreement}, from 0 to 1, the mean over the inputs. With a source, it is the overlap Σ min(p, q) between
        the prompt's distribution over the words and the source's. Without a source, it is the share of the other
        prompts that give the same best word.

    Raises:
        PromptMismatchError: a prompt was not made for its LM, or the prompts are for different tasks.
        TaskError: there are no inputs, some are not text, or fewer than two candidates are one token in every LM.
        AnchorError: the LMs share no words.
        PromptTransferError: there is no prompt, or only one and no source; or sources and teachers differ in number.
    """
    return _agreement(lm, prompts, inputs, *pairs(source, teacher), candidates)[0]


def _agreement(lm: LanguageModel, prompts: Mapping[Any, Prompt], inputs: Sequence[str],
               sources: Sequence[LanguageModel], teachers: Sequence[Prompt],
               candidates: Iterable[LabelWord] | None) -> tuple[dict[Any, float], int]:
    """``agreement``, and how many candidates were left out."""
    _check(lm, prompts, sources, teachers, inputs)
    asked = [*((lm, prompt) for prompt in prompts.values()), *zip(sources, teachers, strict=True)]
    words, dropped = answer_words(asked, candidates)
    given = {name: answer_distributions(lm, prompt, inputs, words) for name, prompt in prompts.items()}
    if sources:
        reference = mean_answers(sources, teachers, inputs, words)
        return {name: overlap(answers, reference) for name, answers in given.items()}, dropped
    best = {name: answers.argmax(-1, keepdim=True) for name, answers in given.items()}
    votes = torch.zeros(len(inputs), len(words))
    for words_chosen in best.values():
        votes.scatter_add_(1, words_chosen, torch.ones_like(words_chosen, dtype=votes.dtype))
    return {name: (votes.gather(1, words_chosen) - 1).mean().item() / (len(best) - 1)
            for name, words_chosen in best.items()}, dropped


def select(lm: LanguageModel, prompts: Mapping[Any, Prompt], inputs: Sequence[str], *,
           source: LanguageModel | Sequence[LanguageModel] | None = None,
           teacher: Prompt | Sequence[Prompt] | None = None, candidates: Iterable[LabelWord] | None = None) -> Prompt:
    """The prompt with the highest ``agreement``; the first of them if several are equal.

    Arguments and errors are those of ``agreement``.

    Returns:
        The Prompt. Under ``"selected"``, its ``meta`` holds what it was compared with (``by``), its ``agreement``,
        the number of prompts to choose from (``among``), the sequences that the target read (``target_forwards``), and
        the number of candidates that are not one token in every LM (``dropped_candidates``).
    """
    sources, teachers = pairs(source, teacher)
    scores, dropped = _agreement(lm, prompts, inputs, sources, teachers, candidates)
    best = max(scores, key=scores.__getitem__)
    record = Selected(prompts[best].history, tuple(lm.name for lm in sources) or "the other prompts", scores[best],
                      among=len(scores), target_forwards=len(scores) * len(inputs), dropped_candidates=dropped)
    return replace(prompts[best], meta=record.as_json())


def overlap(one: Tensor, other: Tensor) -> float:
    """Σ min(p, q) of two sets of distributions (n, words), averaged over n."""
    return torch.minimum(one, other).sum(-1).mean().item()


def answer_words(asked: Sequence[tuple[LanguageModel, Prompt]],
                 candidates: Iterable[LabelWord] | None) -> tuple[list[LabelWord], int]:
    """The candidates that are one token in every LM and template, and how many others there are."""
    lms = list(dict.fromkeys(lm for lm, _ in asked))
    given: list[LabelWord] = [*shared_anchors(*lms).words] if candidates is None else sorted(set(candidates),
                                                                                             key=words_of_class)
    words = answerable(given, [(lm, prompt.template) for lm, prompt in asked])
    if len(words) < 2:
        raise TaskError(f"{len(words)} of {len(given)} candidates are one token in "
                        f"{' and '.join(lm.name for lm in lms)}; expected at least two: pass more candidates, or None "
                        "for all words that the LMs share")
    return words, len(given) - len(words)


def pairs(source: LanguageModel | Sequence[LanguageModel] | None,
          teacher: Prompt | Sequence[Prompt] | None) -> tuple[list[LanguageModel], list[Prompt]]:
    """Sources and their prompts as lists, empty if there are none."""
    sources = [source] if isinstance(source, LanguageModel) else list(source or ())
    teachers = [teacher] if isinstance(teacher, Prompt) else list(teacher or ())
    if len(sources) != len(teachers):
        raise PromptTransferError(f"{len(teachers)} teachers for {len(sources)} sources; expected one each: the prompt "
                                  "as it was tuned on the source")
    return sources, teachers


def _check(lm: LanguageModel, prompts: Mapping[Any, Prompt], sources: Sequence[LanguageModel],
           teachers: Sequence[Prompt], inputs: Sequence[str]) -> None:
    if not prompts or (len(prompts) == 1 and not sources):
        raise PromptTransferError(f"got {len(prompts)} prompts; expected at least one with source= and teacher=, or at "
                                  "least two to compare with each other")
    for prompt, own_lm in [*((prompt, lm) for prompt in prompts.values()), *zip(teachers, sources, strict=True)]:
        prompt.check(own_lm)
    tasks = {prompt.task for prompt in [*prompts.values(), *teachers] if prompt.task is not None}
    if len(tasks) > 1:
        raise PromptMismatchError(f"the prompts are for different tasks ({', '.join(sorted(tasks))}); expected prompts "
                                  "for one task: select for each task separately")
    check_inputs(inputs)


def check_inputs(inputs: Sequence[str]) -> None:
    """Raise TaskError unless there are inputs and all of them are text."""
    wrong = [inputs] if isinstance(inputs, str) else [text for text in inputs if not isinstance(text, str)]
    if wrong or not len(inputs):
        given = f"unusable inputs ({wrong[0]!r})" if wrong else "no inputs"
        raise TaskError(f"{given}; expected a list of subjects, such as [e.subject for e in task.train]")
