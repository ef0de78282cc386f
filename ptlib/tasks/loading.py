"""Loading tasks: by name with ``load_task`` and ``load_tasks``, or from rows in memory with ``task_from_rows``.

Data without splits are split into train, dev and test by subject.
"""

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
from .task import Example, LabelWord, Task, hashed_order, split_by_subject, words_of_class

__all__ = ["LABEL_WORDS", "ZOO_FACTS", "Example", "Task", "labelled_texts", "list_tasks", "load_task", "load_tasks",
           "read_fact_tables", "read_table", "split_by_subject", "task_from_rows", "title_of"]

ZOO_FACTS = Path(__file__).parents[1] / "zoo" / "facts"
ZOO_TASK_SIZE = 120  # a zoo task holds at most this many of its relation's facts
LABEL_WORDS = {"sentiment": {"positive": "great", "negative": "terrible"},
               "topic": {label: label for label in ("sports", "politics", "science", "business")}}
# {label: word}, or the words of classes 0, 1, …; a list of words where a class has several.
LabelWords = Mapping[str, str | Sequence[str]] | Mapping[int, str | Sequence[str]] | Sequence[str | Sequence[str]]
COLUMNS = (("sub_label", "obj_label"), ("text", "label"), ("sentence", "label"))  # the last pair is GLUE's


# --- the zoo's tables: one for each kind of subject, with one column for each relation ------------


@cache
def read_table(path: Path) -> pd.DataFrame:
    """A CSV file as a table of strings. Empty cells are empty strings, and "NA" and "Null" are ordinary words."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@cache
def read_fact_tables(folder: Path = ZOO_FACTS) -> dict[str, dict[str, str]]:
    """{relation: {subject: object}} from all CSV files in ``folder`` that have a column ``subject``."""
    facts: dict[str, dict[str, str]] = {}
    for path in sorted(folder.glob("*.csv")):
        table = read_table(path)
        if "subject" in table:
            for relation in table.columns.drop("subject"):
                known = table[table[relation] != ""]
                facts.setdefault(relation, {}).update(zip(known["subject"], known[relation], strict=True))
    return {relation: facts[relation] for relation in sorted(facts, key=lambda r: int(r[1:]))}


@cache
def zoo_templates() -> dict[str, str]:
    table = read_table(ZOO_FACTS / "relations.csv")
    return dict(zip(table["relation"], table["manual"], strict=True))


@cache
def relation_labels() -> dict[str, str]:
    table = read_table(ZOO_FACTS / "relations.csv")
    return dict(zip(table["relation"], table["label"], strict=True))


def title_of(name: str) -> str:
    """A task's name for readers: ``"zoo/P36"`` is ``"capital (P36)"``. A name without a known relation stays as it is.

    Any file named after a relation of the zoo counts, whatever its folder and suffix, as for manual templates.
    """
    relation = Path(name).stem
    return f"{relation_labels()[relation]} ({relation})" if relation in relation_labels() else name


def labelled_texts(name: str) -> list[Example]:
    """The texts and labels of the zoo's classification task ``"sentiment"`` or ``"topic"``."""
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
    """Make a task from its rows.

    Args:
        name: the name of the task.
        salt: text that decides, with the subjects, how rows without splits are split.
        rows: the rows. All must have the same pair of columns as the first.
        columns: the possible pairs of column names.
        template: the manual template.
        label_words: as for ``load_task``.

    Raises:
        TaskError: there are no rows, or some row or label is not as expected.
    """
    rows = list(rows)
    if not rows:
        raise TaskError(f"task {name!r} has no rows; expected rows with {or_pairs(columns)}")
    pair = fact_columns(rows[0], columns)
    labelled = label_words is not None or pair[1] == "label"
    facts = [read_fact(row, fact_columns(row, [pair]), labelled) for row in rows]
    words, choices = None, None
    if labelled:
        words = verbalizer(name, {label for _, label in facts}, label_words)
        choices = tuple(words.values())
        for row, (_, label) in zip(rows, facts, strict=True):
            if label not in words:
                raise TaskError(f"{row.where} has the label {label!r}, but there are label words only for "
                                f"{', '.join(words)}; add it to label_words, or leave out rows without a true label")
    examples = [Example(subject, answer if words is None else words_of_class(words[answer])[0], choices)
                for subject, answer in facts]
    named = [row.split or read_split(row) for row in rows]
    if any(named) and not all(named):
        raise TaskError(f"{rows[named.index(None)].where} names no split, but other rows do; expected a split in all "
                        "rows or in none")
    if set(named) <= {None, "train"}:
        train, dev, test = split_by_subject(examples, salt)
    else:
        train, dev, test = (tuple(e for e, split in zip(examples, named, strict=True) if split == part)
                            for part in ("train", "dev", "test"))
    return Task(name, train, dev, test, template, words)


def or_pairs(columns: Iterable[tuple[str, str]]) -> str:
    """Pairs of column names, in words for an error message."""
    return ", or ".join(" and ".join(pair) for pair in columns)


def fact_columns(row: Row, columns: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """The first of the pairs of columns that ``row`` has.

    Raises:
        TaskError: the row has none of them, or is not a mapping.
    """
    if not isinstance(row.record, Mapping):
        raise TaskError(f"{row.where} is {row.record!r:.60}; expected a mapping from column to value (for a DataFrame, "
                        "use df.to_dict('records'))")
    for pair in columns:
        if set(pair) <= row.record.keys():
            return pair
    raise TaskError(f"{row.where} has the keys {sorted(map(str, row.record))}; expected {or_pairs(columns)}")


def cell(row: Row, column: str) -> Any:
    """The value in a column, without spaces around text."""
    value = row.record.get(column)
    return value.strip() if isinstance(value, str) else value


def read_fact(row: Row, pair: tuple[str, str], labelled: bool) -> tuple[str, str]:
    """The row's subject and object, or its text and label, as strings.

    Raises:
        TaskError: one of them is missing, empty or of another type.
    """
    subject, answer = (cell(row, column) for column in pair)
    if labelled and isinstance(answer, Integral) and not isinstance(answer, bool):
        answer = str(answer)  # so that 1 and "1" mean the same class
    if not all(isinstance(value, str) and value for value in (subject, answer)):
        raise TaskError(f"{row.where} has {pair[0]} {subject!r:.60} and {pair[1]} {answer!r:.60}; expected two strings "
                        "that are not empty" + (" (a label may be a whole number)" if labelled else
                                                "; for numbered classes, give label_words="))
    return subject, answer


def read_split(row: Row) -> str | None:
    """The split that the row names in its column ``split``, or None."""
    split = cell(row, "split")
    if split not in (None, "", "train", "dev", "test"):
        raise TaskError(f"{row.where} has the split {split!r}; expected train, dev or test")
    return split or None


def verbalizer(name: str, labels: set[str], label_words: LabelWords | None) -> dict[str, LabelWord]:
    """{label: word}, or a tuple of words where several are given. Without ``label_words``, each label is its own word.

    Raises:
        TaskError: ``label_words`` has another form, a label or a word occurs twice, or a number would be a word.
    """
    if label_words is None:
        numbers = sorted(label for label in labels if label.removeprefix("-").isdecimal())
        if numbers:
            raise TaskError(f"task {name!r} has the label {numbers[0]}, which is not a word; give label_words= as "
                            "{label: word} or as the words of the classes 0, 1, ... in order")
        label_words = {label: label for label in sorted(labels)}
    if isinstance(label_words, Sequence) and not isinstance(label_words, str):
        label_words = dict(enumerate(label_words))
    given = {label: [word] if isinstance(word, str) else word
             for label, word in (label_words.items() if isinstance(label_words, Mapping) else ())}
    if not given or not all(isinstance(words, list | tuple) and words
                            and all(isinstance(word, str) and word.strip() for word in words)
                            for words in given.values()):
        raise TaskError(f"task {name!r} was given label_words={label_words!r:.60}; expected {{label: word}} or the "
                        "words of the classes 0, 1, ... in order, with a list of words for a class that has several")
    words = {str(label).strip(): tuple(word.strip() for word in words) for label, words in given.items()}
    if len(words) < len(label_words):
        raise TaskError(f"task {name!r} was given label_words={label_words!r:.60}, in which a label occurs twice; "
                        "expected each label once (1 and '1' are the same)")
    for word, count in Counter(word for own in words.values() for word in own).items():
        if count > 1:
            same = " and ".join(repr(label) for label, own in words.items() for other in own if other == word)
            raise TaskError(f"task {name!r} has the word {word!r} for the labels {same}; expected a different word "
                            "for each label")
    return {label: own[0] if len(own) == 1 else own for label, own in words.items()}


# --- public functions -----------------------------------------------------------------------------


def load_task(name: str, root: str | Path | None = None, *, template: str | None = None,
              label_words: LabelWords | None = None) -> Task:
    """Load a task by name.

    Data without splits, or with the split "train" alone, are split into train, dev and test (40 / 10 / 50 % of the
    subjects), the same on every machine. If the data name other splits, no missing split is made up: without "dev",
    ``tune`` selects on train, and without "test" there is nothing to evaluate.

    Args:
        name: one of

            - ``"zoo/P36"``, ``"zoo/sentiment"`` or ``"zoo/topic"``;
            - ``"lama/P36"``, ``"pararel/P36"``, ``"lpaqa/P36"`` or ``"optiprompt/P36"``, with ``root``;
            - the path of a file, or of a folder with files named train, dev (or validation) and test, relative to
              ``root`` if that is given. Files are JSON lines, CSV or TSV. Their columns are ``sub_label`` and
              ``obj_label``, or ``text`` (or ``sentence``) and ``label``. A column ``split`` (train, dev or test) is
              used unless the file's name says the split.
        root: the folder that contains the layout, such as ``lama/TREx`` or just ``TREx``; see ``layouts.LAYOUTS``.
        template: the manual template. The default is the template in ``NAME.verbalizer.json``; without that, the
            template that a LAMA ``relations.jsonl`` near the file has for the file's name (``P36``); without that, the
            zoo's template for this name.
        label_words: {label: word}, or the words of the classes 0, 1, … in order. They make it a classification task. A
            list of words in place of a word gives the class the mean of their scores (Schick, Schmid and Schütze
            2020). A word of several tokens counts by the first of them.
            The default is the label words in ``NAME.verbalizer.json`` ({"label_words": {...}, "template": "..."}) next
            to the file or folder NAME. Without that, the labels in a column ``label`` are words themselves.

    Raises:
        TaskError: the task or file is missing, a row is not as expected, a label has no word, or two labels have the
            same word.
    """
    layout, _, relation = name.partition("/")
    if layout == "zoo":
        rows = [Row(name, vars(example), None) for example in zoo_examples(relation)]
        return build_task(name, relation, rows, [("subject", "object")], template or zoo_templates().get(relation),
                          LABEL_WORDS.get(relation) if label_words is None else label_words)
    path = find_task(name, root)
    relation, defaults = relation_of(path), read_verbalizer(path)
    template = template or defaults.get("template") or lama_template(relation, path) or zoo_templates().get(relation)
    return build_task(name, relation, read_rows(path), COLUMNS, template,
                      defaults.get("label_words") if label_words is None else label_words)


def task_from_rows(name: str, rows: Iterable[Mapping] | Mapping[str, Iterable[Mapping]], *, subject: str | None = None,
                   object: str | None = None, template: str | None = None,
                   label_words: LabelWords | None = None) -> Task:
    """Make a task from rows in memory, such as a ``datasets.Dataset`` or ``DatasetDict``.

    Args:
        name: the name of the task. Rows without splits are split like those of a file with this name.
        rows: mappings from column to value, or {"train": rows, "dev" or "validation": rows, "test": rows}. In the first
            case, a column ``split`` may name the split.
        subject, object: the names of the two columns; by default those that ``load_task`` accepts.
        template, label_words: as for ``load_task``. For a ``ClassLabel`` column, give its ``names`` or better words.

    Raises:
        TaskError: as ``load_task``; a split has another name; only one of ``subject`` and ``object`` is given.
    """
    if (subject is None) != (object is None):
        raise TaskError(f"task {name!r}: subject={subject!r} and object={object!r}; expected both columns or neither")
    parts: Mapping[Any, Iterable[Mapping]] = rows if isinstance(rows, Mapping) else {None: rows}
    unknown = [part for part in parts if part not in (None, *SPLITS)]
    if unknown:
        raise TaskError(f"task {name!r} has the split {unknown[0]!r}; expected rows, or a mapping with only the splits "
                        f"{', '.join(SPLITS)}")
    all_rows = (Row(f"task {name!r}, {part + ' ' if part else ''}row {i}", record, SPLITS.get(part))
                for part, records in parts.items() for i, record in enumerate(records))
    return build_task(name, name, all_rows, COLUMNS if subject is None or object is None else [(subject, object)],
                      template or zoo_templates().get(name), label_words)


def task_names(kind: str, root: str | Path | None) -> dict[str, str]:
    """{relation: name for ``load_task``} of the tasks that ``list_tasks`` lists."""
    return {relation: f"zoo/{relation}" for relation in read_fact_tables()} if kind == "zoo" else list_files(kind, root)


def list_tasks(kind: str = "zoo", root: str | Path | None = None) -> list[str]:
    """List the tasks of the zoo, of a layout, or of a folder.

    Args:
        kind: ``"zoo"``; a layout below ``root``, such as ``"lama"``; or the path of a folder.
        root: as for ``load_task``.

    Returns:
        Names for ``load_task``. For the zoo, these are the relations only. Its two classification tasks are
        ``"zoo/sentiment"`` and ``"zoo/topic"``.

    Raises:
        TaskError: there are no tasks, or two files of one relation.
    """
    return list(task_names(kind, root).values())


def load_tasks(kind: str = "zoo", root: str | Path | None = None, relations: str | None = None) -> list[Task]:
    """Load all tasks that ``list_tasks`` lists, or some of them.

    Args:
        kind, root: as for ``list_tasks``.
        relations: the relations to load, separated by commas, such as ``"P36,P19"``. The zoo also has ``"sentiment"``
            and ``"topic"``. If None, all that ``list_tasks`` lists.

    Raises:
        TaskError: there is no such relation, or a task cannot be loaded.
    """
    names = task_names(kind, root)
    wanted = listed(relations) if relations else list(names)
    if kind == "zoo":
        names |= {name: f"zoo/{name}" for name in LABEL_WORDS}
    missing = [relation for relation in wanted if relation not in names]
    if missing:
        raise TaskError(f"{kind!r} has no relations {', '.join(missing)}; expected some of {', '.join(names)}")
    return [load_task(names[relation], root) for relation in wanted]
