"""Testing a model when it is loaded, with a few short forward passes.

ptlib puts prompt vectors in place of word embeddings, pads texts to batches, and reads the answer at one position. So
it has to know whether (a) the model gives the same logits for words and for their embeddings given as vectors, (b)
padding leaves the logits unchanged, and (c) a prediction depends on later tokens. A model's name tells none of this.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import ModelLoadError, NotFiniteError, first_line
from .heads import head_of, only_words

if TYPE_CHECKING:
    from .lm import LanguageModel
    from .prefixes import Prefixes

__all__ = ["Proof", "answers_alone", "prove", "reuses"]

SHORT, LONG = 3, 6  # the lengths of two sequences in tokens; a batch of both needs padding
MIDDLE = 1  # the position at which a token is exchanged for another


@dataclass(frozen=True)
class Proof:
    """The results of the tests.

    Attributes:
        kind: ``"seq2seq"``; ``"masked"`` if a later token changes an earlier prediction; ``"causal"`` if it does not.
        ignores_padding: whether a sequence has the same logits in a padded batch as alone.
        seconds: how long the tests took.
    """

    kind: str
    ignores_padding: bool
    seconds: float


@torch.inference_mode()
def prove(lm: LanguageModel, kind: str) -> Proof:
    """Test a model.

    Args:
        lm: the model.
        kind: its kind according to its configuration.

    Raises:
        ModelLoadError: the model cannot run, its logits are not finite, or it gives other logits for the embeddings of
            words than for the words.
    """
    began, described = time.perf_counter(), f"{type(lm.model).__name__} {lm.name!r}"
    long = ordinary_tokens(lm)
    short, other = long[:SHORT], long[:SHORT].clone()
    other[MIDDLE] = long[-1]
    try:
        words = lm.word_logits(torch.stack([short, other]))[..., lm.given_ids]
    except Exception as error:  # a forward pass may raise anything
        raise ModelLoadError(f"{described} cannot read {SHORT} tokens ({first_line(error)}); expected a language model "
                             "that needs nothing but input_ids") from error
    if not words.isfinite().all():
        raise ModelLoadError(f"{described} gives logits that are not finite in {lm.model.dtype}; load it with "
                             "dtype=torch.float32, and if that does not help, its weights are broken")
    allowed = rounding(lm, words)

    def same(first: Tensor, second: Tensor) -> bool:
        return bool((first - second).abs().max() <= allowed)

    own = words[0, -1]
    padded = torch.stack([torch.nn.functional.pad(short, (0, LONG - SHORT)), long])
    try:
        ignores_padding = same(vector_logits(lm, padded, [SHORT, LONG])[0], own)
        vectors = own if ignores_padding else vector_logits(lm, torch.stack([short, short]), [SHORT, SHORT])[0]
    except Exception as error:
        raise ModelLoadError(f"{described} cannot read prompt vectors in place of words ({first_line(error)}); "
                             "expected a model that runs from inputs_embeds alone") from error
    if not same(vectors, own):
        raise ModelLoadError(f"{described} gives other logits for the embeddings of words than for the words (by up "
                             f"to {(vectors - own).abs().max():.2g}), probably because it scales embeddings outside of "
                             "its embedding layer; expected a model that reads prompt vectors as it reads words")
    if kind != "seq2seq":
        if not same(words[0, :MIDDLE], words[1, :MIDDLE]):
            kind = "masked"
        elif not same(words[0, MIDDLE + 1:], words[1, MIDDLE + 1:]):
            kind = "causal"
        # Otherwise no prediction depends on another token, and only the configuration tells the kind.
    return Proof(kind, ignores_padding, time.perf_counter() - began)


@torch.inference_mode()
def reuses(lm: LanguageModel, prefixes: Prefixes) -> bool:
    """Whether a causal LM that goes on from remembered keys and values gives the logits of the whole text.

    It is tested on two texts with prefixes of different lengths, each followed by a prompt vector and a word.
    """
    tokens = ordinary_tokens(lm)
    before = [tuple(tokens[:MIDDLE].tolist()), tuple(tokens[MIDDLE:SHORT + MIDDLE].tolist())]
    rest, vectors = tokens[-2:].expand(len(before), -1), lm.embeddings[tokens[:2], None]
    first = torch.zeros(len(before), 1, dtype=torch.long, device=lm.device)
    try:
        remembered = lm.answer_logits(rest, torch.ones_like(rest), first, vectors, first[:, 0] + 1,
                                      prefixes.cache(before))
    except Exception:  # a model without keys and values, or with others in each layer, may raise anything
        return False
    for row, prefix in enumerate(before):
        whole = torch.cat([torch.tensor(prefix, device=lm.device), rest[row]])[None]
        slot = first[:1] + len(prefix)
        alone = lm.answer_logits(whole, torch.ones_like(whole), slot, vectors[row], slot[:, 0] + 1)[:, lm.given_ids]
        if not (alone - remembered[row, lm.given_ids]).abs().max() <= rounding(lm, alone):
            return False
    return True


@torch.inference_mode()
def answers_alone(lm: LanguageModel) -> bool:
    """Whether the last layer, asked for some words alone, gives the logits that it gives them among all others."""
    text = ordinary_tokens(lm)
    words = text.unique()
    head, where = head_of(lm.model, words), torch.tensor([0], device=lm.device)
    slots = where[:0].expand(1, 0)
    try:
        whole = lm.answer_logits(text[None], torch.ones_like(text[None]), slots, lm.embeddings[:0], where)
        with only_words(lm.model, head):
            found = lm.answer_logits(text[None], torch.ones_like(text[None]), slots, lm.embeddings[:0], where)
    except RuntimeError:  # something behind the last layer expects all words, such as a bias
        return False
    except NotFiniteError:  # the question itself will tell for how many examples
        return False
    return found.shape[1] == len(words) and bool((found - whole[:, words]).abs().max() <= rounding(lm, whole))


def rounding(lm: LanguageModel, logits: Tensor) -> Tensor:
    """The largest difference between two ways to compute the logits that rounding explains.

    Rounding errors add up over the layers, above all in half precision. They are allowed relative to the logits'
    standard deviation; 1e-6 is for logits that are all equal.
    """
    return max(1e-4, 16 * torch.finfo(lm.model.dtype).eps) * logits.std() + 1e-6


def ordinary_tokens(lm: LanguageModel) -> Tensor:
    """(LONG,) ids of different tokens, none of them special."""
    special = set(lm.tokenizer.all_special_ids)
    usable = [i for i in lm.given_ids.tolist() if i not in special]
    chosen = [usable[at * (len(usable) - 1) // (LONG - 1)] for at in range(LONG)] if usable else [0] * LONG
    return torch.tensor(chosen, device=lm.device)


def vector_logits(lm: LanguageModel, ids: Tensor, lengths: list[int]) -> Tensor:
    """(B, n) logits at position SHORT - 1 of texts (B, T), with the first SHORT tokens given as vectors.

    In the last text the vectors are no word's embedding: some models look up which token a vector belongs to, and would
    otherwise pass without reading vectors at all.
    """
    mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
    slots = torch.arange(SHORT, device=lm.device).expand(len(ids), -1)
    vectors = lm.embeddings[ids[:, :SHORT]]
    vectors[-1] = vectors[-1].mean(0)
    answers = torch.full((len(ids),), SHORT - 1, device=lm.device)
    return lm.answer_logits(ids, mask.long().to(lm.device), slots, vectors, answers)[:, lm.given_ids]
