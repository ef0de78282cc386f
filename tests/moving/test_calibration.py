"""The kind of answer that is meant, carried over by the source's prior: identities, brute force and round trips."""

from dataclasses import replace

import pytest
import torch

from ptlib import (
    NotFiniteError,
    Prompt,
    PromptMismatchError,
    PromptTransferError,
    TaskError,
    calibrate,
    evaluate,
    manual_prompt,
    random_prompt,
    refine,
    shared_anchors,
    transfer,
    tune,
)
from ptlib.evaluation.scores import answer_distributions
from ptlib.moving.calibration import STRENGTHS

INPUTS = ["France", "Saint Helena", "Peru", "South Korea", "somewhere else"]


@pytest.fixture
def three(toys):
    """Two sources with their prompts, and a target with its own."""
    lms = [toys[name] for name in ("roberta", "gpt2", "bert")]
    return lms, [replace(prompt, vectors=8 * prompt.vectors) for prompt in (random_prompt(lm, 2) for lm in lms)]


def mean_answers(lm, prompt, words):
    return answer_distributions(lm, prompt, INPUTS, words).log().mean(0)


def centred(values):
    return values - values.mean()


def test_with_all_of_the_sources_prior_the_mean_answers_are_the_sources(three):
    (source, _, target), (teacher, _, prompt) = three
    found = calibrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, strength=1)
    words = shared_anchors(source, target).words
    before, after, meant = (centred(mean_answers(*which, words)) for which in
                            ((target, prompt), (target, found), (source, teacher)))
    torch.testing.assert_close(after, meant, atol=1e-4, rtol=1e-4)
    assert (before - meant).abs().max() > 0.1
    assert torch.equal(found.vectors, prompt.vectors)


def test_of_several_sources_the_mean(three):
    (*sources, target), (*teachers, prompt) = three
    found = calibrate(prompt, target, source=sources, teacher=teachers, inputs=INPUTS, strength=1)
    words = shared_anchors(*sources, target).words
    meant = torch.stack([mean_answers(lm, teacher, words) for lm, teacher in zip(sources, teachers, strict=True)])
    torch.testing.assert_close(centred(mean_answers(target, found, words)), centred(meant.mean(0)), atol=1e-4,
                               rtol=1e-4)


def test_its_own_prior_changes_nothing(three):
    (lm, *_), (prompt, *_) = three
    found = calibrate(prompt, lm, source=lm, teacher=prompt, inputs=INPUTS, strength=1)
    torch.testing.assert_close(found.offsets[lm.word_ids(shared_anchors(lm).words)],
                               torch.zeros(len(shared_anchors(lm).words)), atol=1e-5, rtol=0)
    again = calibrate(found, lm, source=lm, teacher=prompt, inputs=INPUTS, strength=1)
    torch.testing.assert_close(again.offsets, found.offsets)  # the offsets that it had do not count twice


def test_a_word_that_the_source_lacks_has_the_lowest_prior(three):
    (source, _, target), (teacher, _, prompt) = three
    found = calibrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, strength=1)
    words = list(shared_anchors(source, target).words)
    others = sorted(set(target.words) - set(words))
    assert others
    means = mean_answers(target, found, words + others)
    torch.testing.assert_close(means[len(words):], means[:len(words)].min().expand(len(others)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("strength", [0, 0.5, 1])
def test_evaluation_adds_the_offsets(three, capitals, strength):
    (source, _, target), (teacher, _, prompt) = three
    found = calibrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, strength=strength)
    words = shared_anchors(source, target).words
    ids = target.word_ids(words)
    ev = evaluate(target, found, capitals.test, candidates=words)
    for example, rank in zip(ev.examples, ev.ranks, strict=True):
        scores = answer_distributions(target, prompt, [example.subject], words)[0].log() + found.offsets[ids]
        assert rank == (scores >= scores[words.index(example.object)] - 1e-6).sum()
    if not strength:
        assert ev.ranks.tolist() == evaluate(target, prompt, capitals.test, candidates=words).ranks.tolist()


def test_the_strength_is_chosen_by_the_sources_answers(three):
    (source, _, target), (teacher, _, prompt) = three
    words = shared_anchors(source, target).words
    reference = answer_distributions(source, teacher, INPUTS, words)
    agreements = {}
    for strength in STRENGTHS:
        found = calibrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, strength=strength)
        own = answer_distributions(target, found, INPUTS, words)
        agreements[strength] = torch.minimum(own, reference).sum(-1).mean().item()
    chosen = calibrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS)
    assert agreements[chosen.history.strength] == pytest.approx(max(agreements.values()))


def test_it_is_kept_with_the_prompt_and_its_record(three, capitals, tmp_path):
    (source, _, target), (teacher, _, _) = three
    prompt = manual_prompt(target, capitals)
    found = calibrate(prompt, target, source=source, teacher=teacher, inputs=INPUTS, strength=0.5)
    again = Prompt.load(found.save(tmp_path / "calibrated.safetensors"))
    assert torch.equal(again.offsets, found.offsets)
    assert again.history == found.history
    assert "calibrated" in repr(again) and "calibrated" not in repr(prompt)
    assert found.meta == {"method": "manual", "calibrated": {
        "strength": 0.5, "sources": [source.name], "target_forwards": 5, "source_forwards": 5}}
    assert found.history.passes == 5


def test_offsets_stay_with_the_lm_and_the_vectors_that_they_were_made_for(three, capitals):
    (source, _, target), (teacher, _, _) = three
    tuned = tune(target, capitals, num_vectors=2, epochs=1)
    found = calibrate(tuned, target, source=source, teacher=teacher, inputs=INPUTS)
    assert transfer(found, source=target, target=source).offsets is None
    assert refine(found, target, mode="few-shot", examples=capitals.train, epochs=1).offsets is None
    assert found.history.tuning_seed == 0
    with pytest.raises(PromptMismatchError, match=r"offsets of the shape \(3,\), but .* tokens; expected one for each"):
        evaluate(target, replace(found, offsets=torch.zeros(3)), capitals.test)
    with pytest.raises(NotFiniteError, match="1 of the 3 offsets of a prompt"):
        replace(found, offsets=torch.tensor([0, 1, torch.nan]))
    with pytest.raises(TaskError, match="calibrated, which is known for answers of one token only"):
        evaluate(target, found, capitals.test, multi_token=True,
                 candidates=[*(example.object for example in capitals.test), "New Zealand"])


@pytest.mark.parametrize(("options", "kind", "message"), [
    ({"strength": 1.5}, PromptTransferError, "strength=1.5; expected a number from 0 to 1"),
    ({"inputs": []}, TaskError, "no inputs"),
    ({"inputs": "France"}, TaskError, "unusable inputs"),
    ({"teacher": []}, PromptTransferError, "0 teachers for 1 sources"),
    ({"source": [], "teacher": []}, PromptTransferError, "no source given"),
])
def test_bad_input(three, options, kind, message):
    (source, _, target), (teacher, _, prompt) = three
    with pytest.raises(kind, match=message):
        calibrate(prompt, target, **{"source": source, "teacher": teacher, "inputs": INPUTS, **options})


def test_a_prompt_for_another_lm_is_refused(three):
    (source, other, target), (teacher, _, prompt) = three
    with pytest.raises(PromptMismatchError, match="made for"):
        calibrate(teacher, target, source=source, teacher=teacher, inputs=INPUTS)
    with pytest.raises(PromptMismatchError, match="made for"):
        calibrate(prompt, target, source=other, teacher=teacher, inputs=INPUTS)
