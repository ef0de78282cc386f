"""What a task is: examples, in parts to train, select and test on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Example", "Task", "hashed_order", "split_by_subject"]

TRAIN_SHARE, DEV_SHARE = 0.4, 0.1  # the rest is test


@dataclass(frozen=True)
class Example:
    """One fact: the subject fills [X], the object is to be predicted at [Y].

    Attributes:
        choices: the words that may answer, or None for any; those of a classification task.
    """

    subject: str
    object: str
    choices: tuple[str, ...] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Task:
    """A relation to probe, or texts to classify.

    Attributes:
        name: what it was loaded as.
        train, dev, test: examples; only ``evaluate`` may look at ``test``.
        manual_template: a person's prompt such as ``"[X] was born in [Y] ."``, or None.
        label_words: None for open-vocabulary probing, else {label: word} (a verbalizer), labels as strings. The
            examples then have the text as subject, their label's word as object, and all words as choices.
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    manual_template: str | None = None
    label_words: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {len(self.train)} train, {len(self.dev)} dev, {len(self.test)} test)"


def split_by_subject(examples: Iterable[Example], salt: str) -> tuple[tuple[Example, ...], ...]:
    """Train, dev and test (40 / 10 / 50 % of the subjects), the same on every platform.

    Subjects are ordered by a hash of ``salt`` and their name: no subject is in two parts, and a split
    does not follow the alphabet.
    """
    by_subject: dict[str, list[Example]] = {}
    for example in sorted(set(examples), key=lambda e: (e.subject, e.object)):
        by_subject.setdefault(example.subject, []).append(example)
    order = hashed_order(by_subject, salt)
    first, second = round(TRAIN_SHARE * len(order)), round((TRAIN_SHARE + DEV_SHARE) * len(order))
    return tuple(tuple(example for subject in part for example in by_subject[subject])
                 for part in (order[:first], order[first:second], order[second:]))


def hashed_order(names: Iterable[str], salt: str) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}\t{name}".encode()).digest())
