"""A model proves itself before it is believed: three short forward passes when it is loaded.

Prompts enter a model as vectors in place of word embeddings, in batches that are padded, and the answer is read at one
position. That is right only where (a) the embeddings of words, given as vectors, lead to the logits that the words lead
to, (b) padding changes nothing, and (c) it is known whether a prediction sees the tokens behind it. A model's name
tells none of this.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ModelLoadError, first_line

if TYPE_CHECKING:
    from .lm import LanguageModel

__all__ = ["Proof", "prove"]

SHORT, LONG = 3, 6  # tokens of two sequences, so that a batch of both is padded
MIDDLE = 1  # where another token is tried


@dataclass(frozen=True)
class Proof:
    """What the passes have shown.

    Attributes:
        kind: ``"masked"`` where a later token changes an earlier prediction, ``"causal"`` where it does not, or
            ``"seq2seq"``.
        ignores_padding: whether a sequence in a padded batch gives the logits that it gives alone.
        seconds: what it took.
    """

    kind: str
    ignores_padding: bool
    seconds: float


@torch.inference_mode()
def prove(lm: LanguageModel, kind: str) -> Proof:
    """Try a model that its configuration says to be of this kind.

    Raises:
        ModelLoadError: it cannot run, gives logits that are not finite, or does not read vectors as it reads words.
    """
    began, about = time.perf_counter(), f"{type(lm.model).__name__} {lm.name!r}"
    long = ordinary_tokens(lm)
    short, other = long[:SHORT], long[:SHORT].clone()
    other[MIDDLE] = long[-1]
    try:
        words = lm.word_logits(torch.stack([short, other]))[..., lm.given_ids]
    except Exception as error:  # a forward pass may raise anything
        raise ModelLoadError(f"{about} cannot read {SHORT} tokens ({first_line(error)}); expected a language model "
                             "that needs nothing but input_ids") from error
    if not words.isfinite().all():
        raise ModelLoadError(f"{about} gives logits that are not finite in {lm.model.dtype}; expected finite ones; "
                             "load it with dtype=torch.float32, and if that gives the same, its weights are broken")
    # Rounding, in units of how much logits differ: halves of one sort or another add it up over the layers.
    allowed = max(1e-4, 16 * torch.finfo(lm.model.dtype).eps) * words.std() + 1e-6

    def same(one: Tensor, other: Tensor) -> bool:
        return bool((one - other).abs().max() <= allowed)

    own = words[0, -1]
    padded = torch.stack([torch.nn.functional.pad(short, (0, LONG - SHORT)), long])
    try:
        ignores_padding = same(vector_logits(lm, padded, [SHORT, LONG])[0], own)
        vectors = own if ignores_padding else vector_logits(lm, torch.stack([short, short]), [SHORT, SHORT])[0]
    except Exception as error:
        raise ModelLoadError(f"{about} cannot read prompt vectors in place of words ({first_line(error)}); expected a "
                             "model that runs from inputs_embeds alone") from error
    if not same(vectors, own):
        raise ModelLoadError(f"{about} answers the embeddings of words otherwise than the words (by up to "
                             f"{(vectors - own).abs().max():.2g} in a logit), as models do that scale them outside of "
                             "the embedding layer; expected one that reads a prompt's vectors as it reads words")
    if kind != "seq2seq":
        if not same(words[0, :MIDDLE], words[1, :MIDDLE]):
            kind = "masked"
        elif not same(words[0, MIDDLE + 1:], words[1, MIDDLE + 1:]):
            kind = "causal"
        # Else it hears no other token at all, and its configuration has to be believed.
    return Proof(kind, ignores_padding, time.perf_counter() - began)


def ordinary_tokens(lm: LanguageModel) -> Tensor:
    """(LONG,) ids of different tokens that stand for text."""
    special = set(lm.tokenizer.all_special_ids)
    usable = [i for i in lm.given_ids.tolist() if i not in special]
    chosen = [usable[at * (len(usable) - 1) // (LONG - 1)] for at in range(LONG)] if usable else [0] * LONG
    return torch.tensor(chosen, device=lm.device)


def vector_logits(lm: LanguageModel, ids: Tensor, lengths: list[int]) -> Tensor:
    """(B, n) logits at the last of the first SHORT words of texts (B, T), which are given as vectors.

    The vectors of the last text are moved away from the words: some models only find their tokens again.
    """
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    slots = torch.arange(SHORT, device=lm.device).expand(len(ids), -1)
    vectors = lm.embeddings[ids[:, :SHORT]]
    vectors[-1] = vectors[-1].mean(0)
    answers = torch.full((len(ids),), SHORT - 1, device=lm.device)
    return lm.answer_logits(ids, mask.long().to(lm.device), slots, vectors, answers)[:, lm.given_ids]
