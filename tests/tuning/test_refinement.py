"""Refinement on the target: students come to agree with their teachers without labels, and costs are counted."""

import json
import math
from dataclasses import replace

import pytest
import torch
from conftest import sequences_read
from torch.nn.functional import cross_entropy

from ptlib import (
    AnchorError,
    Example,
    Prompt,
    PromptMismatchError,
    PromptTransferError,
    TaskError,
    evaluate,
    manual_prompt,
    random_prompt,
    refine,
    refine_many,
    shared_anchors,
    transfer,
    tune,
)
from ptlib.evaluation.scores import answer_distributions as answers
from ptlib.prompts.templates import Template, collate
from ptlib.tasks.task import words_of_class

pytestmark = pytest.mark.slow

SUBJECTS = ("France", "Spain", "Italy", "Japan", "Egypt", "Peru", "Kenya", "Norway", "Saint Helena", "New Zealand")
NAMES = ("zoo/P36", "zoo/P103")


def one_distribution(lm, prompt, subject, words):
    """What an LM predicts over some words, of one sentence at a time and written out."""
    batch = collate(Template(prompt.template).layout(lm, [subject]), lm.device)
    with torch.inference_mode():
        logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, prompt.vectors, batch.answers)[0].double()
    odds = {word: logits[i].exp().item() for word, i in zip(words, lm.word_ids(words), strict=True)}
    return [odd / sum(odds.values()) for odd in odds.values()]


def agreement(one, two, subjects, words):
    """The share of subjects to which two (LM, prompt) answer with the same word."""
    first, second = (answers(*pair, subjects, words).argmax(-1) for pair in (one, two))
    return (first == second).float().mean().item()


def pupil(toys, family="albert", seed=0, task="capitals"):
    return replace(random_prompt(toys[family], 3, seed), task=task)


@pytest.fixture
def lesson(toys):
    """refine's arguments: a teacher of another width and tokenizer, whose own prompt is as good as any."""
    return {"source": toys["bert"], "teacher": pupil(toys, "bert", 7), "inputs": SUBJECTS, "epochs": 3}


# --- what a teacher says ---


def test_answers_are_a_softmax_over_the_words(lm):
    words, prompt = ["Paris", "Rome", "capital", "of", "Madrid"], random_prompt(lm, 3)
    found = answers(lm, prompt, SUBJECTS, words)
    assert found.shape == (len(SUBJECTS), len(words))
    for subject, row in zip(SUBJECTS, found.tolist(), strict=True):
        assert row == pytest.approx(one_distribution(lm, prompt, subject, words), rel=1e-3)
    torch.testing.assert_close(found.sum(-1), torch.ones(len(SUBJECTS)))


@pytest.mark.parametrize("teaching", [["bert"], ["bert", "roberta"]], ids=" and ".join)
def test_one_step_goes_towards_the_mean_distribution(toys, teaching):
    """By hand, on one input: the cross-entropy from what the teachers say on average, over the words of all LMs."""
    student, lms = toys["albert"], [toys[family] for family in teaching]
    start, teachers = pupil(toys), [pupil(toys, family, seed=5) for family in teaching]
    words = shared_anchors(*lms, student).words

    def stepped(chosen, subject):
        target = sum(torch.tensor([one_distribution(lm, p, subject, words)]) for lm, p in chosen) / len(chosen)
        vectors = start.vectors.clone().requires_grad_()
        optimizer = torch.optim.AdamW([vectors], lr=0.01)
        batch = collate(Template(start.template).layout(student, [subject]), student.device)
        logits = student.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
        cross_entropy(logits[:, student.word_ids(words)], target).backward()
        optimizer.step()
        return vectors.detach()

    pairs, alike = list(zip(lms, teachers, strict=True)), []
    for subject in SUBJECTS:
        found = refine(start, student, source=lms, teacher=teachers, inputs=[subject], epochs=1, lr=0.01)
        torch.testing.assert_close(found.vectors, stepped(pairs, subject), atol=1e-5, rtol=1e-4)
        alike += [torch.allclose(stepped([pair], subject), found.vectors, atol=1e-4) for pair in pairs[:len(pairs) - 1]]
    # One of several says something else; a first step knows signs only, which may agree on a single input.
    assert not alike or not all(alike)


CLASSES = [("Paris", "Rome"), "capital", ("people", "of")]


def class_distribution(lm, prompt, subject, classes=CLASSES):
    """What an LM predicts over classes, by their words' mean log-odds, of one sentence at a time."""
    words = [word for one in classes for word in words_of_class(one)]
    odds = dict(zip(words, one_distribution(lm, prompt, subject, words), strict=True))
    means = [math.prod(odds[word] for word in words_of_class(one)) ** (1 / len(words_of_class(one))) for one in classes]
    return [mean / sum(means) for mean in means]


def test_answers_of_a_class_have_the_mean_logit_of_its_words(lm):
    prompt = random_prompt(lm, 3)
    for subject, row in zip(SUBJECTS, answers(lm, prompt, SUBJECTS, CLASSES).tolist(), strict=True):
        assert row == pytest.approx(class_distribution(lm, prompt, subject), rel=1e-3)


def test_one_step_goes_towards_the_teachers_classes(toys):
    """By hand: the cross-entropy of the classes' mean logits. A word that the student does not have is left out."""
    student, source, start, teacher = toys["albert"], toys["bert"], pupil(toys), pupil(toys, "bert", 5)
    target = torch.tensor([class_distribution(source, teacher, "Peru")])
    vectors = start.vectors.clone().requires_grad_()
    optimizer = torch.optim.AdamW([vectors], lr=0.01)
    batch = collate(Template(start.template).layout(student, ["Peru"]), student.device)
    logits = student.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
    means = torch.stack([logits[:, student.word_ids(words_of_class(one))].mean(-1) for one in CLASSES], -1)
    cross_entropy(means, target).backward()
    optimizer.step()
    given = [CLASSES[0], "capital", ("people", "of", "zzyzx"), "zzyzx"]
    found = refine(start, student, source=source, teacher=teacher, inputs=["Peru"], candidates=given, epochs=1, lr=0.01)
    torch.testing.assert_close(found.vectors, vectors.detach(), atol=1e-5, rtol=1e-4)
    assert found.history.dropped == {"examples": {}, "candidates": {"not one token of every LM": 1}}
    with pytest.raises(TaskError, match="'great'; expected a list of words or classes"):
        refine(start, student, source=source, teacher=teacher, candidates="great")


def test_prompts_with_other_classes_are_refined_as_alone(toys):
    student, source = toys["albert"], toys["bert"]
    prompts = {name: pupil(toys, task=name) for name in ("two", "three", "again", "any")}
    given = {"two": CLASSES[:2], "three": CLASSES, "again": CLASSES[:2], "any": shared_anchors(source, student).words}
    teachers = {name: replace(pupil(toys, "bert", 7), task=name) for name in prompts}
    lesson = {"source": source, "epochs": 3}
    found = refine_many(prompts, student, teacher=teachers, inputs=dict.fromkeys(prompts, SUBJECTS), candidates=given,
                        **lesson)
    for name, prompt in prompts.items():
        alone = refine(prompt, student, teacher=teachers[name], inputs=SUBJECTS, candidates=given[name], **lesson)
        torch.testing.assert_close(found[name].vectors, alone.vectors, atol=1e-5, rtol=1e-4)
        assert found[name].meta["forwards"] == alone.meta["forwards"]


def test_two_teachers_in_either_order_and_one_of_them_twice(toys, lesson):
    student, (one, two) = toys["albert"], (toys["bert"], toys["roberta"])
    taught = {lm.name: pupil(toys, family, 7) for family, lm in (("bert", one), ("roberta", two))}

    def by(*lms):
        return refine(pupil(toys), student, inputs=SUBJECTS, epochs=3, source=list(lms),
                      teacher=[taught[lm.name] for lm in lms]).vectors

    torch.testing.assert_close(by(one, two), by(two, one), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by(one, one), by(one), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(by(one, two), by(one), atol=1e-3)
    assert torch.equal(by(one), refine(pupil(toys), student, **lesson).vectors), "a list of one is that one"


# --- what comes of it ---


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_that_teaches_itself_stays_as_good(bert_mini, zoo_tasks, zoo_prompts, name):
    task, teacher = zoo_tasks[name], zoo_prompts[name]
    taught = refine(teacher, bert_mini, source=bert_mini, teacher=teacher,
                    inputs=[e.subject for e in task.train + task.dev])
    words, held_out = shared_anchors(bert_mini).words, [e.subject for e in task.test]
    assert agreement((bert_mini, teacher), (bert_mini, taught), held_out, words) > 0.9
    change = answers(bert_mini, teacher, held_out, words) - answers(bert_mini, taught, held_out, words)
    # Another prompt's answers are much further away.
    rival = answers(bert_mini, teacher, held_out, words) - answers(bert_mini, random_prompt(bert_mini), held_out, words)
    assert change.abs().sum() < 0.1 * rival.abs().sum()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("plain", [False, True], ids=["subjects", "plain words"])
def test_a_random_prompt_comes_to_agree_with_its_teacher(bert_mini, zoo_tasks, zoo_prompts, name, plain):
    """Also on inputs that it has never read, and where those that it reads are any words at all."""
    task, start = zoo_tasks[name], random_prompt(bert_mini, seed=3)
    inputs = None if plain else [e.subject for e in task.train + task.dev]
    taught = refine(start, bert_mini, source=bert_mini, teacher=zoo_prompts[name], inputs=inputs)
    words, held_out = shared_anchors(bert_mini).words, [e.subject for e in task.test]
    before, after = (agreement((bert_mini, zoo_prompts[name]), (bert_mini, prompt), held_out, words)
                     for prompt in (start, taught))
    assert after > before + 0.5


def test_a_moved_prompt_comes_to_agree_with_its_source(bert_mini, roberta_mini, zoo_tasks, zoo_prompts):
    """Between families, without a label: what it then answers is right more often, too."""
    words = shared_anchors(bert_mini, roberta_mini).words
    moved = {name: transfer(zoo_prompts[name], source=bert_mini, target=roberta_mini) for name in NAMES}
    taught = refine_many(moved, roberta_mini, source=bert_mini, teacher=zoo_prompts, inputs={
        name: [e.subject for e in zoo_tasks[name].train + zoo_tasks[name].dev] for name in NAMES})
    for name in NAMES:
        test = zoo_tasks[name].test
        before, after = (agreement((bert_mini, zoo_prompts[name]), (roberta_mini, prompts[name]),
                                   [e.subject for e in test], words) for prompts in (moved, taught))
        assert after > before + 0.3
        before, after = (evaluate(roberta_mini, prompts[name], test).p_at_1 for prompts in (moved, taught))
        assert after > before + 0.3


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "gpt2"])
def test_distilling_lowers_the_divergence(toys, family):
    """Even with random weights, a pupil draws nearer to what its teacher says."""
    student, source = toys[family], toys["roberta" if family == "bert" else "bert"]
    start, teacher = pupil(toys, family), pupil(toys, "roberta" if family == "bert" else "bert", 7)
    taught = refine(start, student, source=source, teacher=teacher, inputs=SUBJECTS, epochs=40, lr=0.05)
    words = shared_anchors(source, student).words
    said = answers(source, teacher, SUBJECTS, words)
    before, after = (-(said * answers(student, prompt, SUBJECTS, words).log()).sum(-1).mean() for prompt in
                     (start, taught))
    assert after < before


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "gpt2"])
def test_few_shots_lower_the_loss_on_their_examples(toys, capitals, family):
    lm, start = toys[family], pupil(toys, family)
    shown = capitals.train[:3]
    taught = refine(start, lm, mode="few-shot", examples=shown, lr=0.05, epochs=60)

    def mean_loss(prompt):
        batch = collate(Template(prompt.template).layout(lm, [e.subject for e in shown]), lm.device)
        logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, prompt.vectors, batch.answers)
        return cross_entropy(logits, torch.tensor(lm.word_ids(e.object for e in shown))).item()

    assert mean_loss(taught) < mean_loss(start) - 0.1


@pytest.mark.parametrize("name", NAMES)
def test_few_shots_beat_their_random_start(bert_mini, zoo_tasks, name):
    task, start = zoo_tasks[name], random_prompt(bert_mini, seed=3)
    taught = refine(start, bert_mini, mode="few-shot", examples=task.train[:16], lr=2e-2, epochs=60)
    assert evaluate(bert_mini, taught, task.test).p_at_1 > evaluate(bert_mini, start, task.test).p_at_1 + 0.2


def test_few_shots_see_what_they_are_shown_alone(toys, capitals):
    """Neither the dev nor the test examples of any task; and labels matter here, where distillation has none."""
    lm, start = toys["bert"], pupil(toys, "bert")
    shown = [replace(e, object=o.object) for e, o in zip(capitals.train, capitals.train[::-1], strict=True)]
    right, wrong = (refine(start, lm, mode="few-shot", examples=e, epochs=2) for e in (capitals.train, shown))
    assert not torch.equal(right.vectors, wrong.vectors)


# --- inputs ---


def texts_read(lm, run):
    """What an LM reads while something runs, as (T, d) embeddings in bytes."""
    read = []
    assert lm.answers_alone  # the first question would test this, with a text of its own
    handle = lm.model.register_forward_pre_hook(
        lambda model, args, inputs: read.extend(row.numpy().tobytes() for row in inputs["inputs_embeds"]),
        with_kwargs=True)
    try:
        run()
    finally:
        handle.remove()
    return set(read)


@pytest.mark.parametrize("teaching", [["bert"], ["bert", "roberta"]], ids=" and ".join)
def test_plain_words_stand_in_for_inputs(toys, teaching):
    """A hundred of the words that all LMs share, or all if they are fewer; others with another seed."""
    lm, lms = toys["gpt2"], [toys[family] for family in teaching]
    words = shared_anchors(*lms, lm).words
    options = {"source": lms, "teacher": [pupil(toys, family, 7) for family in teaching], "epochs": 1}

    def taught(**given):
        return refine(pupil(toys, "gpt2"), lm, **options, **given)

    everything = texts_read(lms[0], lambda: taught(inputs=words))
    assert len(everything) == len(words) > 100
    plain, again, other = (texts_read(lms[0], lambda seed=seed: taught(seed=seed)) for seed in (0, 0, 1))
    assert len(plain) == len(other) == 100
    assert plain | other <= everything
    assert plain == again != other
    meta = taught().meta
    assert (meta["train"], meta["source_forwards"]) == (80, 100 * len(lms))


def test_all_shared_words_are_read_where_they_are_few(toys):
    """An LM of another script, taught by its like."""
    lm = toys["greek"]
    source, words = lm.with_random_weights(), shared_anchors(lm).words
    assert 2 < len(words) < 100
    options = {"source": source, "teacher": random_prompt(source, 3), "epochs": 1}
    plain, given = (texts_read(source, lambda inputs=inputs: refine(random_prompt(lm, 3), lm, inputs=inputs, **options))
                    for inputs in (None, words))
    assert plain == given
    assert len(plain) == len(words)


def test_small_batches_are_more_steps(toys, lesson):
    """By the same random numbers: a batch of all inputs is one step, as is an epoch of one input."""
    one = refine(pupil(toys), toys["albert"], **lesson | {"epochs": 1, "batch_size": 100})
    assert torch.equal(one.vectors, refine(pupil(toys), toys["albert"], **lesson | {"epochs": 1}).vectors)
    several = refine(pupil(toys), toys["albert"], **lesson | {"epochs": 1, "batch_size": 3})
    assert not torch.allclose(several.vectors, one.vectors, atol=1e-3)
    assert (several.history.forwards, several.history.backwards) == (one.history.forwards, one.history.backwards)
    assert several.history.batch_size == 3
    with pytest.raises(PromptTransferError, match="batch_size=0; expected at least one"):
        refine(pupil(toys), toys["albert"], **lesson | {"batch_size": 0})


def test_an_input_counts_once(toys, lesson):
    once = refine(pupil(toys), toys["albert"], **lesson)
    twice = refine(pupil(toys), toys["albert"], **lesson | {"inputs": SUBJECTS + SUBJECTS[:4]})
    assert torch.equal(once.vectors, twice.vectors)
    assert once.meta == twice.meta


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_inputs_are_enough(toys, lesson, count):
    """One or two serve to learn from and to judge on; of three, one is held out."""
    lm = toys["albert"]
    with sequences_read(lm) as read:
        taught = refine(pupil(toys), lm, **lesson | {"inputs": SUBJECTS[:count]})
    assert taught.vectors.isfinite().all()
    assert taught.meta["train"] == {1: 1, 2: 2, 3: 2}[count]
    assert read == {name: taught.meta[name] for name in read}


def test_no_labels_go_in(toys, capitals, lesson):
    """Inputs are strings. The subjects of a task whose every label is wrong are the same strings."""
    everything = capitals.train + capitals.dev + capitals.test
    wrong = [replace(e, object="Rome") for e in everything]
    right, other = (refine(pupil(toys), toys["albert"], **lesson | {"inputs": [e.subject for e in examples]})
                    for examples in (everything, wrong))
    assert torch.equal(right.vectors, other.vectors)
    with pytest.raises(PromptTransferError, match="examples"):
        refine(pupil(toys), toys["albert"], **lesson, examples=everything)


# --- many at once, costs and records ---


def test_refine_many_is_refine_one_by_one(toys, lesson):
    lm, source = toys["albert"], lesson["source"]
    starts = {("a", 0): pupil(toys), "b": pupil(toys, seed=1, task="other"), 3: pupil(toys, seed=2, task=None)}
    teachers = {name: pupil(toys, "bert", 7 + i) for i, name in enumerate(starts)}
    inputs = {("a", 0): SUBJECTS, "b": SUBJECTS[:4], 3: [*SUBJECTS, *(f"{s} city" for s in SUBJECTS), *"abcdef"]}
    for given in (inputs, None):
        many = refine_many(starts, lm, source=source, teacher=teachers, inputs=given, epochs=3)
        assert list(many) == list(starts)
        for name, start in starts.items():
            alone = refine(start, lm, source=source, teacher=teachers[name], epochs=3,
                           inputs=None if given is None else given[name])
            torch.testing.assert_close(many[name].vectors, alone.vectors, atol=1e-3, rtol=1e-3)
            assert many[name].meta == alone.meta


def test_few_shot_many_is_one_by_one(toys, capitals):
    lm, starts = toys["gpt2"], {name: pupil(toys, "gpt2", seed) for seed, name in enumerate("ab")}
    shown = {"a": capitals.train[:2], "b": (capitals.train + capitals.dev) * 2}
    many = refine_many(starts, lm, mode="few-shot", examples=shown, epochs=3)
    for name, start in starts.items():
        alone = refine(start, lm, mode="few-shot", examples=shown[name], epochs=3)
        torch.testing.assert_close(many[name].vectors, alone.vectors, atol=1e-3, rtol=1e-3)
        assert many[name].meta == alone.meta


@pytest.mark.parametrize("teaching", [["bert"], ["bert", "roberta"]], ids=" and ".join)
def test_cost_of_distilling_is_what_the_lms_read(toys, teaching):
    """Of 10 inputs, 2 are held out: a pass learns from 8 and judges on 2; each teacher reads all of them once."""
    lm, sources = toys["albert"], [toys[family] for family in teaching]
    with sequences_read(lm) as own, sequences_read(sources[0]) as first, sequences_read(sources[-1]) as last:
        meta = refine(pupil(toys), lm, source=sources, teacher=[pupil(toys, family) for family in teaching],
                      inputs=SUBJECTS, epochs=4).meta
    assert (meta["forwards"], meta["backwards"], meta["train"]) == (4 * (8 + 2), 4 * 8, 8)
    assert meta["source_forwards"] == 10 * len(sources)
    assert own == {"forwards": meta["forwards"], "backwards": meta["backwards"]}
    assert first == last == {"forwards": 10, "backwards": 0}, "a teacher is not gone back through"


def test_cost_of_few_shots_is_what_the_lm_reads(toys, capitals):
    """All 20 examples, in two batches a pass, to learn from and to judge on."""
    lm, shown = toys["bert"], (*capitals.train, *capitals.dev, *capitals.test, Example("France", "New Zealand"))
    with sequences_read(lm) as read:
        meta = refine(pupil(toys, "bert"), lm, mode="few-shot", examples=shown, epochs=3).meta
    assert (meta["forwards"], meta["backwards"], meta["source_forwards"]) == (3 * (20 + 20), 3 * 20, 0)
    assert meta["train"] == 20, "an object of two tokens can teach nothing"
    assert read == {name: meta[name] for name in read}


def test_meta_says_where_it_came_from(toys, lesson, capitals):
    lm, start = toys["albert"], replace(pupil(toys), meta={"method": "mine", "nested": {"λ": [1, None]}})
    distilled = refine(start, lm, **lesson, lr=0.01, seed=2)
    shot = refine(start, lm, mode="few-shot", examples=capitals.train, epochs=2)
    assert (distilled.meta["method"], shot.meta["method"]) == ("distill", "few-shot")
    assert (distilled.meta["sources"], shot.meta["sources"]) == ([toys["bert"].name], [])
    assert {"epochs": 3, "lr": 0.01, "seed": 2}.items() <= distilled.meta.items()
    for prompt in (distilled, shot):
        assert prompt.meta["from"] == start.meta
        assert json.loads(json.dumps(prompt.meta)) == prompt.meta
        assert (prompt.template, prompt.task) == (start.template, "capitals")
        prompt.check(lm)


def test_words_become_free_vectors(toys, capitals, lesson):
    spoken = tune(toys["albert"], capitals, parameterization="mixture", num_vectors=3, epochs=1)
    before = spoken.vectors.clone()
    taught = refine(spoken, toys["albert"], **lesson)
    assert taught.mixture is None
    assert torch.equal(spoken.vectors, before), "the prompt that it began with should stay as it is"
    assert not torch.equal(taught.vectors, before)
    start = replace(spoken, mixture=None)
    assert torch.equal(refine(start, toys["albert"], **lesson).vectors, taught.vectors)


def test_refining_changes_neither_weights_nor_random_numbers(toys, lesson):
    lm = toys["albert"]
    state, before = torch.get_rng_state(), {name: w.clone() for name, w in lm.model.state_dict().items()}
    refine(pupil(toys), lm, **lesson)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weight, before[name]) for name, weight in lm.model.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in lm.model.parameters())


def test_a_teacher_may_speak_in_words(toys, capitals, lesson):
    """Its template is its own."""
    words = manual_prompt(toys["bert"], capitals)
    taught = refine(pupil(toys), toys["albert"], **lesson | {"teacher": words})
    assert not torch.equal(taught.vectors, refine(pupil(toys), toys["albert"], **lesson).vectors)


# --- who is surer ---


def calibrated(prompt, lm, offset):
    """A prompt with which the LM hardly says anything but one word."""
    offsets = torch.zeros(lm.vocab_size)
    offsets[lm.word_ids(["Paris"])] = offset
    return replace(prompt, offsets=offsets)


def test_a_target_that_is_surer_than_its_sources_declines(toys, lesson, tmp_path):
    """Its prompt stays as it is; the others of the call are refined as without it."""
    lm, start = toys["albert"], replace(pupil(toys), offsets=None)
    lesson["teacher"] = calibrated(lesson["teacher"], toys["bert"], 5.0)
    sure = calibrated(start, lm, 30.0)
    both = ("sure", "unsure")
    found = refine_many({"sure": sure, "unsure": start}, lm, source=lesson["source"], epochs=3, decline=True,
                        teacher=dict.fromkeys(both, lesson["teacher"]), inputs=dict.fromkeys(both, SUBJECTS))
    words = shared_anchors(toys["bert"], lm).words
    first, second, third = (answers(*pair, SUBJECTS, words).amax(-1).mean() for pair in
                            ((lm, sure), (toys["bert"], lesson["teacher"]), (lm, start)))
    assert first > second > third, "the test should have one of each kind"
    assert found["sure"].history.declined and not found["unsure"].history.declined
    assert torch.equal(found["sure"].vectors, sure.vectors) and torch.equal(found["sure"].offsets, sure.offsets)
    assert torch.equal(found["unsure"].vectors, refine(start, lm, **lesson).vectors)
    kept = Prompt.load(found["sure"].save(tmp_path / "kept"))
    assert kept.history == found["sure"].history
    assert kept.meta["from"] == sure.meta


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_cost_of_declining(toys, lesson, offset):
    lm, prompt = toys["albert"], calibrated(pupil(toys), toys["albert"], offset)
    lesson["teacher"] = calibrated(lesson["teacher"], toys["bert"], 5.0)
    plain = refine(prompt, lm, **lesson).history
    with sequences_read(lm) as read:
        found = refine(prompt, lm, decline=True, **lesson).history
    assert found.declined == bool(offset)
    assert {"forwards": found.forwards, "backwards": found.backwards} == read
    assert (found.passes, found.train) == ((10, 0) if found.declined else (plain.passes + 10, 8))
    assert found.source_forwards == plain.source_forwards


@pytest.mark.parametrize("weak", [False, True])
def test_a_weak_teacher_does_not_pull_a_strong_target_down(bert_mini, roberta_mini, zoo_tasks, zoo_prompts, weak):
    """And a strong one still lifts a weak target."""
    task = zoo_tasks["zoo/P36"]
    teacher = tune(bert_mini, task, parameterization="mixture", epochs=1) if weak else zoo_prompts["zoo/P36"]
    start = tune(roberta_mini, task) if weak else transfer(teacher, source=bert_mini, target=roberta_mini)
    asked = {"source": bert_mini, "teacher": teacher, "inputs": [e.subject for e in task.train]}
    words = shared_anchors(bert_mini, roberta_mini).words

    def score(lm, prompt):
        return evaluate(lm, prompt, task.test, candidates=words).p_at_1

    plain, kept = (score(roberta_mini, refine(start, roberta_mini, decline=on, **asked)) for on in (False, True))
    before, taught = score(roberta_mini, start), score(bert_mini, teacher)
    if weak:
        assert max(taught, plain) < before - 0.2, "the test should have a teacher that pulls down"
        assert kept == before
    else:
        assert min(taught, plain) > before + 0.2, "the test should have something to learn"
        assert kept == plain


# --- what cannot be done ---


@pytest.mark.parametrize(("change", "message"), [
    ({"mode": "magic"}, "'magic'.*distill, few-shot"), ({"source": None}, "source=None"),
    ({"teacher": None}, "teacher=None"), ({"mode": "few-shot"}, "few-shot"),
    ({"mode": "few-shot", "source": None, "teacher": None, "inputs": None}, "examples=None"),
    ({"epochs": 0}, "epochs=0"), ({"epochs": -1}, "epochs=-1")], ids=repr)
def test_what_a_mode_needs_is_named(toys, lesson, change, message):
    with pytest.raises(PromptTransferError, match=message):
        refine(pupil(toys), toys["albert"], **lesson | change)


def test_few_shots_have_no_source_that_may_know_less(toys, capitals):
    with pytest.raises(PromptTransferError, match="decline"):
        refine(pupil(toys), toys["albert"], mode="few-shot", examples=capitals.train, decline=True)


@pytest.mark.parametrize("beside", ["source", "teacher", "inputs"])
def test_few_shots_take_nothing_of_the_other_mode(toys, capitals, lesson, beside):
    with pytest.raises(PromptTransferError, match=beside):
        refine(pupil(toys), toys["albert"], mode="few-shot", examples=capitals.train, **{beside: lesson[beside]})


def test_no_prompts(toys, lesson):
    with pytest.raises(PromptTransferError, match="no prompts"):
        refine_many({}, toys["albert"], source=lesson["source"], teacher={})


@pytest.mark.parametrize("lacking", ["teacher", "inputs", "examples"])
def test_a_prompt_for_which_something_is_missing_is_named(toys, capitals, lesson, lacking):
    """Of several, each needs its own."""
    given = {"examples": {"a": capitals.train}, "mode": "few-shot"} if lacking == "examples" else {
        "source": lesson["source"], "teacher": {"a": lesson["teacher"], "b": lesson["teacher"]},
        "inputs": {"a": SUBJECTS, "b": SUBJECTS}}
    given[lacking] = {"a": given[lacking]["a"]}
    with pytest.raises(PromptTransferError, match="'b'"):
        refine_many({"a": pupil(toys), "b": pupil(toys, seed=1)}, toys["albert"], **given)


def test_prompts_that_do_not_fit(toys, capitals, lesson):
    lm = toys["albert"]
    with pytest.raises(PromptMismatchError, match="16 wide"):
        refine(pupil(toys, "bert"), lm, **lesson)
    with pytest.raises(PromptMismatchError, match=toys["gpt2"].name):  # of the same width as the teacher
        refine(pupil(toys), lm, **lesson | {"teacher": pupil(toys, "gpt2")})
    with pytest.raises(PromptMismatchError, match=r"\[V\]"):
        refine(manual_prompt(lm, capitals), lm, **lesson)
    longer = random_prompt(lm, 4)
    with pytest.raises(PromptMismatchError, match="templates"):
        refine_many({"a": pupil(toys), "b": longer}, lm, source=lesson["source"],
                    teacher=dict.fromkeys("ab", lesson["teacher"]), inputs=dict.fromkeys("ab", SUBJECTS))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_every_source_has_one_teacher(toys, lesson, count):
    with pytest.raises(PromptMismatchError, match=f"{count} teaching prompts for 2 sources"):
        refine(pupil(toys), toys["albert"], **lesson | {"source": [toys["bert"], toys["roberta"]],
                                                        "teacher": [lesson["teacher"]] * count})


def test_nothing_to_learn_from(toys, lesson):
    lm = toys["albert"]
    with pytest.raises(TaskError, match="no inputs"):
        refine(pupil(toys), lm, **lesson | {"inputs": []})
    for shown in ((), (Example("France", "New Zealand"),)):
        with pytest.raises(TaskError, match=f"{len(shown)} examples"):
            refine(pupil(toys), lm, mode="few-shot", examples=shown)
    with pytest.raises(PromptTransferError, match="source"):
        refine(pupil(toys), lm, **lesson | {"source": [], "teacher": []})
    with pytest.raises(AnchorError, match="share 0 words"):
        refine(pupil(toys), lm, **lesson | {"source": toys["greek"], "teacher": random_prompt(toys["greek"], 3)})
