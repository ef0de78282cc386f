"""How the tokens of a vocabulary are written, whatever its tokenizer can or cannot say of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tokenizers import decoders

__all__ = ["spellings"]

TRIED = 2000  # tokens that show which reading is right


def spellings(tokenizer, word_ids: Callable[[Iterable[str]], Sequence[int | None]]) -> list[str]:
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
        return sum(found == i for i, found in zip(sample, word_ids(words), strict=True) if words[i // sample.step])

    return [word.strip() for word in max(readings, key=held)(range(len(tokens)))]


def as_bytes(token: str | None) -> str:
    """What a token of a byte-level vocabulary stands for (``ĠcafÃ©`` is " café")."""
    return decoders.ByteLevel().decode([token or ""])


def unmarked(tokenizer, tokens: Sequence[str | None]) -> list[str]:
    """The tokens without what this tokenizer puts before or behind a word that it keeps whole."""
    before, behind = marks(tokenizer)
    return [(token or "").removeprefix(before).removesuffix(behind) for token in tokens]


def marks(tokenizer) -> tuple[str, str]:
    """What stands before and behind the letter in the token of the second "a" of "a a": ("▁", ""), say."""
    token = (tokenizer.tokenize("a a") or ["a"])[-1]
    before, letter, behind = token.partition("a")
    return (before, behind) if letter else ("", "")
