"""An LM's own preference among answers, taken away: identities, brute force and round trips."""

from dataclasses import replace

import pytest
import torch

from ptlib import (
    Example,
    Prompt,
    PromptMismatchError,
    TaskError,
    calibrate_contextually,
    evaluate,
    manual_prompt,
    random_prompt,
)
from ptlib.evaluation.contextual import EMPTY
from ptlib.evaluation.scores import answer_distributions

WORDS = ["Lima", "Paris", "Rome"]


@pytest.fixture
def prompt(lm):
    found = random_prompt(lm, 2)
    return replace(found, vectors=8 * found.vectors)


def test_to_empty_texts_all_answers_become_alike(lm, prompt):
    found = calibrate_contextually(prompt, lm)
    words = list(lm.words)
    before, after = (answer_distributions(lm, which, EMPTY, words).log().mean(0) for which in (prompt, found))
    torch.testing.assert_close(after, after.mean().expand(len(words)), atol=1e-4, rtol=0)
    assert before.std() > 0.1
    assert torch.equal(found.vectors, prompt.vectors)


def test_probabilities_are_divided_by_those_of_an_empty_text(lm, prompt):
    """Zhao et al.'s rule, of one text: W = diag(p_empty)⁻¹, b = 0, over the label words."""
    found = calibrate_contextually(prompt, lm, ["N/A"])
    [empty] = answer_distributions(lm, prompt, ["N/A"], WORDS)
    texts = ["France", "Peru", "Saint Helena", "somewhere else"]
    ratios = answer_distributions(lm, prompt, texts, WORDS) / empty
    torch.testing.assert_close(answer_distributions(lm, found, texts, WORDS), ratios / ratios.sum(-1, keepdim=True),
                               atol=1e-4, rtol=1e-3)
    asked = [Example(text, "Rome", tuple(WORDS)) for text in texts]
    assert list(evaluate(lm, found, asked).answers) == [WORDS[i] for i in ratios.argmax(-1)]


def test_a_class_of_several_words(lm, prompt):
    """The mean over its words of the calibrated logits."""
    found, classes = calibrate_contextually(prompt, lm), (("Lima", "Paris"), "Rome")
    texts = ["France", "Peru", "Saint Helena", "somewhere else"]
    scores = answer_distributions(lm, found, texts, WORDS).log()
    answers = evaluate(lm, found, [Example(text, "Rome", classes) for text in texts]).answers
    assert [answer == "Rome" for answer in answers] == (scores[:, 2] > scores[:, :2].mean(-1)).tolist()


def test_it_takes_the_place_of_what_was_there_and_is_kept(toys, capitals, tmp_path):
    lm = toys["bert"]
    bare = manual_prompt(lm, capitals)
    once = calibrate_contextually(bare, lm)
    twice = calibrate_contextually(once, lm)
    assert torch.equal(once.offsets, twice.offsets)
    again = Prompt.load(once.save(tmp_path / "calibrated.safetensors"))
    assert torch.equal(again.offsets, once.offsets)
    assert again.history == once.history
    assert once.meta == {"method": "manual", "calibrated": {"strength": 1.0, "sources": [], "target_forwards": 3,
                                                            "source_forwards": 0}}
    assert once.history.passes == 3


@pytest.mark.parametrize("texts", [[], "N/A"], ids=repr)
def test_what_are_no_texts(toys, texts):
    with pytest.raises(TaskError, match="expected a list of texts without content"):
        calibrate_contextually(random_prompt(toys["bert"]), toys["bert"], texts)


def test_a_prompt_for_another_lm_is_refused(toys):
    with pytest.raises(PromptMismatchError, match="made for"):
        calibrate_contextually(random_prompt(toys["bert"]), toys["gpt2"])
