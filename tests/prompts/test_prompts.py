"""Prompts: what they hold, round trips through files, and to which LM they belong."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ptlib import (
    Mixture,
    NotFiniteError,
    Prompt,
    PromptLoadError,
    PromptMismatchError,
    PromptTransferError,
    TaskError,
    evaluate,
    load_lm,
    manual_prompt,
    random_prompt,
    shared_anchors,
    transfer,
)
from ptlib.prompts.prompt import demonstrated_prompt


@pytest.fixture
def prompt(toys):
    made = random_prompt(toys["bert"], 3)
    return dataclasses.replace(made, task="capitals", meta={**made.meta, "nested": {"λ": [1, 2.5, None, True]}})


def same(one: Prompt, two: Prompt) -> bool:
    fields = ("template", "lm_name", "lm_fingerprint", "task", "meta")
    return torch.equal(one.vectors, two.vectors) and all(getattr(one, f) == getattr(two, f) for f in fields)


@pytest.mark.parametrize("path", ["prompt.safetensors", "new folder/prompt"])
def test_save_and_load(prompt, tmp_path, path):
    assert prompt.save(tmp_path / path) == tmp_path / path
    loaded = Prompt.load(tmp_path / path)
    assert same(loaded, prompt)
    assert loaded.vectors.dtype == torch.float32


def test_save_takes_views_and_prompts_of_words(prompt, toys, capitals, tmp_path):
    strided = dataclasses.replace(prompt, vectors=torch.randn(16, 3).T)
    words = manual_prompt(toys["bert"], capitals)
    for made in (strided, words):
        assert same(Prompt.load(made.save(tmp_path / "prompt")), made)


@pytest.mark.parametrize("content", [b"", b"no safetensors", slice(0, 40), slice(0, -8)])
def test_corrupt_file(prompt, tmp_path, content):
    path = prompt.save(tmp_path / "prompt")
    path.write_bytes(path.read_bytes()[content] if isinstance(content, slice) else content)
    with pytest.raises(PromptLoadError, match=str(path)):
        Prompt.load(path)


def test_missing_file_and_file_of_something_else(toys, tmp_path):
    for path in (tmp_path / "nothing", tmp_path, f"{toys['bert'].name}/model.safetensors"):
        with pytest.raises(PromptLoadError, match=str(path)):
            Prompt.load(path)


def test_failed_save_leaves_the_old_file_and_nothing_else(prompt, tmp_path):
    path = prompt.save(tmp_path / "prompt")
    with pytest.raises(TypeError):
        dataclasses.replace(prompt, meta={"not JSON": object()}).save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert same(Prompt.load(path), prompt)


def test_failed_save_leaves_nothing_half_written(prompt, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError):
        prompt.save(tmp_path / "folder")  # written beside it, but it cannot take a folder's place
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


def test_prompt_is_frozen(prompt):
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.template = "[X] [Y]"


@pytest.mark.parametrize("shape", [(2, 16), (4, 16), (3,), (0, 16), (1, 3, 16)])
def test_vectors_must_fill_the_template(prompt, shape):
    with pytest.raises(PromptMismatchError, match="3 prompt slots"):
        dataclasses.replace(prompt, vectors=torch.zeros(shape))


@pytest.mark.parametrize("other", ["roberta", "gpt2"])  # another width; the same width and other weights
@pytest.mark.parametrize("use", [
    lambda prompt, lm, task: prompt.check(lm),
    lambda prompt, lm, task: evaluate(lm, prompt, task.test),
    lambda prompt, lm, task: transfer(prompt, source=lm, target=lm)], ids=["check", "evaluate", "transfer"])
def test_wrong_lm_is_named_beside_the_right_one(prompt, toys, capitals, other, use):
    wrong = toys[other]
    assert (wrong.dim == toys["bert"].dim) == (other == "gpt2")
    with pytest.raises(PromptMismatchError) as error:
        use(prompt, wrong, capitals)
    assert prompt.lm_name in str(error.value)
    assert wrong.name in str(error.value)
    prompt.check(toys["bert"])


def test_random_prompt_has_the_scale_of_the_embeddings(toys):
    lm = toys["roberta"]
    prompt = random_prompt(lm, 400)
    assert prompt.vectors.std().item() == pytest.approx(lm.embeddings.std().item(), rel=0.05)
    assert torch.equal(random_prompt(lm, 5, seed=1).vectors, random_prompt(lm, 5, seed=1).vectors)
    assert not torch.equal(random_prompt(lm, 5, seed=1).vectors, random_prompt(lm, 5, seed=2).vectors)


def test_manual_prompt_is_the_sentence_itself(lm, capitals):
    """Through the slots of a prompt or as plain text, an LM should give the same answers."""
    words = shared_anchors(lm, lm).words
    plain = evaluate(lm, manual_prompt(lm, capitals), capitals.test, candidates=words)
    slots = "[V]*3 [X] [V] [Y] ."
    vectors = lm.embeddings[lm.word_ids(["The", "capital", "of", "is"])]
    spoken = evaluate(lm, Prompt(vectors, slots, lm.name, lm.fingerprint), capitals.test, candidates=words)
    assert plain.predictions.equals(spoken.predictions)


def test_manual_prompt_needs_a_template(toys, capitals):
    with pytest.raises(TaskError, match="capitals"):
        manual_prompt(toys["bert"], dataclasses.replace(capitals, manual_template=None))


def test_meta_is_json(prompt):
    assert json.loads(json.dumps(prompt.meta)) == prompt.meta


# --- prompts that are made of words ---


@pytest.fixture
def spoken(toys):
    """A mixture of words that the toy LMs share, and one that none has, as a prompt for BERT."""
    lm, words = toys["bert"], shared_anchors(toys["bert"], toys["roberta"], toys["albert"], toys["gpt2"]).words
    draw = torch.Generator().manual_seed(0)
    mixture = Mixture((*words, "zzyzx"), torch.randn(3, len(words) + 1, generator=draw).softmax(-1),
                      torch.tensor([1.0, 0.25, 3.0]))
    return Prompt(mixture.on(lm), "[X] [V]*3 [Y] .", lm.name, lm.fingerprint, "capitals", {"seed": 4}, mixture)


def same_words(one: Mixture, two: Mixture) -> bool:
    return one.words == two.words and torch.equal(one.weights, two.weights) and torch.equal(one.gains, two.gains)


def test_save_and_load_words(spoken, toys, tmp_path):
    loaded = Prompt.load(spoken.save(tmp_path / "prompt"))
    assert same(loaded, spoken)
    assert same_words(loaded.mixture, spoken.mixture)
    # What comes back goes on as what went in, there and back again.
    for lm in (toys["gpt2"], toys["roberta"]):
        moved = loaded.on(lm)
        assert same(moved, spoken.on(lm))
        again = Prompt.load(moved.save(tmp_path / "moved"))
        assert same(again, moved)
        assert torch.equal(again.on(toys["bert"]).vectors, spoken.vectors)


def test_save_takes_views_of_weights(spoken, tmp_path):
    mixture = dataclasses.replace(spoken.mixture, weights=spoken.mixture.weights.T.contiguous().T,
                                  gains=torch.arange(6.0)[::2])
    assert not mixture.weights.is_contiguous()
    loaded = Prompt.load(dataclasses.replace(spoken, mixture=mixture).save(tmp_path / "prompt"))
    assert same_words(loaded.mixture, mixture)


def test_prompt_of_free_vectors_has_no_words_in_its_file(prompt, tmp_path):
    """Files from before there were mixtures are the same as those of today."""
    path = prompt.save(tmp_path / "prompt")
    with safe_open(str(path), "pt") as file:
        assert list(file.keys()) == ["vectors"]
        assert json.loads(file.metadata()["ptlib"]).keys() == {"template", "lm_name", "lm_fingerprint", "task", "meta"}
    assert Prompt.load(path).mixture is None


@pytest.mark.parametrize("lost", ["weights", "gains"])
def test_words_without_their_weights(spoken, tmp_path, lost):
    path = spoken.save(tmp_path / "prompt")
    with safe_open(str(path), "pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    del tensors[lost]
    save_file(tensors, path, metadata=about)
    with pytest.raises(PromptLoadError, match=str(path)):
        Prompt.load(path)


def test_free_vectors_are_understood_by_their_own_lm_alone(prompt, toys):
    with pytest.raises(PromptMismatchError, match=re.escape(toys["bert"].name) + ".*mixture"):
        prompt.on(toys["roberta"])


def test_words_on_their_own_lm_are_the_prompt(spoken, toys):
    assert torch.equal(spoken.on(toys["bert"]).vectors, spoken.vectors)


def test_words_on_another_lm(spoken, lm, capitals):
    moved = spoken.on(lm)
    moved.check(lm)
    assert moved.vectors.shape == (3, lm.dim)
    assert torch.equal(moved.vectors, spoken.mixture.on(lm))
    assert (moved.template, moved.task, moved.lm_name) == (spoken.template, "capitals", lm.name)
    assert same_words(moved.mixture, spoken.mixture)
    assert evaluate(lm, moved, capitals.test).n == len(capitals.test)


def test_meta_says_what_a_move_loses(spoken, lm):
    lost = spoken.mixture.weights[:, -1].mean().item()
    assert lost > 0
    moved = spoken.on(lm)
    assert moved.meta == {"seed": 4, "lost_weight": pytest.approx(lost), "lacking": {"zzyzx": pytest.approx(lost)}}
    assert json.loads(json.dumps(moved.meta)) == moved.meta
    assert spoken.meta == {"seed": 4}, "the prompt itself should stay as it is"


def test_words_that_an_lm_does_not_have(spoken, toys):
    with pytest.raises(PromptMismatchError, match=toys["greek"].name):
        spoken.on(toys["greek"])


def test_words_need_only_the_embeddings(spoken, toys):
    for name in ("roberta", "albert"):
        part = load_lm(toys[name].name, embeddings_only=True)
        assert torch.equal(spoken.on(part).vectors, spoken.on(toys[name]).vectors)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_prompt_that_is_not_finite_is_refused_wherever_it_comes_from(toys, tmp_path, broken):
    lm = toys["bert"]
    vectors = random_prompt(lm, 2).vectors
    random_prompt(lm, 2).save(tmp_path / "p.safetensors")
    with safe_open(str(tmp_path / "p.safetensors"), "pt") as file:
        about = file.metadata()
    vectors[1, 3] = broken
    with pytest.raises(NotFiniteError, match=rf"1 of the {vectors.numel()} numbers .* are not finite"):
        Prompt(vectors, "[X] [V]*2 [Y]", lm.name, lm.fingerprint)
    save_file({"vectors": vectors}, tmp_path / "p.safetensors", metadata=about)
    with pytest.raises(PromptTransferError, match="not finite"):
        Prompt.load(tmp_path / "p.safetensors")


def test_demonstrations_are_train_facts_in_the_words_of_the_template(toys, capitals):
    prompt = demonstrated_prompt(toys["bert"], capitals, count=3, seed=1)
    *shown, asked = re.split(r"(?<= \.) ", prompt.template)
    assert asked == capitals.manual_template
    facts = {capitals.manual_template.replace("[X]", fact.subject).replace("[Y]", fact.object): fact.object
             for fact in capitals.train}
    assert len({facts[text] for text in shown}) == 3
    assert prompt.template == demonstrated_prompt(toys["bert"], capitals, count=3, seed=1).template
    assert prompt.template != demonstrated_prompt(toys["bert"], capitals, count=3, seed=2).template
    assert evaluate(toys["bert"], prompt, capitals.test).n


def test_more_demonstrations_than_objects_are_an_error(toys, capitals):
    with pytest.raises(TaskError, match="count=99"):
        demonstrated_prompt(toys["bert"], capitals, count=99)
