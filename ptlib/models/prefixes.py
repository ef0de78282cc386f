"""What a causal LM has read before the prompt vectors, computed once for each subject.

A causal LM's states at the first tokens of a text depend on nothing that follows. In the template ``"[X] [V]*5 [Y]"``
the subject stands before the vectors, so its keys and values are the same for every prompt and every step of tuning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache

__all__ = ["Prefixes", "common_length"]

LIMIT = 2**30  # bytes of keys and values that are kept for a model


class Prefixes:
    """The keys and values of the prefixes that a causal LM has read.

    They are kept up to ``LIMIT`` bytes; what exceeds them makes all others go, which costs time but no accuracy.

    Args:
        model: a causal ``transformers`` model that fills a ``DynamicCache`` with one key and one value a layer, all of
            the same shape.
    """

    def __init__(self, model: Any):
        self.model = model
        self.known: dict[tuple[int, ...], Tensor] = {}  # {token ids: (2, layers, heads, T, width)}
        self.size = 0

    def cache(self, prefixes: Sequence[tuple[int, ...]]) -> tuple[DynamicCache, Tensor]:
        """A cache for a batch of B prefixes, padded on the left, and its mask (B, T).

        Padded on the left, every token is as far from what follows as in the unpadded text, so that attention windows
        stay what they are.
        """
        from transformers import DynamicCache  # takes seconds to import

        self.read(prefixes)
        longest = max(map(len, prefixes))
        first = self.known[prefixes[0]]
        states = first.new_zeros(*first.shape[:2], len(prefixes), first.shape[2], longest, first.shape[4])
        mask = torch.zeros(len(prefixes), longest, dtype=torch.long, device=first.device)
        for row, prefix in enumerate(prefixes):
            if prefix:
                states[:, :, row, :, -len(prefix):] = self.known[prefix]
                mask[row, -len(prefix):] = 1
        return DynamicCache(zip(*states, strict=True)), mask

    def after(self, embeds: Tensor, rows: int,
              past: tuple[DynamicCache, Tensor] | None) -> tuple[DynamicCache, Tensor]:
        """A cache for a batch of texts that begin alike, with prompt vectors, and its mask (rows, T). Nothing is kept.

        Args:
            embeds: (1, T, d) what the model reads first.
            rows: the number of texts.
            past: what stands before it, as ``cache`` gives it for one prefix; None if nothing does.
        """
        from transformers import DynamicCache

        cache = DynamicCache() if past is None else past[0]
        self.model.get_decoder()(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(rows)
        return cache, torch.ones(rows, cache.get_seq_length(), dtype=torch.long, device=embeds.device)

    @torch.inference_mode(False)  # what is kept serves evaluation and tuning alike
    @torch.no_grad()
    def read(self, prefixes: Sequence[tuple[int, ...]]) -> None:
        """Compute the keys and values of those prefixes that are not known yet.

        What all of them begin with, such as demonstrations, is read once.
        """
        from transformers import DynamicCache

        new = sorted(set(prefixes) - self.known.keys(), key=len)
        if not new:
            return
        shared = new[0][:common_length(new)] if len(new) > 1 else ()
        cache = DynamicCache()
        if len(shared) > 1:  # for a start token alone it would not pay
            self.states([shared], cache)
            cache.batch_repeat_interleave(len(new))
        states = self.states([prefix[cache.get_seq_length():] for prefix in new], cache)
        if self.size + states.nbytes > LIMIT:
            kept = set(prefixes) - set(new)
            self.known = {prefix: self.known[prefix] for prefix in kept}
            self.size = sum(state.nbytes for state in self.known.values())
        for row, prefix in enumerate(new):
            self.known[prefix] = states[:, :, row, :, :len(prefix)].clone()
            self.size += self.known[prefix].nbytes

    def states(self, texts: Sequence[tuple[int, ...]], cache: DynamicCache) -> Tensor:
        """The keys and values of what is in ``cache`` and of a batch of texts that go on from there.

        They are (2, layers, B, heads, T, width), padded on the right.
        """
        device = self.model.get_input_embeddings().weight.device
        before, longest = cache.get_seq_length(), max(1, *map(len, texts))
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
        mask = torch.tensor([[1] * (before + len(text)) + [0] * (longest - len(text)) for text in texts], device=device)
        self.model.get_decoder()(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True)
        layers: list[Any] = list(cache.layers)  # of keys and values, or this model is not asked
        return torch.stack([torch.stack([layer.keys for layer in layers]),
                            torch.stack([layer.values for layer in layers])])


def common_length(texts: Iterable[Sequence[int]]) -> int:
    """How many tokens all texts begin with."""
    columns = zip(*texts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
