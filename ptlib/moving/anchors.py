"""Anchors: the words that two or more vocabularies share (section 3.2 of the paper)."""

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
        words: sorted.
        ids: {lm.name: (k,) token ids, in the order of ``words``}.
        report: counts by reason: whole words of each vocabulary, words not shared, duplicates, not selected.
        fingerprints: {lm.name: fingerprint} of the LMs that the ids are of.
    """

    words: tuple[str, ...]
    ids: dict[str, Tensor]
    report: dict[str, int]
    fingerprints: dict[str, str]

    def __len__(self) -> int:
        return len(self.words)

    def of(self, lm: LanguageModel) -> Tensor:
        """(k, d) embeddings of the anchors in ``lm``."""
        if lm.name not in self.ids:
            raise AnchorError(f"these anchors are shared by {', '.join(self.ids)}, not by {lm.name}; "
                              f"make some with ptlib.shared_anchors that include it")
        if self.fingerprints[lm.name] != lm.fingerprint:
            raise AnchorError(f"these anchors are of another model of the name {lm.name} (fingerprint "
                              f"{self.fingerprints[lm.name]}, not {lm.fingerprint}); make them again with "
                              "ptlib.shared_anchors")
        return lm.embeddings[self.ids[lm.name].to(lm.device)]

    def without(self, words: Iterable[str]) -> Anchors:
        """All but these words, which can then judge what was done with the others."""
        left_out = set(words)
        kept = [i for i, word in enumerate(self.words) if word not in left_out]
        if not kept:
            raise AnchorError(f"of {len(self)} anchors none is left without {len(left_out)} words; leave out fewer")
        return self._keep(kept, "left out")

    def frequent(self, most: int) -> Anchors:
        """As ``shared_anchors`` selects them, the ``most`` most frequent, or all if there are no more."""
        tables = [ids.tolist() for ids in self.ids.values()]
        return self._keep(_select(list(range(len(self))), tables, min(most, len(self)), "frequent", seed=0),
                          "not selected")

    def _keep(self, kept: list[int], reason: str) -> Anchors:
        """The anchors at these places; ``reason`` is where the others are counted."""
        report = {**self.report, reason: self.report.get(reason, 0) + len(self) - len(kept), "anchors": len(kept)}
        return Anchors(tuple(self.words[i] for i in kept), {name: ids[kept] for name, ids in self.ids.items()}, report,
                       self.fingerprints)


def shared_anchors(*lms: LanguageModel, num: int | None = None, select: str = "all", seed: int = 0) -> Anchors:
    """The words that are one token in every LM, one word a token.

    A word counts in the form it has after a space. Where a vocabulary maps several words to one token (an
    uncased one does), the first in sorted order stays. The result depends on neither the order of the LMs'
    vocabularies nor the hash seed.

    Args:
        lms: two or more; of a single one, all its whole words.
        num: how many anchors; all if None.
        select: ``"all"``; ``"random"``, ``num`` drawn with ``seed``; or ``"frequent"``, the ``num`` with the
            lowest mean rank of their ids (tokenizers number their pieces by frequency, roughly).
        seed: of ``"random"``.

    Raises:
        AnchorError: the LMs share no word, or fewer than ``num``; two of them have one name and are not the same.
    """
    names, fingerprints = [lm.name for lm in lms], {lm.name: lm.fingerprint for lm in lms}
    if unlike := [lm.name for lm in lms if fingerprints[lm.name] != lm.fingerprint]:
        raise AnchorError(f"two different models have the name {unlike[0]!r}; expected a name for each: load them by "
                          "their full paths")
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
        raise AnchorError(f"num={num}; expected at least one anchor, or None for all")
    if not unique or len(unique) < (num or 0):
        raise AnchorError(f"{' and '.join(names)} share {len(unique)} words (of {', '.join(map(str, counts))}); "
                          f"expected at least {num or 1}. Models of one language and script share thousands; check "
                          "their tokenizers (lm.words)")
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
        raise AnchorError(f"num={num} with select='all'; choose select='random' or 'frequent' for fewer anchors")
    if select == "random":
        return sorted(random.Random(seed).sample(unique, num))
    ranks = [{i: r for r, i in enumerate(sorted(unique, key=lambda i: table[i]))} for table in ids]
    return sorted(sorted(unique, key=lambda i: (sum(rank[i] for rank in ranks), i))[:num])
