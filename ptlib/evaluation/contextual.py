"""Contextual calibration (Zhao et al. 2021, arXiv 2102.09690): an LM's own preference among the answers, taken away.

With the same prompt, an LM often prefers one label word to another whatever the text is. What it answers to texts
without content shows the preference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import TaskError
from ..models.lm import LanguageModel
from ..prompts.history import Calibrated
from ..prompts.prompt import Prompt
from .scores import answer_scores

__all__ = ["calibrate_contextually"]

EMPTY = "N/A", "[MASK]", ""  # Zhao et al.'s texts; to every LM here they are plain text


def calibrate_contextually(prompt: Prompt, lm: LanguageModel, texts: Sequence[str] = EMPTY) -> Prompt:
    """Let the LM rank answers by how much more probable a text makes them than texts without content do.

    With ℓ(w|x) the log-probability of word w for text x, the LM ranks by ℓ(w|x) − m(w), where m(w) is the mean of
    ℓ(w|e) over the ``texts`` e. (Zhao et al. average the probabilities of their three texts; the mean of the logarithms
    does not depend on which words are compared.) It is meant for the label words of a classification: among all words,
    it would prefer those that hardly ever occur. It needs no label, no source and no text of the task.

    Args:
        prompt: for ``lm``: transferred, tuned there, or a manual template.
        lm: the LM.
        texts: what to fill in for [X].

    Returns:
        The Prompt with ``offsets`` (V,), which are −m for each token of ``lm`` at the answer slot, in place of those
        that it had. They are kept as those of ``calibrate`` are. ``meta["calibrated"]`` has no ``sources``, and what it
        cost.

    Raises:
        PromptMismatchError: the prompt was not made for ``lm``; or the template has no token before [Y] without a text.
        TaskError: ``texts`` is a single string, or empty.
    """
    if isinstance(texts, str) or not len(texts):
        raise TaskError(f"texts={texts!r}; expected a list of texts without content, such as {list(EMPTY)}")
    scores = answer_scores(lm, replace(prompt, offsets=None), texts)
    record = Calibrated(prompt.history, 1.0, (), target_forwards=len(texts), source_forwards=0)
    return replace(prompt, offsets=-scores.log_softmax(-1).mean(0), meta=record.as_json())
