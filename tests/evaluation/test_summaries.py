"""Both averages and their intervals, against brute force and the normal approximation."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ptlib import (
    METRICS,
    Evaluation,
    Example,
    PromptTransferError,
    evaluate_many,
    per_evaluation,
    per_relation,
    relation_mean,
    summarize,
    summarize_relations,
    tune_seeds,
)
from ptlib.evaluation.evaluations import Z


def evaluation(hits, n, dropped=0, task=None):
    """Of n facts the first ``hits`` are right."""
    facts, ranks = tuple(Example(f"s{i}", "o") for i in range(n)), np.array([1] * hits + [2] * (n - hits))
    return Evaluation(facts, ("p",) * n, ranks, ((Example("s", "x"), "why"),) * dropped, "lm", task, 50)


def relations(shares, n=20):
    """An evaluation for each share of right answers."""
    return [evaluation(round(share * n), n, task=f"r{i}") for i, share in enumerate(shares)]


def test_summary_tells_the_two_averages_apart():
    evaluations = [evaluation(1, 1, task="a"), evaluation(0, 9, dropped=2, task="b"), evaluation(5, 10, task="c")]
    row = summarize(evaluations).loc["all"]
    assert row["relation_mean"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert relation_mean(evaluations) == row["relation_mean"]
    assert row["pooled"] == pytest.approx(6 / 20)
    assert (row["relations"], row["facts"], row["repeats"]) == (3, 20, 1)
    assert (row["dropped"], row["candidates"]) == (2, 50)
    assert row["relation_low"] < row["relation_mean"] < row["relation_high"]
    assert row["pooled_low"] < row["pooled"] < row["pooled_high"]


def test_seeds_of_one_relation_count_as_one_relation():
    seeds = [evaluation(hits, 10, task="a") for hits in (0, 5, 10)]
    row = summarize([*seeds, evaluation(10, 10, task="b")]).loc["all"]
    assert row["relations"] == 2
    assert row["relation_mean"] == pytest.approx((0.5 + 1) / 2)
    assert (row["relation_low"], row["relation_high"]) == (0.5, 1)
    # Each answer counts the same in the pooled mean, each fact once among the facts.
    assert (row["pooled"], row["facts"], row["repeats"]) == (pytest.approx(25 / 40), 20, 2)


def test_a_fact_that_a_task_lists_twice_is_two_facts():
    once = evaluation(5, 10, task="a")
    twice = Evaluation(once.examples * 2, once.answers * 2, np.tile(once.ranks, 2), (), "lm", "a", 50)
    assert summarize([once])["facts"].item() == 10
    assert summarize([twice])["facts"].item() == summarize([twice, twice])["facts"].item() == 20
    # One subject and object in two relations are two facts, too.
    assert summarize([once, evaluation(5, 10, task="b")])["facts"].item() == 20


def test_averages_agree_on_equal_sizes():
    row = summarize([evaluation(hits, 10) for hits in (1, 4, 7)]).loc["all"]
    assert row["relation_mean"] == pytest.approx(row["pooled"])


def test_summary_of_groups():
    groups = {("a", 1): [evaluation(3, 10)] * 4, ("b", 2): [evaluation(0, 10), evaluation(10, 10)]}
    table = summarize(groups)
    assert list(table.index) == list(groups)
    same = table.loc[("a", 1)]  # equal relations: no spread between them
    assert same["relation_low"] == pytest.approx(0.3) == same["relation_high"] == same["relation_mean"]
    assert (table.loc[("b", 2), "relation_low"], table.loc[("b", 2), "relation_high"]) == (0, 1)
    assert summarize(groups).equals(table)
    assert not summarize(groups, seed=1).equals(table)
    assert list(summarize({"a": groups["a", 1]}).index) == ["a"]


def test_bootstrap_intervals_are_those_of_the_means():
    """Against the normal approximation, which is good for 150 relations and 1500 facts."""
    generator = np.random.default_rng(0)
    shares, better = generator.uniform(0, 0.8, 150).round(1), generator.choice([0.0, 0.1, 0.2], 150)
    first, second = relations(shares, 10), relations(shares + better, 10)
    row = summarize({"a": first, "b": second}, versus="a").loc["b"]
    answers = np.concatenate([evaluation.predictions["rank"] == 1 for evaluation in second])
    for name, bounds, values in (("relation_mean", "relation", shares + better), ("pooled", "pooled", answers),
                                 ("difference", "difference", better)):
        half = Z * values.std(ddof=1) / math.sqrt(len(values))
        assert row[name] == pytest.approx(values.mean())
        assert row[f"{bounds}_low"] == pytest.approx(values.mean() - half, abs=0.15 * half)
        assert row[f"{bounds}_high"] == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_repeated_evaluations_are_no_further_facts():
    """Results that share their facts are not independent: they do not narrow an interval."""
    once = [evaluation(hits, n, dropped=1, task=f"r{hits}") for hits, n in ((1, 7), (4, 9), (11, 12))]
    one, three = (summarize(group).loc["all"] for group in (once, once * 3))
    assert (one["repeats"], three["repeats"]) == (1, 3)
    pd.testing.assert_series_equal(three.drop("repeats"), one.drop("repeats"))


def test_difference_is_paired_by_relation():
    """Two methods that differ by a constant: their difference is certain, however much the relations differ."""
    shares = np.linspace(0, 0.8, 9)
    groups = {"a": relations(shares), "b": relations(shares + 0.1)[::-1], "c": relations(shares[::-1])}
    table = summarize(groups, versus="a")
    assert tuple(table.loc["a", ["difference", "difference_low", "difference_high"]]) == (0, 0, 0)
    constant = table.loc["b"]
    assert constant[["difference", "difference_low", "difference_high"]].tolist() == pytest.approx([0.1] * 3)
    assert constant["relation_high"] - constant["relation_low"] > 0.2
    # Equal averages of unlike relations: no difference, and no certainty of that.
    unlike = table.loc["c"]
    assert unlike["difference"] == pytest.approx(0)
    assert unlike["difference_low"] < -0.1 < 0.1 < unlike["difference_high"]
    assert not [name for name in summarize(groups) if name.startswith("difference")]


def test_difference_averages_the_repeats_first():
    groups = {"a": [*relations([0.2, 0.4]), *relations([0.6, 0.4])], "b": relations([0.5, 0.9])}
    row = summarize(groups, versus="a").loc["b"]
    assert row["difference"] == pytest.approx((0.1 + 0.5) / 2)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((0.1, 0.5))


@pytest.mark.parametrize("labels", [("a", "b"), (("bert", 1), ("bert", 2))])
def test_difference_needs_a_label_and_its_relations(labels):
    groups = {labels[0]: relations([0.1, 0.2]), labels[1]: relations([0.1, 0.2, 0.3])}
    with pytest.raises(PromptTransferError, match="same relations"):
        summarize(groups, versus=labels[0])
    with pytest.raises(PromptTransferError, match=r"versus='c'.*" + re.escape(repr(labels[1]))):
        summarize(groups, versus="c")


def test_summary_of_real_evaluations(bert_mini, zoo_tasks):
    """Three seeds of two tasks, by hand; on a trained LM, whose tokenizer is the same in every process."""
    tasks = [zoo_tasks["zoo/P36"], zoo_tasks["zoo/P103"]]
    few = {example.object for task in tasks for example in task.test[:6]}
    prompts = tune_seeds(bert_mini, tasks, seeds=[0, 1, 2], epochs=2)
    found = evaluate_many(bert_mini, prompts, tasks, candidates=few)
    row, evaluations = summarize(found).loc["all"], list(found.values())
    by_hand = [np.mean([ev.p_at_1 for ev in evaluations if ev.task == task.name]) for task in tasks]
    assert row["relation_mean"] == pytest.approx(np.mean(by_hand))
    hits = np.concatenate([ev.predictions["rank"] == 1 for ev in evaluations])
    assert 0 < hits.mean() < 1
    assert row["pooled"] == pytest.approx(hits.mean())
    asked = [example.object in few for task in tasks for example in task.test]
    assert 0 < sum(asked) < len(asked)
    assert row[["repeats", "facts", "dropped", "candidates"]].tolist() == [
        3, sum(asked), len(asked) - sum(asked), len(few)]


def test_rows_per_relation_give_the_summary_again():
    """However the evaluations are spread over runs: a sweep's table says what one notebook would."""
    groups = {("a", "b", "first"): relations([0.2, 0.4, 0.9]), ("b", "a", "first"): relations([0.6, 0.4, 0.0]),
              ("a", "b", "second"): relations([0.1, 0.3, 0.2])}
    whole = per_relation(groups, ["source", "target", "method"])
    assert list(whole) == ["source", "target", "method", "relation", "p_at_1", "repeats"]
    assert len(whole) == 9
    columns = ["relation_mean", "relation_low", "relation_high", "relations", "repeats"]
    by_pair = summarize_relations(whole, ["source", "target", "method"])
    pd.testing.assert_frame_equal(by_pair, summarize(groups)[columns], check_names=False)
    together = {"first": [*groups["a", "b", "first"], *groups["b", "a", "first"]], "second": groups["a", "b", "second"]}
    by_method = summarize_relations(whole.sample(frac=1, random_state=0), ["method"]).sort_index()
    expected = summarize(together)[columns]
    assert by_method["relation_mean"].tolist() == pytest.approx(expected["relation_mean"].tolist())
    assert by_method["repeats"].tolist() == expected["repeats"].tolist() == [2, 1]
    assert by_method.index.tolist() == ["first", "second"] and by_method.index.name == "method"


def test_rows_per_relation_average_the_seeds():
    table = per_relation({"x": [*relations([0.2, 0.4]), *relations([0.6, 0.4])]}, ["label"])
    assert table.to_dict("records") == [{"label": "x", "relation": "r0", "p_at_1": pytest.approx(0.4), "repeats": 2},
                                        {"label": "x", "relation": "r1", "p_at_1": pytest.approx(0.4), "repeats": 2}]
    with pytest.raises(ValueError, match="zip"):
        per_relation({("x", "y"): relations([0.2])}, ["label"])


def test_missing_labels_are_a_group_of_their_own():
    table = pd.DataFrame({"k": ["a", None], "relation": ["r", "r"], "p_at_1": [0.0, 1.0]})
    assert sorted(summarize_relations(table, ["k"])["relation_mean"]) == [0, 1]


def test_any_nesting_of_the_same_evaluations_is_the_same_table():
    """The outermost keys are rows, unless evaluations are directly below them."""
    first, second = relations([0.2, 0.6]), relations([0.4, 1.0])
    flat = summarize({"a": first, "b": [*first, *second]})
    pairs = {"a": dict(enumerate(first)), "b": {("x", "y"): first, ("y", "x"): dict(enumerate(second))}}
    assert summarize(pairs).equals(flat)
    assert summarize({"a": {"deep": {"deeper": tuple(first)}}, "b": [first, [second]]}).equals(flat)
    alone = summarize(first)
    assert list(alone.index) == ["all"] and summarize(dict(enumerate(first))).equals(alone)
    assert relation_mean(pairs["b"]) == flat.loc["b", "relation_mean"]
    for empty in ({}, [], {"a": []}, {"a": {"b": {}}}):
        with pytest.raises(PromptTransferError, match="nothing to summarize"):
            summarize(empty)
    with pytest.raises(PromptTransferError, match="some labels have one evaluation"):
        summarize({"a": first[0], "b": second})


def test_every_metric_is_averaged_as_p_at_1_is():
    some = [evaluation(3, 4, task="a"), evaluation(1, 2, task="a"), evaluation(0, 6, task="b")]
    for metric in METRICS:
        if metric.startswith("filtered"):
            with pytest.raises(PromptTransferError, match=r"no filtered ranks.*facts="):
                summarize(some, metric=metric)
            continue
        row = summarize(some, metric=metric).loc["all"]
        by_hand = [ev.score(metric) for ev in some]
        assert row["relation_mean"] == pytest.approx((np.mean(by_hand[:2]) + by_hand[2]) / 2)
        assert row["relation_low"] <= row["relation_mean"] <= row["relation_high"]
        assert relation_mean(some, metric) == row["relation_mean"]
        assert per_relation(some, ["x"], metric)[metric].tolist() == pytest.approx([np.mean(by_hand[:2]), by_hand[2]])
    assert summarize(some).loc["all", "pooled"] == pytest.approx(4 / 12)
    assert summarize(some, metric="mrr").loc["all", "pooled"] == pytest.approx(
        np.mean(np.concatenate([1 / ev.ranks for ev in some])))
    assert "pooled" not in summarize(some, metric="macro_f1")
    assert summarize(some, metric="macro_f1")["facts"].item() == summarize(some)["facts"].item()
    with pytest.raises(PromptTransferError, match=r"'bleu'.*p_at_1.*mrr"):
        summarize(some, metric="bleu")


def test_rows_per_evaluation_know_relation_and_seed():
    seeds = {("m", seed): [replace(one, seed=seed) for one in relations([0.2 * seed, 0.5])] for seed in (1, 2)}
    table = per_evaluation(seeds, ["method", "of"], "mrr")
    assert list(table) == ["method", "of", "relation", "seed", "mrr"]
    assert table["of"].tolist() == table["seed"].tolist() == [1, 1, 2, 2]
    assert table["mrr"].tolist() == [one.mrr for group in seeds.values() for one in group]
