"""Texts to classify: from the zoo and from files, in the size that is asked for."""

import pytest

from ptlib import TaskError, load_task
from ptlib.lab import load_study, load_texts
from ptlib.lab.texts import KNOWN
from ptlib.tasks.task import words_of_class


def write(folder, name, labels, count=12):
    rows = [f"text {i} of {split}\t{labels[i % len(labels)]}\t{split}" for split in ("train", "dev", "test")
            for i in range(count)]
    (folder / f"{name}.tsv").write_text("\n".join(["text\tlabel\tsplit", *rows]), encoding="utf-8")


@pytest.mark.parametrize("name", KNOWN)
def test_known_files_have_label_words_and_a_template(tmp_path, name):
    template, words = KNOWN[name]
    write(tmp_path, name, list(words))
    [task] = load_texts(name, str(tmp_path), train=6, test=4)
    assert [task.name, task.manual_template, task.label_words] == [name, template, words]
    assert [len(part) for part in (task.train, task.dev, task.test)] == [6, 3, 4]
    assert {e.object for e in task.train} <= {words_of_class(word)[0] for word in words.values()}
    assert all(e.subject.endswith("of test") for e in task.test)


def test_fewer_texts_are_some_of_more_whatever_their_order(tmp_path):
    few, many = (load_texts("sentiment,topic", train=count, test=count) for count in (10, 20))
    for one, other in zip(few, many, strict=True):
        for part in ("train", "test"):
            assert getattr(one, part) == getattr(other, part)[:10]
        assert set(other.test) <= set(load_task(f"zoo/{one.name}").test)
        assert len({e.object for e in other.test}) > 1


def test_a_study_of_loaded_tasks_has_their_label_words():
    tasks = load_texts("sentiment,topic", train=4, test=6)
    study = load_study("zoo/bert-mini", tasks, num_seeds=2, seed=3)
    assert (study.tasks, study.words, study.seeds) == (tasks, None, range(3, 5))
    assert study.subjects["topic"] == [e.subject for e in tasks[1].train]


def test_an_unknown_task():
    with pytest.raises(TaskError, match="'imdb'; expected some of sentiment, topic, sst2, mpqa, trec"):
        load_texts("imdb", train=1, test=1)
