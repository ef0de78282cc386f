"""Calibration: the kind of answer that is meant, carried over from the source.

A prompt that was moved often makes the target prefer the right answer among the relation's objects, but say a function
word among all words: that an answer of this kind is asked for is lost on the way. The source's mean log-probability of
each word says which kind it is. ``calibrate`` puts these means in place of the target's own. It needs forward passes on
unlabelled subjects only.

Relatives: contextual calibration (Zhao et al. 2021, arXiv 2102.09690) and domain-conditional PMI (Holtzman et al. 2021,
arXiv 2104.08315), which remove a model's own prior over answers; and the correction of a classifier to another prior
(Saerens et al. 2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..errors import PromptTransferError
from ..evaluation.candidates import answerable
from ..evaluation.scores import answer_scores
from ..models.lm import LanguageModel
from ..prompts.history import Calibrated
from ..prompts.prompt import Prompt
from ..prompts.templates import Template
from .anchors import shared_anchors
from .selection import check_inputs, overlap, pairs

__all__ = ["calibrate"]

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)  # to choose from


def calibrate(prompt: Prompt, lm: LanguageModel, *, source: LanguageModel | Sequence[LanguageModel],
              teacher: Prompt | Sequence[Prompt], inputs: Sequence[str], strength: float | None = None) -> Prompt:
    """Let the target rank answers by λ parts of the source's prior over answers in place of its own.

    With ℓ(w|x) the log-probability of word w for input x, and m(w) its mean over the inputs, the target ranks by
    ℓ_target(w|x) + λ (m_source(w) − m_target(w)). Of several sources, m is the mean. A word that the sources do not
    have gets the lowest m_source of all words.

    Args:
        prompt: for ``lm``: transferred, tuned there, or a manual template.
        lm: the target.
        source: the LM whose prior is taken, or several.
        teacher: the prompt that was tuned on the source for this task; one for each source.
        inputs: unlabelled subjects. About 64 are enough.
        strength: λ, from 0 to 1. If None, the one of ``STRENGTHS`` with which the target's answers to the inputs
            overlap most with the sources' (as in ``agreement``).

    Returns:
        The Prompt with ``offsets`` (V,), which are λ (m_source − m_target) for each token of ``lm`` at the answer slot,
        0 in the mean over the shared words. They are saved with the prompt, and ``evaluate`` adds them to the logits.
        ``meta["calibrated"]`` holds the strength and what it cost.

    Raises:
        PromptMismatchError: a prompt was not made for its LM.
        PromptTransferError: ``strength`` is out of range, or sources and teachers differ in number.
        TaskError: there are no inputs, or some are not text.
        AnchorError: the LMs share no words.
    """
    if strength is not None and not 0 <= strength <= 1:
        raise PromptTransferError(f"strength={strength}; expected a number from 0 to 1, or None to choose it")
    sources, teachers = pairs(source, teacher)
    if not sources:
        raise PromptTransferError("no source given; expected source= and teacher=, whose answers are meant")
    check_inputs(inputs)
    bare = replace(prompt, offsets=None)
    asked = [(lm, bare), *zip(sources, teachers, strict=True)]
    words = answerable(shared_anchors(lm, *sources).words, [(one, made.template) for one, made in asked])
    ids, *ids_of_sources = ([i for i in one.word_ids(words, Template(made.template).place) if i is not None]
                            for one, made in asked)
    whole = answer_scores(lm, bare, inputs)
    own = whole[:, ids]
    answers = [answer_scores(one, made, inputs, columns).log_softmax(-1) for one, made, columns in
               zip(sources, teachers, ids_of_sources, strict=True)]
    meant = torch.stack([found.mean(0) for found in answers]).mean(0)
    wanted = meant.min().repeat(lm.vocab_size)
    wanted[ids] = meant
    difference = wanted - (whole.mean(0) - own.logsumexp(-1).mean())
    difference -= difference[ids].mean()
    if strength is None:
        reference = torch.stack([found.exp() for found in answers]).mean(0)
        change = difference[ids]
        strength = max(STRENGTHS, key=lambda part: overlap((own + part * change).softmax(-1), reference))
    record = Calibrated(prompt.history, strength, tuple(one.name for one in sources), target_forwards=len(inputs),
                        source_forwards=len(inputs) * len(sources))
    return replace(prompt, offsets=strength * difference, meta=record.as_json())
