"""Which words may answer, and which examples have one of them as their object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import TaskError
from ..models.lm import LanguageModel
from ..prompts.templates import Template
from ..tasks.task import Example

__all__ = ["Candidates", "answerable", "candidates_of", "scorable"]


@dataclass(frozen=True)
class Candidates:
    """The words that may answer, each with its tokens at the answer's place; no two are the same tokens.

    Attributes:
        words: as they were given, or as the vocabulary has them.
        tokens: one tuple a word.
        lm_name, place: where they are these tokens; see ``LanguageModel.tokenize_at``.
        multi_token: whether words of several tokens are among them.
    """

    words: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    lm_name: str
    place: str
    multi_token: bool = False

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def columns(self) -> dict[tuple[int, ...], int]:
        """{tokens: their place}."""
        return {tokens: column for column, tokens in enumerate(self.tokens)}

    @cached_property
    def ids(self) -> Tensor:
        """(C,) tokens, where each word is one."""
        return torch.tensor([token for token, in self.tokens], dtype=torch.long)


def candidates_of(lm: LanguageModel, template: Template, examples: Sequence[Example],
                  given: Iterable[str] | None = None, multi_token: bool = False) -> Candidates:
    """The words to rank: those given, else the examples' choices, else all words or, with ``multi_token``, all objects.

    Words that are the same tokens (*Paris* and *paris* to an uncased model) are one candidate.

    Raises:
        TaskError: the examples are of several tasks; a label word is not one token (with ``multi_token``: unknown), or
            two of them are the same; no candidate is left.
    """
    kinds = list(dict.fromkeys(example.choices for example in examples)) if given is None else []
    if len(kinds) > 1:
        raise TaskError(f"the examples have different label words ({' and '.join(map(str, kinds))}); expected the "
                        "examples of one task, or candidates=")
    choices = kinds[0] if kinds else None
    if given is None and choices is None and not multi_token:
        return all_words(lm, template.place)
    words = list(choices or sorted(set([e.object for e in examples] if given is None else given)))
    spoken = dict(zip(words, tokens_of(lm, words, template.place, multi_token), strict=True))
    if choices:
        check_choices(lm, spoken, multi_token)
    found = {tokens: word for word, tokens in reversed(spoken.items()) if tokens is not None}
    if not found:
        raise TaskError(f"none of the {len(words)} candidates can be scored" + (f": {words[0]!r}, for one, is "
                        f"{'unknown to' if multi_token else 'not one token of'} {lm.name} {behind(template.place)}" if
                        words else "") + "; expected some words" + ("" if multi_token else ", or multi_token=True"))
    return Candidates(tuple(reversed(found.values())), tuple(reversed(found)), lm.name, template.place, multi_token)


_all_words: WeakKeyDictionary[LanguageModel, dict[str, Candidates]] = WeakKeyDictionary()


def all_words(lm: LanguageModel, place: str) -> Candidates:
    """The whole words of a vocabulary, found once."""
    found = _all_words.setdefault(lm, {})
    if place in found:
        return found[place]
    words = lm.words_at(place)
    if not words:
        raise TaskError(f"no word is one token of {lm.name} {behind(place)}: its tokenizer turns none of its "
                        f"{len(lm.tokenizer)} tokens back into itself; expected candidates=, or multi_token=True")
    found[place] = Candidates(tuple(words), tuple((i,) for i in words.values()), lm.name, place)
    return found[place]


def tokens_of(lm: LanguageModel, words: Sequence[str], place: str,
              multi_token: bool) -> list[tuple[int, ...] | None]:
    """The tokens of each word; None where it is several of them, or not made of tokens that text can hold."""
    if not multi_token:
        return [None if i is None else (i,) for i in lm.word_ids(words, place)]
    special = set(lm.tokenizer.all_special_ids)
    return [None if special.intersection(ids) or max(ids, default=lm.vocab_size) >= lm.vocab_size else tuple(ids)
            for ids in lm.tokenize_at(words, place)]


def check_choices(lm: LanguageModel, spoken: Mapping[str, tuple[int, ...] | None], multi_token: bool) -> None:
    """Without one of its words, or with two that are one, a classification would be another than it says."""
    if unknown := [word for word, tokens in spoken.items() if tokens is None]:
        raise TaskError(f"label word {unknown[0]!r} is " + (f"unknown to {lm.name}" if multi_token else
                        f"not one token of {lm.name}") + "; expected label_words= that it knows"
                        + ("" if multi_token else ", or to evaluate with multi_token=True"))
    if len(set(spoken.values())) < len(spoken):
        raise TaskError(f"two of the label words {', '.join(spoken)} are the same token to {lm.name}; expected "
                        "label_words= that it tells apart")


def behind(place: str) -> str:
    return "behind a space" if place == " " else f"behind {place!r}" if place else "at the start of a text"


def scorable(lm: LanguageModel, examples: Sequence[Example],
             candidates: Candidates) -> tuple[list[Example], list[int], tuple[tuple[Example, str], ...]]:
    """The examples whose object is a candidate, with its column; and the others, each with what its object is."""
    kept, columns, dropped = [], [], []
    spoken = tokens_of(lm, [example.object for example in examples], candidates.place, candidates.multi_token)
    for example, tokens in zip(examples, spoken, strict=True):
        column = None if tokens is None else candidates.columns.get(tokens)
        if column is None:
            why = (f"not one token of {lm.name} {behind(candidates.place)}" if tokens is None else
                   f"not among the {len(candidates)} candidate words")
            dropped.append((example, why))
        else:
            kept.append(example)
            columns.append(column)
    return kept, columns, tuple(dropped)


def answerable(words: Iterable[str], asked: Iterable[tuple[LanguageModel, str]]) -> list[str]:
    """The words that are one token wherever a template asks for them: of every LM, behind what stands before [Y]."""
    words = list(words)
    for lm, place in dict.fromkeys((lm, Template(template).place) for lm, template in asked):
        words = [word for word, i in zip(words, lm.word_ids(words, place), strict=True) if i is not None]
    return words
