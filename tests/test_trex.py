"""Real data and checkpoints that were not made for this project; see ``trex`` in conftest.py."""

import json

import pytest

from ptlib import encode, evaluate, list_tasks, load_lm, load_task, random_prompt, shared_anchors, transfer, tune
from ptlib.search import matching_loss
from ptlib.zoo.agreement import compare


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
    moved = transfer(tuned, source=source, target=target, anchors=anchors)
    found = evaluate(target, moved, task.test, **options)
    assert found.n == own.n > 0
    assert 0 < moved.meta["fit"] < 1
    drawn = matching_loss(encode(tuned, source, anchors), random_prompt(target).vectors, anchors.of(target))
    assert moved.meta["matching_loss"] < drawn.mean()


def templates(trex):
    lines = (trex / "optiprompt" / "LAMA_relations.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["relation"]: record["template"] for record in map(json.loads, lines)}


@pytest.mark.parametrize(("layout", "folder"), [("lama", "lama/TREx"), ("pararel", "pararel/trex_lms_vocab")])
def test_every_file_is_a_task_with_lamas_template(trex, layout, folder):
    names, known = list_tasks(layout, root=trex), templates(trex)
    assert len(names) == len(list((trex / folder).glob("*.jsonl"))) >= 28
    for name in names:
        task = load_task(name, root=trex)
        assert len(task.train) and len(task.dev) and len(task.test)
        assert not {e.subject for e in task.train + task.dev} & {e.subject for e in task.test}
        assert (name, task.manual_template) == (name, known[name.partition("/")[2]])


def test_the_zoo_does_not_contradict_trex(trex):
    shared, disagreements = compare(trex)
    assert shared > 100
    assert disagreements == []
