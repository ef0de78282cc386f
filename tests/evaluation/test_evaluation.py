"""P@k, MRR, intervals and averages against brute force."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from families import FAMILIES

from ptlib import (
    Example,
    Prompt,
    Task,
    TaskError,
    evaluate,
    evaluate_majority,
    evaluate_many,
    load_lm,
    load_task,
    manual_prompt,
    random_prompt,
    summarize,
    tune_seeds,
)
from ptlib.evaluation.evaluations import Z, wilson_interval
from ptlib.evaluation.scores import candidate_scores
from ptlib.prompts.templates import Template

EXAMPLES = (Example("France", "Paris"), Example("Saint Helena", "Jamestown"), Example("Peru", "Cairo"),
            Example("South Korea", "the"), Example("Iran", "New Zealand"), Example("Iraq", "zzyzx"))


def brute_force_ranks(lm, template, examples, candidates):
    """Rank by hand: the whole sentence as the tokenizer reads it, all logits, one comparison a candidate."""
    ranks = []
    for example in examples:
        sentence = template.replace("[X]", example.subject).replace("[Y]", lm.tokenizer.mask_token)
        ids = torch.tensor([lm.tokenizer(sentence)["input_ids"]])
        logits = lm.model(input_ids=ids).logits[0, ids[0].tolist().index(lm.tokenizer.mask_token_id)]
        own = logits[candidates[example.object]]
        ranks.append(1 + sum(bool(logits[i] > own) for i in candidates.values()))
    return ranks


def test_the_tasks_own_objects_as_candidates(toys, capitals):
    lm, task = toys["bert"], replace(capitals, train=capitals.train[:4], dev=(), test=capitals.test[:5])
    prompt = manual_prompt(lm, task)
    words = sorted({example.object for example in task.test})
    own = evaluate(lm, prompt, task.test, candidates="task")
    assert own.num_candidates == len(words) < len(lm.words)
    assert own.ranks.tolist() == evaluate(lm, prompt, task.test, candidates=words).ranks.tolist()
    with_facts = evaluate(lm, prompt, task.test, candidates="task", facts=[*task.train, *task.test])
    [many] = evaluate_many(lm, {"manual": replace(prompt, task=task.name)}, [task], candidates="task").values()
    every = {example.object for example in (*task.train, *task.test)}
    assert with_facts.num_candidates == many.num_candidates == len(every) > len(words)
    assert many.ranks.tolist() == with_facts.ranks.tolist()
    assert many.filtered_ranks is None
    assert evaluate_majority(task, "task").num_candidates == len(every)
    with pytest.raises(TaskError, match="candidates='objects'; expected 'task', a list of words, or None"):
        evaluate(lm, prompt, task.test, candidates="objects")


@pytest.mark.parametrize("candidates", [None, ["Paris", "Jamestown", "Cairo", "the", "zzyzx", "Paris"]],
                         ids=["all words", "given"])
@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_against_brute_force(toys, capitals, family, candidates):
    lm = toys[family]
    words = {word: i for word, i in lm.words.items() if candidates is None or word in candidates}
    ev = evaluate(lm, manual_prompt(lm, capitals), EXAMPLES, candidates=candidates, k=(1, 2, 5))
    ranks = brute_force_ranks(lm, capitals.manual_template, EXAMPLES[:4], words)
    assert ev.predictions["rank"].tolist() == ranks
    assert (ev.n, ev.num_candidates) == (4, len(words))
    assert ev.p_at_1 == sum(rank == 1 for rank in ranks) / 4
    assert ev.p_at_k == {k: sum(rank <= k for rank in ranks) / 4 for k in (1, 2, 5)}
    assert ev.mrr == pytest.approx(sum(1 / rank for rank in ranks) / 4)
    assert ev.interval == wilson_interval(sum(rank == 1 for rank in ranks), 4)
    assert ev.predictions[["subject", "object"]].values.tolist() == [[e.subject, e.object] for e in EXAMPLES[:4]]
    hits = ev.predictions["prediction"] == ev.predictions["object"]
    assert hits.tolist() == [rank == 1 for rank in ranks]


LONG = ["Paris", "Jamestown", "Cairo", "New Zealand", "Saint Helena", "Parisian town", "South Korea", "Rome Paris"]


def brute_force_scores(lm, template, subject, candidates):
    """Mean log-probability of each candidate's tokens by hand, one sentence a candidate, from the full logits."""
    scores, mask = {}, lm.tokenizer.mask_token
    for word in candidates:
        tokens = lm.tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        if lm.kind == "causal":
            before = lm.tokenizer(template.split(" [Y]")[0].replace("[X]", subject))["input_ids"]
            ids = torch.tensor([before + tokens])
            places = range(len(before) - 1, len(before) - 1 + len(tokens))
        else:
            marked = template.replace("[X]", subject).replace(" [Y]", " " + mask)
            ids = lm.tokenizer(marked)["input_ids"]
            at = ids.index(lm.tokenizer.mask_token_id)
            ids = torch.tensor([[*ids[:at], *[lm.tokenizer.mask_token_id] * len(tokens), *ids[at + 1:]]])
            places = range(at, at + len(tokens))
        logits = lm.model(input_ids=ids).logits[0].log_softmax(-1)
        scores[word] = np.mean([logits[place, token].item() for place, token in zip(places, tokens, strict=True)])
    return scores


def test_answers_of_several_tokens_against_brute_force(lm):
    template = "The capital of [X] is [Y]" if lm.kind == "causal" else "The capital of [X] is [Y] ."
    prompt = Prompt(torch.zeros(0, lm.dim), template, lm.name, lm.fingerprint)
    subjects = ("France", "Saint Helena", "Peru", "Egypt")
    examples = [Example(subject, word) for subject in subjects for word in LONG]
    assert {len(ids) for ids in lm.tokenize_many(" " + word for word in LONG)} >= {1, 2}
    ev = evaluate(lm, prompt, examples, multi_token=True)
    assert (ev.n, ev.num_candidates, ev.dropped) == (len(examples), len(LONG), ())
    tokens, found = lm.tokenize_many(" " + word for word in LONG), {}
    with torch.inference_mode():
        for rows, values in candidate_scores(lm, Template(template).layout(lm, subjects), prompt.vectors, tokens):
            found |= dict(zip(rows, values.tolist(), strict=True))
    for i, subject in enumerate(subjects):
        scores = brute_force_scores(lm, template, subject, LONG)
        assert found[i] == pytest.approx(list(scores.values()), abs=1e-4)
        order = sorted(scores, key=scores.get, reverse=True)
        assert min(scores[a] - scores[b] for a, b in pairwise(order)) > 1e-5  # no tie that rounding would turn
        rows = ev.predictions[i * len(LONG):(i + 1) * len(LONG)]
        assert rows["rank"].tolist() == [1 + order.index(word) for word in LONG]
        assert set(rows["prediction"]) == {order[0]}


@pytest.mark.parametrize("template", ["[X] [V]*3 [Y] .", "[V] [Y] , said [X] [V]*2 .", "[X] [V]*2 , [Y] [V] now ."])
def test_scores_of_several_tokens_with_prompt_vectors(toys, template):
    """Vectors after the answer keep their places, too: they are the embeddings of words here, so words say the same."""
    lm = toys["bert"]
    ids = lm.word_ids(["Rome", "people", "town"])
    prompt = Prompt(lm.embeddings[ids], template, lm.name, lm.fingerprint)
    words = iter(["Rome", "people", "town"])
    said = re.sub(r"\[V\](?:\*(\d))?", lambda slot: " ".join(next(words) for _ in range(int(slot[1] or 1))), template)
    plain = Prompt(torch.zeros(0, lm.dim), said, lm.name, lm.fingerprint)
    examples = [Example(subject, word) for subject in ("France", "Saint Helena") for word in LONG]
    vectors, by_words = (evaluate(lm, p, examples, multi_token=True).predictions for p in (prompt, plain))
    assert vectors.equals(by_words)
    assert vectors["rank"].nunique() > 2
    for subject, rows in vectors.groupby("subject"):
        scores = brute_force_scores(lm, said, subject, LONG)
        assert rows["prediction"].unique().tolist() == [max(scores, key=scores.get)]


def test_single_tokens_rank_the_same_with_multi_token(lm):
    template = "The capital of [X] is [Y]"
    prompt = Prompt(torch.zeros(0, lm.dim), template, lm.name, lm.fingerprint)
    few = ["Paris", "Rome", "Cairo", "the", "people"]
    examples = [Example(subject, word) for subject in ("France", "South Korea") for word in few]
    single, alone, beside = (evaluate(lm, prompt, examples, candidates=words, multi_token=multi).predictions
                             for words, multi in ((few, False), (few, True), ([*few, "Saint Helena"], True)))
    assert alone.equals(single)
    for (_, a), (_, b) in zip(single.groupby("subject"), beside.groupby("subject"), strict=True):
        assert b["rank"].rank().tolist() == a["rank"].tolist()  # a long one comes between, and changes no order


def test_multi_token_keeps_what_is_otherwise_dropped(toys):
    lm, prompt = toys["roberta"], random_prompt(toys["roberta"])
    some = [Example("France", "Paris"), Example("Peru", "New Zealand")]
    assert [e.object for e, _ in evaluate(lm, prompt, some).dropped] == ["New Zealand"]
    assert evaluate(lm, prompt, some, multi_token=True).num_candidates == 2
    given = evaluate(lm, prompt, some, candidates=["Paris", "Rome", "Saint Helena"], multi_token=True)
    assert (given.n, given.num_candidates) == (1, 3)
    # What the tokenizer cannot spell is still dropped.
    lm = toys["bert"]
    ev = evaluate(lm, random_prompt(lm), [*some, Example("Egypt", "日本")], multi_token=True)
    assert [e.object for e, _ in ev.dropped] == ["日本"]


def test_multi_token_is_for_masked_and_causal_lms(tmp_path):
    FAMILIES["t5"].save(tmp_path)
    lm = load_lm(tmp_path)
    with pytest.raises(TaskError, match="is a sequence-to-sequence LM"):
        evaluate(lm, random_prompt(lm), EXAMPLES, multi_token=True)


def test_dropped_examples_are_told_with_the_reason(toys, capitals):
    ev = evaluate(toys["bert"], manual_prompt(toys["bert"], capitals), EXAMPLES)
    assert [example for example, _ in ev.dropped] == [EXAMPLES[4], EXAMPLES[5]]
    assert all(repr(example.object) in reason for example, reason in ev.dropped)


def test_candidates_restrict(toys, capitals):
    lm, few = toys["roberta"], ["Paris", "Cairo"]
    ev = evaluate(lm, manual_prompt(lm, capitals), EXAMPLES, candidates=few)
    assert set(ev.predictions["prediction"]) <= set(few)
    assert ev.predictions["rank"].max() <= 2
    assert len(ev.dropped) == 4
    assert ev.num_candidates == 2


@pytest.mark.parametrize(("examples", "candidates"), [((), None), (EXAMPLES[4:], None), (EXAMPLES, ["Lima"]),
                                                      (EXAMPLES, [])])
def test_nothing_scorable(toys, capitals, examples, candidates):
    with pytest.raises(TaskError, match="can be scored"):
        evaluate(toys["bert"], manual_prompt(toys["bert"], capitals), examples, candidates=candidates)


def test_order_and_company_of_the_examples_change_nothing(toys, capitals):
    lm = toys["albert"]
    prompt, facts = manual_prompt(lm, capitals), capitals.train + capitals.test
    ranks = evaluate(lm, prompt, facts).predictions["rank"].tolist()
    assert evaluate(lm, prompt, facts[::-1]).predictions["rank"].tolist() == ranks[::-1]
    assert [evaluate(lm, prompt, [e]).predictions["rank"][0] for e in facts] == ranks


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (3, 10), (50, 100), (99, 100), (1, 5000)])
def test_wilson_interval_holds_the_proportions_within_z_standard_errors(successes, n):
    """Its ends solve |p̂ − p| = z √(p(1 − p)/n): the definition, not the formula."""
    p = successes / n
    low, high = wilson_interval(successes, n)
    assert 0 < low < p < high < 1
    for end in (low, high):
        assert abs(p - end) == pytest.approx(Z * math.sqrt(end * (1 - end) / n), abs=1e-9)


def test_wilson_interval_at_the_edges():
    assert math.erf(Z / math.sqrt(2)) == pytest.approx(0.95, abs=1e-6)
    for n in (1, 10, 1000):
        assert wilson_interval(0, n) == pytest.approx((0, Z**2 / (n + Z**2)))
        assert wilson_interval(n, n) == pytest.approx((n / (n + Z**2), 1))
    assert wilson_interval(0, 0) == (0, 1)


def test_majority_baseline_ranks_by_train_counts():
    objects = ["Rome", "Paris", "Paris", "Lima", "Lima", "Paris"]
    train = tuple(Example(f"s{i}", obj) for i, obj in enumerate(objects))
    test = tuple(Example(f"t{i}", obj) for i, obj in enumerate(["Paris", "Lima", "Rome", "Oslo", "Atlantis"]))
    task = Task("mine", train, (), test)
    ev = evaluate_majority(task, ["Oslo", "Rome", "Lima", "Paris", "Paris"])
    assert ev.predictions["rank"].tolist() == [1, 2, 3, 4]
    assert set(ev.predictions["prediction"]) == {"Paris"}
    assert [example for example, _ in ev.dropped] == [test[4]]
    assert (ev.n, ev.num_candidates, ev.p_at_1) == (4, 4, 0.25)
    with pytest.raises(TaskError):
        evaluate_majority(task, ["Cairo"])


def test_many_prompts_are_evaluated_on_the_task_of_each(toys, capitals):
    """As tune_seeds returns them, whatever their names; one of no task is for the task that it is named after."""
    lm, turned = toys["bert"], Task("turned", capitals.train, capitals.dev, capitals.train[::-1])
    prompts = tune_seeds(lm, [capitals, turned], seeds=[0, 1], epochs=1)
    found = evaluate_many(lm, prompts, [turned, capitals])
    assert list(found) == list(prompts) == [(seed, name) for seed in (0, 1) for name in ("capitals", "turned")]
    for (seed, name), ev in found.items():
        assert (ev.task, ev.seed) == (name, seed)
        test = capitals.test if name == "capitals" else turned.test
        assert ev.predictions.equals(evaluate(lm, prompts[seed, name], test).predictions)
    drawn = random_prompt(lm)
    assert drawn.task is None
    assert evaluate_many(lm, {"turned": drawn}, [capitals, turned])["turned"].task == "turned"
    with pytest.raises(TaskError, match=r"'other'.*capitals"):
        evaluate_many(lm, {"other": drawn}, [capitals])


# --- the rule for being right -------------------------------------------------------------------


def test_words_that_are_one_token_are_one_candidate(toys):
    """To an uncased LM *Paris* is *paris*: one candidate, and right under either spelling."""
    lm, words = toys["uncased"], ["Paris", "paris", "Rome", "the"]
    ev = evaluate(lm, random_prompt(lm), [Example("France", "Paris"), Example("Italy", "rome")], candidates=words)
    assert (ev.n, ev.num_candidates, ev.dropped) == (2, 3, ())
    everything = evaluate(lm, random_prompt(lm), [Example("France", "Paris")])
    assert everything.n == 1 and everything.num_candidates == len(lm.words)
    right = evaluate(lm, random_prompt(lm), [Example("France", "Paris")], candidates=["paris"])
    assert right.p_at_1 == 1 and right.answers == ("Paris",)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ranks_predictions_accuracy_and_f1_agree(zoo_tasks, dtype):
    lm = load_lm("zoo/roberta-mini", dtype=dtype)
    ties = 0
    for task in [*list(zoo_tasks.values())[:8], load_task("zoo/topic")]:
        ev = evaluate(lm, manual_prompt(lm, task), task.test, k=(1,))
        table = ev.predictions
        hits = (table["object"] == table["prediction"]).to_numpy()
        assert (hits == (ev.ranks == 1)).all()
        assert ev.p_at_1 == ev.p_at_k[1] == ev.accuracy == hits.mean()
        ties += ev.ties
    assert ties == 0, "half precision would make real logits equal, but those of some words are float32"


FAMILY = (Example("Ann", "Paris"), Example("Ann", "Rome"), Example("Bob", "Cairo"), Example("Ann", "zzyzx"))


def test_filtered_ranks_leave_out_other_true_objects(toys):
    lm = toys["bert"]
    prompt, words = random_prompt(lm), ["Paris", "Rome", "Cairo", "Lima", "the"]
    ev = evaluate(lm, prompt, FAMILY[:3], candidates=words, facts=FAMILY)
    raw = evaluate(lm, prompt, FAMILY[:3], candidates=words)
    assert raw.filtered_ranks is None and raw.filtered_p_at_1 is None
    assert (ev.ranks == raw.ranks).all()
    ann = [evaluate(lm, prompt, [example], candidates=[word for word in words if word not in other]).ranks[0]
           for example, other in zip(FAMILY[:2], ("Rome", "Paris"), strict=True)]
    assert ev.filtered_ranks.tolist() == [*ann, raw.ranks[2]]
    assert ev.filtered_p_at_1 == (ev.filtered_ranks == 1).mean()
    assert list(ev.predictions["filtered_rank"]) == ev.filtered_ranks.tolist()


def test_filtered_ranks_of_tasks_stand_beside_the_raw_ones(toys):
    lm = toys["bert"]
    task = Task("family", FAMILY[:1], (), FAMILY[1:3], None)
    prompt = replace(random_prompt(lm), task="family")
    ev = evaluate_many(lm, {"family": prompt}, [task], filtered=True)["family"]
    assert (ev.filtered_ranks == evaluate(lm, prompt, task.test, facts=FAMILY[:3]).filtered_ranks).all()
    table = summarize([ev])
    assert table["filtered_mean"].item() == ev.filtered_p_at_1 >= table["relation_mean"].item() == ev.p_at_1
    assert table["filtered_low"].item() <= ev.filtered_p_at_1 <= table["filtered_high"].item()
    assert "filtered_mean" not in summarize(evaluate_many(lm, {"family": prompt}, [task]))
