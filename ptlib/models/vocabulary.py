"""Tokens and words: how a tokenizer splits text, which words are one token, and how each token is spelled."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models

from ..errors import ModelLoadError
from ..files import content_digest, kept, text_digest

__all__ = ["APART", "Vocabulary", "without_collector"]

APART = '"'  # a character that tokenizers hardly ever join with a word
TRIED = 2000  # the number of tokens on which ``right_reading`` compares the readings of a vocabulary
TOGETHER = 100  # words that are tokenized as one text
LARGE = 2**14  # tokens; the words of a smaller vocabulary are found as fast as they are read from the cache


@contextmanager
def without_collector() -> Iterator[None]:
    """Inside this context, Python's garbage collector rests.

    Some hundred thousand words make it look at all objects of the process again and again, which takes as long as
    finding the words.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Vocabulary:
    """The tokens of a model.

    Attributes:
        tokenizer: the model's Hugging Face tokenizer.
        name: the model's name.
        vocab_size: the number of tokens that the model has embeddings for.
        origin: the hash of the files that the tokenizer was read from; None if it was made in memory.
    """

    def __init__(self, tokenizer: Any, name: str, vocab_size: int, origin: str | None = None):
        self.tokenizer, self.name, self.vocab_size, self.origin = tokenizer, name, vocab_size, origin
        self._ids: dict[str, dict[str, int | None]] = {}
        self._words: dict[str, dict[str, int]] = {}

    @cached_property
    def tokens(self) -> dict[int, str]:
        """{id: token as the vocabulary writes it, such as "ĠParis"}, of all that the tokenizer can produce, by id."""
        tokens = {i: token for token, i in self.tokenizer.get_vocab().items()}
        return {i: tokens[i] for i in sorted(tokens)}  # a third faster than sorting pairs

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The ids that the tokenizer puts before and after a text, such as [CLS] and [SEP].

        Raises:
            ModelLoadError: the tokenizer changes a text's own tokens when it adds these.
        """
        bare = self.tokenize("a")
        framed = self.tokenizer("a")["input_ids"]
        start = next((i for i in range(len(framed)) if bare and framed[i:i + len(bare)] == bare), None)
        if start is None:
            raise ModelLoadError(f"the tokenizer of {self.name} gives 'a' the ids {bare}, but {framed} with special "
                                 "tokens; expected the first ids within the second: correct its tokenizer.json")
        return framed[:start], framed[start + len(bare):]

    @cached_property
    def control_ids(self) -> set[int]:
        """The ids of special tokens such as [MASK] and </s>, which no text may contain.

        The unknown token is not among them, because it stands for text.
        """
        return set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        return self.tokenize_many([text], special)[0]

    def tokenize_many(self, texts: Iterable[str], special: bool = False) -> list[list[int]]:
        """The token ids of texts at the start of a sentence.

        Args:
            special: read "[MASK]" and the like as the special tokens; otherwise they are plain text.
        """
        texts = list(texts)
        if not texts:
            return []
        ids = self._split(texts, special)
        unknown = self.tokenizer.unk_token_id
        if special or unknown is None:
            return ids
        # Some vocabularies (Unigram) also contain the special tokens as pieces of text.
        control = self.control_ids
        return [row if control.isdisjoint(row) else [unknown if i in control else i for i in row] for row in ids]

    def _split(self, texts: list[str], special: bool) -> list[list[int]]:
        if not self.tokenizer.is_fast:
            return self.tokenizer(texts, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        # As the tokenizer's own call, without the offsets and masks that it makes for each text: four times as fast.
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = not special
        return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def tokenize_after(self, texts: Iterable[str], before: str = "a", special: bool = False) -> list[list[int]]:
        """The token ids of texts that follow ``before``.

        The texts are tokenized together with ``before``, because many tokenizers put a space before a text that stands
        alone. If a text joins with ``before`` into other tokens, a quotation mark takes the place of ``before``. If the
        text joins with that as well, it is tokenized alone.
        """
        texts, start = list(texts), self.tokenize(before)
        whole = self.tokenize_many([before + text for text in texts], special)
        separate = [ids[:len(start)] == start for ids in whole]
        joined = [text for text, is_separate in zip(texts, separate, strict=True) if not is_separate]
        fallback = iter(() if not joined else self.tokenize_many(joined, special) if before == APART else
                        self.tokenize_after(joined, APART, special))
        return [ids[len(start):] if is_separate else next(fallback)
                for ids, is_separate in zip(whole, separate, strict=True)]

    def tokenize_at(self, texts: Iterable[str], place: str, special: bool = False) -> list[list[int]]:
        """The token ids of texts that follow ``place``: "" is the start of a text, " " the space after a word."""
        if not place:
            return self.tokenize_many(texts, special)
        spaced = place.endswith(" ")
        return self.tokenize_after((" " * spaced + text for text in texts), "a" if spaced else place, special)

    def word_ids(self, words: Iterable[str], place: str = " ") -> list[int | None]:
        """The id of each word's token at a place in a text (see ``tokenize_at``).

        It is None for a word that is several tokens or unknown there.
        """
        words, ids = list(words), self._ids.setdefault(place, {})
        new = [word for word in dict.fromkeys(words) if word not in ids]
        if place == " " and place in self._words:
            # All words are found. One that is not among them can only be the token of another spelling ("paris").
            ids.update(dict.fromkeys(self._read_as_written(new)))
            new = [word for word in new if word not in ids]
        special = set(self.tokenizer.all_special_ids)
        for word, tokens in zip(new, self.tokenize_at(new, place), strict=True):
            # A tokenizer may have tokens for which the model has no embedding.
            known = len(tokens) == 1 and tokens[0] not in special and tokens[0] < self.vocab_size
            ids[word] = tokens[0] if known else None
        return [ids[word] for word in words]

    @property
    def words(self) -> dict[str, int]:
        """{word: id} of the vocabulary's whole words, in order of id, without word pieces and symbols.

        Raises:
            ModelLoadError: the tokenizer splits most of its whole words, so it is not the one that the model was
                trained with.
        """
        return self.words_at(" ")

    def words_at(self, place: str) -> dict[str, int]:
        """{word: id} of the whole words that are one token at a place in a text, such as after a quotation mark.

        Other places than a space may also make one token of a piece of a word. So a word counts as whole only if it is
        one token after a space, too, or if the space becomes a token of its own, as in languages that write no spaces.
        """
        if place not in self._words:
            def find() -> tuple[str, list[int]]:
                """The words as one text, as JSON is slow with many texts. No word has a space in it."""
                words = self._find_words(place)
                return " ".join(words), list(words.values())

            with without_collector():
                text, ids = kept("words", (place, self.digest), find) if self.is_kept else find()
                self._words[place] = dict(zip(text.split(), ids, strict=True))
                self._ids.setdefault(place, {}).update(self._words[place])
        return self._words[place]

    def _find_words(self, place: str) -> dict[str, int]:
        ids = self._word_forms if place == " " else range(len(self.tokenizer))
        spelled = {i: word for i, word in zip(ids, self._spell(ids), strict=True) if is_plausible(word)}
        if place == " ":
            return self._words_after_space(spelled)
        words = {word: i for (i, word), own in zip(spelled.items(), self.word_ids(spelled.values(), place), strict=True)
                 if own == i}
        spaced = dict(zip(words, self.tokenize_at(words, " "), strict=True))
        return {word: i for word, i in words.items() if word in self.words or (
            spaced[word][-1:] == [i] and not self.tokenizer.decode(spaced[word][:-1]).strip())}

    def _words_after_space(self, spelled: Mapping[int, str]) -> dict[str, int]:
        """The words, of those that tokens spell, that are this very token after a space.

        Many words are tokenized as one text. Where this gives the tokens in question, each word is its token alone,
        too: as a token ends where each word ends, no word had a part in another's token.
        """
        ids = list(spelled)
        parts = [ids[start:start + TOGETHER] for start in range(0, len(ids), TOGETHER)]
        read = self.tokenize_at((" ".join(map(spelled.__getitem__, part)) for part in parts), " ")
        mixed = [i for part, tokens in zip(parts, read, strict=True) if tokens != part for i in part]
        own = self.word_ids(map(spelled.__getitem__, mixed))
        no_words = {i for i, found in zip(mixed, own, strict=True) if found != i}.union(self.tokenizer.all_special_ids)
        if self._marks_words and 4 * len(no_words) > 3 * len(spelled):
            raise ModelLoadError(f"the tokenizer of {self.name} splits {len(no_words)} of the {len(spelled)} whole "
                                 "words in its vocabulary; expected it to keep nearly all of them. It was probably "
                                 "converted wrongly: correct its tokenizer.json, or for a GGUF file upgrade "
                                 "transformers (before 5.18, it cannot join the pieces of Gemma's words)")
        return {word: i for i, word in spelled.items() if i < self.vocab_size and i not in no_words}

    @property
    def _marks_words(self) -> bool:
        """Whether a mark in a token tells that it begins or ends a word, as in BPE and Unigram."""
        return self.tokenizer.is_fast and any(self._marks) and isinstance(
            self.tokenizer.backend_tokenizer.model, (models.BPE, models.Unigram))

    @property
    def _word_forms(self) -> Sequence[int]:
        """The tokens that have the form of a whole word after a space.

        They contain the mark of the space, if tokens do, but for those that were added to the vocabulary.
        """
        before, after = self._marks
        if not self._marks_words:
            return range(len(self.tokenizer))
        added = set(self.tokenizer.get_added_vocab().values())
        return [i for i, token in self.tokens.items()
                if i in added or (token.startswith(before) and token.endswith(after))]

    def _read_as_written(self, words: Iterable[str]) -> list[str]:
        """Those of the words whose text the tokenizer leaves as it is, so that a token of all of it is spelled so, too.
        """
        if not self.tokenizer.is_fast:
            return []
        normalizer, mark = self.tokenizer.backend_tokenizer.normalizer, self._marks[0]
        return [word for word in words if is_plausible(word) and (
            normalizer is None or normalizer.normalize_str(word).removeprefix(mark) == word)]

    @cached_property
    def _marks(self) -> tuple[str, str]:
        return marks(self.tokenizer)

    @property
    def is_kept(self) -> bool:
        """Whether what is found out about the words is kept in the user's cache, for later processes."""
        return self.vocab_size >= LARGE and self.digest is not None

    @cached_property
    def digest(self) -> str | None:
        """The hash of all that the words depend on: the tokenizer, the number of embeddings, and this code.

        It is None for a tokenizer that is not a file's content alone, but has parts in Python. Of a tokenizer that was
        read from files, only the parts that can be set afterwards are hashed: all of it takes half a second for 262,144
        tokens.
        """
        if not self.tokenizer.is_fast:
            return None
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # settings of a single call
        backend.no_padding()
        try:
            content = backend.to_str() if self.origin is None else repr([
                self.origin, sorted(self.tokenizer.get_added_vocab().items()),
                *(part and part.__getstate__() for part in (backend.normalizer, backend.pre_tokenizer,
                                                            backend.decoder))])
        except Exception:  # of no narrower type
            return None
        special = [self.tokenizer.all_special_ids, self.tokenizer.unk_token_id]
        return text_digest(repr([text_digest(content), type(self.tokenizer).__name__, special, self.vocab_size,
                                 tokenizers.__version__, content_digest(Path(__file__))]))

    @cached_property
    def _spell(self) -> Callable[[Sequence[int]], list[str]]:
        """Gives the text of each token, without the space before it."""
        reading = right_reading(self.tokenizer, self.word_ids)
        return lambda ids: list(map(str.strip, reading(ids)))


def right_reading(tokenizer: Any, word_ids: Callable[[Iterable[str]], Sequence[int | None]]) -> Callable:
    """How to read the text of a tokenizer's tokens: the function that gives the texts for a sequence of ids.

    A tokenizer may lack a decoder, or have the wrong one. So its tokens are read in three ways: with its decoder; as
    the tokens of a byte-level tokenizer; and as plain text without the mark that shows where a word begins or ends. The
    right reading gives words that the tokenizer turns back into the same tokens.

    Args:
        word_ids: gives the id of each word that is one token in the middle of a text, and None for other words.
    """
    tokens = tokenizer.convert_ids_to_tokens
    readings = [lambda ids: decoded(tokenizer, ids), lambda ids: list(map(as_bytes, tokens(ids))),
                lambda ids: unmarked(tokenizer, tokens(ids))]
    sample = range(0, len(tokenizer), max(1, len(tokenizer) // TRIED))

    def recovered(reading: Callable) -> int:
        """How many of the sampled tokens the tokenizer gives back for their words."""
        words = [word.strip() for word in reading(sample)]
        return sum(back == i and any(map(str.isalnum, word))
                   for i, word, back in zip(sample, words, word_ids(words), strict=True))

    own, *others = readings
    best = max(others, key=recovered)
    # A wrong reading recovers some tokens, too. So the tokenizer's own decoder counts unless another is clearly better.
    return best if recovered(best) > 2 * recovered(own) else own


def is_plausible(word: str) -> bool:
    """Whether a token's text may be a whole word: it has a letter or digit, and no space."""
    return word.isalnum() or (any(map(str.isalnum, word)) and len(word.split()) == 1)


def decoded(tokenizer: Any, ids: Iterable[int]) -> list[str]:
    """The text of each token by the tokenizer's decoder."""
    alone = [[i] for i in ids]
    # The backend leaves out the clean-up of spaces, which concerns no word.
    return (tokenizer.backend_tokenizer.decode_batch(alone, skip_special_tokens=False) if tokenizer.is_fast else
            tokenizer.batch_decode(alone))


def as_bytes(token: str | None) -> str:
    """The text of a token of a byte-level vocabulary: " café" for ``ĠcafÃ©``."""
    return decoders.ByteLevel().decode([token or ""])


def unmarked(tokenizer: Any, tokens: Sequence[str | None]) -> list[str]:
    """The tokens without the marks that this tokenizer puts before or after a whole word."""
    before, after = marks(tokenizer)
    return [(token or "").removeprefix(before).removesuffix(after) for token in tokens]


def marks(tokenizer: Any) -> tuple[str, str]:
    """The marks before and after the letter in the token of the second "a" of "a a", such as ("▁", "")."""
    token = (tokenizer.tokenize("a a") or ["a"])[-1]
    before, letter, after = token.partition("a")
    return (before, after) if letter else ("", "")
