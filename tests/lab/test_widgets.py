"""The explorer without a browser: its data by brute force, its figure and its panel by what they hold."""

import html
from dataclasses import replace

import pytest
import torch

import ptlib
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
    found = explorer.explore(**pair, num_anchors=16, select="random", num_words=4)
    words = ptlib.shared_anchors(pair["source"], pair["target"]).words
    for side, lm, prompt in (("source", pair["source"], explorer.tuned(pair["source"], pair["task"])),
                             ("moved", pair["target"], found.moved)):
        for i, vector in enumerate(prompt.vectors, 1):
            by_hand = sorted(((cosine(vector, lm, word), word) for word in words), reverse=True)[:4]
            assert found.nearest.loc[i][side]["word"].tolist() == [word for _, word in by_hand]
            assert found.nearest.loc[i][side]["cosine"].tolist() == pytest.approx([c for c, _ in by_hand], abs=1e-5)


def test_strongest_anchors_are_the_nearest_of_some_source_vector(explorer, pair):
    found = explorer.explore(**pair, num_anchors=16, select="frequent", num_words=2)
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
    found = explorer.explore(**pair, num_anchors=16, select="random", seed=1, ridge=0.1, normalize="scale")
    few, words = ptlib.shared_anchors(source, target, num=16, select="random", seed=1), ptlib.shared_anchors(
        source, target).words
    prompt, direct = (ptlib.tune(lm, task, num_vectors=2, epochs=2, seed=1) for lm in (source, target))
    moved = ptlib.transfer(prompt, source=source, target=target, anchors=few, ridge=0.1, normalize="scale", seed=1)
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
    found = explorer.explore(lm, lm, pair["task"], ridge=0.0, normalize="norm-preserving")
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


# --- the figure ---


def test_the_figure_holds_the_same_content(explorer, pair):
    found = explorer.explore(**pair, method="closed-form", ridge=0.3)
    figure = draw(found)
    table, here, there, bars = figure.axes
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
    same = explorer.explore(pair["source"], pair["source"], pair["task"], ridge=0.0, normalize="norm-preserving")
    weights = {text.get_text(): text.get_weight() for text in draw(same).axes[0].texts}
    assert {weights[word] for word in same.nearest["source", "word"]} == {"bold"}
    assert weights["source"] == "normal"


# --- the panel ---


def opened(explorer):
    """A new panel: {what a knob is called: the knob}, the note and the picture."""
    knobs, note, picture = panel(explorer).children
    return {knob.description: knob for column in knobs.children for knob in column.children}, note, picture


def test_the_panel_opens_on_the_figure(explorer, pair):
    knobs, note, picture = opened(explorer)
    assert (note.value, picture.layout.display) == ("", None)
    assert picture.value == explorer.explore(**pair, method=knobs["method"].value)._repr_png_()


def test_every_knob_turns(explorer):
    knobs, _, picture = opened(explorer)
    turns = {"source": explorer.lms[2], "target": explorer.lms[0], "relation": explorer.tasks[1], "anchors": 16,
             "of these": "frequent", "seed": 1, "normalisation": "scale", "ridge": 0.0, "method": "linear"}
    assert turns.keys() == knobs.keys()
    knobs["ridge"].value = 3.0  # "auto" might be the 0 that it turns to
    seen = [picture.value]
    for name, value in turns.items():
        knobs[name].value = value
        assert picture.value not in seen, name
        seen.append(picture.value)
    by_hand = explorer.explore(explorer.lms[2], explorer.lms[0], explorer.tasks[1], num_anchors=16, select="frequent",
                               seed=1, normalize="scale", ridge=0.0, method="linear")
    assert picture.value == by_hand._repr_png_()


@pytest.mark.parametrize("setting, reason", [
    ({"method": "closed-form", "normalize": "affine-in-loss"}, "only 'gradient' normalises in its loss"),
    ({"method": "copy"}, "expected equal widths"),
    ({"ridge": 0.1, "method": "discretize"}, "method 'discretize' has no option ridge"),
])
def test_a_setting_that_does_not_exist_says_why(explorer, pair, setting, reason):
    knobs, note, picture = opened(explorer)
    names = {"normalize": "normalisation"}
    for name, value in setting.items():
        last = knobs[names.get(name, name)]
        before, last.value = last.value, value
    with pytest.raises(ptlib.PromptTransferError, match=reason) as error:
        explorer.explore(**pair, **setting)
    assert html.unescape(note.value) == str(error.value)
    assert picture.layout.display == "none"
    last.value = before
    assert (note.value, picture.layout.display) == ("", None)


def test_a_model_that_cannot_be_tuned_is_no_traceback_either(toys, capitals):
    _, note, picture = panel(Explorer([toys["bert"], toys["greek"]], [capitals], num_vectors=2, epochs=1)).children
    assert "none with an object that is one token" in note.value
    assert picture.layout.display == "none"


def test_only_what_is_new_is_tuned(explorer, pair):
    knobs, note, _ = opened(explorer)
    before, said = dict(explorer.prompts), []
    note.observe(lambda change: said.append(change["new"]), "value")
    knobs["ridge"].value = 0.03
    assert explorer.prompts == before
    assert said == ["transferring …", ""]
    knobs["seed"].value = 7
    new = [pair["source"].name, pair["target"].name]
    assert explorer.prompts.keys() - before.keys() == {(name, "capitals", 7) for name in new}
    assert said[2:] == [f"tuning on {new[0]} and {new[1]} …", ""]
