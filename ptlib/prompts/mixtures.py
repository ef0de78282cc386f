"""Mixtures: prompt vectors that are weighted means of word embeddings.

The weights mean the same in every LM that has the words, so a mixture can be computed for any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..errors import NotFiniteError, PromptMismatchError
from ..models.lm import LanguageModel

__all__ = ["Mixture"]

ROUNDING = 1e-5  # of sums of float32 weights


@dataclass(frozen=True, eq=False)
class Mixture:
    """The words, weights and gains of m prompt vectors: v_i = g_i s u_i / ‖u_i‖ with u_i = Σ_w W_iw e_w, in any LM.

    Here e_w is the LM's embedding of word w, and s is the mean norm of its embeddings. The norm of a weighted sum u_i
    differs between LMs, because embeddings point in more similar directions in some LMs than in others. So u_i is
    divided by its norm: with a gain of 1, v_i has the mean norm of an embedding in every LM.

    Attributes:
        words: the k words.
        weights: (m, k), W: not negative, and each row sums to 1.
        gains: (m,), g: norms as multiples of s.

    Raises:
        PromptMismatchError: the shapes do not fit together.
        NotFiniteError: some weights or gains are not finite.
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
            raise NotFiniteError("a mixture has weights or gains that are not finite; expected finite numbers")

    @classmethod
    def mean(cls, mixtures: Sequence[Mixture]) -> Mixture:
        """The mixture of all their words whose weights and gains are the means of theirs.

        A word that one of them does not have has no weight there.

        Raises:
            PromptMismatchError: they do not have equally many vectors.
        """
        counts = sorted({len(one.gains) for one in mixtures})
        if len(counts) != 1:
            raise PromptMismatchError(f"the mean of mixtures of {' and '.join(map(str, counts)) or 'no'} vectors; "
                                      "expected at least one mixture, and the same num_vectors= in all")
        columns = {word: i for i, word in enumerate(dict.fromkeys(word for one in mixtures for word in one.words))}
        weights = torch.zeros(counts[0], len(columns))
        for one in mixtures:
            weights[:, [columns[word] for word in one.words]] += one.weights / len(mixtures)
        return cls(tuple(columns), weights, torch.stack([one.gains for one in mixtures]).mean(0))

    def on(self, lm: LanguageModel) -> Tensor:
        """(m, d) the prompt vectors for ``lm``.

        Words that are not one token of ``lm`` are left out, and the other weights of the vector are scaled up to sum to
        1.

        Raises:
            PromptMismatchError: ``lm`` has none of the words of some vector.
        """
        ids = lm.word_ids(self.words)
        known = [w for w, i in enumerate(ids) if i is not None]
        weights = self.weights[:, known].to(lm.device)
        left = weights.sum(-1, keepdim=True)
        if not (left > 0).all():
            vector = int((left <= 0).flatten().nonzero()[0])
            raise PromptMismatchError(f"vector {vector} of the mixture has only words that {lm.name} does not have "
                                      f"({', '.join(self.leading(vector))}); expected words that both models know: "
                                      "tune the prompt on several models, to use only the words that they share")
        word_embeddings = lm.embeddings[[ids[w] for w in known]]
        lengths = self.gains.to(lm.device) * lm.mean_length
        return lengths.unsqueeze(-1) * normalize(weights / left @ word_embeddings, dim=-1)

    def lacking(self, lm: LanguageModel) -> dict[str, float]:
        """{word: mean weight over the vectors} of the words that ``lm`` does not have, by descending weight."""
        weights = self.weights.mean(0).tolist()
        unknown = [(word, weight) for word, weight, i in zip(self.words, weights, lm.word_ids(self.words), strict=True)
                   if i is None and weight > 0]
        return dict(sorted(unknown, key=lambda pair: -pair[1]))

    def record(self, lm: LanguageModel) -> dict:
        """What is lost on ``lm``, for ``Prompt.meta``.

        Returns:
            ``lost_weight``, the total mean weight of the words that ``lm`` does not have, and ``lacking``, the ten
            heaviest of these words with their mean weights.
        """
        lacking = self.lacking(lm)
        return {"lost_weight": sum(lacking.values()), "lacking": dict(list(lacking.items())[:10])}

    def leading(self, vector: int, count: int = 5) -> dict[str, float]:
        """{word: weight} of the ``count`` heaviest words of a vector, by descending weight."""
        top = self.weights[vector].topk(min(count, len(self.words)))
        return {self.words[w]: weight for w, weight in zip(top.indices.tolist(), top.values.tolist(), strict=True)}

    def truncated(self, count: int | None) -> Mixture:
        """The mixture of only the ``count`` heaviest words of each vector, with weights that sum to 1 again.

        The gains stay the same. With None, all words are kept.

        Raises:
            PromptMismatchError: ``count`` is less than 1.
        """
        if count is None:
            return self
        if count < 1:
            raise PromptMismatchError(f"a mixture of {count} words for each vector; expected at least one word")
        top = self.weights.topk(min(count, len(self.words)))
        kept = torch.zeros_like(self.weights).scatter(-1, top.indices, top.values)
        return Mixture(self.words, kept / kept.sum(-1, keepdim=True), self.gains)

    def with_weights(self, weights: Mapping[tuple[int, str], float]) -> Mixture:
        """The mixture with other weights for some words; a weight of 0 takes a word out.

        Args:
            weights: {(vector, word): its weight}. The other words of the vector share what is left, in their old
                proportions.

        Raises:
            PromptMismatchError: there is no such vector or word; a weight is negative; the weights of a vector sum to
                more than 1, or to less and no other word has any weight.
        """
        columns, changed = {word: i for i, word in enumerate(self.words)}, self.weights.clone()
        fixed = torch.zeros_like(changed, dtype=torch.bool)
        for (vector, word), weight in weights.items():
            if not 0 <= vector < len(self.gains) or word not in columns:
                raise PromptMismatchError(f"there is no word {word!r} in a vector {vector}; expected one of "
                                          f"{len(self.words)} words and a vector from 0 to {len(self.gains) - 1}")
            if not 0 <= weight <= 1:
                raise PromptMismatchError(f"the weight {weight} of {word!r}; expected a number from 0 to 1")
            changed[vector, columns[word]], fixed[vector, columns[word]] = weight, True
        for vector in sorted({vector for vector, _ in weights}):
            row, given = changed[vector], fixed[vector]
            left, others = 1 - float(row[given].sum()), float(row[~given].sum())
            if left < -ROUNDING or (left > ROUNDING and not others):
                raise PromptMismatchError(f"the weights given for vector {vector} sum to {1 - left:.3f}; expected "
                                          + ("at most 1" if left < 0 else "1, because no other word has any weight"))
            row[~given] *= max(left, 0.0) / others if others else 0.0
        return Mixture(self.words, changed, self.gains)

    @property
    def perplexity(self) -> Tensor:
        """(m,) exp of the entropy of each vector's weights, the effective number of its words, from 1 to k."""
        return torch.special.entr(self.weights).sum(-1).exp()
