"""Identity: a model is all that decides its answers, as it lies in its files, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES, SMALL, Family
from safetensors.torch import load_file, save_file

from ptlib import AnchorError, ModelLoadError, Prompt, PromptMismatchError, evaluate, load_lm, random_prompt, transfer
from ptlib import shared_anchors as anchors_of
from ptlib.files import content_digest, remembered

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identity") / "bert"
    FAMILIES["bert"].save(folder)
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def train_further(folder: Path, part: str) -> None:
    """Change one tensor that is no embedding, as a merged LoRA does."""
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if part in name)
    weights[name] = weights[name] + 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("embeddings_only", [False, True])
def test_a_checkpoint_is_one_model_in_every_dtype(saved, capitals, dtype, embeddings_only):
    whole, other = load_lm(saved), load_lm(saved, dtype=dtype, embeddings_only=embeddings_only)
    assert other.fingerprint == whole.fingerprint
    prompt = random_prompt(whole)
    prompt.check(other)
    if not embeddings_only:
        assert evaluate(other, prompt, capitals.test).n == len(capitals.test)


@pytest.mark.parametrize("part", ["attention.self.query.weight", "cls.predictions.bias", "LayerNorm.weight"])
def test_other_weights_are_another_model(saved, copy, part):
    prompt = random_prompt(load_lm(saved))
    train_further(copy, part)
    other = load_lm(copy)
    assert torch.equal(other.embeddings, load_lm(saved).embeddings), "the table alone tells nothing"
    with pytest.raises(PromptMismatchError, match="fingerprint"):
        prompt.check(other)


@pytest.mark.parametrize(("file", "old", "new"), [
    ("config.json", '"hidden_act": "gelu"', '"hidden_act": "relu"'),
    ("tokenizer.json", '"lowercase": false', '"lowercase": true')])
def test_another_configuration_or_tokenizer_is_another_model(saved, copy, file, old, new):
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    assert load_lm(copy).fingerprint != load_lm(saved).fingerprint


def test_what_changes_no_answer_changes_no_identity(saved, copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "9.9", "_name_or_path": "x"}))
    (copy / "README.md").write_text("words")
    assert load_lm(copy).fingerprint == load_lm(saved).fingerprint


def test_changed_files_are_loaded_anew(copy):
    first = load_lm(copy)
    assert load_lm(copy) is first
    before = first.fingerprint
    train_further(copy, "cls.predictions.bias")
    second = load_lm(copy)
    assert second is not first and second.fingerprint != before
    assert load_lm(copy) is second


def test_files_that_change_behind_a_loaded_model(copy):
    lm = load_lm(copy)
    train_further(copy, "cls.predictions.bias")
    with pytest.raises(ModelLoadError, match="have changed since it was loaded"):
        lm.fingerprint  # noqa: B018


def test_one_name_in_two_folders_is_two_models(saved, tmp_path, monkeypatch):
    for place in "ab":
        shutil.copytree(saved, tmp_path / place / "ckpt")
    train_further(tmp_path / "b" / "ckpt", "cls.predictions.bias")
    loaded = {}
    for place in "ab":
        monkeypatch.chdir(tmp_path / place)
        loaded[place] = load_lm("./ckpt")
    assert loaded["a"].fingerprint != loaded["b"].fingerprint
    monkeypatch.chdir(tmp_path / "a")
    assert load_lm("./ckpt") is loaded["a"]
    with pytest.raises(AnchorError, match=r"two different models have the name './ckpt'"):
        anchors_of(*loaded.values())
    with pytest.raises(AnchorError, match="another model with the name"):
        anchors_of(loaded["a"]).of(loaded["b"])
    with pytest.raises(AnchorError, match="two different models"):
        transfer(random_prompt(loaded["a"]), source=loaded["a"], target=loaded["b"])


def test_models_without_files_are_told_apart_by_what_they_hold(saved):
    lm = load_lm(saved)
    prints = [lm.with_random_weights(seed).fingerprint for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


def test_a_digest_is_remembered_until_the_file_changes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a" * 100)
    first = content_digest(path)
    assert content_digest(path) == first
    path.write_bytes(b"b" * 100)  # of the same size
    assert content_digest(path) != first
    shutil.copy(path, tmp_path / "other")
    assert content_digest(tmp_path / "other") == content_digest(path)


def test_large_files_are_remembered_by_the_next_process(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "large"
    path.write_bytes(os.urandom(2**24))
    read = []

    def first_bytes(path):
        read.append(path)
        return path.read_bytes()[:9].hex()

    here, there = remembered(first_bytes), remembered(first_bytes)  # each remembers as a process does
    assert here(path) == there(path) == path.read_bytes()[:9].hex()
    assert len(read) == 1
    path.write_bytes(b"b" * 2**24)
    assert here(path) == b"bbbbbbbbb".hex()


@pytest.mark.parametrize("name", ["prompt-0.1.0.safetensors", "mixture-0.1.0.safetensors"])
def test_prompts_of_0_1_0_load_and_say_what_is_not_known(bert_mini, roberta_mini, zoo_tasks, name, tmp_path):
    prompt = Prompt.load(DATA / name)
    assert "made with ptlib 0.1.0, which identified a model by its embedding table alone" in repr(prompt)
    assert evaluate(bert_mini, prompt, zoo_tasks["zoo/P36"].test).n > 0
    with pytest.raises(PromptMismatchError, match="was made for zoo/bert-mini"):
        prompt.check(roberta_mini)
    prompt.save(tmp_path / "again.safetensors")
    assert Prompt.load(tmp_path / "again.safetensors").unknown == prompt.unknown
    moved = transfer(prompt, source=bert_mini, target=roberta_mini)
    assert not moved.unknown and moved.lm_fingerprint == roberta_mini.fingerprint


def test_tied_and_sharded_checkpoints_are_known_by_their_tensors(tmp_path):
    for folder, size in (("one", "5GB"), ("many", "5KB")):
        Family("Bert", "BertForMaskedLM", "bert", SMALL).save(tmp_path / folder, max_shard_size=size)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    assert load_lm(tmp_path / "one").fingerprint == load_lm(tmp_path / "many").fingerprint
