"""Prompts as mixtures of words: what can be said in words moves as words do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import NotFiniteError, PromptMismatchError
from ..models.lm import LanguageModel

__all__ = ["Mixture"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """m mixtures of words with a gain each: v_i = g_i s u_i / ‖u_i‖ with u_i = Σ_w W_iw e_w, in any LM.

    e_w are the LM's embeddings of the words and s is the mean length of its embeddings. The same words point the same
    way more in one LM than in another, so that their sums differ in length; a gain of 1 is as long as a word is on
    average, in every LM.

    Attributes:
        words: k of them.
        weights: (m, k), at least 0, with rows that sum to 1.
        gains: (m,).
    """

    words: tuple[str, ...]
    weights: Tensor
    gains: Tensor

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or self.weights.shape != (len(self.gains), len(self.words)):
            raise PromptMismatchError(f"a mixture of {len(self.words)} words has weights of shape "
                                      f"{tuple(self.weights.shape)} and gains of shape {tuple(self.gains.shape)}; "
                                      "expected (m, words) and (m,)")
        if not (self.weights.isfinite().all() and self.gains.isfinite().all()):
            raise NotFiniteError("a mixture has weights or gains that are not finite; expected numbers")

    def on(self, lm: LanguageModel) -> Tensor:
        """(m, d): the vectors on ``lm``. Weight on words that it lacks goes to the others in proportion.

        Raises:
            PromptMismatchError: ``lm`` knows none of a vector's words.
        """
        ids = lm.word_ids(self.words)
        known = [w for w, i in enumerate(ids) if i is not None]
        weights = self.weights[:, known].to(lm.device)
        left = weights.sum(-1, keepdim=True)
        if not (left > 0).all():
            vector = int((left <= 0).flatten().nonzero()[0])
            raise PromptMismatchError(f"vector {vector} of the mixture is made of words that {lm.name} does not have "
                                      f"({', '.join(self.leading(vector))}); expected words that both models know: "
                                      "tune it on several models, whose common words it then takes")
        table = lm.embeddings[[ids[w] for w in known]]
        lengths = self.gains.to(lm.device) * lm.mean_length
        return lengths.unsqueeze(-1) * normalize(weights / left @ table, dim=-1)

    def lacking(self, lm: LanguageModel) -> dict[str, float]:
        """{word that ``lm`` does not know: its mean weight over the vectors}, the heaviest first."""
        weights = self.weights.mean(0).tolist()
        unknown = [(word, weight) for word, weight, i in zip(self.words, weights, lm.word_ids(self.words), strict=True)
                   if i is None and weight > 0]
        return dict(sorted(unknown, key=lambda pair: -pair[1]))

    def record(self, lm: LanguageModel) -> dict:
        """What a move to ``lm`` loses: the mean weight of all words that it does not know, and the heaviest ten."""
        lacking = self.lacking(lm)
        return {"lost_weight": sum(lacking.values()), "lacking": dict(list(lacking.items())[:10])}

    def leading(self, vector: int, count: int = 5) -> dict[str, float]:
        """{word: weight} of the words that a vector leans on most, the heaviest first."""
        top = self.weights[vector].topk(min(count, len(self.words)))
        return {self.words[w]: weight for w, weight in zip(top.indices.tolist(), top.values.tolist(), strict=True)}

    def truncated(self, count: int | None) -> Mixture:
        """Only the ``count`` heaviest words of each vector, with weights that sum to 1 again; the gains stay.

        None keeps all.
        """
        if count is None:
            return self
        if count < 1:
            raise PromptMismatchError(f"a mixture of {count} words a vector; expected at least one")
        top = self.weights.topk(min(count, len(self.words)))
        kept = torch.zeros_like(self.weights).scatter(-1, top.indices, top.values)
        return Mixture(self.words, kept / kept.sum(-1, keepdim=True), self.gains)

    @property
    def perplexity(self) -> Tensor:
        """(m,) exp of each vector's entropy: over how many words it spreads, from 1 to k."""
        return torch.special.entr(self.weights).sum(-1).exp()
