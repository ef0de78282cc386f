"""transfer(): every method behind one signature, what it records and what it refuses."""

import dataclasses
import json

import pytest
import torch

from ptlib import (
    METHODS,
    AnchorError,
    Prompt,
    PromptMismatchError,
    PromptTransferError,
    encode,
    evaluate,
    evaluate_many,
    load_tasks,
    manual_prompt,
    random_prompt,
    shared_anchors,
    summarize,
    transfer,
    transfer_many,
    tune_many,
)
from ptlib.search import fit_score, matching_loss

QUICK = {"closed-form": {}, "gradient": {"steps": 20}, "discretize": {}, "copy": {}, "random": {}}
PAIRS = [("bert", "roberta"), ("roberta", "albert"), ("albert", "bert"), ("bert", "gpt2")]
MOVES = [(*pair, method) for pair in PAIRS for method in METHODS if method != "copy" or pair == ("bert", "gpt2")]


@pytest.fixture
def prompts(toys):
    return {family: dataclasses.replace(random_prompt(toys[family], 3), task="capitals")
            for family in ("bert", "roberta", "albert", "gpt2")}


def close(one, two, tolerance=1e-4):
    torch.testing.assert_close(one.vectors, two.vectors, atol=tolerance, rtol=tolerance)


def test_every_method_is_tried_here():
    assert set(QUICK) == set(METHODS)


@pytest.mark.parametrize(("source", "target", "method"), MOVES)
def test_moved_prompt_belongs_to_the_target(toys, prompts, capitals, tmp_path, source, target, method):
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
def test_meta_tells_how_the_prompt_was_made(toys, prompts, method):
    moved = transfer(prompts["bert"], source=toys["bert"], target=toys["gpt2"], method=method, seed=3, **QUICK[method])
    meta = json.loads(json.dumps(moved.meta))
    assert meta == moved.meta
    assert (meta["method"], meta["target"], meta["seed"]) == (method, toys["gpt2"].name, 3)
    assert QUICK[method].items() <= meta["options"].items()
    assert meta["seconds"] > 0
    assert meta["sources"] == [{"lm": toys["bert"].name, "fingerprint": toys["bert"].fingerprint,
                                "meta": prompts["bert"].meta}]
    if method in ("closed-form", "gradient"):
        words = shared_anchors(toys["bert"], toys["gpt2"])
        relative, anchors = encode(prompts["bert"], toys["bert"], words), words.of(toys["gpt2"])
        assert (meta["anchors"], meta["normalize"]) == (len(words), "affine")
        assert meta["fit_per_vector"] == pytest.approx(fit_score(relative, anchors).tolist())
        assert meta["fit"] == pytest.approx(sum(meta["fit_per_vector"]) / 3)
        loss = matching_loss(relative, moved.vectors, anchors).mean().item()
        assert meta["matching_loss"] == pytest.approx(loss, abs=1e-6)
        assert loss >= 1 - meta["fit"] - 1e-6
    if method == "closed-form":
        assert isinstance(meta["options"]["ridge"], float)


@pytest.mark.parametrize(("method", "options"), [
    ("closed-form", {"ridge": 0.0}), ("closed-form", {"ridge": 0.1, "center": True}), ("gradient", {"steps": 20}),
    ("gradient", {"steps": 20, "normalize": "affine-in-loss"}), ("discretize", {}), ("copy", {}), ("random", {})])
def test_transfer_many_is_transfer_one_by_one(toys, method, options):
    lms = {"source": toys["bert"], "target": toys["gpt2"]}
    # One prompt is made of words, which are easy to match, and one is noise.
    words = random_prompt(toys["bert"], 3)
    words = dataclasses.replace(words, vectors=shared_anchors(*lms.values()).of(toys["bert"])[:3])
    prompts = {"words": words, **{f"noise {seed}": random_prompt(toys["bert"], 3, seed) for seed in range(3)}}
    many = transfer_many(prompts, **lms, method=method, **options)
    assert list(many) == list(prompts)
    for name, prompt in prompts.items():
        close(transfer(prompt, **lms, method=method, **options), many[name])


@pytest.mark.parametrize("method", ["closed-form", "gradient"])
def test_one_source_twice_is_one_source(toys, prompts, method):
    lm, target, prompt = toys["bert"], toys["roberta"], prompts["bert"]
    twice = transfer([prompt, prompt], source=[lm, lm], target=target, method=method, **QUICK[method])
    close(twice, transfer(prompt, source=lm, target=target, method=method, **QUICK[method]), 1e-3)
    assert len(twice.meta["sources"]) == 2


@pytest.mark.parametrize("method", ["closed-form", "gradient"])
def test_order_of_the_sources_changes_nothing(toys, prompts, method):
    lms, both = [toys["bert"], toys["roberta"]], [prompts["bert"], prompts["roberta"]]
    one = transfer(both, source=lms, target=toys["albert"], method=method, **QUICK[method])
    two = transfer(both[::-1], source=lms[::-1], target=toys["albert"], method=method, **QUICK[method])
    close(one, two)
    alone = transfer(both[0], source=lms[0], target=toys["albert"], method=method, **QUICK[method])
    assert not torch.allclose(alone.vectors, one.vectors, atol=1e-2), "the second source should count"


def test_two_sources_reach_the_optimum_of_the_mean_loss(toys, prompts):
    """No perturbation of the vectors has a lower average of the two sources' losses."""
    lms, both, target = [toys["bert"], toys["roberta"]], [prompts["bert"], prompts["roberta"]], toys["albert"]
    words = shared_anchors(*lms, target)
    moved = transfer(both, source=lms, target=target, ridge=0.0, normalize="none")

    def mean_loss(vectors):
        losses = [matching_loss(encode(p, lm, words), vectors, words.of(target))
                  for p, lm in zip(both, lms, strict=True)]
        return torch.stack(losses).mean(0)

    noise = torch.randn(200, *moved.vectors.shape, generator=torch.Generator().manual_seed(0))
    for scale in (1e-2, 0.1, 1.0):
        rivals = moved.vectors + scale * moved.vectors.norm() * noise
        assert (mean_loss(rivals) >= mean_loss(moved.vectors) - 1e-7).all()


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_transfer_to_itself_is_the_identity_for_vectors_of_one_length(toys, capitals, family):
    """Cosines forget lengths; where these are equal and of the table's scale, nothing is lost."""
    lm, made = toys[family], random_prompt(toys[family])
    unit = torch.nn.functional.normalize(made.vectors, dim=-1)
    prompt = dataclasses.replace(made, vectors=unit / unit.std() * lm.embeddings.std())
    moved = transfer(prompt, source=lm, target=lm, ridge=0.0, normalize="scale")
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
    moved = transfer(prompts["bert"], **lms, anchors=anchors, normalize="none", ridge=0.0)
    assert moved.meta["anchors"] == 40
    relative = encode(prompts["bert"], toys["bert"], anchors)
    loss = matching_loss(relative, moved.vectors, anchors.of(toys["roberta"])).mean().item()
    assert loss == pytest.approx(1 - moved.meta["fit"], abs=1e-5)


@pytest.mark.parametrize(("options", "message"), [
    ({"method": "magic"}, "magic"), ({"normalize": "rescale"}, "rescale"), ({"steps": 5}, "steps"),
    ({"method": "gradient", "ridge": 0.1}, "ridge"), ({"method": "discretize", "ridge": 0.1}, "ridge"),
    ({"method": "random", "steps": 1}, "steps"), ({"normalize": "affine-in-loss"}, "gradient"),
    ({"ridge": "some"}, "ridge"), ({"ridge": -1.0}, "ridge")])
def test_unknown_method_option_or_normalization(toys, prompts, options, message):
    with pytest.raises(PromptTransferError, match=message):
        transfer(prompts["bert"], source=toys["bert"], target=toys["roberta"], **options)


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
    scores = {method: [] for method in ("closed-form", "discretize", "copy", "random")}
    for source, target in ((bert_mini, roberta_mini), (roberta_mini, bert_mini)):
        tuned = tune_many(source, tasks, epochs=15)
        for method, evaluations in scores.items():
            moved = transfer_many(tuned, source=source, target=target, method=method)
            evaluations += evaluate_many(target, moved, tasks, candidates=words)
    means = summarize(scores)["relation_mean"]
    assert means.drop("closed-form").max() < means["closed-form"]


def test_self_transfer_keeps_what_direct_tuning_has(bert_mini):
    tasks = load_tasks(relations="P19,P36,P103,P1303")
    tuned = tune_many(bert_mini, tasks, epochs=15)
    moved = transfer_many(tuned, source=bert_mini, target=bert_mini)
    before, after = (summarize(evaluate_many(bert_mini, prompts, tasks))["relation_mean"].item()
                     for prompts in (tuned, moved))
    assert after >= 0.95 * before
