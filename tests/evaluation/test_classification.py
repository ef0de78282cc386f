"""Texts and labels: verbalizers, the zoo's two tasks, accuracy and macro-F1 over the label words."""

import csv
import json
import warnings

import numpy as np
import pytest
import torch

from ptlib import (
    Evaluation,
    Example,
    Prompt,
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
    tune_many,
)
from ptlib.evaluation.scores import candidate_scores
from ptlib.prompts.prompt import random_vectors
from ptlib.prompts.templates import Template, collate
from ptlib.tasks.loading import LABEL_WORDS, labelled_texts, task_from_rows
from ptlib.tasks.task import words_of_class
from ptlib.tuning.tuning import starting_prompt
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
                                     '{"label_words": {"0": "a", "1": [2]}}'])
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


# --- classes of several words, words of several tokens ---

MANY = ("Paris", "Rome", "Madrid"), "Lima"  # two classes, one of three words


@torch.no_grad()
def by_hand(lm, prompt, subject):
    """(V,) the logits at the answer slot of one example, from embeddings that are put together by hand."""
    [layout] = Template(prompt.template).layout(lm, [subject])
    embeds = lm.embeddings[layout.ids].clone()
    embeds[layout.slots] = prompt.vectors
    return lm.model(inputs_embeds=embeds[None]).logits[0, layout.answer]


def class_scores(lm, logits, classes):
    return [sum(logits[i].item() for i in lm.word_ids(words)) / len(words) for words in classes]


@pytest.mark.parametrize("template", ["[X] [V]*3 [Y] .", "[V]*3 [X] it was [Y] .", "[V]*2 [X] is in [V] [Y] ."],
                         ids=["behind the text", "before it", "around it"])
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_class_has_the_mean_logit_of_its_words(toys, name, template):
    lm, examples = toys[name], choose(MANY, ["Lima", "Paris", "Lima", "Paris"])
    prompt = Prompt(random_vectors(lm, (3,), torch.Generator().manual_seed(0)), template, lm.name, lm.fingerprint)
    ev = evaluate(lm, prompt, examples)
    for example, answer in zip(ev.examples, ev.answers, strict=True):
        of_many, of_one = class_scores(lm, by_hand(lm, prompt, example.subject), [MANY[0], [MANY[1]]])
        assert answer == ("Paris" if of_many > of_one else "Lima")
    assert (ev.n, ev.num_candidates) == (4, 2)


@pytest.mark.parametrize("init", ["random", ["France", "Peru"]], ids=["random", "words"])
def test_tuning_minimises_a_class_s_score_against_the_vocabulary(toys, init):
    """One step by hand: log Σ exp of all logits, less the mean logit of the class's words."""
    lm, examples = toys["gpt2"], choose(MANY, ["Lima", "Paris", "Lima", "Paris"])
    task = Task("mine", examples, (), examples, None, {"a": MANY[0], "b": MANY[1]})
    template = "[V]*3 [X] [Y]"
    start = starting_prompt(lm, task, template=template, init=init)
    vectors = start.vectors.clone().requires_grad_()
    batch = collate(Template(template).layout(lm, [e.subject for e in examples]), lm.device)
    logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
    right = torch.stack([logits[row, lm.word_ids(MANY[0] if e.object == "Paris" else [MANY[1]])].mean()
                         for row, e in enumerate(examples)])
    (logits.logsumexp(-1) - right).mean().backward()
    optimizer = torch.optim.AdamW([vectors], lr=0.01)
    optimizer.step()
    tuned = tune(lm, task, template=template, init=init, epochs=1, lr=0.01)
    torch.testing.assert_close(tuned.vectors, vectors.detach(), atol=1e-5, rtol=1e-4)


def test_tuning_together_with_other_tasks_changes_nothing(toys, capitals):
    lm, examples = toys["bert"], choose(MANY, ["Lima", "Paris", "Lima", "Paris"])
    task = Task("mine", examples, examples, examples, None, {"a": MANY[0], "b": MANY[1]})
    alone, together = tune(lm, task, epochs=3), tune_many(lm, [capitals, task], epochs=3)
    torch.testing.assert_close(together["mine"].vectors, alone.vectors, atol=1e-5, rtol=1e-4)
    assert together["mine"].history.dev_p_at_1 == evaluate(lm, together["mine"], examples).p_at_1


def test_several_words_a_class_from_files_and_in_the_majority(tmp_path):
    words = {"0": ["terrible", "bad "], "1": "great"}
    (tmp_path / "mine.verbalizer.json").write_text(json.dumps({"label_words": words}), encoding="utf-8")
    beside, given = (load_task(str(write(tmp_path / "mine.csv"))),
                     load_task(str(tmp_path / "mine.csv"), label_words=[("terrible", "bad"), ["great"]]))
    for task in (beside, given):
        assert task.label_words == {"0": ("terrible", "bad"), "1": "great"}
        assert {e.choices for e in task.test} == {(("terrible", "bad"), "great")}
        assert {e.object for e in task.train} == {"terrible", "great"}
    majority = evaluate_majority(beside)
    assert (majority.num_candidates, majority.n) == (2, len(beside.test))
    with pytest.raises(TaskError, match="'bad' for the labels '0' and '1'"):
        load_task(str(tmp_path / "mine.csv"), label_words=[["awful", "bad"], ["bad", "good"]])


def test_a_label_word_of_several_tokens_counts_by_its_first(toys):
    lm, examples = toys["roberta"], choose(["Lima", "Parisiental"])
    tokens = lm.tokenize_at(["Parisiental"], " ")[0]
    assert len(tokens) > 1
    task = Task("mine", examples, examples, examples, None, {"a": "Lima", "b": "Parisiental"})
    with pytest.warns(UserWarning, match=rf"'Parisiental' is {len(tokens)} tokens of .*, stands for it"):
        prompt = tune(lm, task, epochs=2)
        ev = evaluate(lm, prompt, examples)
    for example, answer in zip(ev.examples, ev.answers, strict=True):
        logits = by_hand(lm, prompt, example.subject)
        assert answer == ("Lima" if logits[lm.word_ids(["Lima"])[0]] > logits[tokens[0]] else "Parisiental")
    assert prompt.history.dropped == {"train": {}, "dev": {}}
    whole = evaluate(lm, prompt, examples, multi_token=True)
    assert (whole.n, whole.num_candidates) == (4, 2)


def test_with_multi_token_a_class_has_the_mean_over_its_words(toys):
    lm = toys["gpt2"]
    classes = ("Lima", "Parisiental"), "Rome"
    prompt, words = random_prompt(lm), ["Lima", "Parisiental", "Rome"]
    asked = [Example(subject, word) for subject in ("France", "Peru") for word in words]
    scores = {}
    for subject in ("France", "Peru"):
        [layout] = Template(prompt.template).layout(lm, [subject])
        _, found = next(candidate_scores(lm, [layout], prompt.vectors, [lm.tokenize_at([w], " ")[0] for w in words]))
        lima, other, rome = found[0].tolist()
        scores[subject] = "Lima" if (lima + other) / 2 > rome else "Rome"
    examples = [Example(e.subject, "Lima", classes) for e in asked[::3]]
    assert list(evaluate(lm, prompt, examples, multi_token=True).answers) == list(scores.values())


@pytest.mark.parametrize(("words", "multi_token", "message"), [
    (["Parlia", "Parisiental"], False, "Parlia, Parisiental begin with the same token of .*multi_token=True"),
    ([("Rome", "Parlia"), ("Lima", "Parisiental")], False, "begin with the same token"),
    ([("turkey", "Lima"), ("Rome", "Turkey")], True, "are the same tokens to"),
    (["Paris", ("Lima", "Ω")], False, "'Ω' is unknown")], ids=repr)
def test_classes_that_cannot_be_told_apart(toys, words, multi_token, message):
    lm = toys["uncased" if multi_token else "roberta" if "Parisiental" in str(words) else "bert"]
    objects = [words_of_class(word)[0] for word in words]
    with warnings.catch_warnings(), pytest.raises(TaskError, match=message):
        warnings.simplefilter("ignore")
        evaluate(lm, random_prompt(lm), choose(words, objects), multi_token=multi_token)


def test_words_of_a_class_with_the_same_tokens_count_once(toys):
    lm = toys["uncased"]
    prompt = random_prompt(lm)
    twice, once = (evaluate(lm, prompt, choose(words, ["turkey", "rice"] * 2))
                   for words in ([("turkey", "Turkey", "fish"), "rice"], [("turkey", "fish"), "rice"]))
    assert twice.ranks.tolist() == once.ranks.tolist()


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
