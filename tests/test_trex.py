"""Real data and checkpoints that were not made for this project; see ``trex`` in conftest.py."""

import json

import pytest

from ptlib import (
    encode,
    evaluate,
    list_tasks,
    load_lm,
    load_task,
    load_tasks,
    manual_prompt,
    random_prompt,
    shared_anchors,
    transfer,
    tune,
)
from ptlib.moving.search import matching_loss
from ptlib.zoo.agreement import compare

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def strangers(trex):
    return [load_lm(str(trex / "checkpoints" / name)) for name in ("bert-s", "roberta-s")]


@pytest.mark.parametrize("there", [0, 1], ids=["to bert-s", "to roberta-s"])
def test_a_prompt_moves_between_strangers(trex, strangers, there):
    target, source = strangers[there], strangers[1 - there]
    task = load_task("checkpoints/facts/P103.jsonl", root=trex)
    anchors = shared_anchors(source, target)
    assert len(anchors) > 1000
    tuned = tune(source, task, epochs=10)
    options = {"candidates": anchors.words}
    own = evaluate(source, tuned, task.test, **options)
    assert own.interval[0] > evaluate(source, random_prompt(source), task.test, **options).p_at_1
    moved = transfer(tuned, source=source, target=target, method="closed-form", anchors=anchors)
    found = evaluate(target, moved, task.test, **options)
    assert found.n == own.n > 0
    assert 0 < moved.meta["fit"] < 1
    drawn = matching_loss(encode(tuned, source, anchors), random_prompt(target).vectors, anchors.of(target))
    assert moved.meta["matching_loss"] < drawn.mean()


def templates(trex):
    lines = (trex / "optiprompt" / "LAMA_relations.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["relation"]: record["template"] for record in map(json.loads, lines)}


@pytest.mark.parametrize(("layout", "folder", "count", "sizes", "objects"), [
    ("lama", "lama/TREx", 28, (9136, 2297, 11434), 3094),
    ("pararel", "pararel/trex_lms_vocab", 41, (11734, 2975, 14685), 4774),
    ("lpaqa", "lpaqa/TREx_train", 41, (15358, 3843, 19060), 14538)])
def test_every_file_is_a_task_with_lamas_template(trex, layout, folder, count, sizes, objects):
    names, known = list_tasks(layout, root=trex), templates(trex)
    assert names == list_tasks(layout, root=trex / layout)  # or the folder inside, as LAMA's own archive has it
    assert len(names) == len(list((trex / folder).glob("*.jsonl"))) == count
    tasks = load_tasks(layout, root=trex)
    assert [task.name for task in tasks] == names
    for task in tasks:
        assert not {e.subject for e in task.train + task.dev} & {e.subject for e in task.test}
        # Nothing is lost: every fact of the file, counted by other means, is in one part.
        relation = task.name.partition("/")[2]
        lines = (trex / folder / f"{relation}.jsonl").read_text(encoding="utf-8").strip().split("\n")
        records = [json.loads(line) for line in lines]
        facts = {(record["sub_label"], record["obj_label"]) for record in records}
        assert sorted((e.subject, e.object) for e in task.train + task.dev + task.test) == sorted(facts)
        assert (relation, task.manual_template) == (relation, known[relation])
    assert tuple(sum(len(getattr(task, part)) for task in tasks) for part in ("train", "dev", "test")) == sizes
    assert sum(len({e.object for e in task.train + task.dev + task.test}) for task in tasks) == objects


def test_lpaqas_training_facts_are_hardly_among_those_of_the_others(trex):
    """As its README hopes; what is tuned on them may be evaluated on the others with these few left out."""
    trained = {relation: facts(task) for relation, task in by_relation("lpaqa", trex).items()}
    for layout, shared in (("lama", 7), ("pararel", 11)):
        both = [facts(task) & trained[relation] for relation, task in by_relation(layout, trex).items()]
        assert sum(map(len, both)) == shared


def by_relation(layout, trex):
    return {task.name.partition("/")[2]: task for task in load_tasks(layout, root=trex)}


def facts(task):
    return set(task.train + task.dev + task.test)


def test_answers_of_several_tokens_keep_facts_that_single_words_drop(trex, strangers):
    lm, task = strangers[0], load_task("lpaqa/P17", root=trex)
    prompt, some = manual_prompt(lm, task), task.test[:40]
    single, whole = (evaluate(lm, prompt, some, multi_token=multi) for multi in (False, True))
    assert len(single.dropped) > len(whole.dropped)
    assert single.n + len(single.dropped) == whole.n + len(whole.dropped) == 40


def test_the_zoo_does_not_contradict_trex(trex):
    shared, disagreements = compare(trex)
    assert shared > 100
    assert disagreements == []
