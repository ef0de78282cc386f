"""The words that are nearest to a prompt's vectors."""

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
        lm: the LM that the prompt was made for.
        words: the words to choose from. To compare tables of several LMs, use all words that they share.
        count: how many words for each vector.

    Returns:
        Rows (vector, rank), both from 1; columns ``word`` and ``cosine``.
    """
    cosines, top = encode(prompt, lm, words).topk(min(count, len(words)))
    index = pd.MultiIndex.from_product([range(1, 1 + n) for n in top.shape], names=["vector", "rank"])
    return pd.DataFrame({"word": [words.words[i] for i in top.flatten()], "cosine": cosines.flatten().cpu()}, index)
