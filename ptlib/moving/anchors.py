"""Anchors: the words that two or more vocabularies share (section 3.2 of the paper).

``shared_anchors`` finds them. ``Anchors`` holds the words and their token ids in each model.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast
from weakref import WeakKeyDictionary, ref

from torch import Tensor, tensor

from ..errors import AnchorError
from ..files import content_digest, kept
from ..models.lm import LanguageModel
from ..models.vocabulary import Vocabulary, without_collector

__all__ = ["Anchors", "shared_anchors"]


@dataclass(frozen=True, eq=False)
class Anchors:
    """Words that are one token in each of several LMs.

    Attributes:
        words: the k words, sorted.
        ids: {lm.name: (k,) token ids, in the order of ``words``}.
        report: how many whole words each vocabulary has, and how many were not shared, duplicates or not selected.
        fingerprints: {lm.name: fingerprint of the LM that the ids belong to}.
    """

    words: tuple[str, ...]
    ids: dict[str, Tensor]
    report: dict[str, int]
    fingerprints: dict[str, str]

    def __len__(self) -> int:
        return len(self.words)

    def of(self, lm: LanguageModel) -> Tensor:
        """The embeddings of the anchors in ``lm``: (k, d).

        Raises:
            AnchorError: the anchors were not made for ``lm``.
        """
        if lm.name not in self.ids:
            raise AnchorError(f"these anchors were made for {', '.join(self.ids)}, not for {lm.name}; pass it to "
                              "ptlib.shared_anchors as well")
        if self.fingerprints[lm.name] != lm.fingerprint:
            raise AnchorError(f"these anchors were made for another model with the name {lm.name} (its fingerprint is "
                              f"{self.fingerprints[lm.name]}, not {lm.fingerprint}); make them again with "
                              "ptlib.shared_anchors")
        return lm.embeddings[self.ids[lm.name].to(lm.device)]

    def without(self, words: Iterable[str]) -> Anchors:
        """The anchors except for these words, for example to test on the words that were left out.

        Raises:
            AnchorError: no anchor is left.
        """
        left_out = set(words)
        kept = [i for i, word in enumerate(self.words) if word not in left_out]
        if not kept:
            raise AnchorError(f"leaving out {len(left_out)} words removes all {len(self)} anchors; leave out fewer")
        return self._keep(kept, "left out")

    def frequent(self, most: int) -> Anchors:
        """The ``most`` most frequent anchors, selected as in ``shared_anchors``; all of them if there are fewer."""
        ids_of_lms = [ids.tolist() for ids in self.ids.values()]
        return self._keep(_select(list(range(len(self))), ids_of_lms, min(most, len(self)), "frequent", seed=0),
                          "not selected")

    def _keep(self, kept: list[int], reason: str) -> Anchors:
        """The anchors at these positions. The report counts the others under ``reason``."""
        report = {**self.report, reason: self.report.get(reason, 0) + len(self) - len(kept), "anchors": len(kept)}
        return Anchors(tuple(self.words[i] for i in kept), {name: ids[kept] for name, ids in self.ids.items()}, report,
                       self.fingerprints)


def shared_anchors(*lms: LanguageModel, num: int | None = None, select: str = "all", seed: int = 0) -> Anchors:
    """The words that are one token in every LM, with at most one word for each token.

    A word is looked up in the form that it has after a space. An uncased vocabulary maps several words to one token;
    then the first of them in sorted order is kept. The result depends neither on the order of the LMs' vocabularies
    nor on Python's hash seed.

    Args:
        lms: two or more. With a single LM, the result is all its whole words.
        num: how many anchors; all if None.
        select: ``"all"``; ``"random"``: draw ``num`` words with ``seed``; or ``"frequent"``: the ``num`` words with the
            lowest mean rank of their token ids. Tokenizers number their tokens roughly by frequency.
        seed: of the draw, for ``"random"``.

    Raises:
        AnchorError: the LMs share no word, or fewer than ``num``; or two different LMs have the same name.
    """
    names, fingerprints = [lm.name for lm in lms], {lm.name: lm.fingerprint for lm in lms}
    if unlike := [lm.name for lm in lms if fingerprints[lm.name] != lm.fingerprint]:
        raise AnchorError(f"two different models have the name {unlike[0]!r}; load them by their full paths, so that "
                          "their names differ")
    words, ids, counts, not_shared, duplicates = _shared(lms)
    if num is not None and num < 1:
        raise AnchorError(f"num={num}; expected a number of at least 1, or None for all anchors")
    if not words or len(words) < (num or 0):
        raise AnchorError(f"{' and '.join(names)} share {len(words)} words (of {', '.join(map(str, counts))}); "
                          f"expected at least {num or 1}. Models of the same language usually share thousands: check "
                          "their whole words (lm.words)")
    chosen = _select(list(range(len(words))), ids, num, select, seed)
    report = {**{f"whole words of {name}": count for name, count in zip(names, counts, strict=True)},
              "not shared": not_shared, "duplicates": duplicates, "not selected": len(words) - len(chosen),
              "anchors": len(chosen)}
    return Anchors(tuple(words[i] for i in chosen),
                   {name: tensor(of_lm)[chosen] for name, of_lm in zip(names, ids, strict=True)}, report, fingerprints)


class _Shared(NamedTuple):
    """The words that several vocabularies share, sorted, at most one for each token.

    ``ids`` and ``counts`` have an entry for each vocabulary: the ids of ``words``, and how many whole words it has.
    ``not_shared`` and ``duplicates`` count the words that were left out.
    """

    words: list[str]
    ids: list[list[int]]
    counts: list[int]
    not_shared: int
    duplicates: int


# {first vocabulary: {ids of the others: (the others, what they share)}}
_known: WeakKeyDictionary[Vocabulary, dict[tuple[int, ...], tuple[tuple[ref[Vocabulary], ...], _Shared]]]
_known = WeakKeyDictionary()


def _shared(vocabularies: Sequence[Vocabulary]) -> _Shared:
    """Found once for the same objects, and once for the content of large vocabularies."""
    first, *others = vocabularies
    with_others = _known.setdefault(first, {})
    same, found = with_others.get(tuple(map(id, others)), ((), None))
    if found is None or [other() for other in same] != others:  # the id of an object that is gone is given again
        if all(vocabulary.is_kept for vocabulary in vocabularies):
            key = [content_digest(Path(__file__)), *(vocabulary.digest for vocabulary in vocabularies)]
            found = _Shared(*kept("anchors", key, lambda: _find(vocabularies)))
        else:
            found = _find(vocabularies)
        with_others[tuple(map(id, others))] = tuple(map(ref, others)), found
    return found


@without_collector()
def _find(vocabularies: Sequence[Vocabulary]) -> _Shared:
    candidates = set().union(*(vocabulary.words for vocabulary in vocabularies))
    # A word that is several tokens in one vocabulary need not be looked up in the next.
    shared = list(candidates)
    for vocabulary in vocabularies:
        shared = [word for word, i in zip(shared, vocabulary.word_ids(shared), strict=True) if i is not None]
    shared.sort()
    rows = list(zip(*(vocabulary.word_ids(shared) for vocabulary in vocabularies), strict=True))
    unique: list[int] = []
    taken: list[set[int | None]] = [set() for _ in vocabularies]
    for i, row in enumerate(rows):
        if not any(token in of_lm for token, of_lm in zip(row, taken, strict=True)):
            unique.append(i)
            for token, of_lm in zip(row, taken, strict=True):
                of_lm.add(token)
    ids = [[cast(int, rows[i][n]) for i in unique] for n in range(len(vocabularies))]  # None is not shared
    return _Shared([shared[i] for i in unique], ids, [len(vocabulary.words) for vocabulary in vocabularies],
                   len(candidates) - len(shared), len(shared) - len(unique))


def _select(unique: list[int], ids: list[list[int]], num: int | None, select: str, seed: int) -> list[int]:
    if select not in ("all", "random", "frequent"):
        raise AnchorError(f"select={select!r}; expected 'all', 'random' or 'frequent'")
    if num is None or num == len(unique):
        return unique
    if select == "all":
        raise AnchorError(f"num={num} does not go with select='all'; use select='random' or 'frequent' to take fewer "
                          "anchors")
    if select == "random":
        return sorted(random.Random(seed).sample(unique, num))
    ranks = [{i: r for r, i in enumerate(sorted(unique, key=lambda i: of_lm[i]))} for of_lm in ids]
    return sorted(sorted(unique, key=lambda i: (sum(rank[i] for rank in ranks), i))[:num])
