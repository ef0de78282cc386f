"""Finding the files of tasks: in the folder layouts of LAMA, ParaRel, LPAQA and OptiPrompt, or a user's own files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ..errors import TaskError
from .formats import READERS, or_suffixes, parse_json, read_lines, read_text, reader_of

__all__ = ["LAYOUTS", "SPLITS", "Row", "find_task", "lama_template", "list_files", "read_rows", "read_verbalizer",
           "relation_of"]

# The possible paths of a task below root; the first that exists is used. OptiPrompt has a folder for each relation, the
# others have a file.
LAYOUTS = {"lama": ("lama/TREx/{}.jsonl", "TREx/{}.jsonl"),
           "pararel": ("pararel/trex_lms_vocab/{}.jsonl", "trex_lms_vocab/{}.jsonl"),
           "lpaqa": ("lpaqa/TREx_train/{}.jsonl", "TREx_train/{}.jsonl"),
           "optiprompt": ("optiprompt/autoprompt_data/{}", "autoprompt_data/{}", "{}")}
SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "test": "test"}  # {name in data: name in Task}
TEMPLATE_FILES = tuple(f"{folder}{name}" for folder in ("", "optiprompt/", "relation_metainfo/")
                       for name in ("relations.jsonl", "LAMA_relations.jsonl"))


class Row(NamedTuple):
    """A row of a task's data.

    Attributes:
        where: the file and line of the row, for error messages.
        record: {column: value}.
        split: the split that the file's name says, or None.
    """

    where: str
    record: Mapping
    split: str | None


def split_files(path: Path) -> dict[Path, str | None]:
    """{file: split} of a task: ``path`` itself if it is a file, else the files in it named train, dev and test."""
    if path.is_file():
        return {path: None}
    files = sorted(path.iterdir()) if path.is_dir() else []
    files = [file for file in files if is_listed(file) and file.stem.lower() in SPLITS and file.is_file()]
    return {file: split for name, split in SPLITS.items() for file in files if file.stem.lower() == name}


def is_listed(path: Path) -> bool:
    """Whether a file in a folder is taken for a task, by its suffix."""
    return path.suffix.lower() in READERS


def relation_of(path: Path) -> str:
    """The name of the relation in a task's file or folder."""
    return path.stem if is_listed(path) else path.name


def find_task(name: str, root: str | Path | None) -> Path:
    """The path of a task's file or folder.

    Raises:
        TaskError: there is no such file or folder.
    """
    base, (layout, _, relation) = Path(root or ".").expanduser(), name.partition("/")
    places = [base / place.format(relation) for place in LAYOUTS.get(layout, ())]
    for path in [*places, base / Path(name).expanduser()]:
        if split_files(path):
            return path
    if layout in LAYOUTS and root is None:
        raise TaskError(f"task {name!r} needs root=, the folder that holds {LAYOUTS[layout][0].format(relation)}")
    tried = " or ".join(map(str, places or [base / name]))
    raise TaskError(f"task {name!r}: there is no {tried}; expected a name such as 'zoo/P36' (see list_tasks('zoo')), "
                    f"{', '.join(f'{known}/P36' for known in LAYOUTS)} with root=, or the path of a {or_suffixes()} "
                    "file or of a folder with such files named train, dev and test")


def list_files(kind: str, root: str | Path | None) -> dict[str, str]:
    """{relation: name for ``load_task``} of all tasks in a layout below ``root``, or in a folder.

    Raises:
        TaskError: there are no tasks, or two files of one relation.
    """
    base = Path(root or ".").expanduser()
    places = [base / place.format("*") for place in LAYOUTS.get(kind, ())] or [base / Path(kind).expanduser() / "*"]
    names: dict[str, str] = {}
    for place in places:
        paths = [path for path in sorted(place.parent.glob(place.name))
                 if split_files(path) and (is_listed(path) or path.is_dir())]
        for path in paths:
            relation = relation_of(path)
            if relation in names:
                raise TaskError(f"{path.parent} holds {relation!r} twice, as {Path(names[relation]).name} and "
                                f"{path.name}; remove one of them, or load them one at a time with load_task")
            names[relation] = f"{kind}/{relation if kind in LAYOUTS else path.name}"
        if names:
            break
    if not names:
        raise TaskError(f"there are no tasks in {' or '.join(map(str, places))}; expected 'zoo', a folder of "
                        f"{or_suffixes()} files, or one of {sorted(LAYOUTS)} with root=, the folder that holds it")
    # Numbers in names count as numbers, so that P19 comes before P101.
    order = sorted(names, key=lambda name: ([int(digits) for digits in re.findall(r"\d+", name)], name))
    return {relation: names[relation] for relation in order}


# --- reading the files ----------------------------------------------------------------------------


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a task's file, or of all files in its folder.

    Raises:
        TaskError: a split has two files, or a file cannot be read.
    """
    files = split_files(path)
    for split, count in Counter(files.values()).items():
        if count > 1:
            same = " and ".join(file.name for file in files if files[file] == split)
            raise TaskError(f"{path} holds the split {split!r} twice, as {same}; expected one of them")
    for file, split in files.items():
        for number, record in reader_of(file)(file):
            yield Row(f"{file}, line {number}", record, split)


def lama_template(relation: str, path: Path) -> str | None:
    """The relation's manual template in a LAMA relations file, in one of the three folders above ``path``.

    Raises:
        TaskError: the template is not text.
    """
    for file in (folder / name for folder in path.parents[:3] for name in TEMPLATE_FILES):
        for number, record in read_lines(file) if file.is_file() else ():
            if record.get("relation") == relation and "template" in record:
                if not isinstance(record["template"], str):
                    raise TaskError(f"{file}, line {number} has the template {record['template']!r:.60}; expected text "
                                    "such as '[X] is in [Y] .'")
                return record["template"]
    return None


def read_verbalizer(path: Path) -> dict:
    """The ``label_words`` and ``template`` in ``NAME.verbalizer.json`` next to a task's file or folder NAME.

    Without such a file, the result is {}.

    Raises:
        TaskError: the file has other content.
    """
    file = path.with_name(f"{relation_of(path)}.verbalizer.json")
    if not file.is_file():
        return {}
    expected = 'expected {"label_words": {"label": "word", ...}, "template": "[X] ... [Y] ."}'
    try:
        content = parse_json(read_text(file))
    except ValueError as error:
        raise TaskError(f"{file} cannot be read ({error}); {expected}") from None
    if (not isinstance(content, dict) or content.keys() - {"label_words", "template"}
            or not isinstance(content.get("template", ""), str)):
        raise TaskError(f"{file} holds {str(content)[:60]}; {expected}")
    return content
