"""Anchors: the words that two or more vocabularies share (section 3.2 of the paper).

``shared_anchors`` finds them. ``Anchors`` holds the words and their token ids in each model.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from torch import Tensor, tensor

from ..errors import AnchorError
from ..models.lm import LanguageModel

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
    candidates = sorted(set().union(*(lm.words for lm in lms)))
    ids = {lm.name: lm.word_ids(candidates) for lm in lms}
    shared = [i for i in range(len(candidates)) if all(ids[name][i] is not None for name in names)]
    unique: list[int] = []
    taken: dict[str, set[int | None]] = {name: set() for name in names}
    for i in shared:
        if not any(ids[name][i] in taken[name] for name in names):
            unique.append(i)
            for name in names:
                taken[name].add(ids[name][i])
    counts = [len(lm.words) for lm in lms]
    if num is not None and num < 1:
        raise AnchorError(f"num={num}; expected a number of at least 1, or None for all anchors")
    if not unique or len(unique) < (num or 0):
        raise AnchorError(f"{' and '.join(names)} share {len(unique)} words (of {', '.join(map(str, counts))}); "
                          f"expected at least {num or 1}. Models of the same language usually share thousands: check "
                          "their whole words (lm.words)")
    chosen = _select(unique, [cast(list[int], ids[name]) for name in names], num, select, seed)  # None is not shared
    report = {**{f"whole words of {name}": count for name, count in zip(names, counts, strict=True)},
              "not shared": len(candidates) - len(shared), "duplicates": len(shared) - len(unique),
              "not selected": len(unique) - len(chosen), "anchors": len(chosen)}
    return Anchors(tuple(candidates[i] for i in chosen),
                   {name: tensor([ids[name][i] for i in chosen]) for name in names}, report, fingerprints)


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
