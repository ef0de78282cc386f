"""``Task`` and ``Example``, and how the examples of a task are split into train, dev and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

__all__ = ["Example", "LabelWord", "Task", "hashed_order", "split_by_subject", "words_of_class"]

TRAIN_SHARE, DEV_SHARE = 0.4, 0.1  # the rest is test
LabelWord = str | tuple[str, ...]  # what stands for a class: a word, or several of which the mean score counts


def words_of_class(given: LabelWord) -> tuple[str, ...]:
    """The words that stand for a class. The first is the class's name in examples and predictions."""
    return (given,) if isinstance(given, str) else given


@dataclass(frozen=True)
class Example:
    """One fact. The subject fills [X] in a template, and the LM predicts the object at [Y].

    Attributes:
        subject: the subject, or the text to classify.
        object: the object, or the label word of the text's class (the first, if the class has several).
        choices: the label words of all classes of a classification task, a class of several words as a tuple; None if
            any word may be the answer.
    """

    subject: str
    object: str
    choices: tuple[LabelWord, ...] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Task:
    """A relation to probe, or texts to classify.

    Attributes:
        name: the name that it was loaded by.
        train, dev, test: the examples. Only ``evaluate`` may look at ``test``.
        manual_template: a prompt in words that a person wrote, such as ``"[X] was born in [Y] ."``, or None.
        label_words: the verbalizer {label: word} of a classification task, with labels as strings; None otherwise. A
            class that has several words has a tuple of them, and the mean of their scores. The examples of a
            classification task have the text as subject and their label's (first) word as object.
    """

    name: str
    train: tuple[Example, ...]
    dev: tuple[Example, ...]
    test: tuple[Example, ...]
    manual_template: str | None = None
    label_words: dict[str, LabelWord] | None = None

    def __repr__(self) -> str:
        return f"Task({self.name!r}, {len(self.train)} train, {len(self.dev)} dev, {len(self.test)} test)"


def split_by_subject(examples: Iterable[Example], salt: str) -> tuple[tuple[Example, ...], ...]:
    """Split examples into train, dev and test (40 / 10 / 50 % of the subjects), the same on every machine.

    No subject is in two splits. Subjects are ordered by a hash of ``salt`` and their name, because a split in
    alphabetical order would not be a random one.
    """
    by_subject: dict[str, list[Example]] = {}
    for example in sorted(set(examples), key=lambda e: (e.subject, e.object)):
        by_subject.setdefault(example.subject, []).append(example)
    order = hashed_order(by_subject, salt)
    first, second = round(TRAIN_SHARE * len(order)), round((TRAIN_SHARE + DEV_SHARE) * len(order))
    return tuple(tuple(example for subject in part for example in by_subject[subject])
                 for part in (order[:first], order[first:second], order[second:]))


def hashed_order(names: Iterable[str], salt: str) -> list[str]:
    """The names in an order that looks random but depends only on ``salt`` and the names."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{salt}\t{name}".encode()).digest())
