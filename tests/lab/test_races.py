"""The loops that ptlib races with do what they are said to do: same mathematics, same answers, frozen weights."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tokenizers import processors

from ptlib import Example, LanguageModel, evaluate, load_lm, manual_prompt, random_prompt
from ptlib.lab import races
from ptlib.moving.relative import relative_representation, top_k_mask
from ptlib.moving.search import RIDGES, closed_form, gradient_search, matching_loss
from ptlib.prompts.peft import save_peft_prompt

STEPS = 30


@pytest.fixture
def race():
    return races.invented_prompts(2, 5, 80, 10, 12, seed=0)


@pytest.fixture
def relative(race):
    return relative_representation(race.prompts, race.source)


def test_the_well_written_search_is_the_papers(race, relative):
    mask = top_k_mask(relative, 40)
    found = races.plain_search(relative, race.target, mask, steps=STEPS, seed=3)
    expected = gradient_search(relative, race.target, race.target, steps=STEPS, mask=mask, seed=3,
                               normalize_in_loss=True)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_references_search_is_the_papers_with_ten_vectors(race, relative):
    twice = torch.cat([relative[0], relative[0]])[None]
    mask = top_k_mask(twice, 40)
    found = races.reference_search(relative[0], race.target, mask[0, :5], steps=STEPS, seed=3)
    expected = races.plain_search(twice, race.target, mask, steps=STEPS, seed=3)[0, :5]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_closed_form_matches_best(race, relative):
    found, ridge = races.closed_form_search(relative.double(), race.target, seed=0)
    torch.testing.assert_close(found, closed_form(relative, race.target, ridge))
    rounded, same = races.closed_form_search(relative, race.target, seed=0)  # by products of float32
    assert same == ridge and (rounded - found).abs().max() < 1e-5 * found.abs().max()
    assert ridge in RIDGES
    everything = torch.ones_like(relative, dtype=torch.bool)
    slow = races.plain_search(relative, race.target, everything, steps=STEPS, seed=0)
    assert (matching_loss(relative, found, race.target) < matching_loss(relative, slow, race.target)).all()


@pytest.mark.parametrize("name", ["zoo/bert-mini", "zoo/gpt2-mini"])
def test_all_ways_of_evaluation_agree(zoo_tasks, name):
    lm, task = load_lm(name), zoo_tasks["zoo/P27"]
    prompt = manual_prompt(lm, task)
    ev = evaluate(lm, prompt, task.test)
    expected = (ev.ranks == 1).tolist()
    assert 0 < sum(expected) < ev.n
    assert races.ptlib_hits(lm, prompt, ev.examples) == expected
    assert races.optiprompt_hits(lm, prompt, ev.examples) == expected
    assert races.plain_hits(lm, prompt, ev.examples) == expected


@pytest.mark.parametrize(("family", "loop"), [("bert", races.optiprompt_tuning), ("gpt2", races.optiprompt_tuning),
                                              ("gpt2", races.peft_tuning)])
def test_the_other_loops_learn_and_leave_the_model_alone(toys, capitals, family, loop):
    lm = toys[family]
    before = {name: weight.clone() for name, weight in lm.model.state_dict().items()}
    learnable = replace(capitals, dev=capitals.train)  # the loop keeps what is best on dev, and no toy knows new facts
    tuned = loop(lm, learnable, epochs=40, lr=0.05)
    assert tuned.sequences == 40 * len(capitals.train) and tuned.seconds > 0
    learnt = evaluate(lm, tuned.prompt, capitals.train).mrr
    assert learnt > evaluate(lm, random_prompt(lm), capitals.train).mrr
    assert all(weight.equal(before[name]) for name, weight in lm.model.state_dict().items())
    assert not lm.model.training
    assert not any(weight.requires_grad or weight.grad is not None for weight in lm.model.parameters())


@pytest.mark.parametrize("name", ["gpt2", "starting"])
def test_pefts_own_model_answers_as_we_say(toys, tmp_path, name):
    lm = toys["gpt2"]
    if name == "starting":  # with a start token, which PEFT has among its vectors
        tokenizer = deepcopy(lm.tokenizer)
        start = tokenizer.eos_token
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{start} $A", special_tokens=[(start, tokenizer.eos_token_id)])
        lm = LanguageModel(lm.model, tokenizer, name, "causal")
        assert lm.frame[0]
    texts = ("France", "the old capital of Italy", "Peru and", "people")
    examples = [Example(text, "Paris", ("Paris", ("Rome", "Lima"))) for text in texts]
    found = set()
    for seed in range(5):
        prompt = replace(random_prompt(lm, seed=seed), template="[V]*5 [X] [Y]")
        folder = save_peft_prompt(prompt, tmp_path / "adapter", lm, with_start=True)
        answers = races.peft_answers(lm, folder, examples)
        assert answers == list(evaluate(lm, prompt, examples).answers)
        found.update(answers)
    assert found == {"Paris", "Rome"}


def test_the_exponent_is_the_slope():
    sizes = [10, 20, 50, 400]
    assert races.exponent(sizes, [3e-4 * size**1.7 for size in sizes]) == pytest.approx(1.7)
