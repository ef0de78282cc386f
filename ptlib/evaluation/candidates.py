"""Candidate words: the words that an LM ranks as answers, and the examples that have one of them as their object."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..errors import TaskError
from ..models.lm import LanguageModel
from ..prompts.templates import Template
from ..tasks.task import Example, LabelWord, words_of_class

__all__ = ["Candidates", "answerable", "candidates_of", "chosen_words", "of_answerable", "scorable"]

Word = TypeVar("Word", str, LabelWord)


@dataclass(frozen=True)
class Candidates:
    """The candidate words of one LM, each with its tokens at the answer slot. No two words have the same tokens.

    Attributes:
        words: spelled as they were given, or as in the vocabulary. A class of several words is here by the first.
        tokens: one tuple of token ids for each word that is scored.
        lm_name: the LM that the token ids belong to.
        place: the text before the answer slot, which the tokens depend on; see ``LanguageModel.tokenize_at``.
        multi_token: whether words of several tokens are allowed.
        owners: for each of ``tokens`` the index of its candidate; () if every candidate is a single word.
    """

    words: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    lm_name: str
    place: str
    multi_token: bool = False
    owners: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def columns(self) -> dict[str | tuple[int, ...], int]:
        """{word: its index, tokens: the index of their word}."""
        owners = self.owners or range(len(self))
        return {**dict(zip(self.words, range(len(self)), strict=True)), **dict(zip(self.tokens, owners, strict=True))}

    @cached_property
    def ids(self) -> Tensor:
        """The token ids of all words that are scored. Only for words of one token each."""
        return torch.tensor([token for token, in self.tokens], dtype=torch.long)

    @cached_property
    def answers(self) -> Tensor:
        """(C, w) the token ids of each candidate's words, −1 where it has fewer. Only for words of one token each."""
        if not self.owners:
            return self.ids[:, None]
        owners = torch.tensor(self.owners)
        return pad_sequence([self.ids[owners == c] for c in range(len(self))], batch_first=True, padding_value=-1)

    def pooled(self, scores: Tensor) -> Tensor:
        """(B, C) the score of each candidate: the mean over its words, whose scores are (B, words)."""
        if not self.owners:
            return scores
        owners = torch.tensor(self.owners, device=scores.device)
        return scores.new_zeros(len(scores), len(self)).index_add(1, owners, scores) / owners.bincount()


def chosen_words(candidates: Iterable[str] | None, examples: Iterable[Example]) -> list[str] | None:
    """The words that ``candidates=`` of ``evaluate`` means: ``"task"`` stands for the objects of the examples.

    Raises:
        TaskError: it is any other string.
    """
    if candidates == "task":
        return sorted({example.object for example in examples})
    if isinstance(candidates, str):
        raise TaskError(f"candidates={candidates!r}; expected 'task', a list of words, or None for the default")
    return None if candidates is None else list(candidates)


def candidates_of(lm: LanguageModel, template: Template, examples: Sequence[Example],
                  given: Iterable[str] | None = None, multi_token: bool = False) -> Candidates:
    """The words to rank.

    These are the words in ``given``, if there are any; otherwise the classes of a classification task; otherwise all
    whole words of the vocabulary or, with ``multi_token``, the objects of the examples. Words with the same tokens
    (*Paris* and *paris* to an uncased model) are one candidate.

    Words are looked up once for each LM and place.

    Raises:
        TaskError: the examples have different label words; a label word is unknown, or begins with the token (with
            ``multi_token``: has all the tokens) of another class's; no candidate is left.
    """
    label_words = list(dict.fromkeys(example.choices for example in examples)) if given is None else []
    if len(label_words) > 1:
        raise TaskError(f"the examples have different label words ({' and '.join(map(str, label_words))}); give the "
                        "examples of one task, or candidates=")
    if label_words and label_words[0] is not None:
        return classes(lm, label_words[0], template.place, multi_token)
    words = None
    if given is not None or multi_token:
        words = tuple(sorted(set([e.object for e in examples] if given is None else given)))
    known, key = _known.setdefault(lm, {}), (words, template.place, multi_token)
    if key not in known:
        known[key] = (all_words(lm, template.place) if words is None else
                      of_words(lm, words, template.place, multi_token))
    return known[key]


_known: WeakKeyDictionary[LanguageModel, dict[tuple, Candidates]] = WeakKeyDictionary()


def of_words(lm: LanguageModel, words: Sequence[str], place: str, multi_token: bool) -> Candidates:
    """Those of the words that can be scored.

    Raises:
        TaskError: there are none.
    """
    tokens_by_word = dict(zip(words, tokens_of(lm, words, place, multi_token), strict=True))
    candidates = {tokens: word for word, tokens in reversed(tokens_by_word.items()) if tokens is not None}
    if not candidates:
        reason = "unknown to" if multi_token else "not one token of"
        raise TaskError(f"none of the {len(words)} candidates can be scored"
                        + (f": {words[0]!r}, for example, is {reason} {lm.name} {described(place)}"
                           if words else "")
                        + "; give other candidates=" + ("" if multi_token else ", or multi_token=True"))
    return Candidates(tuple(reversed(candidates.values())), tuple(reversed(candidates)), lm.name, place, multi_token)


def all_words(lm: LanguageModel, place: str) -> Candidates:
    """All whole words of a vocabulary that are one token at a place.

    Raises:
        TaskError: there are none.
    """
    words = lm.words_at(place)
    if not words:
        raise TaskError(f"no word is one token of {lm.name} {described(place)}: its tokenizer turns none of its "
                        f"{len(lm.tokenizer)} tokens back into itself; give candidates=, or multi_token=True")
    return Candidates(tuple(words), tuple((i,) for i in words.values()), lm.name, place)


def tokens_of(lm: LanguageModel, words: Sequence[str], place: str,
              multi_token: bool) -> list[tuple[int, ...] | None]:
    """The tokens of each word.

    They are None for a word that cannot be scored: without ``multi_token`` one that is not a single token, with it one
    that contains a special token or a token that the model has no embedding for.
    """
    if not multi_token:
        return [None if i is None else (i,) for i in lm.word_ids(words, place)]
    special = set(lm.tokenizer.all_special_ids)
    return [None if special.intersection(ids) or max(ids, default=lm.vocab_size) >= lm.vocab_size else tuple(ids)
            for ids in lm.tokenize_at(words, place)]


def classes(lm: LanguageModel, choices: Sequence[LabelWord], place: str, multi_token: bool) -> Candidates:
    """The classes of a task as candidates, each with the mean score of its label words.

    Without ``multi_token``, a label word of several tokens counts by its first token, which is what tuning can ask for
    (OpenPrompt, Ding et al. 2022, does the same); a warning says so. Words of one class with the same tokens count
    once.

    Raises:
        TaskError: a label word is unknown, or two classes cannot be told apart. Leaving such words out would change the
            task.
    """
    tokens: dict[tuple[int, ...], int] = {}
    for owner, given in enumerate(choices):
        words = words_of_class(given)
        for word, own in zip(words, tokens_of(lm, words, place, multi_token=True), strict=True):
            if not own:
                raise TaskError(f"label word {word!r} is unknown to {lm.name}; choose other label_words=")
            if len(own) > 1 and not multi_token:
                warnings.warn(f"label word {word!r} is {len(own)} tokens of {lm.name}; the first, "
                              f"{lm.tokenizer.decode(own[:1])!r}, stands for it", stacklevel=2)
                own = own[:1]
            if tokens.setdefault(own, owner) != owner:
                every = ", ".join(word for one in choices for word in words_of_class(one))
                raise TaskError(f"two of the label words {every} " + (
                    "are the same tokens to" if multi_token else "begin with the same token of") + f" {lm.name}; "
                    "choose label_words= that differ there" + ("" if multi_token else
                                                               ", or evaluate with multi_token=True"))
    owners = tuple(tokens.values())
    return Candidates(tuple(words_of_class(given)[0] for given in choices), tuple(tokens), lm.name, place, multi_token,
                      owners if len(owners) > len(choices) else ())


def described(place: str) -> str:
    """A place in a text, in words for an error message."""
    return "behind a space" if place == " " else f"behind {place!r}" if place else "at the start of a text"


def scorable(lm: LanguageModel, examples: Sequence[Example],
             candidates: Candidates) -> tuple[list[Example], list[int], tuple[tuple[Example, str], ...]]:
    """Separate the examples that have a candidate as their object from the others.

    Returns:
        The examples that can be scored; the index of each one's object among the candidates; and (example, reason) of
        the others.
    """
    kept, columns, dropped = [], [], []
    object_tokens = tokens_of(lm, [example.object for example in examples], candidates.place, candidates.multi_token)
    for example, tokens in zip(examples, object_tokens, strict=True):
        column = candidates.columns.get(example.object, None if tokens is None else candidates.columns.get(tokens))
        if column is None:
            reason = (f"not one token of {lm.name} {described(candidates.place)}" if tokens is None else
                      f"not among the {len(candidates)} candidate words")
            dropped.append((example, reason))
        else:
            kept.append(example)
            columns.append(column)
    return kept, columns, tuple(dropped)


def answerable(words: Iterable[Word], asked: Iterable[tuple[LanguageModel, str]]) -> list[Word]:
    """The words that are one token of every LM at the answer slot of its template.

    Args:
        words: the words to choose from. Of the words of a class, a tuple, some may be left.
        asked: (LM, template) pairs.
    """
    given = list(words)
    known = list(dict.fromkeys(word for one in given for word in words_of_class(one)))
    for lm, place in dict.fromkeys((lm, Template(template).place) for lm, template in asked):
        known = [word for word, i in zip(known, lm.word_ids(known, place), strict=True) if i is not None]
    left = set(known)
    kept = (one if isinstance(one, str) else tuple(word for word in one if word in left) for one in given)
    return [one for one in kept if one and (one in left or not isinstance(one, str))]


def of_answerable(lm: LanguageModel, words: Sequence[LabelWord], place: str) -> Candidates:
    """Words and classes that are ``answerable`` at a place, as candidates in their order."""
    every = [(word, owner) for owner, given in enumerate(words) for word in words_of_class(given)]
    ids = cast(list[int], lm.word_ids([word for word, _ in every], place))
    owners = tuple(owner for _, owner in every) if len(every) > len(words) else ()
    return Candidates(tuple(words_of_class(given)[0] for given in words), tuple((i,) for i in ids), lm.name, place,
                      owners=owners)
