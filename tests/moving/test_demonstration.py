"""The kind of answer that is meant, shown by the source's own answers: brute force, identities and round trips."""

from dataclasses import replace

import pytest
import torch

from ptlib import (
    Example,
    Prompt,
    PromptMismatchError,
    PromptTransferError,
    TaskError,
    calibrate,
    demonstrate,
    evaluate,
    manual_prompt,
    random_prompt,
    shared_anchors,
    tune,
)
from ptlib.evaluation.scores import answer_distributions
from ptlib.prompts.history import Demonstrated
from ptlib.prompts.prompt import demonstrated_prompt, varied
from ptlib.prompts.templates import Template

INPUTS = ["France", "Peru", "Kenya", "Norway", "Japan", "Saint Helena"]


@pytest.fixture
def two(toys):
    """A source with its prompt, and a target with its own."""
    lms = [toys[name] for name in ("roberta", "gpt2")]
    return lms, [replace(prompt, vectors=8 * prompt.vectors) for prompt in (random_prompt(lm, 2) for lm in lms)]


def test_the_answers_shown_are_the_sources(two):
    (source, target), (teacher, prompt) = two
    found = demonstrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, count=3)
    words = shared_anchors(source, target).words
    answers = dict(zip(INPUTS, answer_distributions(source, teacher, INPUTS, words), strict=True))
    own = {text: words[found.argmax()] for text, found in answers.items()}
    assert len(found.history.shown) == 3
    assert all(own[text] == answer for text, answer in found.history.shown)
    assert len({answer for _, answer in found.history.shown}) == min(3, len(set(own.values())))
    assert found.history.shown[0][0] == max(INPUTS, key=lambda text: answers[text].max()), "the surest comes first"


def test_the_target_reads_them_with_its_vectors_in_each(two):
    """Against one sequence put together by hand: word embeddings with the prompt's vectors between them."""
    (source, target), (teacher, prompt) = two
    found = demonstrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, count=2)
    (one, first), (other, second) = found.history.shown
    pieces = [f". {one}", prompt.vectors, f" {first} . {other}", prompt.vectors, f" {second} . Cuba", prompt.vectors]
    embedded = [target.embeddings[target.tokenizer(piece)["input_ids"]] if isinstance(piece, str) else piece
                for piece in pieces]
    found = replace(found, template=f". {found.template}")  # the target hardly reads what stands first
    with torch.no_grad():
        logits = target.model(inputs_embeds=torch.cat(embedded)[None]).logits[0, -1]
    words = shared_anchors(target).words
    expected = logits[target.word_ids(words)].softmax(-1)
    torch.testing.assert_close(answer_distributions(target, found, ["Cuba"], words)[0], expected, atol=1e-5, rtol=1e-4)


def test_several_sources_answer_together(toys, two):
    (source, target), (teacher, prompt) = two
    other = toys["bert"]
    weak = replace(random_prompt(other, 2), vectors=torch.zeros(2, other.dim))
    found = demonstrate(prompt, target, source=[source, other], teacher=[teacher, weak], inputs=INPUTS)
    assert found.history.sources == (source.name, other.name)
    assert found.history.source_forwards == 2 * len(INPUTS)
    again = demonstrate(prompt, target, source=[source, source], teacher=[teacher, teacher], inputs=INPUTS)
    assert again.template == demonstrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS).template


def test_a_template_of_words_is_shown_in_its_words(two, capitals):
    (source, target), (teacher, _) = two
    manual = manual_prompt(target, capitals)
    found = demonstrate(manual, target, source=source, teacher=teacher, inputs=INPUTS, count=1)
    [(text, answer)] = found.history.shown
    assert found.template == f"The capital of {text} is {answer} . The capital of [X] is [Y] ."
    by_hand = evaluate(target, replace(manual, template=found.template), capitals.test)
    assert evaluate(target, found, capitals.test).ranks.tolist() == by_hand.ranks.tolist()


def test_a_mixture_stays_one(toys, capitals, two, tmp_path):
    (source, _), (teacher, _) = two
    mixture = tune(toys["bert"], capitals, parameterization="mixture", num_vectors=2, epochs=1, progress=False)
    found = demonstrate(mixture, toys["bert"], source=source, teacher=teacher, inputs=INPUTS)
    torch.testing.assert_close(found.on(toys["bert"]).vectors, found.vectors)
    assert torch.equal(found.vectors, mixture.vectors.repeat(6, 1))
    found.save(tmp_path / "prompt.safetensors")
    loaded = Prompt.load(tmp_path / "prompt.safetensors")
    assert isinstance(loaded.history, Demonstrated) and loaded.history == found.history
    assert loaded.history.tuning_seed == 0 and loaded.history.passes == mixture.history.passes
    ranks = [evaluate(toys["bert"], one, capitals.test).ranks.tolist() for one in (found, loaded)]
    assert ranks[0] == ranks[1]


def test_no_more_are_shown_than_the_target_can_read(two, monkeypatch):
    (source, target), (teacher, prompt) = two
    asked = {"source": source, "teacher": teacher, "inputs": INPUTS}
    whole = demonstrate(prompt, target, **asked)
    longest = max(len(layout.ids) for layout in Template(whole.template).layout(target, INPUTS))
    for room, shown in ((longest, 5), (longest - 1, 4)):
        monkeypatch.setattr(target, "max_length", room)
        assert demonstrate(prompt, target, **asked).history.shown == whole.history.shown[:shown]
    monkeypatch.setattr(target, "max_length", 8)
    with pytest.raises(PromptMismatchError, match="at most 8 tokens"):
        demonstrate(prompt, target, **asked)


def test_only_candidates_are_answers(two):
    (source, target), (teacher, prompt) = two
    found = demonstrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, candidates=["Paris", "Lima"])
    assert {answer for _, answer in found.history.shown} <= {"Paris", "Lima"}


def test_new_answers_come_first():
    facts = [Example(*pair) for pair in ("ax", "bx", "cy", "dx", "ez", "fy")]
    assert [fact.subject for fact in varied(facts, 5)] == ["a", "c", "e", "b", "f"]
    assert [fact.subject for fact in varied(facts, 2)] == ["a", "c"]


def test_labelled_facts_are_shown_in_the_same_way(lm, capitals):
    found = demonstrated_prompt(lm, capitals, count=2)
    told, facts = found.template.split(" . "), {f"The capital of {e.subject} is {e.object}" for e in capitals.train}
    assert len(told) == 3 and set(told[:2]) < facts and told[2] == "The capital of [X] is [Y] ."
    with pytest.raises(TaskError, match="8 train examples"):
        demonstrated_prompt(lm, capitals, count=9)


def test_what_cannot_be_shown(two):
    (source, target), (teacher, prompt) = two
    asked = {"source": source, "teacher": teacher}
    for count in (0, 7):
        with pytest.raises(PromptTransferError, match=f"count={count} of 6 inputs"):
            demonstrate(prompt, target, **asked, inputs=INPUTS, count=count)
    with pytest.raises(TaskError, match="no inputs"):
        demonstrate(prompt, target, **asked, inputs=[])
    with pytest.raises(PromptTransferError, match="no source"):
        demonstrate(prompt, target, source=[], teacher=[], inputs=INPUTS)
    with pytest.raises(PromptMismatchError, match="made for"):
        demonstrate(prompt, target, source=target, teacher=teacher, inputs=INPUTS)
    with pytest.raises(PromptMismatchError, match="made for"):
        demonstrate(teacher, target, **asked, inputs=INPUTS)
    with pytest.raises(PromptMismatchError, match="first, then calibrate"):
        demonstrate(calibrate(prompt, target, **asked, inputs=INPUTS), target, **asked, inputs=INPUTS)
    with pytest.raises(PromptMismatchError, match="times"):
        demonstrate(prompt, target, **asked, inputs=["[Y]"], count=1)
