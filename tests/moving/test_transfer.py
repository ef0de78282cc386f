"""transfer(): every method behind one signature, what it records and what it refuses."""

import dataclasses
import json
import math
from itertools import pairwise

import pytest
import torch

from ptlib import (
    METHODS,
    AnchorError,
    Mixture,
    Prompt,
    PromptMismatchError,
    PromptTransferError,
    encode,
    evaluate,
    evaluate_many,
    load_lm,
    load_tasks,
    manual_prompt,
    random_prompt,
    refine,
    shared_anchors,
    summarize,
    transfer,
    transfer_many,
    tune,
    tune_many,
)
from ptlib.moving.relative import mean_relative, top_k_mask
from ptlib.moving.search import choose_ridge, fit_score, held_out_fit, matching_loss
from ptlib.moving.transfer import FREQUENT_ANCHORS

pytestmark = pytest.mark.slow

QUICK = {method: {} for method in METHODS} | {"gradient": {"steps": 20}, "projector": {"epochs": 3}}
SEVERAL = [method for method in METHODS if method != "copy"]  # can move the prompts of several sources
SCALED = [m for m in SEVERAL if METHODS[m].normalize != "none"]  # are normalised afterwards
SOURCELESS = ["random"]  # no source has a say in them
PAIRS = [("bert", "roberta"), ("roberta", "albert"), ("albert", "bert"), ("bert", "gpt2")]
CLOSED = {"method": "closed-form"}
MOVES = [(*pair, method) for pair in PAIRS for method in METHODS if method != "copy" or pair == ("bert", "gpt2")]


def test_the_table_of_methods_is_true():
    """Each method of the registry has its normalisation and all its options, with their defaults, in the docstring."""
    text = transfer_many.__doc__.split("| options |")[1].split("With ``method=")[0]
    rows = [row.replace("`", "").strip(" |").split(" | ") for row in text.splitlines()[2:] if row.strip()]
    found = {name: (normalize, "".join(options)) for names, normalize, *options in rows
             for name in names.split('"')[1::2]}
    shown = {"5e-3": "0.005", "1e-3": "0.001", '"auto"': "'auto'"}
    assert found.keys() == METHODS.keys()
    for name, (normalize, options) in found.items():
        method, listed = METHODS[name], dict(option.split("=") for option in options.split(", ") if option)
        assert normalize == method.normalize
        assert {option: shown.get(value, value) for option, value in listed.items()} == {
            option: repr(value) for option, value in method.options.items()}


@pytest.fixture
def prompts(toys):
    return {family: dataclasses.replace(random_prompt(toys[family], 3), task="capitals")
            for family in ("bert", "roberta", "albert", "gpt2")}


@pytest.fixture
def prompts_for(toys, prompts):
    """prompts_for(method) -> {family: a prompt that it can move}: "mixture" needs some that are made of words."""
    words = shared_anchors(*(toys[family] for family in prompts)).words
    draw = torch.Generator().manual_seed(0)
    spoken = {family: in_words(toys[family], prompt.task, Mixture(
        words, torch.randn(3, len(words), generator=draw).softmax(-1), torch.tensor([1.0, 0.5, 2.0])))
        for family, prompt in prompts.items()}
    return lambda method: spoken if method == "mixture" else prompts


def in_words(lm, task, mixture):
    template = f"[X] [V]*{len(mixture.gains)} [Y] ."
    return Prompt(mixture.on(lm), template, lm.name, lm.fingerprint, task, {"method": "mine"}, mixture)


def close(one, two, tolerance=1e-4):
    torch.testing.assert_close(one.vectors, two.vectors, atol=tolerance, rtol=tolerance)


def directions(prompt):
    return torch.nn.functional.normalize(prompt.vectors, dim=-1)


@pytest.mark.parametrize(("source", "target", "method"), MOVES)
def test_moved_prompt_belongs_to_the_target(toys, prompts_for, capitals, tmp_path, source, target, method):
    prompts = prompts_for(method)
    moved = transfer(prompts[source], source=toys[source], target=toys[target], method=method, **QUICK[method])
    assert moved.vectors.shape == (3, toys[target].dim)
    assert moved.vectors.dtype == torch.float32
    assert moved.vectors.isfinite().all()
    assert (moved.template, moved.task) == (prompts[source].template, "capitals")
    moved.check(toys[target])
    assert evaluate(toys[target], moved, capitals.test).n > 0
    loaded = Prompt.load(moved.save(tmp_path / "moved"))
    assert torch.equal(loaded.vectors, moved.vectors)
    assert loaded.meta == moved.meta


@pytest.mark.parametrize("method", METHODS)
def test_meta_tells_how_the_prompt_was_made(toys, prompts_for, method):
    prompts = prompts_for(method)
    moved = transfer(prompts["bert"], source=toys["bert"], target=toys["gpt2"], method=method, seed=3, **QUICK[method])
    meta = json.loads(json.dumps(moved.meta))
    assert meta == moved.meta
    assert (meta["method"], meta["target"], meta["seed"]) == (method, toys["gpt2"].name, 3)
    assert (meta["normalize"], meta["weights"]) == (METHODS[method].normalize, [1.0])
    assert QUICK[method].items() <= meta["options"].items()
    assert 0 < meta["seconds"] < 60
    lost = {"lost_weight": 0, "lacking": {}} if method == "mixture" else {}
    assert meta["sources"] == [{"lm": toys["bert"].name, "fingerprint": toys["bert"].fingerprint,
                                "meta": prompts["bert"].meta, **lost}]
    words = shared_anchors(toys["bert"], toys["gpt2"])
    assert meta["anchors"] == len(words)
    relative, anchors = encode(prompts["bert"], toys["bert"], words), words.of(toys["gpt2"])
    loss = matching_loss(relative, moved.vectors, anchors).mean().item()
    assert meta["matching_loss"] == pytest.approx(loss, abs=1e-6)
    assert loss >= 1 - fit_score(relative, anchors).mean().item() - 1e-6, "no method can beat the optimum"
    # The fit is the pair's, whatever the method.
    fits = held_out_fit(relative, anchors, seed=3)
    assert meta["fit"] == pytest.approx(fits.mean(1).max().item(), abs=1e-5)
    assert meta["fit_per_vector"] == pytest.approx(fits[fits.mean(1).argmax()].tolist(), abs=1e-5)


@pytest.mark.parametrize(("center", "top_k"), [(False, None), (True, None), (False, 40), (True, 40)])
def test_one_ridge_is_chosen_for_all_prompts(toys, center, top_k):
    """The best on held-out anchors, of those and with the centring that the search itself has."""
    source, target = toys["bert"], toys["gpt2"]
    words = shared_anchors(source, target)
    prompts = {i: random_prompt(source, 3, seed=i) for i in range(3)}
    move = {"source": source, "target": target, "method": "closed-form", "center": center, "top_k": top_k, "seed": 5}
    relative = torch.stack([encode(prompt, source, words) for prompt in prompts.values()])
    mask = None if top_k is None else top_k_mask(relative, top_k)
    expected = choose_ridge(held_out_fit(relative, words.of(target), center, mask, seed=5))
    auto, given = transfer_many(prompts, **move), transfer_many(prompts, **move, ridge=expected)
    for i, prompt in auto.items():
        assert prompt.meta["options"] == {"ridge": expected, "center": center, "top_k": top_k}
        close(prompt, given[i])


@pytest.mark.parametrize(("method", "options"), [
    ("closed-form", {"ridge": 0.0}), ("closed-form", {"ridge": 0.1, "center": True, "top_k": 30}),
    ("gradient", {"steps": 20}), ("gradient", {"steps": 20, "normalize": "affine-in-loss", "top_k": 30}),
    ("linear", {"ridge": 0.1}), ("local", {"neighbours": 20}), ("procrustes", {"whiten": True}),
    ("projector", {"epochs": 2}),
    ("weighted-sum", {"top_k": 3, "normalize": "norm-preserving"}), ("discretize", {}), ("copy", {}), ("random", {})])
def test_transfer_many_is_transfer_one_by_one(toys, method, options):
    lms = {"source": toys["bert"], "target": toys["gpt2"]}
    # One prompt is made of words, which are easy to match, and others are noise.
    words = random_prompt(toys["bert"], 3)
    words = dataclasses.replace(words, vectors=shared_anchors(*lms.values()).of(toys["bert"])[:3])
    prompts = {"words": words, **{f"noise {seed}": random_prompt(toys["bert"], 3, seed) for seed in range(3)}}
    many = transfer_many(prompts, **lms, method=method, **options)
    assert list(many) == list(prompts)
    for name, prompt in prompts.items():
        close(transfer(prompt, **lms, method=method, **options), many[name])


def test_random_draws_go_by_task(toys):
    lms = {"source": toys["bert"], "target": toys["roberta"], "method": "random"}
    prompts = {name: dataclasses.replace(random_prompt(toys["bert"], 3), task=name) for name in "abc"}
    moved = transfer_many(prompts, **lms)
    assert not torch.equal(moved["a"].vectors, moved["b"].vectors)
    for name in "bc":
        # Alone, and under another name beside other tasks.
        assert torch.equal(transfer(prompts[name], **lms).vectors, moved[name].vectors)
        beside = transfer_many({"x": prompts["a"], "y": prompts[name]}, **lms)
        assert torch.equal(beside["y"].vectors, moved[name].vectors)
    assert not torch.equal(transfer(prompts["a"], **lms, seed=1).vectors, moved["a"].vectors)


@pytest.mark.parametrize("method", SEVERAL)
def test_one_source_twice_is_one_source(toys, prompts_for, method):
    lm, target, prompt = toys["bert"], toys["roberta"], prompts_for(method)["bert"]
    twice = transfer([prompt, prompt], source=[lm, lm], target=target, method=method, **QUICK[method])
    once = transfer(prompt, source=lm, target=target, method=method, **QUICK[method])
    close(twice, once, 1e-3)
    assert twice.meta["fit"] == pytest.approx(once.meta["fit"], abs=1e-5)
    assert twice.meta["weights"] == [0.5, 0.5]
    assert len(twice.meta["sources"]) == 2


def two_sources(toys, prompts, **options):
    """The arguments of a move between LMs of three widths and tokenizers."""
    lms, target = [toys["bert"], toys["roberta"]], toys["albert"]
    return {"prompt": [prompts["bert"], prompts["roberta"]], "source": lms, "target": target,
            "anchors": shared_anchors(*lms, target), **options}


@pytest.mark.parametrize("method", SEVERAL)
def test_a_source_of_weight_0_does_not_count(toys, prompts_for, method):
    prompts = prompts_for(method)
    move = two_sources(toys, prompts, method=method, **QUICK[method])
    first = transfer(**move | {"prompt": prompts["bert"], "source": toys["bert"]})
    close(transfer(**move, weights=[1, 0]), first)
    close(transfer(**move, weights=[5.0, 0.0]), first)
    if method not in SOURCELESS:
        assert not torch.allclose(transfer(**move).vectors, first.vectors, atol=1e-2)


@pytest.mark.parametrize(("method", "options"), [
    *((method, QUICK[method]) for method in SEVERAL), ("closed-form", {"top_k": 20}),
    ("closed-form", {"ridge": 0.1, "center": True, "normalize": "norm-preserving"}),
    ("gradient", {"steps": 20, "top_k": 20}), ("weighted-sum", {"top_k": 20}), ("procrustes", {"whiten": True})])
def test_order_of_the_sources_changes_nothing(toys, prompts_for, method, options):
    move = two_sources(toys, prompts_for(method), method=method, **options)
    swapped = move | {"prompt": move["prompt"][::-1], "source": move["source"][::-1]}
    close(transfer(**move), transfer(**swapped))
    one = transfer(**move, weights=[3, 1])
    close(one, transfer(**swapped, weights=[0.25, 0.75]))
    assert one.meta["weights"] == [0.75, 0.25]


@pytest.mark.parametrize("weights", [None, [0.8, 0.2]])
@pytest.mark.parametrize("top_k", [None, 25])
def test_two_sources_reach_the_optimum_of_the_mean_loss(toys, prompts, top_k, weights):
    """No perturbation of the vectors has a lower average of the two sources' losses."""
    move = two_sources(toys, prompts, method="closed-form", weights=weights, top_k=top_k, ridge=0.0, normalize="none")
    moved, words, target = transfer(**move), move["anchors"], move["target"]
    shares = weights or [0.5, 0.5]
    relatives = [encode(p, lm, words) for p, lm in zip(move["prompt"], move["source"], strict=True)]
    mask = None if top_k is None else top_k_mask(mean_relative(relatives, shares), top_k)

    def mean_loss(vectors):
        return sum(share * matching_loss(relative, vectors, words.of(target), mask)
                   for share, relative in zip(shares, relatives, strict=True))

    noise = torch.randn(200, *moved.vectors.shape, generator=torch.Generator().manual_seed(0))
    for scale in (1e-2, 0.1, 1.0):
        rivals = moved.vectors + scale * moved.vectors.norm() * noise
        assert (mean_loss(rivals) >= mean_loss(moved.vectors) - 1e-7).all()
    # Another average has another optimum.
    other = transfer(**move | {"weights": [0.2, 0.8]})
    assert (mean_loss(other.vectors) > mean_loss(moved.vectors) + 1e-4).all()


@pytest.mark.parametrize("top_k", [None, 30])
def test_huge_ridge_is_the_weighted_sum(toys, prompts, top_k):
    move = {"source": toys["bert"], "target": toys["roberta"], "top_k": top_k, "normalize": "none"}
    solved = transfer(prompts["bert"], **move, method="closed-form", ridge=1e9)
    summed = transfer(prompts["bert"], **move, method="weighted-sum")
    torch.testing.assert_close(directions(solved), directions(summed), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("method", "options"), [
    ("closed-form", {}), ("closed-form", {"center": True}), ("gradient", {"steps": 20}), ("weighted-sum", {})])
def test_top_k_of_all_anchors_is_no_top_k(toys, prompts, method, options):
    move = {"source": toys["bert"], "target": toys["roberta"], "method": method, **options}
    plain = transfer(prompts["bert"], **move)
    close(transfer(prompts["bert"], **move, top_k=plain.meta["anchors"]), plain)
    fewer = transfer(prompts["bert"], **move, top_k=plain.meta["anchors"] // 2)
    assert not torch.allclose(fewer.vectors, plain.vectors, atol=1e-2)


def test_top_1_of_the_weighted_sum_is_the_nearest_anchor(toys, prompts):
    move = {"source": toys["bert"], "target": toys["roberta"], "normalize": "none"}
    one = transfer(prompts["bert"], **move, method="weighted-sum", top_k=1)
    torch.testing.assert_close(directions(one), directions(transfer(prompts["bert"], **move, method="discretize")))


@pytest.mark.parametrize("method", SCALED)
def test_centered_norm_keeps_the_distances_from_the_mean_of_the_anchors(toys, prompts, method):
    move = two_sources(toys, prompts, method=method, **QUICK[method])

    def from_the_mean(prompt, lm):
        return prompt.vectors - move["anchors"].of(lm).mean(0)

    def relative_lengths(prompt, lm):
        words = move["anchors"].of(lm)
        return from_the_mean(prompt, lm).norm(dim=-1) / (words - words.mean(0)).norm(dim=-1).mean()

    own = [relative_lengths(prompt, lm) for prompt, lm in zip(move["prompt"], move["source"], strict=True)]
    moved, plain = (transfer(**move, normalize=how, weights=[3, 1]) for how in ("centered-norm", "none"))
    torch.testing.assert_close(relative_lengths(moved, move["target"]), 0.75 * own[0] + 0.25 * own[1])
    ways = [torch.nn.functional.normalize(from_the_mean(p, move["target"]), dim=-1) for p in (moved, plain)]
    torch.testing.assert_close(*ways, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", SCALED)
def test_norm_preserving_keeps_the_lengths_relative_to_the_anchors(toys, prompts, method):
    move = two_sources(toys, prompts, method=method, **QUICK[method])

    def relative_lengths(prompt, lm):
        return prompt.vectors.norm(dim=-1) / move["anchors"].of(lm).norm(dim=-1).mean()

    own = [relative_lengths(prompt, lm) for prompt, lm in zip(move["prompt"], move["source"], strict=True)]
    moved = transfer(**move, normalize="norm-preserving", weights=[3, 1])
    torch.testing.assert_close(relative_lengths(moved, move["target"]), 0.75 * own[0] + 0.25 * own[1])
    plain = transfer(**move, normalize="none", weights=[3, 1])
    torch.testing.assert_close(directions(moved), directions(plain))


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "gpt2"])
@pytest.mark.parametrize(("method", "options"), [
    ("closed-form", {"ridge": 0.0}), ("linear", {"ridge": 0.0}), ("procrustes", {}), ("procrustes", {"whiten": True})])
def test_transfer_to_itself_returns_the_prompt(toys, prompts, family, method, options):
    """The cosines forget the lengths, which "norm-preserving" gives back; the maps do not."""
    lm, prompt = toys[family], prompts[family]
    plain, preserving, centered = (transfer(prompt, source=lm, target=lm, method=method, normalize=how, **options)
                                   for how in ("none", "norm-preserving", "centered-norm"))
    assert plain.meta["anchors"] >= lm.dim
    torch.testing.assert_close(directions(plain), directions(prompt), atol=1e-5, rtol=0)
    close(preserving, prompt, 1e-5)
    if method != "closed-form":
        close(plain, prompt, 1e-5)
        close(centered, prompt, 1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_transfer_to_itself_is_the_identity_for_vectors_of_one_length(toys, capitals, family):
    """Cosines forget lengths; where these are equal and of the table's scale, nothing is lost."""
    lm, made = toys[family], random_prompt(toys[family])
    unit = torch.nn.functional.normalize(made.vectors, dim=-1)
    prompt = dataclasses.replace(made, vectors=unit / unit.std() * lm.embeddings.std())
    moved = transfer(prompt, source=lm, target=lm, method="closed-form", ridge=0.0, normalize="scale")
    close(moved, prompt)
    assert evaluate(lm, moved, capitals.test).predictions.equals(evaluate(lm, prompt, capitals.test).predictions)


def test_transfer_to_itself_keeps_a_tuned_prompt_working(bert_mini, zoo_tasks, zoo_prompts):
    moved = transfer_many(zoo_prompts, source=bert_mini, target=bert_mini)
    for name, prompt in zoo_prompts.items():
        before, after, chance = (evaluate(bert_mini, p, zoo_tasks[name].test).p_at_1
                                 for p in (prompt, moved[name], random_prompt(bert_mini)))
        assert after > (before + chance) / 2
        assert moved[name].meta["fit"] == pytest.approx(1, abs=1e-5)


def test_transfer_between_zoo_models_beats_random_vectors(bert_mini, roberta_mini, zoo_tasks, zoo_prompts):
    moved = transfer_many(zoo_prompts, source=bert_mini, target=roberta_mini)
    drawn = transfer_many(zoo_prompts, source=bert_mini, target=roberta_mini, method="random")
    scores = [[evaluate(roberta_mini, prompts[name], zoo_tasks[name].test).mrr for name in zoo_prompts]
              for prompts in (moved, drawn)]
    assert sum(scores[0]) > sum(scores[1])
    assert all(prompt.meta["matching_loss"] < 0.9 for prompt in moved.values())


def test_given_anchors_are_used(toys, prompts):
    lms = {"source": toys["bert"], "target": toys["roberta"]}
    anchors = shared_anchors(*lms.values(), num=40, select="random")
    moved = transfer(prompts["bert"], **lms, method="closed-form", anchors=anchors, normalize="none", ridge=0.0)
    assert moved.meta["anchors"] == 40
    relative = encode(prompts["bert"], toys["bert"], anchors)
    loss = matching_loss(relative, moved.vectors, anchors.of(toys["roberta"])).mean().item()
    assert loss == pytest.approx(1 - fit_score(relative, anchors.of(toys["roberta"])).mean().item(), abs=1e-6)


@pytest.mark.parametrize(("options", "message"), [
    ({"method": "magic"}, "'magic'.*closed-form"), ({"normalize": "rescale"}, "'rescale'.*norm-preserving"),
    ({"normalize": "affine-in-loss"}, "only 'gradient'"),
    (CLOSED | {"steps": 5}, "no option steps.*ridge, center, top_k"),
    ({"method": "gradient", "ridge": 0.1}, "ridge"), ({"method": "discretize", "top_k": 5}, "top_k; it has none"),
    ({"method": "random", "steps": 1}, "steps"), ({"method": "linear", "whiten": True}, "whiten"),
    ({"method": "procrustes", "hidden": 8}, "hidden"), ({"move": None}, "no option move"),
    ({"ridge": -1}, "ridge=-1;"), ({"ridge": "x"}, "ridge='x';"), ({"ridge": math.nan}, "ridge=nan;"),
    ({"ridge": math.inf}, "ridge=inf;"), ({"method": "linear", "ridge": -0.1}, "ridge=-0.1;"),
    *((CLOSED | {"top_k": k}, f"top_k={k};") for k in (0, 2.5)),
    (CLOSED | {"top_k": 10**6}, r"top_k=1000000, .* \d+ anchors"),
    ({"method": "weighted-sum", "top_k": -3}, "top_k=-3;"), ({"method": "gradient", "steps": 1.5}, "steps=1.5;"),
    *(({"method": "mixture", "num_words": n}, f"num_words={n};") for n in (0, 2.5)),
    ({"method": "mixture", "top_k": 5}, "top_k; it has num_words"), ({"num_words": 5}, "no option num_words"),
    ({"method": "gradient", "steps": -1}, "steps=-1;"), ({"method": "gradient", "lr": 0}, "lr=0;"),
    ({"method": "gradient", "lr": "fast"}, "lr='fast';"), ({"method": "projector", "epochs": 0}, "epochs=0;"),
    ({"method": "projector", "hidden": 0.5}, "hidden=0.5;"), (CLOSED | {"center": "yes"}, "center='yes';"),
    ({"method": "procrustes", "whiten": 1}, "whiten=1;"), ({"weights": [1.0, 1.0]}, r"\[1.0, 1.0\] for 1 sources"),
    ({"weights": []}, r"weights=\[\] for 1"), ({"weights": [-1.0]}, r"\[-1.0\]"), ({"weights": [0.0]}, r"\[0.0\]"),
    ({"weights": [math.nan]}, r"\[nan\]"), ({"weights": [math.inf]}, r"\[inf\]"), ({"weights": ["x"]}, "x")])
def test_wrong_options_are_named(toys, prompts, options, message):
    with pytest.raises(PromptTransferError, match=message):
        transfer(prompts["bert"], source=toys["bert"], target=toys["roberta"], **options)


@pytest.mark.parametrize("weights", [[1], [1, 1, 1], [2, -1], [0, 0], [1, math.nan]])
def test_wrong_weights_of_two_sources(toys, prompts, weights):
    with pytest.raises(PromptTransferError, match="for 2 sources"):
        transfer(**two_sources(toys, prompts, weights=weights))


def test_copy_needs_equal_widths(toys, prompts):
    with pytest.raises(PromptMismatchError, match=r"16 wide.*24 wide"):
        transfer(prompts["bert"], source=toys["bert"], target=toys["roberta"], method="copy")


def test_prompts_that_do_not_fit_together(toys, capitals, prompts):
    bert, roberta, target = toys["bert"], toys["roberta"], toys["albert"]
    with pytest.raises(PromptMismatchError, match="templates"):
        transfer_many({"a": prompts["bert"], "b": random_prompt(bert, 4)}, source=bert, target=target)
    with pytest.raises(PromptMismatchError, match=roberta.name):
        transfer(prompts["bert"], source=roberta, target=target)
    with pytest.raises(PromptMismatchError, match="expected one each"):
        transfer([prompts["bert"]], source=[bert, roberta], target=target)
    with pytest.raises(PromptMismatchError, match="one source"):
        transfer([prompts["bert"]] * 2, source=[bert, bert], target=bert, method="copy")
    with pytest.raises(PromptMismatchError, match="with vectors"):
        transfer(manual_prompt(bert, capitals), source=bert, target=target)
    with pytest.raises(PromptTransferError, match="no prompts"):
        transfer_many({}, source=bert, target=target)


def test_anchors_that_do_not_fit(toys, prompts):
    with pytest.raises(AnchorError, match=toys["albert"].name):
        transfer(prompts["bert"], source=toys["bert"], target=toys["albert"],
                 anchors=shared_anchors(toys["bert"], toys["roberta"]))
    with pytest.raises(AnchorError, match="share 0 words"):
        transfer(prompts["bert"], source=toys["bert"], target=toys["greek"])


def test_a_moved_prompt_beats_simpler_ways_between_families(bert_mini, roberta_mini):
    """The promise of the paper, with prompts tuned from random vectors: both directions, mean over relations."""
    tasks = load_tasks(relations="P19,P27,P36,P103,P106,P136,P140,P176,P407,P1303,P1412")
    words = shared_anchors(bert_mini, roberta_mini).words
    scores = {method: {} for method in ("closed-form", "discretize", "copy", "random")}
    for source, target in ((bert_mini, roberta_mini), (roberta_mini, bert_mini)):
        tuned = tune_many(source, tasks, epochs=15)
        for method, evaluations in scores.items():
            moved = transfer_many(tuned, source=source, target=target, method=method)
            evaluations[source.name] = evaluate_many(target, moved, tasks, candidates=words)
    means = summarize(scores)["relation_mean"]
    assert means.drop("closed-form").max() < means["closed-form"]


def test_self_transfer_keeps_what_direct_tuning_has(bert_mini):
    tasks = load_tasks(relations="P19,P36,P103,P1303")
    tuned = tune_many(bert_mini, tasks, epochs=15)
    moved = {method: transfer_many(tuned, source=bert_mini, target=bert_mini, method=method)
             for method in ("auto", "closed-form")}
    before, *after = (summarize(evaluate_many(bert_mini, prompts, tasks))["relation_mean"].item()
                      for prompts in (tuned, *moved.values()))
    assert min(after) >= 0.95 * before


# --- prompts that are made of words, and the default ---


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_words_stay_the_same_words(toys, prompts_for, source, target):
    spoken = prompts_for("mixture")[source]
    moved = transfer(spoken, source=toys[source], target=toys[target], method="mixture")
    torch.testing.assert_close(moved.vectors, spoken.on(toys[target]).vectors, atol=1e-6, rtol=1e-6)
    assert moved.meta["options"] == {"num_words": None}


@pytest.mark.parametrize(("weights", "shares"), [(None, (0.5, 0.5)), ([3, 1], (0.75, 0.25)), ([0, 2], (0, 1))])
def test_words_of_two_sources_are_averaged(toys, prompts_for, weights, shares):
    move = two_sources(toys, prompts_for("mixture"), method="mixture", weights=weights)
    expected = sum(share * prompt.on(move["target"]).vectors
                   for share, prompt in zip(shares, move["prompt"], strict=True))
    torch.testing.assert_close(transfer(**move).vectors, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("num_words", [1, 4, 10**6])
def test_of_each_vector_the_heaviest_words_alone(toys, prompts_for, num_words):
    move = two_sources(toys, prompts_for("mixture"), method="mixture", num_words=num_words)
    expected = sum(prompt.mixture.truncated(num_words).on(move["target"]) for prompt in move["prompt"]) / 2
    moved = transfer(**move)
    torch.testing.assert_close(moved.vectors, expected, atol=1e-6, rtol=1e-6)
    assert moved.meta["options"] == {"num_words": num_words}


@pytest.mark.parametrize("options", [{}, {"method": "mixture", "num_words": 4}], ids=["all words", "few"])
def test_moved_words_can_go_on(toys, prompts_for, options):
    """From LM to LM, and home again: a move loses none of the words that it takes along."""
    lms = [toys[family] for family in ("bert", "roberta", "albert", "bert")]
    prompt = prompts_for("mixture")["bert"]
    first = transfer(prompt, source=lms[0], target=lms[1], **options)
    moved = first
    for source, target in pairwise(lms[1:]):
        moved = transfer(moved, source=source, target=target)
        assert moved.meta["method"] == "mixture"
        torch.testing.assert_close(moved.vectors, first.on(target).vectors, atol=1e-6, rtol=1e-6)
    home = prompt.mixture.truncated(options.get("num_words", 10**6)).on(lms[0])
    torch.testing.assert_close(moved.vectors, home, atol=1e-6, rtol=1e-6)


def test_a_mean_of_two_sources_is_free(toys, prompts_for):
    """Two mixtures have words, weights and gains of their own: their mean vectors are no mixture of either's."""
    assert transfer(**two_sources(toys, prompts_for("mixture"))).mixture is None


def test_words_that_the_target_lacks_are_on_record(toys):
    lm, target = toys["bert"], toys["roberta"]
    mixture = Mixture(("Paris", "zzyzx", "town"), torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]]), torch.ones(2))
    prompt = in_words(lm, "capitals", mixture)
    moved = transfer(prompt, source=lm, target=target)
    paris, town = target.embeddings[target.word_ids(["Paris", "town"])]
    directions = torch.nn.functional.normalize(torch.stack([paris * 2 + town, town]), dim=-1)
    torch.testing.assert_close(moved.vectors, target.embeddings.norm(dim=-1).mean() * directions)
    [record] = moved.meta["sources"]
    assert (record["lost_weight"], record["lacking"]) == (0.5, {"zzyzx": 0.5})
    with pytest.raises(PromptMismatchError, match=rf"{target.name}.*zzyzx"):
        transfer(prompt, source=lm, target=target, num_words=1)


def test_a_word_that_is_dropped_anyway_is_not_lost(toys):
    """Of the words that are kept, the target knows all."""
    lm, target = toys["bert"], toys["roberta"]
    mixture = Mixture(("Paris", "zzyzx", "town"), torch.tensor([[0.5, 0.125, 0.375]]), torch.ones(1))
    [record] = transfer(in_words(lm, None, mixture), source=lm, target=target, num_words=2).meta["sources"]
    assert (record["lost_weight"], record["lacking"]) == (0, {})


def test_free_vectors_are_no_words(toys, prompts, prompts_for):
    move = two_sources(toys, prompts, method="mixture")
    for first, second in ((prompts, prompts), (prompts, prompts_for("mixture")), (prompts_for("mixture"), prompts)):
        with pytest.raises(PromptMismatchError, match=r"free vectors.*parameterization='mixture'"):
            transfer(**move | {"prompt": [first["bert"], second["roberta"]]})


@pytest.mark.parametrize(("first", "second", "chosen"), [
    ("mixture", "mixture", "mixture"), ("linear", "linear", "procrustes"), ("mixture", "linear", "procrustes"),
    ("linear", "mixture", "procrustes"), ("mixture", None, "mixture"), ("linear", None, "linear")])
def test_default_is_the_method_that_it_reports(toys, prompts_for, first, second, chosen):
    """Words go as words where there are words alone; everything else goes through a map, and is scaled anew."""
    move = two_sources(toys, {"bert": prompts_for(first)["bert"], "roberta": prompts_for(second)["roberta"]})
    if second is None:
        move |= {"prompt": move["prompt"][0], "source": move["source"][0]}
    default, auto = transfer(**move), transfer(**move, method="auto")
    assert default.meta["method"] == auto.meta["method"] == chosen
    named = transfer(**move, method=chosen, normalize=default.meta["normalize"])
    assert torch.equal(default.vectors, named.vectors)
    assert torch.equal(auto.vectors, named.vectors)
    assert default.meta | {"seconds": 0} == named.meta | {"seconds": 0}


def test_default_is_one_for_all_prompts_of_a_call(toys, prompts, prompts_for):
    both = {"free": prompts["bert"], "words": prompts_for("mixture")["bert"]}
    moved = transfer_many(both, source=toys["bert"], target=toys["roberta"])
    assert {prompt.meta["method"] for prompt in moved.values()} == {"linear"}


def test_default_learns_from_frequent_words(bert_mini, roberta_mini, zoo_prompts):
    prompt = next(iter(zoo_prompts.values()))
    move = {"source": bert_mini, "target": roberta_mini}
    shared = shared_anchors(bert_mini, roberta_mini)
    count = FREQUENT_ANCHORS * roberta_mini.dim
    assert count < len(shared)
    frequent = shared_anchors(bert_mini, roberta_mini, num=count, select="frequent")
    default, named = transfer(prompt, **move), transfer(prompt, **move, method="linear", normalize="centered-norm")
    assert (default.meta["anchors"], named.meta["anchors"]) == (count, len(shared))
    assert torch.equal(default.vectors, transfer(prompt, **move, anchors=frequent).vectors)
    assert transfer(prompt, **move, anchors=shared).meta["anchors"] == len(shared)


@pytest.mark.parametrize("options", [{"ridge": 0.1}, {"ridge": "auto", "normalize": "none"}])
def test_default_takes_the_options_of_the_method(toys, prompts, options):
    lms = {"source": toys["bert"], "target": toys["roberta"]}
    default = transfer(prompts["bert"], **lms, **options)
    named = transfer(prompts["bert"], **lms, method="linear", **{"normalize": default.meta["normalize"]} | options)
    assert torch.equal(default.vectors, named.vectors)
    assert default.meta["options"] == named.meta["options"]


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("copy", "mixture")])
def test_a_method_that_is_named_is_normalised_as_in_the_paper_or_never(toys, prompts, method):
    lms = {"source": toys["bert"], "target": toys["roberta"], "method": method, **QUICK[method]}
    plain, auto, affine = (transfer(prompts["bert"], **lms, **options)
                           for options in ({}, {"normalize": "auto"}, {"normalize": "affine"}))
    own = METHODS[method].normalize
    assert [prompt.meta["normalize"] for prompt in (plain, auto, affine)] == [own] * 3
    assert torch.equal(plain.vectors, affine.vectors)
    assert torch.equal(auto.vectors, affine.vectors)


# --- no label of the target enters ---


def rotated(examples):
    """The same subjects, each with the object of the next."""
    objects = [example.object for example in examples]
    return tuple(dataclasses.replace(e, object=o) for e, o in zip(examples, objects[1:] + objects[:1], strict=True))


WORDS = {"parameterization": "mixture", "epochs": 4}
# {way: (source families, how they are tuned, how that is moved)}
WAYS = {
    "mixture": (["bert"], WORDS, {"method": "mixture"}), "mixture, default": (["bert"], WORDS, {}),
    "mixture, few words": (["bert"], WORDS, {"num_words": 30}), "joint": (["bert", "roberta"], WORDS, {}),
    **{method: (["bert"], {"epochs": 4}, {"method": method, **QUICK.get(method, {})})
       for method in ("auto", "closed-form", "linear", "procrustes", "gradient")},
    "distilled": (["bert"], WORDS, {})}


def moved_by(way, toys, task):
    """Tuned on the source and moved to a target that is asked nothing but, for "distilled", its answers."""
    families, tuning, moving = WAYS[way]
    target, lms = toys["albert"], [toys[family] for family in families]
    # Of a joint mixture, the prompt as it is on the first is the one that goes on.
    tuned = tune(lms if len(lms) > 1 else lms[0], task, num_vectors=3, **tuning)
    moved = transfer(tuned, source=lms[0], target=target, **moving)
    if way == "distilled":
        subjects = [example.subject for example in task.train + task.dev + task.test]
        moved = refine(moved, target, source=lms, teacher=[tuned], inputs=subjects, epochs=3)
    return moved


@pytest.mark.parametrize("way", WAYS)
def test_labels_of_test_facts_change_nothing(toys, capitals, way):
    """Rotated, so that every single one is wrong, they give the same prompt to the last bit.

    Free vectors are chosen on dev facts, on the source: there, dev stays as it is. Mixtures are tuned with noise, which
    does not look at dev: there, dev is wrong too.
    """
    wrong = dataclasses.replace(capitals, test=rotated(capitals.test))
    if "parameterization" in WAYS[way][1]:
        wrong = dataclasses.replace(wrong, dev=rotated(capitals.dev))
    right = moved_by(way, toys, capitals)
    assert torch.equal(moved_by(way, toys, wrong).vectors, right.vectors)
    # What would change it are labels that the source learns from, and what they change is the score.
    taught = moved_by(way, toys, dataclasses.replace(capitals, train=rotated(capitals.train)))
    assert not torch.equal(taught.vectors, right.vectors)
    scores = [evaluate(toys["albert"], right, task.test).ranks.tolist() for task in (capitals, wrong)]
    assert scores[0] != scores[1]


@pytest.mark.parametrize("way", ["mixture", "joint", "auto", "closed-form", "procrustes", "gradient"])
def test_the_move_itself_sees_embeddings_alone(toys, capitals, way):
    """A target of which there is nothing but the table and the tokenizer gives the same prompt to the last bit."""
    part = load_lm(toys["albert"].name, embeddings_only=True)
    assert torch.equal(moved_by(way, {**toys, "albert": part}, capitals).vectors, moved_by(way, toys, capitals).vectors)


def test_mixtures_move_better_than_free_vectors(bert_mini, roberta_mini):
    """Without a label and without a forward pass of the target, by a clear margin; and near what they do at home."""
    tasks = load_tasks(relations="P36,P103,P27,P1303")
    words = shared_anchors(bert_mini, roberta_mini).words
    scores = {}
    for how, options in (("free", {"epochs": 20}), ("words", {"epochs": 20, "parameterization": "mixture"})):
        tuned = tune_many(bert_mini, tasks, **options)
        moved = transfer_many(tuned, source=bert_mini, target=roberta_mini)
        scores[how] = evaluate_many(roberta_mini, moved, tasks, candidates=words)
        scores[how, "home"] = evaluate_many(bert_mini, tuned, tasks, candidates=words)
    means = {how: summarize(evaluations)["relation_mean"].item() for how, evaluations in scores.items()}
    assert means["words"] > means["free"] + 0.2
    assert means["words"] > 0.8 * means["words", "home"]
