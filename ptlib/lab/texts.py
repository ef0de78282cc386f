"""Texts to classify: known tasks with their label words, in the size that a notebook can afford."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import TaskError
from ..parameters import listed
from ..tasks.loading import LABEL_WORDS, LabelWords, load_task
from ..tasks.task import Example, Task, hashed_order

__all__ = ["load_texts"]

OPINION = {"negative": ("terrible", "bad"), "positive": ("great", "good")}
QUESTION = {"ABBR": "abbreviation", "DESC": ("description", "reason"), "ENTY": ("thing", "animal"),
            "HUM": ("person", "human"), "LOC": ("place", "location"), "NUM": ("number", "date")}
# {file: (manual template, label words)}; the opinions' template is LM-BFF's (Gao et al. 2021), which has one word each.
KNOWN: dict[str, tuple[str, LabelWords]] = {
    "sst2": ("[X] It was [Y] .", OPINION), "mpqa": ("[X] It was [Y] .", OPINION),
    "trec": ("[X] The answer is a [Y] .", QUESTION)}


def load_texts(names: str, root: str | None = None, *, train: int, test: int) -> list[Task]:
    """Load classification tasks, and keep some of their texts.

    Args:
        names: comma-separated: "sentiment" and "topic" are the zoo's; "sst2", "mpqa" and "trec" are files in ``root``
            such as ``sst2.tsv``, with the columns ``text``, ``label`` and ``split``.
        root: the folder of the files.
        train: how many train texts to keep, and half as many dev texts.
        test: how many test texts to keep.

    Returns:
        The tasks, under their bare names. Which texts are kept depends on the texts alone.

    Raises:
        TaskError: a task is unknown or its file is missing, or a row is not as ``load_task`` expects.
    """
    tasks = []
    for name in listed(names):
        if name in LABEL_WORDS:
            task = load_task(f"zoo/{name}")
        elif name in KNOWN:
            template, words = KNOWN[name]
            task = load_task(f"{name}.tsv", root, template=template, label_words=words)
        else:
            raise TaskError(f"tasks={names!r} has {name!r}; expected some of {', '.join([*LABEL_WORDS, *KNOWN])}")
        tasks.append(replace(task, name=name, train=some(task.train, train), dev=some(task.dev, train // 2),
                             test=some(task.test, test)))
    return tasks


def some(examples: Sequence[Example], count: int) -> tuple[Example, ...]:
    """As many of the examples, in an order that depends on their texts alone."""
    place = {text: at for at, text in enumerate(hashed_order({e.subject for e in examples}, "some texts"))}
    return tuple(sorted(examples, key=lambda e: place[e.subject])[:count])
