"""A prompt read by the words near it."""

from __future__ import annotations

import pandas as pd

from ..models.lm import LanguageModel
from ..moving.anchors import Anchors
from ..moving.relative import encode
from ..prompts.prompt import Prompt

__all__ = ["nearest_words"]


def nearest_words(prompt: Prompt, lm: LanguageModel, words: Anchors, count: int = 3) -> pd.DataFrame:
    """The words with the highest cosine to each vector.

    Args:
        prompt: m vectors for ``lm``.
        words: to choose from; all that several LMs share, so that their tables compare.
        count: for each vector.

    Returns:
        Rows (vector, rank), both from 1; columns ``word`` and ``cosine``.
    """
    cosines, found = encode(prompt, lm, words).topk(min(count, len(words)))
    index = pd.MultiIndex.from_product([range(1, 1 + n) for n in found.shape], names=["vector", "rank"])
    return pd.DataFrame({"word": [words.words[i] for i in found.flatten()], "cosine": cosines.flatten().cpu()}, index)
