"""Loading tasks: splits, explicit splits, and what is said about broken files."""

import csv
import json
import re

import pytest

from ptlib import Example, TaskError, evaluate, list_tasks, load_task, load_tasks, random_prompt
from ptlib.tasks.formats import or_suffixes
from ptlib.tasks.loading import task_from_rows
from ptlib.tasks.task import split_by_subject


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


FOLDERS = [("lama", "lama/TREx"), ("pararel", "pararel/trex_lms_vocab"), ("lpaqa", "lpaqa/TREx_train"),
           ("lama", "TREx"), ("pararel", "trex_lms_vocab"), ("lpaqa", "TREx_train")]


@pytest.mark.parametrize(("layout", "folder"), FOLDERS)
def test_layouts_below_a_root(tmp_path, layout, folder):
    write(tmp_path / folder / "P36.jsonl", *(fact(f"s{i}", "o") for i in range(10)))
    write(tmp_path / folder / "P6.jsonl", fact())
    write((tmp_path / folder).parent / "relations.jsonl", {"relation": "P36", "template": "[Y] governs [X] ."})
    task = load_task(f"{layout}/P36", root=tmp_path)
    assert [len(part) for part in (task.train, task.dev, task.test)] == [4, 1, 5]
    assert task.manual_template == "[Y] governs [X] ."
    assert list_tasks(layout, root=tmp_path) == [f"{layout}/P6", f"{layout}/P36"]
    assert [task.name for task in load_tasks(layout, tmp_path, "P36,P6")] == [f"{layout}/P36", f"{layout}/P6"]


@pytest.mark.parametrize("folder", ["data/optiprompt/autoprompt_data", "data/autoprompt_data", "data"])
def test_optiprompts_folder_names_the_splits_by_file(tmp_path, folder):
    for relation in ("P36", "P101"):
        for split, size in (("train", 3), ("dev", 2), ("test", 1)):
            write(tmp_path / folder / relation / f"{split}.jsonl", *(fact(f"{split} {i}") for i in range(size)))
    write(tmp_path / "data" / "relation_metainfo" / "LAMA_relations.jsonl",
          {"relation": "P36", "template": "[X] [Y] !"})
    assert list_tasks("optiprompt", tmp_path / "data") == ["optiprompt/P36", "optiprompt/P101"]
    task = load_tasks("optiprompt", tmp_path / "data")[0]
    assert [[e.subject for e in part] for part in (task.train, task.dev, task.test)] == [
        ["train 0", "train 1", "train 2"], ["dev 0", "dev 1"], ["test 0"]]
    assert (task.name, task.manual_template) == ("optiprompt/P36", "[X] [Y] !")
    assert load_task(f"{folder}/P36", tmp_path).test == task.test  # any folder with such files


ODD = ["{braces} {0}", 'a "quoted" name', "it's, with a comma", "Ελλάδα", "日本", "مصر", "[MASKED] [X] [Y]", "50 % \\n",
       "a\u2028b", " padded "]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_odd_subjects_come_through_every_format(tmp_path, suffix, toys):
    path, rows = tmp_path / f"odd{suffix}", [(name, "Paris", "test") for name in ODD] + [("x", "Paris", "train")]
    columns = ("sub_label", "obj_label", "split")
    if suffix == ".jsonl":
        write(path, *(dict(zip(columns, row, strict=True)) for row in rows))
    elif suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:  # as spreadsheets write it
            csv.writer(file).writerows([columns, *rows])
    else:
        write(path, *("\t".join(row) for row in [columns, *rows]))
    task = load_task(str(path))
    names = [name.strip() for name in ODD]
    assert [e.subject for e in task.test] == names
    ev = evaluate(toys["roberta"], random_prompt(toys["roberta"]), task.test, candidates=["Paris", "Lima"])
    assert ev.predictions["subject"].tolist() == names


@pytest.mark.parametrize(("file", "lines"), [
    ("mine.csv", [" sub_label, obj_label ,split", "France, Paris, train", ' "Paris, Texas", "Texas",test',
                  "Peru ,Lima,dev"]),
    ("mine.tsv", ["sub_label\tobj_label \t split", "France\t Paris\ttrain", "Paris, Texas \tTexas\t test",
                  "Peru\tLima \tdev"]),
    ("mine.jsonl", ['{"sub_label ": "France", "obj_label": " Paris", "split": "train"}',
                    fact("Paris, Texas", "Texas\t", split=" test"), fact("\u00a0Peru", "Lima\n", split="dev")])])
def test_blanks_around_what_stands_in_a_table_are_none_of_it(tmp_path, file, lines, toys):
    task = load_task(str(write(tmp_path / file, *lines)))
    facts = [(e.subject, e.object) for e in task.train + task.dev + task.test]
    assert facts == [("France", "Paris"), ("Peru", "Lima"), ("Paris, Texas", "Texas")]
    assert evaluate(toys["bert"], random_prompt(toys["bert"]), task.train, candidates=["Paris", "Lima"]).n == 1


def test_blanks_around_labels_and_their_words(tmp_path):
    rows = [("a fine film ", " 1"), ("dull", "0 ")]
    write(tmp_path / "mine.csv", "text, label", *(f"{text},{label}" for text, label in rows))
    write(tmp_path / "mine.verbalizer.json", {"label_words": {" 0": "bad ", "1": " good"}})
    for task in (load_task("mine.csv", tmp_path), load_task("mine.csv", tmp_path, label_words=["bad ", " good"]),
                 task_from_rows("mine", [{"text": text, "label": label} for text, label in rows],
                                label_words={0: "bad", " 1 ": "good"})):
        assert {(e.subject, e.object, e.choices) for e in task.train + task.dev + task.test} == {
            ("a fine film", "good", ("bad", "good")), ("dull", "bad", ("bad", "good"))}
        assert task.label_words == {"0": "bad", "1": "good"}


def test_suffixes_count_in_any_case(tmp_path):
    files = {"P36.CSV": ["sub_label,obj_label", "a,b", "c,d"], "P101.Tsv": ["sub_label\tobj_label", "a\tb", "c\td"],
             "P6.JSONL": [fact("a", "b"), fact("c", "d")]}
    for file, lines in files.items():
        task = load_task(str(write(tmp_path / file, *lines)))
        assert {(e.subject, e.object) for e in task.train + task.dev + task.test} == {("a", "b"), ("c", "d")}
    assert [task.name for task in load_tasks(str(tmp_path))] == [f"{tmp_path}/{file}" for file in
                                                               ("P6.JSONL", "P36.CSV", "P101.Tsv")]
    assert load_task("P36.CSV", tmp_path).manual_template == load_task("zoo/P36").manual_template
    for file, lines in zip(("Train.CSV", "dev.Tsv", "TEST.JSONL"), files.values(), strict=True):
        write(tmp_path / "folder" / file, *lines)
    folder = load_task("folder", tmp_path)
    assert folder.train == folder.dev == folder.test == (Example("a", "b"), Example("c", "d"))


@pytest.mark.parametrize("file", ["mine", "mine.txt", "mine.csv.gz", "mine.xlsx"])
def test_a_file_of_another_kind_is_told(tmp_path, file):
    others = re.escape(or_suffixes().partition(", ")[2])
    with pytest.raises(TaskError, match=rf"{file} ends in .*; expected .*\.jsonl .*, {others}"):
        load_task(str(write(tmp_path / file, fact())))


def test_json_lines_may_be_called_json(tmp_path):
    task = load_task(str(write(tmp_path / "mine.json", fact(split="test"), fact("Peru", "Lima", split="train"))))
    assert (task.train, task.test) == ((Example("Peru", "Lima"),), (Example("France", "Paris"),))


@pytest.mark.parametrize("files", [("train.csv", "train.jsonl"), ("dev.csv", "validation.csv"),
                                   ("test.csv", "Test.TSV")])
def test_a_split_in_two_files_is_told(tmp_path, files):
    for file in files:
        write(tmp_path / "mine" / file, *([fact()] if file.endswith("l") else ["sub_label,obj_label", "a,b"]))
    with pytest.raises(TaskError, match=r"twice, as .* and .*; expected one"):
        load_task("mine", tmp_path)


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "mine.csv").mkdir()
    with pytest.raises(TaskError, match=r"there is no .*mine\.csv"):
        load_task("mine.csv", tmp_path)


def test_a_column_that_stands_twice_is_told(tmp_path):
    path = write(tmp_path / "mine.csv", "sub_label,obj_label, obj_label", "a,b,c")
    with pytest.raises(TaskError, match=f"{path} has the column 'obj_label' 2 times"):
        load_task(str(path))
    nameless = load_task(str(write(tmp_path / "mine.csv", "sub_label,obj_label,,", "a,b,,")))  # as spreadsheets end
    assert nameless.train + nameless.dev + nameless.test == (Example("a", "b"),)


def test_csv_and_json_lines_are_split_alike(tmp_path):
    facts = [(f"s{i}", f"o{i % 3}") for i in range(20)]
    lines = load_task(str(write(tmp_path / "a" / "mine.jsonl", *(fact(*pair) for pair in facts))))
    cells = load_task(str(write(tmp_path / "mine.csv", "obj_label,extra,sub_label", *(f"{o},,{s}" for s, o in facts))))
    rows = task_from_rows("mine", [fact(*pair) for pair in facts])
    named = task_from_rows("mine", [{"a": s, "b": o} for s, o in facts], subject="a", object="b")
    for task in (cells, rows, named):
        assert (task.train, task.dev, task.test) == (lines.train, lines.dev, lines.test)
    assert rows.name == "mine"


@pytest.mark.parametrize(("lines", "number"), [
    (["sub_label,obj_label", "a,b", "a,b,c"], 3), (["sub_label,obj_label", "a"], 2), (["subject,object", "a,b"], 2),
    (["sub_label,obj_label", "a,b", "", ",b"], 4), (["sub_label,obj_label", "a,b", '"c,d'], 3),
    (["sub_label,obj_label", '"a" b,c'], 2),
    (["sub_label,obj_label,split", "a,b,train", "c,d,"], 3), (["sub_label,obj_label,split", "a,b,dew"], 2)])
def test_bad_row_of_a_csv_file_is_named(tmp_path, lines, number):
    path = write(tmp_path / "mine.csv", *lines)
    with pytest.raises(TaskError, match=rf"{path}, line {number}\b"):
        load_task(str(path))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("file", "between"), [("mine.csv", ","), ("mine.tsv", "\t")])
def test_line_ends_of_every_system(tmp_path, file, between, end):
    text = "".join(between.join(row) + end for row in (("sub_label", "obj_label"), ("a", "b"), ("c", "d")))
    (tmp_path / file).write_bytes(text.encode())
    task = load_task(file, root=tmp_path)
    assert set(task.train + task.dev + task.test) == {Example("a", "b"), Example("c", "d")}


def test_line_numbers_count_lines_inside_cells(tmp_path):
    path = write(tmp_path / "mine.csv", "sub_label,obj_label", '"two\nlines",b', "c,d", "e")
    with pytest.raises(TaskError, match=rf"{path}, line 5\b"):
        load_task(str(path))


@pytest.mark.parametrize(("file", "text"), [("mine.jsonl", ""), ("mine.csv", ""),
                                          ("mine.csv", "sub_label,obj_label\n")])
def test_a_file_without_rows(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    with pytest.raises(TaskError, match="no rows"):
        load_task(file, root=tmp_path)


def test_columns_are_those_of_the_first_row(tmp_path):
    path = write(tmp_path / "mine.jsonl", fact(), {"text": "a", "label": "b"})
    with pytest.raises(TaskError, match=rf"{path}, line 2\b.*sub_label and obj_label"):
        load_task(str(path))


def test_one_relation_in_two_files_is_told(tmp_path):
    write(tmp_path / "P36.jsonl", fact())
    write(tmp_path / "P36.csv", "sub_label,obj_label", "a,b")
    with pytest.raises(TaskError, match=r"P36\.(csv|jsonl) and P36\.(csv|jsonl)"):
        load_tasks(str(tmp_path))


def rows_of(split, size):
    return [fact(f"{split} {i}") for i in range(size)]


@pytest.mark.parametrize("dev", ["dev", "validation"])
def test_rows_with_splits_stay_in_them(dev):
    splits = {"train": rows_of("train", 4), dev: rows_of("dev", 2), "test": iter(rows_of("test", 3))}
    task = task_from_rows("mine", splits, template="[X] [Y]")
    assert [len(part) for part in (task.train, task.dev, task.test)] == [4, 2, 3]
    assert [e.subject for e in task.dev] == ["dev 0", "dev 1"]
    assert task.manual_template == "[X] [Y]"


def test_train_alone_is_split_and_nothing_else_is_made_up(tmp_path):
    rows = rows_of("train", 20)
    whole = task_from_rows("mine", rows)
    assert [len(part) for part in (whole.train, whole.dev, whole.test)] == [8, 2, 10]
    write(tmp_path / "mine" / "train.jsonl", *rows)
    marked = write(tmp_path / "mine.jsonl", *({**row, "split": "train"} for row in rows))
    for task in (task_from_rows("mine", {"train": rows}), load_task("mine", tmp_path), load_task(str(marked)),
                 task_from_rows("mine", [{**row, "split": "train"} for row in rows])):
        assert (task.train, task.dev, task.test) == (whole.train, whole.dev, whole.test)
    without_dev = task_from_rows("mine", {"train": rows, "test": rows_of("test", 3)})
    assert [len(part) for part in (without_dev.train, without_dev.dev, without_dev.test)] == [20, 0, 3]
    without_test = task_from_rows("mine", {"train": rows, "validation": rows_of("dev", 3)})
    assert [len(part) for part in (without_test.train, without_test.dev, without_test.test)] == [20, 3, 0]


def test_a_dataset_is_rows():
    datasets = pytest.importorskip("datasets")
    rows = rows_of("a", 20)
    plain, loaded = task_from_rows("mine", rows), task_from_rows("mine", datasets.Dataset.from_list(rows))
    assert (loaded.train, loaded.dev, loaded.test) == (plain.train, plain.dev, plain.test)
    labels = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"sentence": datasets.Value("string"), "label": labels})
    parts = datasets.DatasetDict({split: datasets.Dataset.from_dict(
        {"sentence": [f"{split} {i}" for i in range(size)], "label": [i % 2 for i in range(size)]}, features=features)
        for split, size in (("train", 4), ("validation", 2), ("test", 3))})
    for given in (parts, parts.with_format("numpy")):
        task = task_from_rows("sst2", given, label_words=parts["train"].features["label"].names)
        assert [[e.object for e in part] for part in (task.train, task.dev, task.test)] == [
            ["bad", "good", "bad", "good"], ["bad", "good"], ["bad", "good", "bad"]]
        assert task.label_words == {"0": "bad", "1": "good"}


@pytest.mark.parametrize(("rows", "named"), [
    ({"train": [fact()], "unsupervised": []}, "'unsupervised'.*validation"), ({"sub_label": ["a"]}, "'sub_label'"),
    ({"train": [fact()], "dev": [fact(), {"sub_label": "a"}]}, "dev row 1 has the keys"),
    ([fact(), "France"], "row 1 is 'France'"), ([fact(split="dew")], "row 0.*'dew'"),
    ([fact(obj=3)], "row 0.*label_words"), ([], "no rows"), ({}, "no rows"), ({"train": []}, "no rows")], ids=str)
def test_bad_rows_are_named(rows, named):
    with pytest.raises(TaskError, match=f"'mine'.*{named}"):
        task_from_rows("mine", rows)


def test_one_column_alone_is_told():
    with pytest.raises(TaskError, match="both columns"):
        task_from_rows("mine", [fact()], subject="sub_label")


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


def test_blank_lines_of_a_table_are_no_rows(tmp_path):
    task = load_task(str(write(tmp_path / "mine.csv", "", "  ", "sub_label,obj_label", "a,b", " \t", "")))
    assert task.train + task.dev + task.test == (Example("a", "b"),)


@pytest.mark.parametrize("bad", [
    '{"sub_label": "a", "obj_label": "b", "obj_label": "c"}', '{"sub_label": "a", " sub_label": "b", "obj_label": "c"}',
    '{"sub_label": "a", "obj_label": "\\ud800"}', fact(obj=float("nan")), fact(obj=" "), "[" * 100_000,
    '{"sub_label": "a", "obj_label": ' + "1" * 5000 + "}", fact(split=0),
    '{"sub_label": "France"', "3", '["France", "Paris"]', {"sub_label": "France"}, {"subject": "France", "object": "x"},
    fact(split="validation"), fact(obj=None), fact(subject=7)], ids=lambda bad: str(bad)[:60])
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
    ("zoo/P999999", None), ("nowhere.jsonl", None), ("lama/P36", None), ("lama/P36", "."), ("pararel/P36", "."),
    ("lpaqa/P36", "."), ("optiprompt/P36", ".")])
def test_missing_task_is_named(tmp_path, monkeypatch, name, root):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=name):
        load_task(name, root)


@pytest.mark.parametrize("kind", ["nothing", "lama", "optiprompt"])
def test_list_tasks_of_an_unknown_kind_or_without_root(kind):
    with pytest.raises(TaskError, match=kind):
        list_tasks(kind)


@pytest.mark.parametrize("template", [3, None, ["[X] [Y]"], float("nan")])
def test_a_template_of_lama_that_is_no_text(tmp_path, template):
    write(tmp_path / "P36.jsonl", fact())
    write(tmp_path / "relations.jsonl", {"relation": ["P36"], "template": "[Y] [X]"},
          {"relation": "P36", "template": template})
    with pytest.raises(TaskError, match=r"relations\.jsonl, line 2 has the template"):
        load_task("P36.jsonl", tmp_path)
