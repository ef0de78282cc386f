"""Texts and labels: verbalizers, the zoo's two tasks, accuracy and macro-F1 over the label words."""

import csv
import json

import numpy as np
import pytest

from ptlib import (
    Evaluation,
    Example,
    Task,
    TaskError,
    evaluate,
    evaluate_majority,
    list_tasks,
    load_lm,
    load_task,
    load_tasks,
    manual_prompt,
    random_prompt,
    transfer,
    tune,
)
from ptlib.tasks.loading import LABEL_WORDS, labelled_texts, task_from_rows
from ptlib.zoo.corpus import fill, phrasings, sentences

pytestmark = pytest.mark.slow

TEXTS = [("a fine film", 1), ('"dull" {and} long', 0), ("прекрасный фильм", 1), ("退屈だ", 0), ("it's, well, good", 1),
         ("[X] marks the spot", 0), ("warm", 1), ("cold", 0), ("bright", 1), ("dim", 0)]
WORDS = {"0": "terrible", "1": "great"}


def parts(task):
    return {"train": task.train, "dev": task.dev, "test": task.test}


def everything(task):
    return {(e.subject, e.object) for part in parts(task).values() for e in part}


def write(path, column="text", rows=TEXTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps({column: text, "label": label}, ensure_ascii=False) + "\n"
                            for text, label in rows)
        elif path.suffix == ".csv":
            csv.writer(file).writerows([(column, "label"), *rows])
        else:  # GLUE's: no quoting whatever
            file.writelines(f"{text}\t{label}\n" for text, label in [(column, "label"), *rows])
    return path


@pytest.mark.parametrize("label_words", [WORDS, {0: "terrible", 1: "great"}, ["terrible", "great"]], ids=str)
@pytest.mark.parametrize(("file", "column"), [("mine.jsonl", "text"), ("mine.csv", "text"), ("mine.tsv", "sentence")])
def test_every_format_and_verbalizer_gives_the_same_task(tmp_path, file, column, label_words):
    task = load_task(file, root=write(tmp_path / file, column).parent, label_words=label_words,
                     template="[X] . it was [Y] .")
    assert everything(task) == {(text, WORDS[str(label)]) for text, label in TEXTS}
    assert [len(part) for part in parts(task).values()] == [4, 1, 5]
    assert {e.choices for part in parts(task).values() for e in part} == {("terrible", "great")}
    assert (task.label_words, task.manual_template) == (WORDS, "[X] . it was [Y] .")
    rows = task_from_rows("mine", [{"s": text, "l": label} for text, label in TEXTS], subject="s", object="l",
                          label_words=label_words)
    assert parts(rows) == parts(task)


def test_verbalizer_beside_the_file_or_folder(tmp_path):
    beside = {"label_words": WORDS, "template": "[X] : [Y] ."}
    (tmp_path / "mine.verbalizer.json").write_text(json.dumps(beside), encoding="utf-8")
    file = load_task("mine.csv", root=write(tmp_path / "mine.csv").parent)
    for part, rows in (("train", TEXTS[:6]), ("dev", TEXTS[6:8]), ("test", TEXTS[8:])):
        write(tmp_path / "mine" / f"{part}.tsv", "sentence", rows)
    folder = load_task("mine", root=tmp_path)
    for task in (file, folder):
        assert (task.label_words, task.manual_template) == (WORDS, "[X] : [Y] .")
    assert [len(part) for part in parts(folder).values()] == [6, 2, 2]
    assert everything(file) == everything(folder)
    # What is said in the call counts more.
    other = load_task("mine.csv", root=tmp_path, label_words=["bad", "good"], template="[X] [Y]")
    assert (other.label_words, other.manual_template) == ({"0": "bad", "1": "good"}, "[X] [Y]")


def test_labels_may_be_words_themselves(tmp_path):
    rows = [(text, ("good", "bad")[label]) for text, label in TEXTS]
    task = load_task(str(write(tmp_path / "mine.jsonl", rows=rows)))
    assert task.label_words == {"bad": "bad", "good": "good"}
    assert everything(task) == set(rows)


def test_facts_have_no_choices():
    task = load_task("zoo/P36")
    assert task.label_words is None
    assert {e.choices for part in parts(task).values() for e in part} == {None}


@pytest.mark.parametrize(("rows", "label_words", "named"), [
    (TEXTS, None, "label 0"), ([("a", "1")], None, "label 1"),
    (TEXTS, {"1": "great"}, r"line 3.*'0'"), ([("a", 1), ("b", -1)], WORDS, r"line 3.*'-1'"),
    (TEXTS, ["great", "great"], "'great' for the labels '0' and '1'"),
    (TEXTS, {"0": 3, "1": "great"}, "label_words="), (TEXTS, "great", "label_words='great'"),
    (TEXTS, [], "label_words="), ([("a", 1), ("", 0)], WORDS, "line 3"), ([("a", 1), ("b", "")], WORDS, "line 3"),
    ([], WORDS, "no rows")], ids=repr)
def test_labels_without_words_of_their_own(tmp_path, rows, label_words, named):
    with pytest.raises(TaskError, match=named):
        load_task(str(write(tmp_path / "mine.csv", rows=rows)), label_words=label_words)


@pytest.mark.parametrize("content", ["{", "[]", '{"words": {}}', '{"label_words": 3}', '{"template": 3}',
                                     '{"label_words": {"0": "a", "1": ["b"]}}'])
def test_broken_verbalizer_file(tmp_path, content):
    (tmp_path / "mine.verbalizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(TaskError, match="label_words"):
        load_task(str(write(tmp_path / "mine.csv")))


@pytest.mark.parametrize("label", [None, True, 1.0, "", ["a"]], ids=repr)
def test_what_is_no_label(label):
    with pytest.raises(TaskError, match=r"task 'mine', row 1 has text 'b' and label"):
        task_from_rows("mine", [{"text": "a", "label": 1}, {"text": "b", "label": label}], label_words=["no", "yes"])


@pytest.mark.parametrize("name", LABEL_WORDS)
def test_zoo_task(name):
    task, = load_tasks("zoo", relations=name)
    assert task.name == f"zoo/{name}"
    assert task.name not in list_tasks("zoo")
    assert [len(part) for part in parts(task).values()] == [128, 32, 160]
    words = LABEL_WORDS[name]
    assert task.label_words == words
    assert everything(task) == {(e.subject, words[e.object]) for e in labelled_texts(name)}
    assert {e.choices for e in task.test} == {tuple(words.values())}
    assert task.manual_template.count("[X]") == task.manual_template.count("[Y]") == 1


@pytest.mark.parametrize("name", LABEL_WORDS)
def test_no_test_text_of_the_zoo_was_seen_with_its_label(name):
    """Else a probe would measure recall; the texts to tune on, in contrast, were all labelled."""
    task, corpus = load_task(f"zoo/{name}"), sentences()
    labelled = [sentence.text for sentence in corpus if sentence.answers]
    bare = {sentence.text for sentence in corpus if not sentence.answers}
    around = "\n".join(labelled)
    assert not [e for e in task.test if e.subject in around]
    assert {fill(way, e.subject).text for e in task.test for way in phrasings(name, "unlabelled")} <= bare
    ways = phrasings(name, "sentence")
    assert {fill(way, e.subject, e.object).text for e in task.train + task.dev for way in ways} <= set(labelled)


@pytest.mark.parametrize("name", ["zoo/bert-mini", "zoo/gpt2-mini"])
@pytest.mark.parametrize("task", [f"zoo/{name}" for name in LABEL_WORDS])
def test_a_tuned_prompt_classifies_better_than_the_majority(name, task):
    lm, task = load_lm(name), load_task(task)
    ev = evaluate(lm, tune(lm, task), task.test)
    majority = evaluate_majority(task)
    assert ev.num_candidates == majority.num_candidates == len(task.label_words)
    assert ev.n == majority.n == len(task.test)
    assert ev.interval[0] > majority.interval[1]
    assert ev.macro_f1 > majority.macro_f1
    manual = evaluate(lm, manual_prompt(lm, task), task.test)
    assert manual.interval[0] > majority.interval[1]


def test_a_prompt_for_classification_moves(bert_mini, roberta_mini):
    task = load_task("zoo/topic")
    tuned = tune(bert_mini, task, epochs=5)
    moved = evaluate(roberta_mini, transfer(tuned, source=bert_mini, target=roberta_mini), task.test)
    assert moved.num_candidates == 4
    assert moved.interval[0] > evaluate_majority(task).interval[1]


def choose(words, objects=None):
    """Examples of toy subjects that may be answered with ``words``."""
    return tuple(Example(subject, obj, tuple(words)) for subject, obj in
                 zip(("France", "Peru", "Saint Helena", "Iraq"), objects or words * 2, strict=False))


def test_choices_are_the_candidates(lm, capitals):
    examples, prompt = choose(["Paris", "Lima"]), random_prompt(lm)
    ev = evaluate(lm, prompt, examples)
    plain = [Example(e.subject, e.object) for e in examples]
    assert ev.predictions.equals(evaluate(lm, prompt, plain, candidates=["Lima", "Paris"]).predictions)
    assert evaluate(lm, prompt, examples, candidates=lm.words).num_candidates == len(lm.words)
    assert evaluate(lm, prompt, plain).num_candidates == len(lm.words)


@pytest.mark.parametrize("multi_token", [False, True])
def test_a_label_word_that_the_lm_lacks_is_told(toys, multi_token):
    lm = toys["bert"]
    with pytest.raises(TaskError, match=f"'Ω'.*{lm.name}"):
        evaluate(lm, random_prompt(lm), choose(["Paris", "Ω"]), multi_token=multi_token)


def test_a_label_word_of_several_tokens_needs_multi_token(toys):
    lm, examples = toys["roberta"], choose(["Paris", "Parisiental"])
    with pytest.raises(TaskError, match=r"'Parisiental'.*multi_token"):
        evaluate(lm, random_prompt(lm), examples)
    assert evaluate(lm, random_prompt(lm), examples, multi_token=True).num_candidates == 2


def test_label_words_that_an_uncased_lm_confuses(toys):
    with pytest.raises(TaskError, match=r"turkey, Turkey"):
        evaluate(toys["uncased"], random_prompt(toys["uncased"]), choose(["turkey", "Turkey"]))


def test_examples_of_two_tasks_at_once(toys):
    lm = toys["bert"]
    with pytest.raises(TaskError, match=r"Paris.*Rome"):
        evaluate(lm, random_prompt(lm), choose(["Paris", "Lima"]) + choose(["Rome", "Lima"]))


def test_choices_are_no_part_of_the_fact():
    with_choices, without = Example("a", "b", ("b", "c")), Example("a", "b")
    assert with_choices == without
    assert len({with_choices, without}) == 1
    assert repr(with_choices) == repr(without)


def test_majority_of_a_classification_task(capitals):
    examples = choose(["Paris", "Lima"], ["Lima", "Paris", "Lima"])
    ev = evaluate_majority(Task("mine", examples, (), examples, None, {"a": "Paris", "b": "Lima"}))
    assert set(ev.predictions["prediction"]) == {"Lima"}
    assert (ev.accuracy, ev.num_candidates) == (pytest.approx(2 / 3), 2)
    with pytest.raises(TaskError, match="candidates"):
        evaluate_majority(capitals)


def answered(truth, guess):
    ranks = np.array([1 if t == g else 2 for t, g in zip(truth, guess, strict=True)])
    return Evaluation(tuple(Example("s", t) for t in truth), tuple(guess), ranks, (), "lm", None, 3)


@pytest.mark.parametrize(("truth", "guess", "f1"), [
    # a: 2 right, 3 guessed, 2 true, F1 4/5; b: none right; c: 1 right, 1 guessed, 2 true, F1 2/3.
    ("aabcc", "aaacb", (4 / 5 + 2 / 3) / 3), ("abc", "abc", 1), ("abc", "bca", 0),
    # All one class of two: 2/3 and 0.
    ("aabb", "aaaa", 1 / 3), ("a", "b", 0),
    # A class that is guessed but never true has no F1 of its own; it costs the others.
    ("aab", "acb", (2 / 3 + 1) / 2)])
def test_macro_f1(truth, guess, f1):
    ev = answered(truth, guess)
    assert ev.macro_f1 == pytest.approx(f1)
    assert ev.accuracy == ev.p_at_1 == sum(t == g for t, g in zip(truth, guess, strict=True)) / len(truth)
