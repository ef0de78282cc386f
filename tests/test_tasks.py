"""Loading tasks: splits, explicit splits, and what is said about broken files."""

import json

import pytest

from ptlib import Example, TaskError, list_tasks, load_task
from ptlib.tasks import split_by_subject


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def fact(subject="France", obj="Paris", **more):
    return {"sub_label": subject, "obj_label": obj, **more}


def subjects(part):
    return {example.subject for example in part}


def test_splits_are_40_10_50_and_disjoint_by_subject():
    examples = [Example(f"s{i % 100}", f"o{i}") for i in range(150)]  # half of the subjects have two objects
    parts = split_by_subject(examples, "salt")
    assert [len(subjects(part)) for part in parts] == [40, 10, 50]
    assert set().union(*parts) == set(examples)
    assert sum(map(len, parts)) == 150
    assert len(set().union(*map(subjects, parts))) == 100
    assert split_by_subject(reversed(examples), "salt") == parts
    assert split_by_subject(examples, "other salt") != parts


@pytest.mark.parametrize("name", list_tasks("zoo"))
def test_zoo_task(name):
    task = load_task(name)
    sizes = [len(part) for part in (task.train, task.dev, task.test)]
    assert sizes == [pytest.approx(share * sum(sizes), abs=1) for share in (0.4, 0.1, 0.5)]
    assert not subjects(task.train) & subjects(task.test)
    assert not subjects(task.dev) & subjects(task.train + task.test)
    assert task.manual_template.count("[X]") == task.manual_template.count("[Y]") == 1
    assert task.name == name


def test_order_does_not_depend_on_the_hash_seed(by_hash_seed, facts_file):
    one, two = (run["splits"] for run in by_hash_seed)
    assert one == two
    for name, splits in zip(("zoo/P36", facts_file), one, strict=True):
        task = load_task(str(name))
        assert splits == [[e.subject for e in part] for part in (task.train, task.dev, task.test)]


@pytest.mark.parametrize(("layout", "folder"), [("lama", "lama/TREx"), ("pararel", "pararel/trex_lms_vocab")])
def test_layouts_below_a_root(tmp_path, layout, folder):
    write(tmp_path / folder / "P36.jsonl", *(fact(f"s{i}", "o") for i in range(10)))
    write(tmp_path / folder / "P6.jsonl", fact())
    write(tmp_path / layout / "relations.jsonl", {"relation": "P36", "template": "[Y] governs [X] ."})
    task = load_task(f"{layout}/P36", root=tmp_path)
    assert [len(part) for part in (task.train, task.dev, task.test)] == [4, 1, 5]
    assert task.manual_template == "[Y] governs [X] ."
    assert list_tasks(layout, root=tmp_path) == [f"{layout}/P6", f"{layout}/P36"]


def test_a_users_file_has_the_zoos_template_or_none(tmp_path):
    assert load_task(str(write(tmp_path / "P36.jsonl", fact()))).manual_template is not None
    assert load_task("mine.jsonl", root=write(tmp_path / "mine.jsonl", fact()).parent).manual_template is None


def test_explicit_splits_are_honoured_in_order(tmp_path):
    named = [("a", "test"), ("b", "train"), ("c", "train"), ("d", "dev"), ("e", "train")]
    task = load_task(str(write(tmp_path / "mine.jsonl", *(fact(s, split=split) for s, split in named))))
    assert [[e.subject for e in part] for part in (task.train, task.dev, task.test)] == [["b", "c", "e"], ["d"], ["a"]]


def test_empty_lines_and_exotic_line_separators_are_no_line_ends(tmp_path):
    task = load_task(str(write(tmp_path / "mine.jsonl", fact("a\u2028b", split="test"), "", fact(split="train"))))
    assert (task.test, task.train) == ((Example("a\u2028b", "Paris"),), (Example("France", "Paris"),))


@pytest.mark.parametrize("bad", [
    '{"sub_label": "France"', "3", '["France", "Paris"]', {"sub_label": "France"}, {"subject": "France", "object": "x"},
    fact(split="validation"), fact(obj=None), fact(subject=7)], ids=str)
def test_bad_line_is_named(tmp_path, bad):
    path = write(tmp_path / "mine.jsonl", fact(), bad)
    with pytest.raises(TaskError, match=rf"{path}, line 2\b"):
        load_task(str(path))


def test_split_in_some_lines_only(tmp_path):
    path = write(tmp_path / "mine.jsonl", fact(split="train"), fact("Spain", "Madrid"))
    with pytest.raises(TaskError, match=f"{path}.*split"):
        load_task(str(path))


def test_file_that_is_not_text(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TaskError, match=str(path)):
        load_task(str(path))


@pytest.mark.parametrize(("name", "root"), [
    ("zoo/P999999", None), ("nowhere.jsonl", None), ("lama/P36", None), ("lama/P36", "."), ("pararel/P36", ".")])
def test_missing_task_is_named(tmp_path, monkeypatch, name, root):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=name):
        load_task(name, root)


@pytest.mark.parametrize("kind", ["nothing", "lama"])
def test_list_tasks_of_an_unknown_kind_or_without_root(kind):
    with pytest.raises(TaskError, match=kind):
        list_tasks(kind)
