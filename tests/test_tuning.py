"""Prompt tuning: it learns, it is reproducible, and no task or test example leaks into another's prompt."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from ptlib import Example, PromptTransferError, Task, TaskError, evaluate, random_prompt, tune, tune_many
from ptlib.templates import Template, collate

FAST = {"num_vectors": 3, "epochs": 4}
STILL = {"epochs": 1, "lr": 1e-12}  # a step too small to leave the start


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


@pytest.mark.parametrize("seeds", [[3, 0, 1], [2]])
def test_several_seeds_in_one_call_are_each_seed_alone(toys, capitals, larger, seeds):
    lm, tasks = toys["bert"], [capitals, larger]
    found = tune_many(lm, tasks, seed=seeds, **FAST)
    assert list(found) == [(seed, task.name) for seed in seeds for task in tasks]
    for seed in seeds:
        for name, alone in tune_many(lm, tasks, seed=seed, **FAST).items():
            torch.testing.assert_close(found[seed, name].vectors, alone.vectors, atol=1e-3, rtol=1e-3)
            assert found[seed, name].meta == alone.meta
            assert (alone.meta["seed"], alone.task) == (seed, name)
    firsts = {tuple(prompt.vectors[0].tolist()) for prompt in found.values()}
    assert len(firsts) == len(found), "every seed should give another prompt"


@pytest.mark.parametrize(("template", "words"), [
    ("The capital of [X] is [Y] .", ["The", "capital", "of", "is"]), ("[X] was born in [Y] .", ["was", "born", "in"]),
    ("In [Y] , many people of [X] live .", ["In", ",", "many", "people", "of", "live"])])
@pytest.mark.parametrize("count", [2, 9])
def test_manual_start_is_the_words_of_the_manual_template(lm, capitals, count, template, words):
    """In their order, and round again where the vectors are more."""
    prompt = tune(lm, replace(capitals, manual_template=template), init="manual", num_vectors=count, **STILL)
    ids = lm.word_ids(words)
    assert None not in ids
    expected = lm.embeddings[[ids[i % len(ids)] for i in range(count)]]
    torch.testing.assert_close(prompt.vectors, expected, atol=1e-9, rtol=1e-6)
    assert prompt.meta["init"] == "manual"


def test_start_from_given_words_draws_them(lm, capitals):
    """Those that are one token of the LM; with another draw for another task or seed."""
    words = ["Paris", "Rome", "town", "zzyzx", "New Zealand"]
    known = lm.embeddings[lm.word_ids(words[:3])]
    tasks = [capitals, replace(capitals, name="again")]
    found = tune_many(lm, tasks, init=words, num_vectors=6, seed=[0, 1, 2], **STILL)
    drawn = []
    for prompt in found.values():
        # A row for each vector: where it equals the embedding of a known word.
        same = torch.isclose(prompt.vectors[:, None], known, atol=1e-9).all(-1)
        assert same.any(1).all()
        drawn.append(tuple(same.float().argmax(1).tolist()))
        assert prompt.meta["init"] == "words"
    assert set(sum(drawn, ())) == {0, 1, 2}
    assert len(set(drawn)) == len(drawn)


def test_random_start_has_the_scale_of_the_embeddings(toys, capitals):
    lm = toys["bert"]
    prompt = tune(lm, capitals, num_vectors=40, **STILL)
    assert prompt.vectors.std().item() == pytest.approx(lm.embeddings.std().item(), rel=0.1)
    assert prompt.meta["init"] == "random"


@pytest.mark.parametrize(("options", "message"), [
    ({"init": "zeros"}, "'zeros'.*'random', 'manual'"), ({"init": ["zzyzx", "New Zealand"]}, "2 words, none"),
    ({"init": []}, "0 words"), ({"epochs": 0}, "epochs=0"), ({"epochs": -2}, "epochs=-2"), ({"seed": []}, "0 seeds"),
    ({"tasks": []}, "0 tasks")])
def test_starts_and_amounts_that_there_are_not(toys, capitals, options, message):
    with pytest.raises(PromptTransferError, match=message):
        tune_many(toys["bert"], **{"tasks": [capitals], **options})


@pytest.mark.parametrize("template", [None, "[X] [Y] ."], ids=["no template", "no words"])
def test_manual_start_without_manual_words(toys, capitals, template):
    with pytest.raises(TaskError, match="capitals"):
        tune(toys["bert"], replace(capitals, manual_template=template), init="manual", epochs=1)


@pytest.mark.parametrize(("other", "equal"), [({}, True), ({"seed": 1}, False), ({"lr": 0.02}, False),
                                              ({"init": "manual"}, False)])
def test_same_seed_same_prompt(toys, capitals, other, equal):
    one, two = (tune(toys["bert"], capitals, **FAST | options) for options in ({}, other))
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
