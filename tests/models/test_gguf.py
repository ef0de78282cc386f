"""GGUF files: written here at toy size in several quantizations, and read as the model that they are."""

import json
import os
from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ptlib import ModelLoadError, evaluate, load_lm, random_prompt, shared_anchors, transfer
from ptlib.models.formats import GgufFiles

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


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user's cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ptlib"


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


def add_byte_level(writer, tokenizer):
    about = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if i == 0 else gguf.TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_merges([" ".join(pair) for pair in about["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)


def add_pieces(writer, tokenizer):
    """Words with scores and without merges, as Gemma's files have them."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = ["▁" + word for word in ("capital", "of", "France", "is", "Paris")]
    parts = [word[:end] for word in words for end in range(1, len(word) + 1)]
    tokens = list(dict.fromkeys([*special, *"▁abcdefghijklmnopqrstuvwxyzFP", *parts]))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL
                            for token in tokens])
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)


def write(path, model, tokenizer, kind=TYPES.F32, *, architecture="llama", add_tokenizer=add_byte_level):
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
    add_tokenizer(writer, tokenizer)
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


@pytest.mark.parametrize("endian", gguf.GGUFEndian)
def test_the_metadata_are_those_of_the_plain_reader(tmp_path, endian):
    from ptlib.models.gguf_reader import Reader

    path = tmp_path / "toy.gguf"
    writer = gguf.GGUFWriter(str(path), "llama", endianess=endian)
    writer.add_array("words", ["", "Zürich", " a", "法国"])
    writer.add_array("whole", list(range(-3, 300)))
    writer.add_array("rational", [0.5, -1e9])
    writer.add_array("switches", [True, False])
    writer.add_array("one", ["alone"])
    writer.add_array("nested", [[1, 2], [3, 4]])
    writer.add_string("text", "no array")
    writer.add_tensor("weight", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, plain = Reader(path), gguf.GGUFReader(path)
    assert list(ours.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        own = ours.fields[name]
        assert (own.offset, own.types, own.data) == (field.offset, field.types, field.data), name
        assert [(part.dtype, part.tolist()) for part in own.parts] == [
            (part.dtype, part.tolist()) for part in field.parts], name
    assert ours.get_field("words").contents() == ["", "Zürich", " a", "法国"]
    assert [tensor.data.tolist() for tensor in ours.tensors] == [tensor.data.tolist() for tensor in plain.tensors]


@pytest.mark.parametrize(("architecture", "add_tokenizer", "kind"), [
    ("llama", add_byte_level, "TokenizersBackend"), ("gemma3", add_pieces, "GemmaTokenizer")])
def test_its_tokenizer_is_kept_and_the_one_of_transformers(llama, tmp_path, cache, architecture, add_tokenizer, kind):
    path = write(tmp_path / "toy.gguf", *llama, architecture=architecture, add_tokenizer=add_tokenizer)
    plain = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert type(plain).__name__ == kind

    def check(tokenizer):
        assert type(tokenizer) is type(plain)
        assert tokenizer.backend_tokenizer.to_str() == plain.backend_tokenizer.to_str()
        assert tokenizer.special_tokens_map == plain.special_tokens_map
        assert tokenizer.all_special_ids == plain.all_special_ids
        assert tokenizer.padding_side == plain.padding_side
        for text in ("The capital of France is Paris .", "  is <eos> <|endoftext|> of\n", ""):
            assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]

    check(GgufFiles(str(path)).tokenizer())
    [entry] = (cache / "tokenizers").glob("*")
    kept = entry.read_text(encoding="utf-8")
    check(GgufFiles(str(path)).tokenizer())
    entry.write_text(kept.replace("France", "Narnia"), encoding="utf-8")
    check(GgufFiles(str(path)).tokenizer())
    assert entry.read_text(encoding="utf-8") == kept


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_its_configuration_is_kept_and_the_one_of_transformers(llama, tmp_path, cache, architecture):
    path = write(tmp_path / "toy.gguf", *llama, architecture=architecture)
    plain = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    for again in range(2):
        own = GgufFiles(str(path)).config()
        assert len(list((cache / "configurations").iterdir())) == 1, again
        [head] = own.architectures
        assert head.endswith("ForCausalLM") and plain.architectures in (None, [head])
        assert type(own) is type(plain) and own.to_dict() == {**plain.to_dict(), "architectures": [head]}


def test_its_fingerprint_does_not_depend_on_what_is_kept(llama, tmp_path, cache):
    path = write(tmp_path / "toy.gguf", *llama)
    built = load_lm(path)
    known = built.fingerprint
    os.utime(path, (0, 0))  # so that it is read again
    kept = load_lm(path)
    assert kept is not built and len(list((cache / "tokenizers").iterdir())) == 1
    assert kept.fingerprint == known and kept.words == built.words
    assert kept.digest == built.digest is not None


def test_files_that_cannot_be_read_are_told(llama, tmp_path):
    whole = write(tmp_path / "whole.gguf", *llama).read_bytes()
    cases = {"cut": whole[:len(whole) // 2], "head": whole[:40], "empty": b"", "other": b"no GGUF at all" * 9}
    for name, content in cases.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(content)
        for embeddings_only in (True, False):
            with pytest.raises(ModelLoadError, match=rf"{name}.gguf.*expected a GGUF file"):
                load_lm(path, embeddings_only=embeddings_only)
    without = write(tmp_path / "without.gguf", *llama, add_tokenizer=lambda writer, tokenizer: None)
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
