"""Probing tasks: facts (subject, object) of one relation, split into train, dev and test."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from .errors import TaskError

__all__ = ["Example", "Task", "list_tasks", "load_task", "load_tasks", "read_fact_tables", "read_table",
           "split_by_subject"]

ZOO_FACTS = Path(__file__).parent / "zoo" / "facts"
TRAIN_SHARE, DEV_SHARE = 0.4, 0.1  # the rest is test
ZOO_TASK_SIZE = 120  # a zoo task holds at most this many of its relation's facts


@dataclass(frozen=True)
class Example:
    """One fact: the subject fills [X], the object is to be predicted at [Y]."""

    subject: str
    object: str


@dataclass(frozen=True)
class Task:
    """A relation to probe.

    Attributes:
        name: what it was loaded as.
        train, dev, test: examples; only ``evaluate`` may look at ``test``.
        manual_template: a person's prompt such as ``"[X] was born in [Y] ."``, or None.
        label_words: None for open-vocabulary probing, else {label: word} (a verbalizer).
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


def zoo_examples(relation: str) -> list[Example]:
    facts = read_fact_tables()
    if relation not in facts:
        raise TaskError(f"the zoo has no task 'zoo/{relation}'; it has {', '.join(list_tasks('zoo'))}")
    chosen = hashed_order(facts[relation], relation)[:ZOO_TASK_SIZE]
    return [Example(subject, facts[relation][subject]) for subject in chosen]


# --- JSON lines: LAMA, ParaRel, and a user's own --------------------------------------------------

LAYOUTS = {"lama": "lama/TREx", "pararel": "pararel/trex_lms_vocab"}
TEMPLATE_FILES = ("relations.jsonl", "LAMA_relations.jsonl")


def read_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number, object) of each non-empty line."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 text ({error}); expected a JSON object a line") from None
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would also split at U+2028 inside a string
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TaskError(f"{path}, line {number} is not JSON ({error.msg}); expected one object a line such as "
                            '{"sub_label": "France", "obj_label": "Paris"}') from None
        if not isinstance(record, dict):
            raise TaskError(f"{path}, line {number} is {line.strip()[:40]!r}; expected a JSON object such as "
                            '{"sub_label": "France", "obj_label": "Paris"}')
        yield number, record


def read_examples(path: Path) -> tuple[list[Example], list[str | None]]:
    """The examples of a JSON-lines file and the split that each names, if any."""
    examples, splits = [], []
    for number, record in read_lines(path):
        if not {"sub_label", "obj_label"} <= record.keys():
            raise TaskError(f"{path}, line {number} has the keys {sorted(record)}; expected sub_label and obj_label")
        if not all(isinstance(record[key], str) for key in ("sub_label", "obj_label")):
            raise TaskError(f"{path}, line {number} has sub_label {record['sub_label']!r} and obj_label "
                            f"{record['obj_label']!r}; expected two strings")
        if record.get("split") not in (None, "train", "dev", "test"):
            raise TaskError(f"{path}, line {number} has the split {record['split']!r}; expected train, dev or test")
        examples.append(Example(record["sub_label"], record["obj_label"]))
        splits.append(record.get("split"))
    return examples, splits


def find_template(relation: str, path: Path) -> str | None:
    """The relation's manual template: from a LAMA relations file near ``path``, else the zoo's own."""
    for folder in path.parents[:3]:
        for file in (f for name in TEMPLATE_FILES for f in (folder / name, folder / "optiprompt" / name)):
            if file.exists():
                templates = {record.get("relation"): record.get("template") for _, record in read_lines(file)}
                if relation in templates:
                    return templates[relation]
    return zoo_templates().get(relation)


def load_task(name: str, root: str | Path | None = None) -> Task:
    """Load a task by name.

    Args:
        name: ``"zoo/P36"``; ``"lama/P36"`` or ``"pararel/P36"`` below ``root``; or the path of a JSON-lines file
            (``sub_label``, ``obj_label``, optional ``split``), relative to ``root`` if given.
        root: the folder that holds ``lama/TREx`` or ``pararel/trex_lms_vocab``.

    Files without ``split`` are split 40 / 10 / 50 % by subject. The manual template is looked up by the
    file's name (``P36``) in a LAMA ``relations.jsonl`` near it, else in the zoo.

    Raises:
        TaskError: the task or file is missing, or a line is not as expected.
    """
    layout, _, relation = name.partition("/")
    if layout == "zoo":
        train, dev, test = split_by_subject(zoo_examples(relation), relation)
        return Task(name, train, dev, test, zoo_templates().get(relation))
    if layout in LAYOUTS and root is None and not Path(name).exists():
        raise TaskError(f"task {name!r} needs root=, the folder that holds {LAYOUTS[layout]}")
    base = Path(root or ".").expanduser()
    path = base / LAYOUTS[layout] / f"{relation}.jsonl" if layout in LAYOUTS else base / Path(name).expanduser()
    if not path.is_file():
        raise TaskError(f"task {name!r}: there is no file {path}; expected 'zoo/P36' (see list_tasks('zoo')), "
                        "'lama/P36' or 'pararel/P36' with root=, or the path of a .jsonl file")
    examples, splits = read_examples(path)
    if any(splits):
        if not all(splits):
            raise TaskError(f"{path} names a split in some lines only; expected it in all of them or in none")
        train, dev, test = (tuple(e for e, s in zip(examples, splits, strict=True) if s == part)
                            for part in ("train", "dev", "test"))
    else:
        train, dev, test = split_by_subject(examples, path.stem)
    return Task(name, train, dev, test, find_template(path.stem, path))


def list_tasks(kind: str = "zoo", root: str | Path | None = None) -> list[str]:
    """What ``load_task`` accepts: the zoo's relations, the files of a layout below ``root``, or of a folder."""
    if kind == "zoo":
        names: Iterable[str] = read_fact_tables()
    else:
        folder = Path(root or ".").expanduser() / LAYOUTS.get(kind, Path(kind).expanduser())
        names = [path.stem for path in folder.glob("*.jsonl")]
        if not names:
            raise TaskError(f"there are no .jsonl files in {folder}; expected 'zoo', a folder of task files, or one of "
                            f"{sorted(LAYOUTS)} with root=, the folder that holds it")
    suffix = "" if kind in ("zoo", *LAYOUTS) else ".jsonl"
    # P19 before P101: by number where there is one, else by name.
    order = sorted(names, key=lambda name: ([int(digits) for digits in re.findall(r"\d+", name)], name))
    return [f"{kind}/{name}{suffix}" for name in order]


def load_tasks(kind: str = "zoo", root: str | Path | None = None, relations: str | None = None) -> list[Task]:
    """Load every task that ``list_tasks`` names, or only some.

    Args:
        kind, root: as for ``list_tasks``.
        relations: comma-separated, such as ``"P36,P19"``; all if None.

    Raises:
        TaskError: there is no such relation.
    """
    names = {Path(name).stem: name for name in list_tasks(kind, root)}
    wanted = [relation.strip() for relation in relations.split(",")] if relations else list(names)
    missing = [relation for relation in wanted if relation not in names]
    if missing:
        raise TaskError(f"{kind!r} has no relations {', '.join(missing)}; it has {', '.join(names)}")
    return [load_task(names[relation], root) for relation in wanted]
