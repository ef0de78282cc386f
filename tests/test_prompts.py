"""Prompts: what they hold, round trips through files, and to which LM they belong."""

import dataclasses
import json

import pytest
import torch

from ptlib import (
    Prompt,
    PromptLoadError,
    PromptMismatchError,
    TaskError,
    evaluate,
    manual_prompt,
    random_prompt,
    shared_anchors,
    transfer,
)


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
