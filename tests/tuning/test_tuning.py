"""Prompt tuning: it learns, it is reproducible, and no task or test example leaks into another's prompt."""

from dataclasses import replace

import pytest
import torch
from conftest import sequences_read
from torch.nn.functional import cross_entropy

from ptlib import (
    AnchorError,
    Example,
    NotFiniteError,
    PromptTransferError,
    Task,
    TaskError,
    evaluate,
    evaluate_many,
    load_lm,
    load_task,
    load_tasks,
    manual_prompt,
    random_prompt,
    refine,
    shared_anchors,
    starting_prompt,
    summarize,
    task_from_rows,
    transfer_many,
    tune,
    tune_many,
    tune_seeds,
)
from ptlib.prompts.templates import Template, collate
from ptlib.tuning.training import normal_noise

pytestmark = pytest.mark.slow

FAST = {"num_vectors": 3, "epochs": 4}
WORDS = {"parameterization": "mixture", "num_vectors": 3, "epochs": 4}
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


def loss_of(lm, template, vectors, examples):
    layouts = Template(template).layout(lm, [example.subject for example in examples])
    batch = collate(layouts, lm.device)
    logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
    return cross_entropy(logits, torch.tensor(lm.word_ids(example.object for example in examples)))


def mean_loss(lm, prompt, examples):
    return loss_of(lm, prompt.template, prompt.vectors, examples).item()


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
        assert 0 < prompt.meta["dev_p_at_1"] == pytest.approx(evaluate(bert_mini, prompt, task.dev).p_at_1)
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
    found = tune_seeds(lm, tasks, seeds=seeds, **FAST)
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
    found = tune_seeds(lm, tasks, init=words, num_vectors=6, seeds=[0, 1, 2], **STILL)
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
    ({"init": []}, "0 words"), ({"epochs": 0}, "epochs=0"), ({"epochs": -2}, "epochs=-2"),
    ({"seed": []}, r"seed=\[\].*tune_seeds"),
    ({"tasks": []}, "0 tasks"), ({"parameterization": "soup"}, "'soup'.*vectors, mixture"),
    ({"parameterization": "mixture", "init": "zeros"}, "'zeros'.*'random', 'manual'"),
    ({"parameterization": "mixture", "init": ["zzyzx"]}, "1 words, none")])
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


@pytest.mark.parametrize("init", ["random", "manual", ["Paris", "Rome", "town"]], ids=str)
def test_starting_prompt_is_where_tuning_starts(lm, capitals, init):
    start = starting_prompt(lm, capitals, init=init, num_vectors=9, seed=3)
    still = tune(lm, capitals, init=init, num_vectors=9, seed=3, **STILL)
    torch.testing.assert_close(start.vectors, still.vectors, atol=1e-9, rtol=1e-6)
    assert (start.template, start.task, start.mixture) == (still.template, "capitals", None)
    start.check(lm)
    assert start.meta["init"] == still.meta["init"]
    other = starting_prompt(lm, capitals, init=init, num_vectors=9, seed=4)
    assert torch.equal(start.vectors, other.vectors) == (init == "manual"), "the seed is of what is drawn"


# --- mixtures of words, on one LM or several ---


def close_words(one, two, tolerance=1e-3):
    assert one.mixture.words == two.mixture.words
    torch.testing.assert_close(one.mixture.weights, two.mixture.weights, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(one.mixture.gains, two.mixture.gains, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_tuning_a_mixture_lowers_the_loss(lm, capitals, noise):
    task = replace(capitals, train=capitals.train[:2], dev=capitals.train[:2])
    options = {"parameterization": "mixture", "num_vectors": 5, "template": "[X] [V]*5 [Y]", "noise": noise}
    tuned = tune(lm, task, **options, epochs=60, lr=0.5)
    for seed in range(3):
        start = tune(lm, task, **options | STILL, seed=seed)
        assert mean_loss(lm, tuned, task.train) < mean_loss(lm, start, task.train)


def test_a_mixture_prompt_is_its_mixture(lm, capitals):
    prompt = tune(lm, capitals, **WORDS)
    mixture = prompt.mixture
    assert torch.equal(prompt.vectors, mixture.on(lm))
    assert mixture.words == shared_anchors(lm).words, "of a single LM, all its words"
    assert mixture.weights.shape == (3, len(mixture.words))
    assert (mixture.weights >= 0).all()
    torch.testing.assert_close(mixture.weights.sum(-1), torch.ones(3))
    prompt.check(lm)
    assert prompt.meta["parameterization"] == "mixture"
    assert prompt.meta["lms"] == [lm.name]
    assert tune(lm, capitals, **FAST).mixture is None


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_a_mixture_does_not_depend_on_the_tasks_beside_it(toys, capitals, larger, noise):
    lm, options = toys["roberta"], {**WORDS, "noise": noise}
    alone = {task.name: tune(lm, task, **options) for task in (capitals, larger)}
    for tasks in ([capitals, larger], [larger, capitals]):
        for name, prompt in tune_many(lm, tasks, **options).items():
            close_words(prompt, alone[name], 1e-2)
            assert prompt.meta == alone[name].meta


def test_several_seeds_of_mixtures_are_each_seed_alone(toys, capitals, larger):
    lms, tasks = [toys["bert"], toys["gpt2"]], [capitals, larger]
    found = tune_seeds(lms, tasks, seeds=[3, 0], **WORDS)
    assert list(found) == [(seed, task.name) for seed in (3, 0) for task in tasks]
    for seed in (3, 0):
        for name, alone in tune_many(lms, tasks, seed=seed, **WORDS).items():
            close_words(found[seed, name], alone, 1e-2)
            assert found[seed, name].meta == alone.meta
    assert not torch.allclose(found[3, "capitals"].mixture.weights, found[0, "capitals"].mixture.weights, atol=0.01)


@pytest.mark.parametrize(("other", "equal"), [({}, True), ({"seed": 1}, False), ({"noise": 0.5}, False),
                                              ({"init": "random"}, False)])
def test_same_seed_same_mixture(toys, capitals, other, equal):
    one, two = (tune(toys["bert"], capitals, **WORDS | options) for options in ({}, other))
    assert torch.equal(one.mixture.weights, two.mixture.weights) == equal


def test_mixtures_leave_the_callers_random_numbers_alone(toys, capitals):
    state = torch.get_rng_state()
    tune([toys["bert"], toys["roberta"]], capitals, **WORDS)
    assert torch.equal(torch.get_rng_state(), state)


def test_without_noise_a_mixture_is_the_best_on_dev(bert_mini, zoo_tasks):
    """Where dev contradicts train, an early state is the best; with next to no noise, the last one stays."""
    train = zoo_tasks["zoo/P36"].train[:8]
    dev = tuple(replace(e, object=o.object) for e, o in zip(train, train[1:] + train[:1], strict=True))
    task = replace(zoo_tasks["zoo/P36"], train=train, dev=dev)
    best, last = (tune(bert_mini, task, parameterization="mixture", noise=noise) for noise in (0.0, 1e-12))
    assert mean_loss(bert_mini, best, dev) < mean_loss(bert_mini, last, dev) - 1
    assert mean_loss(bert_mini, last, train) < mean_loss(bert_mini, best, train) - 1


def test_mixtures_start_from_the_templates_words_if_there_are_any(toys, capitals):
    lm = toys["bert"]
    start = tune(lm, capitals, **WORDS | STILL)
    assert start.history.init == "manual"
    words = manual_prompt(lm, capitals).template.replace("[X]", "").replace("[Y]", "").split()
    for vector in range(3):
        (leading, weight), = start.mixture.leading(vector, 1).items()
        assert leading == words[vector % len(words)] and weight > 0.4
    untold = tune(lm, replace(capitals, manual_template=None), **WORDS | STILL)
    assert untold.history.init == "random" == tune(lm, capitals, **FAST).history.init
    assert max(untold.mixture.leading(0, 1).values()) < 0.4


def test_each_example_draws_its_own_level_of_noise():
    """Uniform between none and all of it: so is the norm of each row of many numbers, but for chance."""
    generator = torch.Generator().manual_seed(0)
    noise = normal_noise(2000, (5, 64), generator)
    levels = noise.square().mean((1, 2)).sqrt().sort().values
    torch.testing.assert_close(levels, torch.linspace(0, 1, 2000), atol=0.1, rtol=0)
    assert noise.std().item() == pytest.approx(3**-0.5, abs=0.02)


def test_with_noise_dev_examples_are_not_looked_at(toys, capitals):
    one = tune(toys["bert"], capitals, **WORDS)
    for dev in ((), capitals.train, capitals.test):
        two = tune(toys["bert"], replace(capitals, dev=dev, test=()), **WORDS)
        assert torch.equal(one.mixture.weights, two.mixture.weights)
        assert torch.equal(one.mixture.gains, two.mixture.gains)


@pytest.mark.parametrize("count", [2, 6])
def test_manual_start_of_a_mixture_leans_on_the_words(lm, capitals, count):
    """Half of each vector is its word of the manual template, and the rest is no other word's in particular."""
    mixture = tune(lm, capitals, parameterization="mixture", init="manual", num_vectors=count, **STILL).mixture
    for vector in range(count):
        (first, weight), (_, next_weight) = mixture.leading(vector, 2).items()
        assert first == ["The", "capital", "of", "is"][vector % 4]
        assert weight == pytest.approx(0.5, abs=0.05)
        assert next_weight < 0.1
    torch.testing.assert_close(mixture.gains, as_tuned(mixture, lm))


def test_given_words_start_mixtures_too(toys, capitals):
    """Each vector starts from one of them, drawn by the seed: forty are hardly ever all of one word."""
    prompt = tune(toys["bert"], capitals, parameterization="mixture", init=["Paris", "Rome"], num_vectors=40, **STILL)
    assert {next(iter(prompt.mixture.leading(vector))) for vector in range(40)} == {"Paris", "Rome"}
    assert prompt.meta["init"] == "words"


def test_random_start_of_a_mixture_is_spread(toys, capitals):
    mixture = tune(toys["bert"], capitals, parameterization="mixture", init="random", num_vectors=8, **STILL).mixture
    assert (mixture.perplexity > len(mixture.words) / 3).all()


def both(toys):
    return [toys["bert"], toys["roberta"]]


def as_tuned(mixture, *lms):
    """The gains whose vectors are as long as the plain sums of the words, in the mean over LMs."""
    return torch.stack([(mixture.weights @ lm.embeddings[lm.word_ids(mixture.words)]).norm(dim=-1)
                        / lm.embeddings.norm(dim=-1).mean() for lm in lms]).mean(0)


@pytest.mark.parametrize("init", ["random", "manual"])
def test_order_of_the_lms_changes_nothing(toys, capitals, init):
    """But for the noise, whose draws go by the LMs' widths."""
    options = {**WORDS, "noise": 0.0, "init": init}
    one, two = (tune(lms, capitals, **options) for lms in (both(toys), both(toys)[::-1]))
    close_words(one, two, 1e-2)
    assert one.meta == two.meta | {"lms": one.meta["lms"]}
    assert one.meta["lms"] == two.meta["lms"][::-1] == [lm.name for lm in both(toys)]
    # Each is there as it is on the first LM of its own.
    torch.testing.assert_close(one.on(toys["roberta"]).vectors, two.vectors, atol=1e-2, rtol=1e-2)
    assert torch.equal(one.vectors, one.mixture.on(toys["bert"]))


def test_a_joint_mixture_is_made_of_the_words_that_all_have(toys, capitals):
    lms = [toys["bert"], toys["roberta"], toys["uncased"]]
    prompt = tune(lms, capitals, **WORDS)
    assert prompt.mixture.words == shared_anchors(*lms).words
    assert set(prompt.mixture.words) < set(tune(lms[1], capitals, **WORDS).mixture.words)
    for lm in lms:
        assert prompt.on(lm).meta["lost_weight"] == 0


def test_an_lm_twice_is_one_lm(toys, capitals):
    lm, options = toys["gpt2"], {**WORDS, "noise": 0.0}
    close_words(tune([lm, lm], capitals, **options), tune(lm, capitals, **options), 1e-2)
    assert torch.equal(tune([lm], capitals, **options).vectors, tune(lm, capitals, **options).vectors)
    assert torch.equal(tune([lm], capitals, **FAST).vectors, tune(lm, capitals, **FAST).vectors)


def test_a_mixture_of_several_lms_is_as_loud_as_it_was_under_its_noise(toys, capitals):
    """Positions and noise in quadrature; that of one LM stays as it is."""
    for noise in (0.0, 1.0, 2.0):
        found = tune(both(toys), capitals, **STILL | {"noise": noise}, parameterization="mixture", num_vectors=3)
        louder = (1 + noise**2 / 3) ** 0.5  # the mean square of the levels is a third of the largest one's
        torch.testing.assert_close(found.mixture.gains, as_tuned(found.mixture, *both(toys)) / louder)
        torch.testing.assert_close(found.vectors, found.mixture.on(toys["bert"]))
    alone = tune(toys["bert"], capitals, **STILL | {"noise": 2.0}, parameterization="mixture", num_vectors=3)
    torch.testing.assert_close(alone.mixture.gains, as_tuned(alone.mixture, toys["bert"]))


def test_one_step_goes_down_the_mean_loss_of_both(toys, capitals):
    """By hand, from the same start: the weights are a softmax, and the words' embeddings are each LM's own."""
    lms, task = both(toys), replace(capitals, train=capitals.train[:5], dev=())
    options = {"parameterization": "mixture", "num_vectors": 2, "noise": 0.0, "epochs": 1}
    start = tune(lms, task, **options, lr=1e-12).mixture
    found = tune(lms, task, **options, lr=0.05).mixture

    def stepped(chosen):
        logits, gains = start.weights.log().requires_grad_(), torch.ones(2, requires_grad=True)
        optimizer = torch.optim.AdamW([logits], lr=0.05)
        for lm in chosen:
            vectors = gains[:, None] * (logits.softmax(-1) @ lm.embeddings[lm.word_ids(start.words)])
            (loss_of(lm, "[X] [V]*2 [Y] .", vectors, task.train) / len(chosen)).backward()
        optimizer.step()
        return logits.detach().softmax(-1), gains.grad

    weights, slope = stepped(lms)
    torch.testing.assert_close(found.weights, weights, atol=1e-6, rtol=1e-3)
    assert torch.equal((found.gains / as_tuned(found, *lms) - 1).sign(), -slope.sign())
    for one in lms:  # neither of them alone says the same
        assert not torch.allclose(stepped([one])[0], weights, atol=1e-6, rtol=1e-2)


def test_joint_tuning_lowers_the_loss_on_both(toys, capitals):
    task = replace(capitals, train=capitals.train[:2], dev=())
    options = {"parameterization": "mixture", "noise": 0.0, "num_vectors": 5}
    start, tuned = tune(both(toys), task, **options, **STILL), tune(both(toys), task, **options, epochs=60, lr=0.5)
    for lm in both(toys):
        assert mean_loss(lm, tuned.on(lm), task.train) < mean_loss(lm, start.on(lm), task.train)


def test_facts_that_one_of_the_lms_cannot_say_are_left_out(toys, capitals):
    """An object that is no single token of one LM teaches the others nothing either."""
    larger, smaller = toys["bert"], toys["albert"]
    odd = next(word for word in larger.words if smaller.word_ids([word]) == [None])
    more = replace(capitals, train=(*capitals.train, Example("France", odd)), dev=(Example("France", odd),))
    usable = sum(smaller.word_ids([example.object]) != [None] for example in capitals.train)
    assert tune(larger, more, **WORDS).meta["train"] == len(capitals.train) + 1
    for lms in ([larger, smaller], [smaller, larger]):
        alone, beside = (tune(lms, task, **WORDS) for task in (replace(capitals, dev=()), more))
        assert alone.meta["train"] == beside.meta["train"] == usable
        assert torch.equal(alone.mixture.weights, beside.mixture.weights)
        with pytest.raises(TaskError, match=" and ".join(lm.name for lm in lms)):
            tune(lms, replace(capitals, train=more.train[-1:]), **WORDS)


def test_lms_without_common_words(toys, capitals):
    with pytest.raises(AnchorError, match="share 0 words"):
        tune([toys["bert"], toys["greek"]], capitals, **WORDS)


@pytest.mark.parametrize(("which", "options", "message"), [
    (["bert", "roberta"], {}, "2 LMs.*parameterization='mixture'"), ([], {}, "0 LMs"),
    ([], {"parameterization": "mixture"}, "0 LMs"), (["bert", "roberta"], {"parameterization": "both"}, "'both'")])
def test_lms_that_do_not_fit_the_parameterization(toys, capitals, which, options, message):
    with pytest.raises(PromptTransferError, match=message):
        tune([toys[name] for name in which], capitals, **options)


@pytest.mark.parametrize(("parameterization", "which"), [
    ("vectors", ["bert"]), ("mixture", ["bert"]), ("mixture", ["bert", "roberta"])])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_cost_is_what_every_lm_reads(toys, larger, parameterization, which, noise):
    """40 train examples, in three batches a pass, and 3 on dev: after every pass, or with noise after the last."""
    lms = [toys[name] for name in which]
    with sequences_read(lms[0]) as first, sequences_read(lms[-1]) as last:
        meta = tune(lms, larger, parameterization=parameterization, noise=noise, epochs=5, num_vectors=2).meta
    assert (meta["train"], meta["dev"]) == (40, 3)
    assert meta["backwards"] == 5 * 40
    assert meta["forwards"] == 5 * 40 + (3 if noise else 5 * 3)
    assert first == last == {name: meta[name] for name in first}


def test_cost_is_of_each_prompt(toys, capitals, larger):
    lm = toys["roberta"]
    with sequences_read(lm) as read:
        found = tune_seeds(lm, [capitals, replace(larger, dev=())], seeds=[0, 1], **FAST)
    by_hand = {"capitals": (4 * (8 + 4), 4 * 8), "countries": (4 * (40 + 40), 4 * 40)}
    for (_, name), prompt in found.items():
        assert (prompt.meta["forwards"], prompt.meta["backwards"]) == by_hand[name]
    assert read == {name: sum(prompt.meta[name] for prompt in found.values()) for name in read}


@pytest.mark.parametrize("parameterization", ["vectors", "mixture"])
def test_tuning_that_diverges_says_where(bert_mini, zoo_tasks, parameterization):
    with pytest.raises(NotFiniteError, match=r"tuning diverged at step \d+ with lr=1e\+20: .*use a lower lr="):
        tune(bert_mini, zoo_tasks["zoo/P36"], parameterization=parameterization, epochs=2, lr=1e20, noise=0.0)


@pytest.mark.parametrize("option", [{"lr": float("nan")}, {"noise": float("inf")}, {"lr": float("inf")}])
def test_rates_that_are_no_numbers(toys, capitals, option):
    with pytest.raises(PromptTransferError, match="expected at least one pass"):
        tune(toys["bert"], capitals, **FAST, **option)


def test_a_label_word_of_several_tokens_counts_alike_in_tuning_and_evaluation(bert_mini):
    """By its first token, which is said; no text is dropped."""
    texts = load_task("zoo/sentiment").train[:16]
    rows = [{"text": e.subject, "label": e.object, "split": "train"} for e in texts]
    task = task_from_rows("s", rows, label_words={"great": "great", "terrible": "unbearable"})
    said = rf"label word 'unbearable' is \d tokens of {bert_mini.name}"
    with pytest.warns(UserWarning, match=said):
        prompt = tune(bert_mini, task, epochs=1)
    with pytest.warns(UserWarning, match=said):
        ev = evaluate(bert_mini, prompt, task.dev)
    with pytest.warns(UserWarning, match=said):
        shot = refine(prompt, bert_mini, mode="few-shot", examples=task.train, epochs=1)
    assert prompt.history.dev_p_at_1 == ev.p_at_1
    assert (ev.n, ev.num_candidates) == (len(task.dev), 2)
    assert prompt.history.train == shot.history.train == len(task.train)


def test_what_does_not_count_is_said(toys, capitals):
    lm = toys["bert"]
    odd = (Example("Iraq", "zzyzx"), Example("Iran", "New Zealand"))
    more = replace(capitals, train=capitals.train + odd, dev=capitals.dev + odd[:1])
    prompt, reason = tune(lm, more, **FAST), f"object is not one token of {lm.name} behind a space"
    assert prompt.meta["dropped"] == {"train": {reason: 2}, "dev": {reason: 1}}
    assert "3 examples dropped" in repr(prompt)
    assert torch.equal(prompt.vectors, tune(lm, capitals, **FAST).vectors)
    assert "dropped" not in repr(tune(lm, capitals, **FAST))
    few = refine(prompt, lm, mode="few-shot", examples=more.train, epochs=1)
    assert few.meta["dropped"] == {"examples": {reason: 2}}


def test_an_uncased_lm_tunes_on_what_it_is_evaluated_on(toys, capitals):
    lm = toys["uncased"]
    prompt = tune(lm, capitals, **FAST)
    assert prompt.meta["train"] == len(capitals.train)
    assert evaluate(lm, prompt, capitals.test).n == len(capitals.test)
    assert prompt.meta["dev_p_at_1"] == pytest.approx(evaluate(lm, prompt, capitals.dev).p_at_1)


def test_dev_is_judged_among_the_label_words():
    lm, task = load_lm("zoo/gpt2-mini"), load_task("zoo/sentiment")
    prompt = tune(lm, task, epochs=3)
    assert prompt.meta["dev_p_at_1"] == pytest.approx(evaluate(lm, prompt, task.dev).accuracy)


def test_noise_makes_mixtures_travel(bert_mini, roberta_mini):
    """Words that bear noise on one LM are understood by another; those found without it mean little there."""
    tasks = load_tasks(relations="P36,P103,P27,P1303")
    words = shared_anchors(bert_mini, roberta_mini).words
    at_home, moved = {}, {}
    for noise in (0.0, 1.0):
        tuned = tune_many(bert_mini, tasks, parameterization="mixture", noise=noise, epochs=20)
        away = transfer_many(tuned, source=bert_mini, target=roberta_mini)
        at_home[noise], moved[noise] = (summarize(evaluate_many(lm, prompts, tasks, candidates=words))[
            "relation_mean"].item() for lm, prompts in ((bert_mini, tuned), (roberta_mini, away)))
    assert min(at_home.values()) > 0.6
    assert moved[1.0] > moved[0.0] + 0.3
