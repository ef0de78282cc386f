"""The explorer without a browser: its data by brute force, its figure and its panel by what they hold."""

from dataclasses import replace

import pytest
import torch

import ptlib
from ptlib.evaluation.scores import answer_distributions
from ptlib.lab.explorations import CALIBRATED, Kept, gained_and_lost
from ptlib.lab.plane import linked_planes
from ptlib.lab.widgets import Explorer, draw, explore, panel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def explorer(toys, capitals) -> Explorer:
    """Three LMs, two of them of one width, and two tasks."""
    fewer = replace(capitals, name="fewer capitals", train=capitals.train[:4], manual_template=None)
    return Explorer([toys["bert"], toys["roberta"], toys["gpt2"]], [capitals, fewer], num_vectors=2, epochs=2)


@pytest.fixture
def pair(explorer):
    return {"source": explorer.lms[0], "target": explorer.lms[1], "task": explorer.tasks[0]}


def cosine(vector, lm, word) -> float:
    [row] = lm.word_ids([word])
    return float(vector @ lm.embeddings[row] / (vector.norm() * lm.embeddings[row].norm()))


# --- the data ---


def test_nearest_words_are_those_of_a_search_by_hand(explorer, pair):
    found = explorer.explore(**pair, num_anchors=16, select="random", num_nearest=4)
    words = ptlib.shared_anchors(pair["source"], pair["target"]).words
    for side, lm, prompt in (("source", pair["source"], explorer.tuned(pair["source"], pair["task"])),
                             ("moved", pair["target"], found.moved)):
        for i, vector in enumerate(prompt.vectors, 1):
            by_hand = sorted(((cosine(vector, lm, word), word) for word in words), reverse=True)[:4]
            assert found.nearest.loc[i][side]["word"].tolist() == [word for _, word in by_hand]
            assert found.nearest.loc[i][side]["cosine"].tolist() == pytest.approx([c for c, _ in by_hand], abs=1e-5)


def test_strongest_anchors_are_the_nearest_of_some_source_vector(explorer, pair):
    found = explorer.explore(**pair, num_anchors=16, select="frequent", num_nearest=2)
    anchors = ptlib.shared_anchors(pair["source"], pair["target"], num=16, select="frequent").words
    prompt = explorer.tuned(pair["source"], pair["task"])
    by_hand = {word for vector in prompt.vectors
               for word in sorted(anchors, key=lambda word: -cosine(vector, pair["source"], word))[:2]}
    assert set(found.strongest.index) == by_hand
    assert found.strongest.index.is_unique
    for side, lm, vectors in (("source", pair["source"], prompt.vectors),
                              ("moved", pair["target"], found.moved.vectors)):
        for i, vector in enumerate(vectors, 1):
            assert found.strongest[side, i].tolist() == pytest.approx(
                [cosine(vector, lm, word) for word in found.strongest.index], abs=1e-5)


def test_scores_are_those_of_evaluate(explorer, pair):
    source, target, task = pair.values()
    found = explorer.explore(**pair, num_anchors=16, select="random", seed=1, method="closed-form", ridge=0.1,
                             normalize="scale")
    few, words = ptlib.shared_anchors(source, target, num=16, select="random", seed=1), ptlib.shared_anchors(
        source, target).words
    prompt, direct = (ptlib.tune(lm, task, num_vectors=2, epochs=2, seed=1) for lm in (source, target))
    moved = ptlib.transfer(prompt, source=source, target=target, anchors=few, method="closed-form", ridge=0.1,
                           normalize="scale", seed=1)
    noise = ptlib.transfer(prompt, source=source, target=target, method="random", seed=1)
    by_hand = {"on the source": (source, prompt), "direct tuning": (target, direct), "moved": (target, moved),
               "manual template": (target, ptlib.manual_prompt(target, task)), "random": (target, noise)}
    assert list(found.scores.index) == list(by_hand)
    assert torch.equal(found.moved.vectors, moved.vectors)
    assert found.fit == moved.meta["fit"]
    for label, (lm, one) in by_hand.items():
        expected = ptlib.evaluate(lm, one, task.test, candidates=words)  # not the 16 anchors
        assert found.evaluations[label].predictions.equals(expected.predictions)
        assert found.scores.loc[label].tolist() == [expected.p_at_1, *expected.interval, expected.n]


def test_a_prompt_moved_to_its_own_model_is_the_same(explorer, pair):
    lm = pair["source"]
    found = explorer.explore(lm, lm, pair["task"], method="closed-form", ridge=0.0, normalize="norm-preserving")
    assert found.nearest["source", "word"].equals(found.nearest["moved", "word"].rename(("source", "word")))
    assert found.strongest["source"].to_numpy() == pytest.approx(found.strongest["moved"].to_numpy(), abs=1e-4)
    assert found.scores.loc["moved"].equals(found.scores.loc["on the source"].rename("moved"))


def test_without_a_manual_template_there_is_no_row_for_it(explorer, pair):
    found = explorer.explore(pair["source"], pair["target"], explorer.tasks[1])
    assert list(found.scores.index) == ["on the source", "direct tuning", "moved", "random"]


def test_prompts_are_tuned_once(explorer, pair):
    lm, task = pair["source"], pair["task"]
    first = explorer.tuned(lm, task)
    explorer.explore(**pair, method="discretize")
    assert explorer.tuned(lm, task) is first
    others = [explorer.tuned(lm, task, seed=1), explorer.tuned(pair["target"], task),
              explorer.tuned(lm, explorer.tasks[1])]
    assert all(other is not first for other in others)
    assert not torch.equal(others[0].vectors, first.vectors)


def test_prompts_of_other_models_are_refused(explorer, pair):
    prompt, direct = (explorer.tuned(pair[lm], pair["task"]) for lm in ("source", "target"))
    with pytest.raises(ptlib.PromptMismatchError, match="made for"):
        explore(direct, prompt, **pair)


def test_an_explorer_needs_something_to_explore(capitals):
    with pytest.raises(ptlib.PromptTransferError, match="0 LMs and 1 tasks"):
        Explorer([], [capitals])


def test_a_calibrated_prompt_is_scored_beside_the_plain_one(explorer, pair):
    source, target, task = pair.values()
    prompt = explorer.tuned(source, task)
    found = explorer.explore(**pair, strength=0.5)
    by_hand = ptlib.calibrate(ptlib.transfer(prompt, source=source, target=target), target, source=source,
                              teacher=prompt, inputs=[example.subject for example in task.train], strength=0.5)
    assert torch.equal(found.moved.offsets, by_hand.offsets)
    words = ptlib.shared_anchors(source, target).words
    for label, one in ((CALIBRATED, by_hand), ("moved", replace(by_hand, offsets=None))):
        expected = ptlib.evaluate(target, one, task.test, candidates=words)
        assert found.evaluations[label].ranks.tolist() == expected.ranks.tolist()
    assert found.outcome is found.evaluations[CALIBRATED]
    assert found.history.method == "linear"
    with pytest.raises(ptlib.PromptTransferError, match="'much'"):
        explorer.explore(**pair, strength="much")


def test_several_sources_have_vectors_of_their_own_or_one_mixture(explorer):
    sources, target, task = explorer.lms[:2], explorer.lms[2], explorer.tasks[0]
    free = explorer.explore(sources, target, task)
    prompts = [explorer.tuned(lm, task) for lm in sources]
    assert torch.equal(free.moved.vectors, ptlib.transfer(prompts, source=sources, target=target).vectors)
    mixed = explorer.explore(sources, target, task, parameterization="mixture")
    mixture = explorer.tuned(sources, task, parameterization="mixture")
    assert torch.allclose(mixed.moved.vectors, mixture.on(target).vectors, atol=1e-5)
    assert list(mixed.evaluations)[:2] == [f"on {lm.name}" for lm in sources]
    with pytest.raises(ptlib.PromptTransferError, match="no source"):
        explorer.explore([], target, task)


def test_changed_weights_are_those_of_the_moved_prompt(explorer, pair):
    source, target, task = pair.values()
    mixture = explorer.tuned(source, task, parameterization="mixture")
    word = next(iter(mixture.mixture.leading(1)))
    found = explorer.explore(**pair, parameterization="mixture", weights={(1, word): 0.0})
    by_hand = mixture.with_weights(source, {(1, word): 0.0}).on(target)
    assert torch.allclose(found.moved.vectors, by_hand.vectors, atol=1e-5)
    assert not torch.allclose(found.moved.vectors[1], mixture.on(target).vectors[1], atol=1e-2)


@pytest.mark.parametrize("setting", [
    {}, {"method": "closed-form", "num_anchors": 16, "select": "random", "seed": 1, "top_k": 4},
    {"parameterization": "mixture", "strength": "auto"},
    {"parameterization": "mixture", "weights": 0.2, "strength": 1.0},
])
def test_the_lines_of_code_make_the_same_prompt(explorer, pair, setting, capsys):
    """The task of the test is not on disk, so that its name stands for it."""
    if "weights" in setting:
        mixture = explorer.tuned(pair["source"], pair["task"], parameterization="mixture")
        setting = {**setting, "weights": {(0, next(iter(mixture.mixture.leading(0)))): setting["weights"]}}
    found = explorer.explore(**pair, **setting)
    code = found.code.replace("task = ptlib.load_task('capitals', root=None)", "")
    made = {"task": pair["task"]}
    exec(code, made)
    assert torch.allclose(made["moved"].vectors, found.moved.vectors, atol=1e-5)
    assert repr(found.outcome) in capsys.readouterr().out


def test_answers_are_the_most_probable_shared_words(explorer, pair):
    found = explorer.explore(**pair)
    words = list(ptlib.shared_anchors(pair["source"], pair["target"]).words)
    shares = answer_distributions(pair["target"], found.moved, ["Atlantis"], words)[0].tolist()
    by_hand = sorted(zip(shares, words, strict=True), reverse=True)[:4]
    table = found.answers("Atlantis", 4)["target"]
    assert table["word"].tolist() == [word for _, word in by_hand]
    assert table["probability"].tolist() == pytest.approx([share for share, _ in by_hand], abs=1e-5)
    with pytest.raises(ptlib.PromptTransferError, match="empty"):
        found.answers("  ")


def test_gained_and_lost_facts_add_up(explorer, pair):
    found = explorer.explore(**pair)
    before, now = found.evaluations["direct tuning"], found.evaluations["on the source"]
    table = gained_and_lost(before, now)
    right = [{example for example, rank in zip(one.examples, one.ranks, strict=True) if rank == 1}
             for one in (before, now)]
    for change, facts in (("gained", right[1] - right[0]), ("lost", right[0] - right[1])):
        rows = table[table["change"] == change]
        assert {tuple(row) for row in rows[["subject", "object"]].to_numpy()} == {(f.subject, f.object) for f in facts}
    assert (table["instead"] != table["object"]).all()
    assert gained_and_lost(now, now).empty


def test_linked_planes_show_the_most_covariance(explorer, pair):
    """No other pair of directions has words that vary more together; and a space lies on itself."""
    source, target = pair["source"], pair["target"]
    words = ptlib.shared_anchors(source, target)
    planes = linked_planes(words, source, target)
    points = [plane.of(words.of(lm)) for plane, lm in zip(planes, (source, target), strict=True)]
    covariance = (points[0] * points[1]).sum(0)
    assert (points[0].T @ points[1]).fill_diagonal_(0).abs().max() < 1e-3
    generator = torch.Generator().manual_seed(0)
    tables = [torch.nn.functional.normalize(words.of(lm), dim=-1) - plane.origin
              for plane, lm in zip(planes, (source, target), strict=True)]
    for _ in range(50):
        x, y = (table @ torch.nn.functional.normalize(torch.randn(table.shape[1], generator=generator), dim=0)
                for table in tables)
        assert (x * y).sum() < covariance[0]
    same = linked_planes(words, source, source)
    assert torch.allclose(same[0].of(words.of(source)), same[1].of(words.of(source)), atol=1e-4)


def test_what_is_kept_is_made_once_and_the_oldest_goes():
    kept, made = Kept(2), []
    for key in (1, 2, 1, 3, 1, 2):
        assert kept.once(lambda key=key: made.append(key) or key * 10, key) == key * 10
    assert made == [1, 2, 3, 2]


# --- the figure ---


def test_the_figure_holds_the_same_content(explorer, pair):
    found = explorer.explore(**pair, method="closed-form", ridge=0.3)
    figure = draw(found)
    table, bars, here, there, scale = figure.axes
    assert scale.get_ylim() == (0, 1), "one scale for all figures"
    texts = [text.get_text() for text in table.texts]
    for side in ("source", "moved"):
        assert set(found.nearest[side, "word"]) <= set(texts)
    assert [label.get_text() for label in here.get_yticklabels()] == list(found.strongest.index)
    for side, ax in (("source", here), ("moved", there)):
        cosines = found.strongest[side].to_numpy().flatten()
        assert [int(text.get_text()) for text in ax.texts] == [round(100 * c) for c in cosines.tolist()]
    assert [bar.get_width() for bar in bars.patches] == pytest.approx((100 * found.scores["p_at_1"]).tolist())
    assert [label.get_text() for label in bars.get_yticklabels()] == list(found.scores.index)
    assert "closed-form, ridge 0.3, normalisation affine" in figure.get_suptitle()
    assert "capitals" in figure.get_suptitle()


def test_bold_words_are_near_on_both_sides(explorer, pair):
    """On its own model, every word of a moved prompt is near on both sides."""
    same = explorer.explore(pair["source"], pair["source"], pair["task"], method="closed-form", ridge=0.0,
                            normalize="norm-preserving")
    weights = {text.get_text(): text.get_weight() for text in draw(same).axes[0].texts}
    assert {weights[word] for word in same.nearest["source", "word"]} == {"bold"}
    assert weights["source"] == "normal"


# --- the panel ---


@pytest.fixture
def opened(explorer):
    """A new panel, on free vectors."""
    shown = panel(explorer)
    shown.knobs["parameterization"].value = "vectors"
    return shown


def test_the_panel_opens_on_a_mixture(explorer, pair):
    opened = panel(explorer)
    by_hand = explorer.explore(**pair, parameterization="mixture")
    assert torch.equal(opened.exploration.moved.vectors, by_hand.moved.vectors)
    assert (opened.picture.doing, opened.picture.failure) == ("", "")
    shown = opened.picture.shown
    assert [score["p"] for score in shown["scores"]] == by_hand.scores["p_at_1"].tolist()
    assert [[bar["word"] for bar in vector] for vector in shown["mixture"]] == [
        list(by_hand.prompts[0].mixture.leading(i, 6)) for i in range(2)]
    assert opened.picture.map["words"] == list(by_hand.words.words)


def test_a_page_without_a_kernel_shows_the_figure(explorer):
    opened = panel(explorer)
    data, _ = opened._repr_mimebundle_()
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"] == repr(opened.exploration)


TURNS = {"source": lambda e: (e.lms[2],), "target": lambda e: e.lms[0], "task": lambda e: e.tasks[1],
         "parameterization": lambda e: "mixture", "method": lambda e: "closed-form", "normalize": lambda e: "scale",
         "num_anchors": lambda e: 16, "select": lambda e: "frequent", "strength": lambda e: 1.0, "seed": lambda e: 1}


@pytest.mark.parametrize("name", TURNS)
def test_every_knob_turns_there_and_back(explorer, opened, name):
    if name in ("normalize", "select"):  # they depend on others
        opened.knobs["method"].value, opened.knobs["num_anchors"].value = "procrustes", 16
    knob = opened.knobs[name]
    assert not knob.disabled
    before, value = opened.picture.shown, knob.value
    knob.value = TURNS[name](explorer)
    assert opened.picture.failure == ""
    assert {key: opened.picture.shown[key] for key in ("title", "code")} != {key: before[key]
                                                                             for key in ("title", "code")}
    knob.value = value
    assert opened.picture.shown == before


def test_a_method_has_its_own_options_only(opened):
    for method, one in ptlib.METHODS.items():
        if not one.needs_mixtures and method not in ("projector", "gradient"):
            opened.knobs["method"].value = method
            assert list(opened.own) == [name for name in one.kinds if name != "progress"]
    assert "mixture" not in opened.knobs["method"].options
    opened.knobs["parameterization"].value = "mixture"
    opened.knobs["method"].value = "mixture"
    opened.own["num_words"].value = 1
    assert opened.exploration.history.options == {"num_words": 1}
    opened.own["num_words"].value = "all"
    assert opened.exploration.history.options == {"num_words": None}
    opened.knobs["parameterization"].value = "vectors"
    assert opened.knobs["method"].value == "auto"


def test_an_impossible_setting_says_why_and_the_last_picture_stays(explorer, pair, opened):
    before = opened.picture.shown
    opened.knobs["method"].value = "copy"  # between two widths
    with pytest.raises(ptlib.PromptTransferError, match="expected equal widths") as error:
        explorer.explore(**pair, method="copy")
    assert (opened.picture.failure, opened.picture.doing) == (str(error.value), "")
    assert opened.picture.shown == before
    opened.knobs["source"].value = ()
    assert "no source" in opened.picture.failure
    opened.knobs["source"].value = (pair["source"],)
    opened.knobs["method"].value = "auto"
    assert (opened.picture.failure, opened.picture.shown) == ("", before)


def test_a_model_that_cannot_be_tuned_is_no_traceback_either(toys, capitals):
    picture = panel(Explorer([toys["bert"], toys["greek"]], [capitals], num_vectors=2, epochs=1)).picture
    assert picture.failure and not picture.shown


def test_bars_are_scored_and_go_back(explorer, pair):
    opened = panel(explorer)
    before = opened.picture.shown
    word = before["mixture"][0][0]["word"]
    opened.picture.weights = {f"0 {word}": 0.0}
    by_hand = explorer.explore(**pair, parameterization="mixture", weights={(0, word): 0.0})
    assert torch.equal(opened.exploration.moved.vectors, by_hand.moved.vectors)
    bars = opened.picture.shown["mixture"][0]
    assert [bar["word"] for bar in bars] == [bar["word"] for bar in before["mixture"][0]], "bars keep their places"
    assert bars[0]["weight"] == 0
    assert len(opened.picture.history) == 1, "a drag is one line of the history"
    opened.picture.weights = {}
    assert opened.picture.shown == before
    opened.picture.weights = {f"0 {word}": 0.5}
    opened.knobs["seed"].value = 1  # another prompt, with other words
    assert opened.picture.weights == {}


def test_a_pinned_setting_is_compared_with(opened):
    number = opened.picture.history[0]["number"]
    pinned = opened.exploration
    opened._told(None, {"do": "pin", "number": number}, None)
    opened.knobs["method"].value = "random"
    shown = opened.picture.shown
    assert [score["pinned"] for score in shown["scores"]] == pinned.scores["p_at_1"].tolist()
    table = gained_and_lost(pinned.outcome, opened.exploration.outcome)
    assert len(shown["facts"]["gained"]) + len(shown["facts"]["lost"]) == len(table)
    assert [past["pinned"] for past in opened.picture.history].count(True) == 1
    opened._told(None, {"do": "restore", "number": number}, None)
    assert opened.knobs["method"].value == "auto"
    assert opened.exploration is pinned
    opened._told(None, {"do": "pin", "number": number}, None)
    assert {score["pinned"] for score in opened.picture.shown["scores"]} == {None}


def test_what_is_saved_can_be_used(opened, tmp_path):
    sent = []
    opened.picture.send = lambda about, buffers: sent.append((about, *buffers))
    for what in ("picture", "prompt", "code"):
        opened._told(None, {"do": what}, None)
    picture, prompt, code = (content for _, content in sent)
    assert picture.startswith(b"\x89PNG")
    (tmp_path / "prompt.safetensors").write_bytes(prompt)
    assert torch.equal(ptlib.Prompt.load(tmp_path / "prompt.safetensors").vectors, opened.exploration.moved.vectors)
    assert code.decode() == opened.exploration.code
    assert [about["name"].rpartition(".")[2] for about, _ in sent] == ["png", "safetensors", "py"]


def test_both_models_are_asked(opened):
    fact = opened.exploration.outcome.examples[0]
    opened.picture.subject = fact.subject
    answers = opened.picture.answers
    table = opened.exploration.answers(fact.subject)
    assert [row["target"][0] for row in answers["rows"]] == table["target", "word"].tolist()
    assert answers["object"] == fact.object
    opened.knobs["method"].value = "random"
    assert opened.picture.answers != answers, "another prompt is asked again"
    opened.picture.subject = " "
    assert "empty" in opened.picture.answers["failure"]


def test_only_what_is_new_is_tuned(explorer, pair, opened):
    before, said = dict(explorer.prompts), []
    opened.picture.observe(lambda change: said.append(change["new"]), "doing")
    opened.knobs["method"].value = "weighted-sum"
    assert explorer.prompts == before
    assert said == ["transferring …", ""]
    opened.knobs["seed"].value = 7
    new = [pair["source"].name, pair["target"].name]
    assert explorer.prompts.keys() - before.keys() == {((name,), "capitals", 7, "vectors") for name in new}
    assert said[2:] == [f"tuning on {new[0]} and {new[1]} …", ""]
