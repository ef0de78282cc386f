"""Choosing among moved prompts without a label: by the answers that the target gives with them.

One prompt can be moved in many ways, and which of them works differs from prompt to prompt. The LM that it was tuned
on is a witness: run on the same inputs, it says what the answers should be, and the moved prompt that makes the target
answer alike is the one to take. Answers are compared as distributions over words that the LMs share, by their overlap
Σ min(p, q), which tells more from few inputs than the share of equal answers does. Without a source to ask, prompts are
compared with each other; there the best answers alone count, since to overlap with a crowd it is enough to be vague.

The target runs forward only and no label is read, but to choose is to learn from the source's answers: the more prompts
there are, the more it finds, even among random ones.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import PromptMismatchError, PromptTransferError, TaskError
from ..evaluation.candidates import answerable
from ..evaluation.scores import answer_distributions, mean_answers
from ..models.lm import LanguageModel
from ..prompts.history import Selected
from ..prompts.prompt import Prompt
from .anchors import shared_anchors

__all__ = ["agreement", "select"]


def agreement(lm: LanguageModel, prompts: Mapping[Hashable, Prompt], inputs: Sequence[str], *,
              source: LanguageModel | Sequence[LanguageModel] | None = None,
              teacher: Prompt | Sequence[Prompt] | None = None,
              candidates: Iterable[str] | None = None) -> dict[Hashable, float]:
    """How far each prompt's answers are those of the source, or of the other prompts: no label is used.

    Args:
        lm: the target.
        prompts: {name: prompt}, all for ``lm`` and one task; moved in different ways, say.
        inputs: subjects (or texts to classify) without their objects; some 20 are plenty.
        source: an LM whose answers are the reference, or several, whose mean is; if None, the other prompts are.
        teacher: the source's own prompt for the task, as it was tuned; of several sources one each.
        candidates: words that may answer, such as the label words of a classification; those that not every LM knows
            as one token are left out. By default all words that the LMs share.

    Returns:
        {name: agreement}, from 0 to 1, the mean over the inputs: with a source the overlap Σ min(p, q) of the words'
        probabilities, the prompt's and the source's; without, the share of the other prompts with the same best word.

    Raises:
        PromptMismatchError: a prompt is not for its LM, or they are for different tasks.
        TaskError: no inputs, or some that are not text; fewer than two candidates that all LMs know.
        AnchorError: the LMs share no words.
        PromptTransferError: no prompts; one alone without a source; not a teacher for each source.
    """
    return _agreement(lm, prompts, inputs, *_pairs(source, teacher), candidates)[0]


def _agreement(lm: LanguageModel, prompts: Mapping[Hashable, Prompt], inputs: Sequence[str],
               sources: Sequence[LanguageModel], teachers: Sequence[Prompt],
               candidates: Iterable[str] | None) -> tuple[dict[Hashable, float], int]:
    """``agreement``, and how many candidates were left out."""
    _check(lm, prompts, sources, teachers, inputs)
    words, dropped = _words([*((lm, prompt) for prompt in prompts.values()), *zip(sources, teachers, strict=True)],
                            candidates)
    given = {name: answer_distributions(lm, prompt, inputs, words) for name, prompt in prompts.items()}
    if sources:
        reference = mean_answers(sources, teachers, inputs, words)
        return {name: _overlap(answers, reference) for name, answers in given.items()}, dropped
    best = {name: answers.argmax(-1, keepdim=True) for name, answers in given.items()}
    votes = torch.zeros(len(inputs), len(words))
    for one in best.values():
        votes.scatter_add_(1, one, torch.ones_like(one, dtype=votes.dtype))
    return {name: (votes.gather(1, one) - 1).mean().item() / (len(best) - 1) for name, one in best.items()}, dropped


def select(lm: LanguageModel, prompts: Mapping[Hashable, Prompt], inputs: Sequence[str], *,
           source: LanguageModel | Sequence[LanguageModel] | None = None,
           teacher: Prompt | Sequence[Prompt] | None = None, candidates: Iterable[str] | None = None) -> Prompt:
    """The prompt with the highest ``agreement``, of equal ones the first; see there for what to give, and the errors.

    Returns:
        The Prompt, whose ``meta`` says under ``"selected"`` what it agrees with (``by``), how far (``agreement``),
        ``among`` how many prompts it was chosen, how many inputs the target has read for it (``target_forwards``) and
        how many candidates are not one token of every LM (``dropped_candidates``).
    """
    sources, teachers = _pairs(source, teacher)
    found, dropped = _agreement(lm, prompts, inputs, sources, teachers, candidates)
    best = max(found, key=found.__getitem__)
    record = Selected(prompts[best].history, tuple(one.name for one in sources) or "the other prompts", found[best],
                      among=len(found), target_forwards=len(found) * len(inputs), dropped_candidates=dropped)
    return replace(prompts[best], meta=record.as_json())


def _overlap(one: Tensor, other: Tensor) -> float:
    """Σ min(p, q) of distributions (n, words), the mean over n."""
    return torch.minimum(one, other).sum(-1).mean().item()


def _words(asked: Sequence[tuple[LanguageModel, Prompt]], candidates: Iterable[str] | None) -> tuple[list[str], int]:
    """The words that may answer, one token wherever they are asked for; and how many candidates are not."""
    lms = list(dict.fromkeys(lm for lm, _ in asked))
    given = list(shared_anchors(*lms).words) if candidates is None else sorted(set(candidates))
    words = answerable(given, [(lm, prompt.template) for lm, prompt in asked])
    if len(words) < 2:
        raise TaskError(f"of {len(given)} candidates {len(words)} are one token of "
                        f"{' and '.join(lm.name for lm in lms)}; expected at least two; give more, or none for all "
                        "words that the LMs share")
    return words, len(given) - len(words)


def _pairs(source: LanguageModel | Sequence[LanguageModel] | None,
           teacher: Prompt | Sequence[Prompt] | None) -> tuple[list[LanguageModel], list[Prompt]]:
    """Sources and their prompts as lists, empty where none are given."""
    sources = [source] if isinstance(source, LanguageModel) else list(source or ())
    teachers = [teacher] if isinstance(teacher, Prompt) else list(teacher or ())
    if len(sources) != len(teachers):
        raise PromptTransferError(f"{len(teachers)} teachers for {len(sources)} sources; expected one each: the prompt "
                                  "that was tuned on the source, before it was moved")
    return sources, teachers


def _check(lm: LanguageModel, prompts: Mapping[Hashable, Prompt], sources: Sequence[LanguageModel],
           teachers: Sequence[Prompt], inputs: Sequence[str]) -> None:
    if not prompts or (len(prompts) == 1 and not sources):
        raise PromptTransferError(f"{len(prompts)} prompts; expected at least one with source= and teacher=, or two "
                                  "to compare with each other")
    for prompt, one in [*((prompt, lm) for prompt in prompts.values()), *zip(teachers, sources, strict=True)]:
        prompt.check(one)
    tasks = {prompt.task for prompt in [*prompts.values(), *teachers] if prompt.task is not None}
    if len(tasks) > 1:
        raise PromptMismatchError(f"the prompts are for different tasks ({', '.join(sorted(tasks))}); select among "
                                  "those of one task at a time")
    wrong = [inputs] if isinstance(inputs, str) else [text for text in inputs if not isinstance(text, str)]
    if wrong or not len(inputs):
        given = f"unusable inputs ({wrong[0]!r})" if wrong else "no inputs"
        raise TaskError(f"{given}; expected a list of subjects, such as [e.subject for e in task.train]")
