"""What a tokenizer makes of text, and how the tokens of its vocabulary are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

from tokenizers import decoders

from ..errors import ModelLoadError

__all__ = ["APART", "Vocabulary", "spellings"]

APART = '"'  # what no word runs together with
TRIED = 2000  # tokens that show which reading of a vocabulary is right


class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokenizer: its Hugging Face tokenizer.
        name: the model's.
        vocab_size: how many tokens it has embeddings for.
    """

    def __init__(self, tokenizer: Any, name: str, vocab_size: int):
        self.tokenizer, self.name, self.vocab_size = tokenizer, name, vocab_size
        self._ids: dict[str, dict[str, int | None]] = {}
        self._words: dict[str, dict[str, int]] = {}

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text ([CLS] and [SEP], say)."""
        bare = self.tokenize("a")
        framed = self.tokenizer("a")["input_ids"]
        start = next((i for i in range(len(framed)) if bare and framed[i:i + len(bare)] == bare), None)
        if start is None:
            raise ModelLoadError(f"the tokenizer of {self.name} gives 'a' the ids {bare} alone and {framed} with "
                                 "special tokens; expected to find the ones in the others: mend its tokenizer.json")
        return framed[:start], framed[start + len(bare):]

    @cached_property
    def control_ids(self) -> set[int]:
        """Ids that steer a model ([MASK], </s>) and that no text may hold; the unknown token stands for text."""
        return set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        return self.tokenize_many([text], special)[0]

    def tokenize_many(self, texts: Iterable[str], special: bool = False) -> list[list[int]]:
        """Token ids of texts as they are at the start of a sentence.

        Args:
            special: read "[MASK]" and the like as the tokens that they name; otherwise they are characters as any.
        """
        texts = list(texts)
        if not texts:
            return []
        ids = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        if special or unknown is None:
            return ids
        # Some vocabularies (Unigram) hold these tokens as pieces of text too.
        return [[unknown if i in self.control_ids else i for i in row] for row in ids]

    def tokenize_after(self, texts: Iterable[str], before: str = "a", special: bool = False) -> list[list[int]]:
        """Token ids of texts as they are behind ``before``: many tokenizers put a space before what they are given.

        Where the two would run together into other tokens, the text stands behind a quotation mark, and where it runs
        together with that too, alone.
        """
        texts, start = list(texts), self.tokenize(before)
        whole = self.tokenize_many([before + text for text in texts], special)
        apart = [ids[:len(start)] == start for ids in whole]
        rest = [text for text, known in zip(texts, apart, strict=True) if not known]
        fallback = iter(() if not rest else self.tokenize_many(rest, special) if before == APART else
                        self.tokenize_after(rest, APART, special))
        return [ids[len(start):] if known else next(fallback) for ids, known in zip(whole, apart, strict=True)]

    def tokenize_at(self, texts: Iterable[str], place: str, special: bool = False) -> list[list[int]]:
        """Token ids of texts as they are behind ``place``: "" is the start of a text, " " the space behind a word."""
        if not place:
            return self.tokenize_many(texts, special)
        spaced = place.endswith(" ")
        return self.tokenize_after((" " * spaced + text for text in texts), "a" if spaced else place, special)

    def word_ids(self, words: Iterable[str], place: str = " ") -> list[int | None]:
        """The one token that each word is at a place in a text, or None where it is several or unknown."""
        words, ids = list(words), self._ids.setdefault(place, {})
        new = [word for word in dict.fromkeys(words) if word not in ids]
        special = set(self.tokenizer.all_special_ids)
        for word, found in zip(new, self.tokenize_at(new, place), strict=True):
            # A tokenizer may hold tokens that the model has no embedding for.
            known = len(found) == 1 and found[0] not in special and found[0] < self.vocab_size
            ids[word] = found[0] if known else None
        return [ids[word] for word in words]

    @property
    def words(self) -> dict[str, int]:
        """The vocabulary's whole words and their ids, in order of id: word pieces and symbols are left out."""
        return self.words_at(" ")

    def words_at(self, place: str) -> dict[str, int]:
        """The whole words that are one token at a place in a text, with that token: behind a quotation mark, say.

        Pieces of words may be one token there as well. A whole word is one behind a space, too; or, in languages that
        put none between words, a space before it is a token of its own.
        """
        if place not in self._words:
            plausible = [(i, word) for i, word in enumerate(self._spellings)
                         if any(map(str.isalnum, word)) and not any(map(str.isspace, word))]
            ids = self.word_ids((word for _, word in plausible), place)
            found = {word: i for (i, word), own in zip(plausible, ids, strict=True) if own == i}
            if place != " ":
                apart = dict(zip(found, self.tokenize_at(found, " "), strict=True))
                found = {word: i for word, i in found.items() if word in self.words or (
                    apart[word][-1:] == [i] and not self.tokenizer.decode(apart[word][:-1]).strip())}
            self._words[place] = found
        return self._words[place]

    @cached_property
    def _spellings(self) -> list[str]:
        """How each token is written, by id."""
        return spellings(self.tokenizer, lambda words: self.word_ids(words))


def spellings(tokenizer: Any, word_ids: Callable[[Iterable[str]], Sequence[int | None]]) -> list[str]:
    """The text of each token, by id, without the space before it; of several readings the one that holds.

    A tokenizer may lack a decoder, or have that of another one. Its tokens can be read in three ways: as it decodes
    them; as bytes, if it is a byte-level one; or as they are, less the mark that shows where a word begins or ends. The
    right reading is the one whose words the tokenizer turns back into the same tokens.

    Args:
        word_ids: what single tokens words are in the middle of a text.
    """
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    readings = [lambda ids: tokenizer.batch_decode([[i] for i in ids]), lambda ids: [as_bytes(tokens[i]) for i in ids],
                lambda ids: unmarked(tokenizer, [tokens[i] for i in ids])]
    sample = range(0, len(tokens), max(1, len(tokens) // TRIED))

    def held(reading: Callable) -> int:
        words = [word.strip() for word in reading(sample)]
        return sum(found == i and any(map(str.isalnum, word))
                   for i, word, found in zip(sample, words, word_ids(words), strict=True))

    own, *others = readings
    best = max(others, key=held)
    # A wrong reading may hold for some tokens too; its own decoder is right unless another one is clearly better.
    right = best if held(best) > 2 * held(own) else own
    return [word.strip() for word in right(range(len(tokens)))]


def as_bytes(token: str | None) -> str:
    """What a token of a byte-level vocabulary stands for (``ĠcafÃ©`` is " café")."""
    return decoders.ByteLevel().decode([token or ""])


def unmarked(tokenizer: Any, tokens: Sequence[str | None]) -> list[str]:
    """The tokens without what this tokenizer puts before or behind a word that it keeps whole."""
    before, behind = marks(tokenizer)
    return [(token or "").removeprefix(before).removesuffix(behind) for token in tokens]


def marks(tokenizer: Any) -> tuple[str, str]:
    """What stands before and behind the letter in the token of the second "a" of "a a": ("▁", ""), say."""
    token = (tokenizer.tokenize("a a") or ["a"])[-1]
    before, letter, behind = token.partition("a")
    return (before, behind) if letter else ("", "")
