"""The head of a language model, asked for some words only.

Ranking thirty thousand words needs no logits of a quarter of a million others. In half precision it also needs finer
logits than the head gives: rounded to 8 bits, the best two words are often equal, and equal words are both wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

__all__ = ["Head", "head_of", "only_words"]


class Head(NamedTuple):
    """The rows of n tokens ``ids`` in the last layer of a model: ``weight`` (n, d) and ``bias`` (n,), in float32."""

    ids: Tensor
    weight: Tensor
    bias: Tensor | None


@torch.inference_mode(False)  # what is kept serves evaluation and gradients alike
def head_of(model: Any, ids: Tensor) -> Head | None:
    """The rows of some tokens; None if the last layer is not a plain linear one, or all tokens are asked for."""
    layer = model.get_output_embeddings()
    if type(layer) is not torch.nn.Linear or "forward" in vars(layer) or len(ids) >= len(layer.weight):
        return None
    bias = None if layer.bias is None else layer.bias.detach()[ids].float()
    return Head(ids, layer.weight.detach()[ids].float(), bias)


@contextmanager
def only_words(model: Any, head: Head | None) -> Iterator[None]:
    """Inside this context, ``model`` gives the logits of the head's tokens alone, (..., n); with None, of all."""
    if head is None:
        yield
        return
    layer = model.get_output_embeddings()
    layer.forward = lambda hidden: linear(hidden.float(), head.weight, head.bias)
    try:
        yield
    finally:
        del layer.forward
