"""Choosing among moved prompts by the answers they give: against brute force, and on trained models."""

from dataclasses import replace

import pytest
import torch

from ptlib import (
    AnchorError,
    Example,
    Prompt,
    PromptMismatchError,
    PromptTransferError,
    TaskError,
    agreement,
    evaluate,
    manual_prompt,
    random_prompt,
    select,
    shared_anchors,
    transfer_many,
)

pytestmark = pytest.mark.slow

INPUTS = ["France", "Saint Helena", "Peru", "South Korea", "somewhere else"]


def some_prompts(lm, count=4):
    """Long ones, that change what a toy answers."""
    drawn = {f"seed {seed}": random_prompt(lm, 2, seed) for seed in range(count)}
    return {name: replace(prompt, vectors=8 * prompt.vectors) for name, prompt in drawn.items()}


def brute_force_answers(lm, prompt, words):
    """By hand: one sentence at a time, its vectors put in place of masks, a softmax over the words."""
    answers = []
    for text in INPUTS:
        mask = lm.tokenizer.mask_token
        ids = torch.tensor([lm.tokenizer(f"{text}{(len(prompt.vectors) + 1) * f' {mask}'} .")["input_ids"]])
        *slots, answer = (ids[0] == lm.tokenizer.mask_token_id).nonzero().flatten().tolist()
        embeds = lm.model.get_input_embeddings()(ids)
        embeds[0, slots] = prompt.vectors
        logits = lm.model(inputs_embeds=embeds).logits[0, answer]
        scores = {word: logits[lm.words[word]].exp().item() for word in words}
        answers.append({word: score / sum(scores.values()) for word, score in scores.items()})
    return answers


def brute_force_overlap(one, other):
    return sum(sum(min(p[word], q[word]) for word in p) for p, q in zip(one, other, strict=True)) / len(one)


def mean_of(answers):
    return [{word: sum(row[word] for row in rows) / len(rows) for word in rows[0]}
            for rows in zip(*answers, strict=True)]


@pytest.mark.parametrize("candidates", [None, ["Paris", "Cairo", "the", "zzyzx", "Paris"]],
                         ids=["shared words", "given"])
@pytest.mark.parametrize("names", [["roberta"], ["roberta", "albert"]], ids=["one source", "two sources"])
def test_agreement_with_sources_against_brute_force(toys, names, candidates):
    lm, sources = toys["bert"], [toys[name] for name in names]
    prompts, teachers = some_prompts(lm), [random_prompt(source, 2, 9) for source in sources]
    words = shared_anchors(lm, *sources).words if candidates is None else {"Paris", "Cairo", "the"}
    reference = mean_of([brute_force_answers(*pair, words) for pair in zip(sources, teachers, strict=True)])
    found = agreement(lm, prompts, INPUTS, source=sources, teacher=teachers, candidates=candidates)
    assert list(found) == list(prompts)
    assert found == pytest.approx({name: brute_force_overlap(brute_force_answers(lm, prompt, words), reference)
                                   for name, prompt in prompts.items()}, abs=1e-5)
    if len(names) == 1:
        assert found == agreement(lm, prompts, INPUTS, source=sources[0], teacher=teachers[0], candidates=candidates)


def test_a_class_is_one_candidate(toys):
    """A class of one word is that word, and two words of a class are not two answers."""
    lm, source, prompts = toys["bert"], toys["roberta"], some_prompts(toys["bert"])
    asked = {"source": source, "teacher": random_prompt(source, 2, 9)}
    words = agreement(lm, prompts, INPUTS, candidates=["Paris", "the"], **asked)
    assert words == agreement(lm, prompts, INPUTS, candidates=[("Paris",), "the"], **asked)
    assert words != agreement(lm, prompts, INPUTS, candidates=[("Paris", "Cairo"), "the"], **asked)
    with pytest.raises(TaskError, match="1 of 1 candidates"):
        agreement(lm, prompts, INPUTS, candidates=[("Paris", "the")], **asked)


@pytest.mark.parametrize("candidates", [None, ["Paris", "Cairo", "the"]], ids=["all words", "given"])
def test_agreement_with_the_others_against_brute_force(toys, candidates):
    lm = toys["roberta"]
    prompts = some_prompts(lm, 6)
    best = {name: [max(row, key=row.get) for row in brute_force_answers(lm, prompt, candidates or lm.words)]
            for name, prompt in prompts.items()}
    expected = {name: sum(a == b for other in best if other != name for a, b in zip(own, best[other], strict=True))
                / (len(INPUTS) * (len(best) - 1)) for name, own in best.items()}
    assert agreement(lm, prompts, INPUTS, candidates=candidates) == pytest.approx(expected)
    assert len(set(expected.values())) > 1


def test_a_prompt_agrees_with_itself(lm):
    """On every family; and of all prompts for the source itself, it is the teacher that is taken."""
    prompts = some_prompts(lm) if lm.kind == "masked" else {
        name: replace(prompt, template="[X] [V]*2 [Y]") for name, prompt in some_prompts(lm).items()}
    teacher = prompts["seed 2"]
    found = agreement(lm, prompts, INPUTS, source=lm, teacher=teacher)
    assert found["seed 2"] == pytest.approx(1)
    assert all(0 <= value < 0.999 for name, value in found.items() if name != "seed 2")
    assert select(lm, prompts, INPUTS, source=lm, teacher=teacher).vectors.equal(teacher.vectors)
    assert agreement(lm, {"one": teacher, "two": replace(teacher)}, INPUTS) == {"one": 1, "two": 1}


def test_order_decides_nothing_but_ties(toys):
    lm, source = toys["bert"], toys["albert"]
    prompts, teacher = some_prompts(lm), random_prompt(source, 2, 9)
    backward = dict(reversed(prompts.items()))
    for reference in ({}, {"source": source, "teacher": teacher}):
        found = agreement(lm, prompts, INPUTS, **reference)
        assert agreement(lm, backward, INPUTS[::-1], **reference) == pytest.approx(found, abs=1e-6)
        assert select(lm, prompts, INPUTS, **reference).vectors is prompts[max(found, key=found.get)].vectors
        record = select(lm, backward, INPUTS[::-1], **reference).meta["selected"]
        assert record["agreement"] == pytest.approx(max(found.values()), abs=1e-6)
        same = {name: replace(prompts["seed 0"], meta={"name": name}) for name in "ab"}
        assert select(lm, same, INPUTS, **reference).meta["name"] == "a"


def test_the_record(toys, tmp_path):
    lm, source = toys["bert"], toys["roberta"]
    prompts = {name: replace(prompt, task="capitals", meta={"method": name})
               for name, prompt in some_prompts(lm, 3).items()}
    teacher = replace(random_prompt(source, 2, 9), task="capitals")
    best = max(agreement(lm, prompts, INPUTS, source=source, teacher=teacher).items(), key=lambda item: item[1])
    chosen = select(lm, prompts, INPUTS, source=source, teacher=teacher)
    assert chosen.meta == {"method": best[0], "selected": {"by": [source.name], "agreement": best[1], "among": 3,
                                                           "target_forwards": 15, "dropped_candidates": 0}}
    assert chosen.task == "capitals"
    assert "selected" not in prompts[best[0]].meta
    assert Prompt.load(chosen.save(tmp_path / "chosen.safetensors")).meta == chosen.meta
    assert select(lm, prompts, INPUTS).meta["selected"]["by"] == "the other prompts"
    words = ["Paris", "Rome", "New Zealand", "zzyzx"]
    assert select(lm, prompts, INPUTS, candidates=words).meta["selected"]["dropped_candidates"] == 2


def test_prompts_of_any_template(toys, capitals):
    """Vectors, words alone and another length beside each other; the source may use words of its own."""
    lm, source = toys["bert"], toys["uncased"]
    prompts = {"two": random_prompt(lm, 2), "five": random_prompt(lm, 5), "words": manual_prompt(lm, capitals)}
    found = agreement(lm, prompts, INPUTS, source=source, teacher=manual_prompt(source, capitals))
    for name, prompt in prompts.items():
        alone = agreement(lm, {name: prompt}, INPUTS, source=source, teacher=manual_prompt(source, capitals))
        assert alone[name] == pytest.approx(found[name], abs=1e-6)


@pytest.mark.parametrize("relation", ["zoo/P36", "zoo/P103"])
def test_the_source_finds_a_prompt_that_works(bert_mini, roberta_mini, zoo_prompts, zoo_tasks, relation):
    """Trained models: the chosen prompt beats the average one on facts whose labels nobody looked at."""
    teacher, task, prompts = zoo_prompts[relation], zoo_tasks[relation], {}
    for method in ("closed-form", "linear", "procrustes", "weighted-sum", "random"):
        for num in (None, 256, 512):
            anchors = shared_anchors(bert_mini, roberta_mini, num=num, select="frequent" if num else "all")
            prompts[method, num] = transfer_many({"p": teacher}, source=bert_mini, target=roberta_mini, method=method,
                                                 anchors=anchors, normalize="norm-preserving")["p"]
    inputs = [example.subject for example in task.train][:16]
    found = agreement(roberta_mini, prompts, inputs, source=bert_mini, teacher=teacher)
    words = shared_anchors(bert_mini, roberta_mini).words
    accuracy = {name: evaluate(roberta_mini, prompt, task.dev, candidates=words).p_at_1
                for name, prompt in prompts.items()}
    best = max(found, key=found.get)
    assert accuracy[best] > sum(accuracy.values()) / len(accuracy)
    assert found[best] > 2 * max(found["random", num] for num in (None, 256, 512))
    chosen = select(roberta_mini, prompts, inputs, source=bert_mini, teacher=teacher)
    assert chosen.vectors.equal(prompts[best].vectors)


def test_errors(toys, capitals):
    lm, source = toys["bert"], toys["roberta"]
    prompts, teacher = some_prompts(lm, 2), random_prompt(source, 2)
    of = {"source": source, "teacher": teacher}
    for function in (agreement, select):
        with pytest.raises(PromptTransferError, match="0 prompts"):
            function(lm, {}, INPUTS, **of)
        with pytest.raises(PromptTransferError, match=r"1 prompts.*source= and teacher="):
            function(lm, {"only": prompts["seed 0"]}, INPUTS)
        for given in ({"source": source}, {"teacher": teacher}, {"source": [source, source], "teacher": teacher}):
            with pytest.raises(PromptTransferError, match=r"\d teachers for \d sources; expected one each"):
                function(lm, prompts, INPUTS, **given)
        with pytest.raises(PromptMismatchError, match=source.name):  # the teacher is for another LM
            function(lm, prompts, INPUTS, source=source, teacher=prompts["seed 0"])
        with pytest.raises(PromptMismatchError, match="move it first"):
            function(lm, {**prompts, "other": teacher}, INPUTS, **of)
        with pytest.raises(PromptMismatchError, match=r"different tasks \(P19, P36\)"):
            function(lm, {"a": replace(prompts["seed 0"], task="P36"), "b": prompts["seed 1"]}, INPUTS, source=source,
                     teacher=replace(teacher, task="P19"))
        for inputs, words in (([], "no inputs"), ("France", "'France'"), (capitals.train, "Example"),
                              ([*INPUTS, Example("Peru", "Lima")], "'Peru'")):
            with pytest.raises(TaskError, match=f"{words}.*list of subjects"):
                function(lm, prompts, inputs, **of)
        with pytest.raises(TaskError, match=r"1 of 2 candidates are one token in .*expected at least two"):
            function(lm, prompts, INPUTS, candidates=["Paris", "zzyzx"], **of)
        with pytest.raises(AnchorError, match="share 0 words"):
            function(toys["greek"], some_prompts(toys["greek"]), INPUTS, **of)
