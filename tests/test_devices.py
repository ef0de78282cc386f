"""The same on a GPU as on the CPU, by device alone; skipped where there is none."""

import pytest
import torch

import ptlib

DEVICES = [name for name, there in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()))
           if there]
pytestmark = pytest.mark.skipif(not DEVICES, reason="no GPU here")
QUICK = {"epochs": 5, "progress": False}


@pytest.fixture(scope="module", params=DEVICES)
def sides(request):
    """{"cpu" and the device: (source, target)}"""
    return {device: [ptlib.load_lm(f"zoo/{name}-mini", device=device) for name in ("bert", "roberta")]
            for device in ("cpu", request.param)}


@pytest.fixture(scope="module")
def tasks():
    return ptlib.load_tasks(relations="P19,P36")


def close(one, other, **how):
    torch.testing.assert_close(one.vectors, other.vectors, **{"atol": 2e-3, "rtol": 2e-3} | how)


@pytest.mark.parametrize("parameterization", ["vectors", "mixture"])
def test_tuning_takes_the_same_way(sides, tasks, parameterization):
    """For a few steps, before rounding adds up."""
    here, there = (ptlib.tune_many(source, tasks[:1], parameterization=parameterization, epochs=1, progress=False)
                   for source, _ in sides.values())
    for name, prompt in here.items():
        assert prompt.vectors.device == there[name].vectors.device == torch.device("cpu")
        close(prompt, there[name], atol=1e-2, rtol=1e-2)
        assert there[name].meta["forwards"] == prompt.meta["forwards"]


@pytest.mark.parametrize("method", ptlib.METHODS)
def test_every_method_moves_alike(sides, tasks, method):
    kind = "mixture" if ptlib.METHODS[method].needs_mixtures else "vectors"
    source, _ = sides["cpu"]
    prompts = ptlib.tune_many(source, tasks, parameterization=kind, **QUICK)
    options = {"gradient": {"steps": 50}, "projector": {"epochs": 2}}.get(method, {})
    here, there = (ptlib.transfer_many(prompts, source=source, target=target, method=method, **options)
                   for source, target in sides.values())
    for name, prompt in here.items():
        close(prompt, there[name])
        assert prompt.history.fit == pytest.approx(there[name].history.fit, abs=1e-4)


def test_evaluations_agree(sides, tasks):
    source, target = sides["cpu"]
    prompts = ptlib.tune_many(source, tasks, **QUICK)
    moved = ptlib.transfer_many(prompts, source=source, target=target)
    words = ptlib.shared_anchors(source, target).words
    here, there = (ptlib.evaluate_many(target, moved, tasks, candidates=words) for _, target in sides.values())
    for name, ev in here.items():
        assert abs(ev.ranks - there[name].ranks).max() <= 2, "ranks may swap where scores are all but equal"
        assert ev.p_at_1 == pytest.approx(there[name].p_at_1, abs=0.02)


def test_refinement_and_selection_run(sides, tasks):
    """They start from the CPU's prompts, and give prompts that the CPU's model takes."""
    [task] = tasks[:1]
    inputs = [example.subject for example in task.train]
    prompt = ptlib.tune(sides["cpu"][0], task, **QUICK)
    results = []
    for source, target in sides.values():
        moves = {method: ptlib.transfer(prompt, source=source, target=target, method=method)
                 for method in ("linear", "closed-form", "discretize")}
        agreed = ptlib.agreement(target, moves, inputs, source=source, teacher=prompt)
        refined = ptlib.refine(moves["linear"], target, source=source, teacher=prompt, inputs=inputs, epochs=1,
                               progress=False)
        few = ptlib.refine(moves["linear"], target, mode="few-shot", examples=task.train[:4], epochs=1, progress=False)
        results.append((agreed, refined, few))
        for one in (refined, few):
            ptlib.evaluate(sides["cpu"][1], one, task.test)
    (agreed, refined, few), (agreed_there, refined_there, few_there) = results
    assert agreed == pytest.approx(agreed_there, abs=1e-3)
    close(refined, refined_there, atol=1e-2)
    close(few, few_there, atol=1e-2)


def test_classes_are_distilled_after_an_evaluation(sides):
    """Both ask the head of the same model for some words alone."""
    task = ptlib.load_task("zoo/topic")
    prompt = ptlib.tune(sides["cpu"][0], task, **QUICK)
    found = []
    for source, target in sides.values():
        moved = ptlib.transfer(prompt, source=source, target=target)
        ptlib.evaluate(target, moved, task.test[:20])
        found.append(ptlib.refine(moved, target, source=source, teacher=prompt, epochs=1, progress=False,
                                  inputs=[example.subject for example in task.train[:20]],
                                  candidates=list(task.label_words.values())))
    close(*found, atol=1e-2)


def test_tables_alone_and_types(sides, tasks):
    """Embeddings alone move a prompt on the device; bfloat16 gives much the same answers."""
    device = next(name for name in sides if name != "cpu")
    source, target = sides["cpu"]
    prompt = ptlib.tune(source, tasks[1], parameterization="mixture", **QUICK)
    tables = [ptlib.load_lm(lm.name, device=device, embeddings_only=True) for lm in (source, target)]
    moved = ptlib.transfer(prompt, source=tables[0], target=tables[1])
    close(moved, ptlib.transfer(prompt, source=source, target=target))
    half = ptlib.load_lm(target.name, device=device, dtype=torch.bfloat16)
    assert ptlib.evaluate(half, moved, tasks[1].test).p_at_1 == pytest.approx(
        ptlib.evaluate(target, moved, tasks[1].test).p_at_1, abs=0.1)
