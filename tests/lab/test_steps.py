"""What notebooks share for steps from no compute to direct tuning: costs, comparisons, and label-free distillation."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

import ptlib
from ptlib import lab

A, B = "zoo/bert-mini", "zoo/roberta-mini"


@pytest.fixture(scope="module")
def study():
    return lab.load_study(f"{A},{B}", relations="P36,P19", num_seeds=2)


@pytest.fixture(scope="module")
def tuned(study):
    return study.tuned(epochs=1)


def test_distillation_is_that_of_each_pair(study, tuned):
    moved = study.move(tuned[A], A, B)
    found = study.distill(moved, tuned[A], A, B, study.subjects, epochs=1)
    [key] = [key for key in moved if key == (1, "zoo/P19")]
    alone = ptlib.refine_many({key: moved[key]}, study.lms[B], source=study.lms[A], teacher=tuned[A],
                              inputs={key: study.subjects["zoo/P19"]}, epochs=1, progress=False)
    torch.testing.assert_close(found[key].vectors, alone[key].vectors, atol=1e-4, rtol=1e-3)
    assert found.keys() == moved.keys()
    assert lab.target_passes(moved) == 0
    costs = [prompt.history.forwards + prompt.history.backwards for prompt in found.values()]
    assert lab.target_passes(found) == sum(costs) / len(costs) > 0


def test_demonstrations_are_those_of_each_prompt(study, tuned):
    moved = study.move(tuned[A], A, B)
    found = study.demonstrate(moved, tuned[A], A, B, study.subjects, count=2)
    key = (1, "zoo/P19")
    alone = ptlib.demonstrate(moved[key], study.lms[B], source=study.lms[A], teacher=tuned[A][key],
                              inputs=study.subjects["zoo/P19"], count=2)
    assert found.keys() == moved.keys()
    assert (found[key].template, found[key].history) == (alone.template, alone.history)
    assert lab.target_passes(found) == 0


def test_of_several_kinds_each_key_has_the_one_that_is_best_on_dev(study, tuned):
    worse = {name: {key: replace(prompt, meta={**prompt.meta, "dev_p_at_1": -1.0}) for key, prompt in prompts.items()}
             for name, prompts in tuned.items()}
    mixed = {name: {**worse[name], **dict(list(tuned[name].items())[:1])} for name in tuned}
    found = study.teachers(mixed, {name: {**tuned[name], **dict(list(worse[name].items())[:1])} for name in tuned})
    assert all(found[name][key] is prompt for name, prompts in tuned.items() for key, prompt in prompts.items())


def test_starting_points_have_every_seed_and_task(study):
    found = study.untuned(A, "random", num_vectors=3)
    assert list(found) == [(seed, task.name) for seed in study.seeds for task in study.tasks]
    assert len({prompt.vectors.sum().item() for prompt in found.values()}) == len(found)
    words = study.untuned(A, "manual")
    assert torch.equal(words[0, "zoo/P36"].vectors, words[1, "zoo/P36"].vectors)


def test_among_objects_the_same_facts_are_ranked_among_fewer_words(study, tuned):
    wide, narrow = (study.score(A, tuned[A], among) for among in ("all", "objects"))
    assert list(wide) == list(narrow) == list(tuned[A])
    for key, one in narrow.items():
        assert one.examples == wide[key].examples
        assert one.num_candidates == len(study.objects[key[1]]) < wide[key].num_candidates == len(study.words)
        assert (one.ranks <= wide[key].ranks).all()


def test_answers_are_right_or_of_the_right_kind_or_neither(study, tuned):
    scores = study.score(A, tuned[A])
    found = lab.kinds_of_answers({"tuned": scores}, study.objects).loc["tuned"]
    assert found.sum() == pytest.approx(1)
    assert found["right"] == pytest.approx(ptlib.relation_mean(scores))
    of_kind = [sum(answer in study.objects[one.task] for answer in one.answers) / one.n for one in scores.values()]
    assert found["right"] + found["another object"] == pytest.approx(sum(of_kind) / len(of_kind))


def test_only_tasks_with_enough_test_facts(study):
    counts = {task.name: sum(fact.object in study.words for fact in task.test) for task in study.tasks}
    least = max(counts.values())
    assert [task.name for task in study.with_test_facts(least).tasks] == [
        name for name, count in counts.items() if count == least]
    assert study.with_test_facts(1).tasks == study.tasks


def test_wins_are_counted_over_pairs_and_relations(study, tuned):
    direct, manual = study.direct(tuned), study.manual()
    cases = {(a, b): study.score(b, study.move(tuned[a], a, b)) for a, b in study.pairs}
    found = lab.wins({"moved": cases, "itself": {("", b): scores for b, scores in manual.items()}}, manual)
    better = []
    for (_, b), scores in cases.items():
        for task in study.tasks:
            own = [one.p_at_1 for (_, name), one in scores.items() if name == task.name]
            better.append(sum(own) / len(own) > manual[b][task.name].p_at_1)
    assert found.loc["moved", "better"] == sum(better) / len(better)
    assert found.loc["moved", "cases"] == len(better) == 4
    assert found.loc["itself", "equal"] == 1
    summary = lab.with_share(ptlib.summarize({"direct tuning": direct, "moved": cases}))
    assert summary.loc["direct tuning", "share of direct"] == 1


def test_a_grid_has_sources_in_rows_and_leaves_gaps(study):
    grid = study.grid(pd.Series({(A, B): 0.25, (B, A): 0.5}))
    assert grid.loc["bert-mini", "roberta-mini"] == 0.25
    assert grid.loc["roberta-mini", "bert-mini"] == 0.5
    assert grid.isna().sum().sum() == 2


def test_tasks_with_label_words_rank_these(study):
    labels = replace(study, tasks=ptlib.load_tasks("zoo", None, "topic"), words=None)
    [scores] = labels.manual()[A].values()
    assert scores.num_candidates == len(labels.tasks[0].label_words)
    assert labels.majority()["zoo/topic"].num_candidates == 4
    assert "1 tasks with label words" in repr(labels)


def test_what_a_prompt_has_cost_its_lm_is_counted(study, tuned):
    """A choice among transferred prompts costs the inputs that the LM has read for it; the transfer itself nothing."""
    moved = {method: study.move(tuned[A], A, B, method=method) for method in ("linear", "discretize")}
    key, inputs = (0, "zoo/P36"), study.subjects["zoo/P36"][:4]
    chosen = ptlib.select(study.lms[B], {method: found[key] for method, found in moved.items()}, inputs,
                          source=study.lms[A], teacher=tuned[A][key])
    assert lab.target_passes({key: chosen}) == 2 * len(inputs)
    assert lab.target_passes(moved["linear"]) == 0
    spent = [prompt.meta["forwards"] + prompt.meta["backwards"] for prompt in tuned[A].values()]
    assert lab.target_passes(tuned[A]) == sum(spent) / len(spent) > 0
