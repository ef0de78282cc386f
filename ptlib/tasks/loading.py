"""Tasks: facts (subject, object) of one relation, or texts and their labels, split into train, dev and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from numbers import Integral
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import TaskError
from ..parameters import listed
from .layouts import (
    SPLITS,
    Row,
    find_task,
    lama_template,
    list_files,
    read_rows,
    read_verbalizer,
    relation_of,
)
from .task import Example, Task, hashed_order, split_by_subject

__all__ = ["LABEL_WORDS", "ZOO_FACTS", "Example", "Task", "labelled_texts", "list_tasks", "load_task", "load_tasks",
           "read_fact_tables", "read_table", "split_by_subject", "task_from_rows"]

ZOO_FACTS = Path(__file__).parents[1] / "zoo" / "facts"
ZOO_TASK_SIZE = 120  # a zoo task holds at most this many of its relation's facts
LABEL_WORDS = {"sentiment": {"positive": "great", "negative": "terrible"},
               "topic": {label: label for label in ("sports", "politics", "science", "business")}}
LabelWords = Mapping[str, str] | Mapping[int, str] | Sequence[str]  # {label: word}, or the words of classes in order
COLUMNS = (("sub_label", "obj_label"), ("text", "label"), ("sentence", "label"))  # the last is GLUE's


# --- the zoo's layout: one table a kind of subject, one column a relation -------------------------


@cache
def read_table(path: Path) -> pd.DataFrame:
    """A CSV file as strings; empty cells are empty strings ("NA" and "Null" are words here)."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@cache
def read_fact_tables(folder: Path = ZOO_FACTS) -> dict[str, dict[str, str]]:
    """``{relation: {subject: object}}`` from every CSV file in ``folder`` with a ``subject`` column."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.csv")):
        table = read_table(path)
        if "subject" in table:
            for relation in table.columns.drop("subject"):
                known = table[table[relation] != ""]
                found.setdefault(relation, {}).update(zip(known["subject"], known[relation], strict=True))
    return {relation: found[relation] for relation in sorted(found, key=lambda r: int(r[1:]))}


@cache
def zoo_templates() -> dict[str, str]:
    table = read_table(ZOO_FACTS / "relations.csv")
    return dict(zip(table["relation"], table["manual"], strict=True))


def labelled_texts(name: str) -> list[Example]:
    """The texts and labels of ``"sentiment"`` or ``"topic"``."""
    table = read_table(ZOO_FACTS / f"{name}.csv")
    return [Example(text, label) for text, label in zip(table["text"], table["label"], strict=True)]


def zoo_examples(relation: str) -> list[Example]:
    if relation in LABEL_WORDS:
        return labelled_texts(relation)
    facts = read_fact_tables()
    if relation not in facts:
        raise TaskError(f"the zoo has no task 'zoo/{relation}'; it has "
                        f"{', '.join([*list_tasks('zoo'), *(f'zoo/{name}' for name in LABEL_WORDS)])}")
    chosen = hashed_order(facts[relation], relation)[:ZOO_TASK_SIZE]
    return [Example(subject, facts[relation][subject]) for subject in chosen]


# --- from rows to a task --------------------------------------------------------------------------


def build_task(name: str, salt: str, rows: Iterable[Row], columns: Sequence[tuple[str, str]], template: str | None,
               label_words: LabelWords | None) -> Task:
    """A task from its rows, which all have the pair of ``columns`` that the first one has."""
    rows = list(rows)
    if not rows:
        raise TaskError(f"task {name!r} has no rows; expected some with {or_pairs(columns)}")
    pair = fact_columns(rows[0], columns)
    labelled = label_words is not None or pair[1] == "label"
    facts = [read_fact(row, fact_columns(row, [pair]), labelled) for row in rows]
    words, choices = None, None
    if labelled:
        words = verbalizer(name, {label for _, label in facts}, label_words)
        choices = tuple(words.values())
        for row, (_, label) in zip(rows, facts, strict=True):
            if label not in words:
                raise TaskError(f"{row.where} has the label {label!r}, which has no word among those of "
                                f"{', '.join(words)}; add it to label_words, or leave out rows without a true label")
    examples = [Example(subject, answer if words is None else words[answer], choices) for subject, answer in facts]
    named = [row.split or read_split(row) for row in rows]
    if any(named) and not all(named):
        raise TaskError(f"{rows[named.index(None)].where} names no split, but other rows do; expected it in all of "
                        "them or in none")
    if set(named) <= {None, "train"}:
        train, dev, test = split_by_subject(examples, salt)
    else:
        train, dev, test = (tuple(e for e, split in zip(examples, named, strict=True) if split == part)
                            for part in ("train", "dev", "test"))
    return Task(name, train, dev, test, template, words)


def or_pairs(columns: Iterable[tuple[str, str]]) -> str:
    return ", or ".join(" and ".join(pair) for pair in columns)


def fact_columns(row: Row, columns: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The pair of columns that ``row`` has."""
    if not isinstance(row.record, Mapping):
        raise TaskError(f"{row.where} is {row.record!r:.60}; expected a mapping from column to value (of a DataFrame, "
                        "give df.to_dict('records'))")
    for pair in columns:
        if set(pair) <= row.record.keys():
            return pair
    raise TaskError(f"{row.where} has the keys {sorted(map(str, row.record))}; expected {or_pairs(columns)}")


def cell(row: Row, column: str) -> Any:
    """What stands in a column; blanks around text are none of it, wherever it comes from."""
    value = row.record.get(column)
    return value.strip() if isinstance(value, str) else value


def read_fact(row: Row, pair: tuple[str, str], labelled: bool) -> tuple[str, str]:
    """Subject and object, or text and label, as strings."""
    subject, answer = (cell(row, column) for column in pair)
    if labelled and isinstance(answer, Integral) and not isinstance(answer, bool):
        answer = str(answer)  # class 1, whether it is written 1 or "1"
    if not all(isinstance(value, str) and value for value in (subject, answer)):
        raise TaskError(f"{row.where} has {pair[0]} {subject!r:.60} and {pair[1]} {answer!r:.60}; expected two strings "
                        "that are not empty" + (" (a label may be a whole number)" if labelled else
                                                "; of numbered classes, give label_words="))
    return subject, answer


def read_split(row: Row) -> str | None:
    split = cell(row, "split")
    if split not in (None, "", "train", "dev", "test"):
        raise TaskError(f"{row.where} has the split {split!r}; expected train, dev or test")
    return split or None


def verbalizer(name: str, labels: set[str], label_words: LabelWords | None) -> dict[str, str]:
    """{label: word}; without ``label_words`` the labels are the words."""
    if label_words is None:
        numbers = sorted(label for label in labels if label.removeprefix("-").isdecimal())
        if numbers:
            raise TaskError(f"task {name!r} has the label {numbers[0]}, which is no word; give label_words= as "
                            "{label: word} or as the words of the classes 0, 1, ... in order")
        label_words = {label: label for label in sorted(labels)}
    if isinstance(label_words, Sequence) and not isinstance(label_words, str):
        label_words = dict(enumerate(label_words))
    if not (isinstance(label_words, Mapping) and label_words
            and all(isinstance(word, str) and word.strip() for word in label_words.values())):
        raise TaskError(f"task {name!r} was given label_words={label_words!r:.60}; expected {{label: word}} or the "
                        "words of the classes 0, 1, ... in order")
    words = {str(label).strip(): word.strip() for label, word in label_words.items()}
    if len(words) < len(label_words):
        raise TaskError(f"task {name!r} was given label_words={label_words!r:.60}, with a label that stands there "
                        "twice; expected each once (1 and '1' are the same)")
    for word, count in Counter(words.values()).items():
        if count > 1:
            same = " and ".join(repr(label) for label in words if words[label] == word)
            raise TaskError(f"task {name!r} has the word {word!r} for the labels {same}; expected a word of its own "
                            "for each label")
    return words


# --- what users call ------------------------------------------------------------------------------


def load_task(name: str, root: str | Path | None = None, *, template: str | None = None,
              label_words: LabelWords | None = None) -> Task:
    """Load a task by name.

    Args:
        name: ``"zoo/P36"``, ``"zoo/sentiment"`` or ``"zoo/topic"``; ``"lama/P36"``, ``"pararel/P36"``, ``"lpaqa/P36"``
            or ``"optiprompt/P36"`` below ``root``; or, relative to ``root`` if given, the path of a file, or of a
            folder with files named train, dev (or validation) and test. Files are JSON lines, CSV or TSV; their
            columns are ``sub_label`` and ``obj_label``, or ``text`` (else ``sentence``) and ``label``, and ``split``
            (train, dev or test) where no file name says it.
        root: the folder that holds the layout, ``lama/TREx`` or just ``TREx``, say; see ``layouts.LAYOUTS``.
        template: the manual template; by default that of ``NAME.verbalizer.json``, else of a LAMA ``relations.jsonl``
            near the file, else the zoo's, both by the file's name (``P36``).
        label_words: makes it a classification task: {label: word}, or the words of the classes 0, 1, … in order. By
            default those of ``NAME.verbalizer.json`` ({"label_words": {...}, "template": "..."}) beside the file
            or folder NAME; else labels in a column ``label`` are words themselves.

    Files without splits, or with "train" alone, are split 40 / 10 / 50 % by subject, the same everywhere. Of named
    splits none is made up: without "dev", ``tune`` selects on train; without "test" there is nothing to evaluate.

    Raises:
        TaskError: the task or file is missing, or a line is not as expected; a label has no word, or the word of
            another label.
    """
    layout, _, relation = name.partition("/")
    if layout == "zoo":
        rows = [Row(name, vars(example), None) for example in zoo_examples(relation)]
        return build_task(name, relation, rows, [("subject", "object")], template or zoo_templates().get(relation),
                          LABEL_WORDS.get(relation) if label_words is None else label_words)
    path = find_task(name, root)
    relation, beside = relation_of(path), read_verbalizer(path)
    template = template or beside.get("template") or lama_template(relation, path) or zoo_templates().get(relation)
    return build_task(name, relation, read_rows(path), COLUMNS, template,
                      beside.get("label_words") if label_words is None else label_words)


def task_from_rows(name: str, rows: Iterable[Mapping] | Mapping[str, Iterable[Mapping]], *, subject: str | None = None,
                   object: str | None = None, template: str | None = None,
                   label_words: LabelWords | None = None) -> Task:
    """A task from rows in memory, such as a ``datasets.Dataset`` or ``DatasetDict``.

    Args:
        name: of the task; rows without splits are split as those of a file of this name.
        rows: mappings from column to value, or {"train": rows, "dev" or "validation": rows, "test": rows}. A column
            ``split`` counts where there is no such mapping.
        subject, object: the columns; by default those that ``load_task`` knows.
        template, label_words: as for ``load_task``. Of a ``ClassLabel`` column give its ``names``, or better words.

    Raises:
        TaskError: as ``load_task``; there is a split of another name.
    """
    if (subject is None) != (object is None):
        raise TaskError(f"task {name!r}: subject={subject!r} and object={object!r}; expected both columns or neither")
    parts: Mapping[Any, Iterable[Mapping]] = rows if isinstance(rows, Mapping) else {None: rows}
    unknown = [part for part in parts if part not in (None, *SPLITS)]
    if unknown:
        raise TaskError(f"task {name!r} has the split {unknown[0]!r}; expected rows, or a mapping with no other splits "
                        f"than {', '.join(SPLITS)}")
    found = (Row(f"task {name!r}, {part + ' ' if part else ''}row {i}", record, SPLITS.get(part))
             for part, some in parts.items() for i, record in enumerate(some))
    return build_task(name, name, found, COLUMNS if subject is None or object is None else [(subject, object)],
                      template or zoo_templates().get(name), label_words)


def task_names(kind: str, root: str | Path | None) -> dict[str, str]:
    """{relation: name for ``load_task``}."""
    return {relation: f"zoo/{relation}" for relation in read_fact_tables()} if kind == "zoo" else list_files(kind, root)


def list_tasks(kind: str = "zoo", root: str | Path | None = None) -> list[str]:
    """What ``load_task`` accepts: the tasks of a layout below ``root`` ("lama", say), or of a folder.

    Of the zoo, the relations alone: its two classification tasks are ``zoo/sentiment`` and ``zoo/topic``.
    """
    return list(task_names(kind, root).values())


def load_tasks(kind: str = "zoo", root: str | Path | None = None, relations: str | None = None) -> list[Task]:
    """Load every task that ``list_tasks`` names, or only some.

    Args:
        kind, root: as for ``list_tasks``.
        relations: comma-separated, such as ``"P36,P19"``; of the zoo also ``"sentiment,topic"``. All if None.

    Raises:
        TaskError: there is no such relation.
    """
    names = task_names(kind, root)
    wanted = listed(relations) if relations else list(names)
    if kind == "zoo":
        names |= {name: f"zoo/{name}" for name in LABEL_WORDS}
    missing = [relation for relation in wanted if relation not in names]
    if missing:
        raise TaskError(f"{kind!r} has no relations {', '.join(missing)}; it has {', '.join(names)}")
    return [load_task(names[relation], root) for relation in wanted]
