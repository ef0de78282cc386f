"""GGUF files: written here at toy size in several quantizations, and read as the model that they are."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ptlib import ModelLoadError, evaluate, load_lm, random_prompt, shared_anchors, transfer

gguf = pytest.importorskip("gguf")
WIDTH, HEADS = 64, 4  # quantized rows come in blocks of 32
TYPES = gguf.GGMLQuantizationType
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def byte_level():
    """Byte-level BPE that has merged the words of the toy text, from merges alone, as GGUF keeps them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


@pytest.fixture(scope="module")
def llama():
    """A toy with random weights."""
    tokenizer = byte_level()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=64,
                         bos_token_id=0, eos_token_id=0, rms_norm_eps=1e-5)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2)
    return model, tokenizer


def name_of(parameter):
    """As GGUF calls it: ``blk.0.attn_q.weight``."""
    for ours, theirs in NAMES.items():
        if ours in parameter:
            layer = f"blk.{parameter.split('.')[2]}." if ".layers." in parameter else ""
            return f"{layer}{theirs}.weight"
    raise KeyError(parameter)


def write(path, model, tokenizer, kind=TYPES.F32, *, architecture="llama", with_tokenizer=True):
    """As llama.cpp's converter does; matrices in ``kind``, vectors in float32."""
    config, writer = model.config, gguf.GGUFWriter(str(path), architecture)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    if with_tokenizer:
        about = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
        tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.CONTROL if i == 0 else gguf.TokenType.NORMAL
                                for i in range(len(tokens))])
        writer.add_token_merges([" ".join(pair) for pair in about["merges"]])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(0)
        writer.add_unk_token_id(0)
    for parameter, weight in model.state_dict().items():
        values = weight.float().numpy()
        if "q_proj" in parameter or "k_proj" in parameter:  # the rows of each head are interleaved
            values = values.reshape(HEADS, 2, -1, WIDTH).swapaxes(1, 2).reshape(values.shape)
        own = kind if values.ndim == 2 else TYPES.F32
        packed = gguf.quants.quantize(np.ascontiguousarray(values), own)
        writer.add_tensor(name_of(parameter), packed, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def rounded(model, kind):
    """The same model with the matrices that are left of its own after quantization."""
    twin = deepcopy(model)
    for weight in twin.parameters():
        if weight.ndim == 2:
            weight.data = torch.tensor(gguf.dequantize(gguf.quants.quantize(weight.detach().numpy(), kind), kind))
    return twin


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.F16, TYPES.BF16, TYPES.Q8_0, TYPES.Q5_0, TYPES.Q4_0, TYPES.Q4_1],
                         ids=lambda kind: kind.name)
def test_it_is_the_model_that_was_written(llama, tmp_path, kind):
    model, tokenizer = llama
    lm = load_lm(write(tmp_path / "toy.gguf", model, tokenizer, kind))
    assert (lm.kind, lm.dim, lm.vocab_size) == ("causal", WIDTH, len(tokenizer))
    ids = torch.tensor([[5, 9, 30, 7, 12]])
    with torch.no_grad():
        assert (lm.word_logits(ids) - rounded(model, kind)(input_ids=ids).logits).abs().max() < 1e-3
    text = "The capital of France is Paris ."
    assert lm.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.Q8_0])
def test_its_table_alone_is_the_table_of_the_whole(llama, tmp_path, kind):
    """Of one fingerprint, also in another type; and enough to move a prompt by."""
    path = write(tmp_path / "toy.gguf", *llama, kind)
    whole, table = load_lm(path), load_lm(path, embeddings_only=True)
    half = load_lm(path, dtype=torch.bfloat16)
    assert torch.equal(whole.embeddings, table.embeddings)
    assert whole.fingerprint == table.fingerprint == half.fingerprint
    assert (whole.embeddings - half.embeddings).abs().max() < 0.01
    prompt = random_prompt(whole, 2)
    moved = transfer(prompt, source=table, target=whole, method="procrustes")
    assert torch.allclose(moved.vectors, transfer(prompt, source=whole, target=whole, method="procrustes").vectors)


def test_it_shares_words_with_other_formats_and_answers(llama, toys, capitals, tmp_path):
    lm = load_lm(write(tmp_path / "toy.gguf", *llama))
    assert {"France", "Paris", "many", "people"} <= set(shared_anchors(lm, toys["gpt2"]).words)
    assert evaluate(lm, random_prompt(lm, 2), capitals.test).n > len(capitals.test) / 2


def test_a_changed_file_is_read_again(llama, tmp_path):
    path = write(tmp_path / "toy.gguf", *llama)
    before = load_lm(path)
    known = before.fingerprint
    assert load_lm(path) is before
    write(path, *llama, TYPES.Q8_0)
    assert load_lm(path).fingerprint != known


def test_files_that_cannot_be_read_are_told(llama, tmp_path):
    whole = write(tmp_path / "whole.gguf", *llama).read_bytes()
    cases = {"cut": whole[:len(whole) // 2], "head": whole[:40], "empty": b"", "other": b"no GGUF at all" * 9}
    for name, content in cases.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        for embeddings_only in (True, False):
            with pytest.raises(ModelLoadError, match=rf"{name}.gguf.*expected a GGUF file"):
                load_lm(path, embeddings_only=embeddings_only)
    without = write(tmp_path / "without.gguf", *llama, with_tokenizer=False)
    with pytest.raises(ModelLoadError, match="it has no tokenizer"):
        load_lm(without)
    unknown = write(tmp_path / "unknown.gguf", *llama, architecture="mamba")
    with pytest.raises(ModelLoadError, match=r"unknown.gguf.*expected a GGUF file"):
        load_lm(unknown)
    with pytest.raises(ModelLoadError, match="there is no file"):
        load_lm(tmp_path / "nowhere.gguf")


def test_without_the_package_the_way_out_is_told(llama, tmp_path, monkeypatch):
    path = write(tmp_path / "toy.gguf", *llama)
    monkeypatch.setattr("ptlib.models.formats.find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"pip install 'ptlib\[gguf\]'"):
        load_lm(path)
