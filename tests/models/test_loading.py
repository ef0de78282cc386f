"""Loading: parts of a checkpoint, shards, half precision, devices, and what is said when something is missing."""

import os
import shutil
import socketserver
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import ROOT
from families import FAMILIES, SMALL, Family
from safetensors.torch import load_file, save_file

from ptlib import ModelLoadError, evaluate, load_lm, manual_prompt, random_prompt, transfer, tune
from ptlib.models import loading
from ptlib.prompts.templates import Template, collate

pytestmark = pytest.mark.slow

WHERE_THE_TABLE_DIFFERS = ["bert", "bert-untied", "albert", "gpt2", "opt-projected", "llama", "llama-tied", "gemma3",
                           "t5", "t5-untied", "bart", "bart-scaled"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """saved(name, **options) -> folder of a family's checkpoint, written once."""
    written = {}

    def get(name, **options):
        key = name, *options.items()
        if key not in written:
            written[key] = tmp_path_factory.mktemp("saved") / name
            FAMILIES[name].save(written[key], **options)
        return written[key]

    return get


def same_table(folder, **options):
    """Both loads of a folder, which should agree."""
    part, whole = load_lm(folder, embeddings_only=True, **options), load_lm(folder, **options)
    assert torch.equal(part.embeddings, whole.embeddings)
    assert part.embeddings.dtype == torch.float32
    assert (part.fingerprint, part.words, part.kind) == (whole.fingerprint, whole.words, whole.kind)
    return part, whole


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", WHERE_THE_TABLE_DIFFERS)
def test_embeddings_only_are_those_of_the_whole(saved, name, dtype):
    same_table(saved(name), dtype=dtype)


@pytest.mark.parametrize("name", WHERE_THE_TABLE_DIFFERS)
def test_sharded_checkpoints(saved, name):
    folder = saved(name, max_shard_size="5KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    same_table(folder)
    assert load_lm(folder).fingerprint == load_lm(saved(name)).fingerprint


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "llama-tied"])
def test_a_tied_table_under_any_of_its_names(saved, tmp_path, name):
    folder = shutil.copytree(saved(name), tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    whole = load_lm(saved(name)).model
    other = next(key for key, weight in whole.named_parameters(remove_duplicate=False)
                 if weight is whole.get_input_embeddings().weight and key not in weights)
    table, = (key for key, weight in weights.items() if torch.equal(weight, whole.get_input_embeddings().weight))
    weights[other] = weights.pop(table)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(load_lm(folder, embeddings_only=True).embeddings, load_lm(saved(name)).embeddings)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama-tied", "opt"])
def test_checkpoints_of_the_bare_encoder(saved, tmp_path, name):
    # The first GPT-2's are of this kind: "wte.weight", without the "transformer." before it.
    folder = shutil.copytree(saved(name), tmp_path / "copy")
    load_lm(saved(name)).model.base_model.save_pretrained(folder)
    assert torch.equal(load_lm(folder, embeddings_only=True).embeddings, load_lm(saved(name)).embeddings)


def test_other_tensors_are_not_read(saved, tmp_path):
    folder = shutil.copytree(saved("llama", max_shard_size="5KB"), tmp_path / "copy")
    with_table = next(file for file in folder.glob("*.safetensors") if any("embed" in key for key in load_file(file)))
    for file in folder.glob("*.safetensors"):
        if file != with_table:
            file.write_bytes(b"rubbish")
    lm = load_lm(folder, embeddings_only=True)
    assert torch.equal(lm.embeddings, load_lm(saved("llama")).embeddings)
    for look in (lambda: load_lm(folder), lambda: lm.fingerprint):  # a model is known by all of its weights
        with pytest.raises(ModelLoadError, match=str(folder)):
            look()


def test_a_checkpoint_without_the_table(saved, tmp_path):
    folder = shutil.copytree(saved("llama"), tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    del weights["model.embed_tokens.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"model\.embed_tokens\.weight"):
        load_lm(folder, embeddings_only=True)


def test_a_pickled_checkpoint_has_no_part_to_read(saved, tmp_path):
    folder = shutil.copytree(saved("bert"), tmp_path / "copy")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"model\.safetensors"):
        load_lm(folder, embeddings_only=True)


def test_prompts_move_between_tables_as_between_models(saved):
    parts, wholes = zip(*(same_table(saved(name)) for name in ("bert", "gemma3")), strict=True)
    for a, b in ((0, 1), (1, 0)):
        prompt = random_prompt(wholes[a], 3)
        assert torch.equal(transfer(prompt, source=parts[a], target=parts[b]).vectors,
                           transfer(prompt, source=wholes[a], target=wholes[b]).vectors)


def test_embeddings_only_cannot_run(saved, capitals):
    lm = load_lm(saved("bert"), embeddings_only=True)
    for run in (lambda: lm.model, lambda: tune(lm, capitals), lambda: lm.with_random_weights(),
                lambda: evaluate(lm, random_prompt(lm), capitals.test)):
        with pytest.raises(ModelLoadError, match="embeddings_only=True"):
            run()


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux tells what its processor can do")
def test_automatic_dtype_is_what_the_processor_computes_in(toys):
    flags = Path("/proc/cpuinfo").read_text().split()
    native = {"avx512_bf16", "amx_bf16"} & set(flags)
    found = load_lm(toys["bert"].name, device="cpu", dtype="auto").model.dtype
    assert found == (torch.bfloat16 if native else torch.float32)
    with pytest.raises(ModelLoadError, match="dtype='half'; expected a torch dtype, 'auto', or None"):
        load_lm(toys["bert"].name, dtype="half")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["bert", "gpt2", "gemma3", "t5-untied", "bart-scaled"])
def test_half_precision(saved, capitals, name, dtype):
    half, full = load_lm(saved(name), dtype=dtype), load_lm(saved(name))
    assert half.model.get_input_embeddings().weight.dtype == dtype
    assert half.embeddings.dtype == torch.float32
    batch = collate(Template(capitals.manual_template).layout(full, ["France", "New Zealand"]), full.device)
    logits = [lm.answer_logits(batch.ids, batch.mask, batch.slots, torch.zeros(0, lm.dim), batch.answers)
              for lm in (half, full)]
    assert logits[0].dtype == torch.float32 and not torch.equal(*logits)
    assert (logits[0] - logits[1]).abs().max() < 0.1 * logits[1].std()
    prompt = tune(half, capitals, num_vectors=2, epochs=2)
    assert prompt.vectors.dtype == torch.float32 and prompt.vectors.isfinite().all()
    assert evaluate(half, prompt, capitals.test).n == len(capitals.test)


FULL_DEVICE = loading.full_device  # as it is: conftest makes "auto" the CPU


def test_device(saved, monkeypatch):
    monkeypatch.setattr(loading, "full_device", FULL_DEVICE)
    lm = load_lm(saved("bert"), device="cpu")
    assert lm.device.type == lm.model.device.type == "cpu"
    assert load_lm(saved("bert"), device=torch.device("cpu")) is lm
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert load_lm(saved("bert"), device="auto").device.type == best


def test_cuda_answers_as_the_cpu_does(saved, capitals):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    for name in ("bert", "gemma3", "bart-scaled"):
        here, there = (load_lm(saved(name), device=device) for device in ("cpu", "cuda"))
        assert there is load_lm(saved(name), device="cuda:0") and there.fingerprint == here.fingerprint
        prompt = tune(there, capitals, num_vectors=2, epochs=2)
        ranks = [evaluate(lm, prompt, capitals.test).predictions["rank"] for lm in (here, there)]
        assert (ranks[0] - ranks[1]).abs().max() <= 1


@pytest.mark.parametrize("embeddings_only", [False, True])
@pytest.mark.parametrize("device", ["nonsense", "cuda:99", "xpu"])
def test_impossible_device(saved, device, embeddings_only):
    with pytest.raises(ModelLoadError, match=f"{device}.*expected 'auto' or one of .*cpu"):
        load_lm(saved("bert"), device=device, embeddings_only=embeddings_only)


def test_name_may_be_a_path(saved):
    folder = saved("bert")
    assert isinstance(folder, Path)
    assert load_lm(folder) is load_lm(str(folder))


@pytest.mark.parametrize("name", ["bert", "t5", "llama", "gpt2"])
def test_no_tokenizer(saved, tmp_path, name):
    folder = shutil.copytree(saved(name), tmp_path / "copy")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelLoadError, match=str(folder)):
        load_lm(folder)


def test_a_masked_lm_needs_a_mask_token(tmp_path, capitals):

    Family("Bert", "BertForMaskedLM", "llama", SMALL | {"pad_token_id": 0}).save(tmp_path / "maskless")
    lm = load_lm(tmp_path / "maskless")
    with pytest.raises(ModelLoadError, match="no mask token"):
        evaluate(lm, manual_prompt(lm, capitals), capitals.test)


@pytest.mark.parametrize("name", ["no such model!", "a//b"])
def test_names_that_cannot_be(name):
    with pytest.raises(ModelLoadError, match=name):
        load_lm(name)


LOAD = """
import sys, ptlib
for name in sys.argv[1:]:
    try:
        print(ptlib.load_lm(name, embeddings_only=True).fingerprint, ptlib.load_lm(name).fingerprint)
    except ptlib.ModelLoadError as error:
        print(error)
"""


def load_elsewhere(*names, **environment):
    """What a fresh process, with a hub of its own, says about each name."""
    result = subprocess.run([sys.executable, "-c", LOAD, *names], capture_output=True, text=True, cwd=ROOT, env={
        **os.environ, "PYTHONPATH": str(ROOT), **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@contextmanager
def broken_hub():
    """The address of a server that hangs up at once, and the list of its calls."""
    calls = []

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self):
            calls.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", calls
        server.shutdown()


def test_offline(saved, tmp_path):
    """A model in the hub's cache loads; another gives an error that says so, after one question for each."""
    commit = tmp_path / "models--toys--bert" / "snapshots" / ("0" * 40)
    shutil.copytree(saved("bert"), commit)
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("0" * 40)
    with broken_hub() as (address, calls):
        cached, *missing = load_elsewhere("toys/bert", "toys/other", "another", HF_HUB_CACHE=str(tmp_path),
                                          HF_ENDPOINT=address)
    assert len(calls) == 4, "a question for each load_lm, and no file tried again and again, for 23 seconds"
    assert cached == " ".join([load_lm(saved("bert")).fingerprint] * 2)
    assert ["toys/other" in missing[0], "another" in missing[1]] == [True, True]
    assert all("offline" in line for line in missing)


def test_offline_by_choice(tmp_path):
    line, = load_elsewhere("toys/other", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert "toys/other" in line and "offline" in line


class Hub(BaseHTTPRequestHandler):
    """A hub that has one gated model and no other."""

    def do_GET(self):
        self.send_response(403 if "gated" in self.path else 404 if self.path != "/" else 200)
        self.send_header("X-Error-Code", "GatedRepo" if "gated" in self.path else "RepoNotFound")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


def test_gated_or_unknown_on_the_hub(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gated, unknown = load_elsewhere("toys/gated", "toys/unknown", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="0",
                                        HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", no_proxy="127.0.0.1")
        server.shutdown()
    assert "toys/gated" in gated and "gated" in gated and "hf auth login" in gated
    assert "toys/unknown" in unknown and "the model does not exist" in unknown
    assert "offline" not in gated + unknown


def test_a_folder_may_be_named_like_a_file(toys, tmp_path):
    folder = shutil.copytree(toys["bert"].name, tmp_path / "toy.gguf")
    assert load_lm(folder).fingerprint == toys["bert"].fingerprint
