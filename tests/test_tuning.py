"""Prompt tuning: it learns, it is reproducible, and no task or test example leaks into another's prompt."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from ptlib import Example, Task, TaskError, evaluate, random_prompt, tune, tune_many
from ptlib.templates import Template, collate

FAST = {"num_vectors": 3, "epochs": 4}


@pytest.fixture
def larger(capitals):
    """A task of three batches an epoch, where the capitals have one."""
    facts = tuple(Example(e.object, e.subject) for e in capitals.train + capitals.test if " " not in e.subject)
    return Task("countries", (facts * 4)[:40], facts[:3], facts[3:5])


def test_tuned_prompt_beats_the_random_one(bert_mini, zoo_tasks, zoo_prompts):
    for name, prompt in zoo_prompts.items():
        task = zoo_tasks[name]
        tuned = evaluate(bert_mini, prompt, task.test)
        chance = evaluate(bert_mini, random_prompt(bert_mini), task.test)
        # Intervals that do not even touch, and a clear margin.
        assert tuned.interval[0] > chance.interval[1]
        assert tuned.p_at_1 > chance.p_at_1 + 0.2


def mean_loss(lm, prompt, examples):
    layouts = Template(prompt.template).layout(lm, [example.subject for example in examples])
    batch = collate(layouts, lm.device)
    logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, prompt.vectors, batch.answers)
    return cross_entropy(logits, torch.tensor(lm.word_ids(example.object for example in examples))).item()


def test_tuning_lowers_the_loss_on_what_it_sees(lm, capitals):
    """Even with random weights, a prompt can raise the objects of a few facts."""
    task = replace(capitals, train=capitals.train[:2], dev=capitals.train[:2])
    tuned = tune(lm, task, num_vectors=5, template="[X] [V]*5 [Y]", epochs=60, lr=0.05)
    for seed in range(3):
        drawn = replace(tuned, vectors=random_prompt(lm, 5, seed).vectors)
        assert mean_loss(lm, tuned, task.train) < mean_loss(lm, drawn, task.train)


def test_dev_record_is_the_prompts_own(bert_mini, zoo_tasks, zoo_prompts):
    for name, prompt in zoo_prompts.items():
        task = zoo_tasks[name]
        # Tuning ranks the whole vocabulary, evaluate its whole words: evaluate can only find more hits.
        assert 0 < prompt.meta["dev_p_at_1"] <= evaluate(bert_mini, prompt, task.dev).p_at_1
        assert (prompt.meta["train"], prompt.meta["dev"]) == (len(task.train), len(task.dev))


def test_a_prompt_does_not_depend_on_the_tasks_beside_it(toys, capitals, larger):
    lm = toys["roberta"]
    alone = {task.name: tune(lm, task, **FAST) for task in (capitals, larger)}
    for tasks in ([capitals, larger], [larger, capitals]):
        beside = tune_many(lm, tasks, **FAST)
        assert list(beside) == [task.name for task in tasks]
        for name, prompt in beside.items():
            torch.testing.assert_close(prompt.vectors, alone[name].vectors, atol=1e-3, rtol=1e-3)
            assert prompt.meta == alone[name].meta


@pytest.mark.parametrize(("other", "equal"), [({}, True), ({"seed": 1}, False), ({"lr": 0.02}, False)])
def test_same_seed_same_prompt(toys, capitals, other, equal):
    one, two = (tune(toys["bert"], capitals, **FAST, **options) for options in ({}, other))
    assert torch.equal(one.vectors, two.vectors) == equal


def test_tuning_leaves_the_callers_random_numbers_alone(toys, capitals):
    state = torch.get_rng_state()
    tune(toys["bert"], capitals, **FAST)
    assert torch.equal(torch.get_rng_state(), state)


def test_test_examples_are_never_looked_at(toys, capitals):
    one = tune(toys["bert"], capitals, **FAST)
    two = tune(toys["bert"], replace(capitals, test=()), **FAST)
    three = tune(toys["bert"], replace(capitals, test=capitals.train), **FAST)
    assert torch.equal(one.vectors, two.vectors)
    assert torch.equal(one.vectors, three.vectors)


def test_template_decides_over_num_vectors(toys, capitals):
    prompt = tune(toys["bert"], capitals, template="[V]*2 [X] [V] [Y] .", num_vectors=7, epochs=1)
    assert prompt.vectors.shape == (3, 16)
    assert prompt.template == "[V]*2 [X] [V] [Y] ."
    assert (prompt.task, prompt.lm_fingerprint) == ("capitals", toys["bert"].fingerprint)


def test_task_without_dev_examples_is_tuned(toys, capitals):
    assert tune(toys["bert"], replace(capitals, dev=()), **FAST).vectors.isfinite().all()


@pytest.mark.parametrize("train", [(), (Example("France", "New Zealand"),)], ids=["none", "objects of two words"])
def test_task_without_usable_train_examples(toys, capitals, train):
    with pytest.raises(TaskError, match="capitals"):
        tune(toys["bert"], replace(capitals, train=train))
