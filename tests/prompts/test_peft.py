"""PEFT's checkpoints: read and written as the real library does, with the logits it gives."""

import dataclasses
import json
import re

import pytest
import torch
from conftest import SENTENCES
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ptlib import (
    Example,
    Prompt,
    PromptLoadError,
    PromptMismatchError,
    PromptTransferError,
    evaluate,
    load_lm,
    random_prompt,
    transfer,
    tune,
)
from ptlib.prompts.peft import load_peft_prompt, save_peft_prompt
from ptlib.prompts.templates import Template, collate
from ptlib.zoo.tokenization import train_tokenizer

pytestmark = pytest.mark.slow

SUBJECTS = ["France", "New Zealand", "Saudi Arabia"]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
AUTO = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}


def toy(folder, model_class, config, frame):
    """An LM whose tokenizer makes other tokens with and without a space in front, and frames the text."""
    tokenizer = train_tokenizer("gpt2", SENTENCES)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>", "</s>", "<extra_id_0>"],
                                  **({"mask_token": "<mask>"} if model_class is BartForConditionalGeneration else {})})
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=frame, special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")])
    torch.manual_seed(0)
    model = model_class(config(vocab_size=len(tokenizer)))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2)  # logits shall depend on the context
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_lm(folder)


@pytest.fixture(scope="module")
def lms(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("peft toys")

    def llama(**size):
        return LlamaConfig(**size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                           num_key_value_heads=2)

    def t5(**size):
        return T5Config(**size, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, decoder_start_token_id=0)

    def bart(**size):
        return BartConfig(**size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                          decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32)

    return {**toys, "llama": toy(folder / "llama", LlamaForCausalLM, llama, "<s> $A"),
            "bare": toy(folder / "bare", LlamaForCausalLM, llama, "$A"),
            "t5": toy(folder / "t5", T5ForConditionalGeneration, t5, "$A </s>"),
            "bart": toy(folder / "bart", BartForConditionalGeneration, bart, "<s> $A </s>")}


def base(lm):
    """The model alone, as a user of PEFT would load it."""
    return AUTO[lm.kind].from_pretrained(lm.name)


def saved_by_peft(lm, folder, **options):
    """A prompt of the real library with random vectors, and the folder that it saved."""
    peft = pytest.importorskip("peft")
    task_type = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}[lm.kind]
    torch.manual_seed(1)
    config = peft.PromptTuningConfig(task_type=task_type, num_virtual_tokens=3, **options)
    model = peft.get_peft_model(base(lm), config).eval()
    model.save_pretrained(folder)
    return model


def loaded_by_peft(lm, folder):
    return pytest.importorskip("peft").PeftModel.from_pretrained(base(lm), folder).eval()


def ptlib_logits(lm, prompt):
    """(3, V) at the answer, for the subjects."""
    batch = collate(Template(prompt.template).layout(lm, SUBJECTS), lm.device)
    return lm.answer_logits(batch.ids, batch.mask, batch.slots, prompt.vectors, batch.answers)


@torch.no_grad()
def peft_logits(lm, model, template, special=True):
    """(3, V) by the real library for what stands after the vectors."""
    text = re.sub(r"\[V\](\*\d+)?", "", template)
    text = text.split("[Y]")[0].rstrip() if lm.kind == "causal" else text.replace(" [Y]", "<extra_id_0>")
    rows = []
    for subject in SUBJECTS:
        inputs = lm.tokenizer(text.replace("[X]", subject), return_tensors="pt", add_special_tokens=special)
        if lm.kind == "seq2seq":
            inputs["decoder_input_ids"] = torch.tensor([[lm.model.config.decoder_start_token_id, lm.blank_id]])
        rows.append(model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"],
                          **{k: v for k, v in inputs.items() if k.startswith("decoder")}).logits[0, -1])
    return torch.stack(rows)


def assert_same_logits(lm, prompt, model, **options):
    ours, theirs = ptlib_logits(lm, prompt), peft_logits(lm, model, prompt.template, **options)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    without = ptlib_logits(lm, dataclasses.replace(prompt, vectors=-prompt.vectors))
    assert (ours - without).abs().max() > 1e-2  # the vectors matter


@pytest.mark.parametrize("name", ["gpt2", "bare", "t5"])
def test_reads_what_peft_wrote(lms, tmp_path, name):
    lm = lms[name]
    model = saved_by_peft(lm, tmp_path)
    prompt = load_peft_prompt(tmp_path, lm, task="capitals")
    prompt.check(lm)
    assert (prompt.task, prompt.template, prompt.meta["before_start"]) == ("capitals", "[V]*3[X] [Y]", False)
    assert prompt.meta["peft"] == json.loads((tmp_path / CONFIG).read_text())
    assert_same_logits(lm, prompt, model)


def test_template_of_the_users_own(lms, tmp_path):
    lm = lms["bare"]
    model = saved_by_peft(lm, tmp_path)
    assert_same_logits(lm, load_peft_prompt(tmp_path, lm, template="[V]*3 The capital of [X] is [Y] ."), model)
    with pytest.raises(PromptMismatchError, match="2 prompt slots"):
        load_peft_prompt(tmp_path, lm, template="[V]*2 [X] [Y]")


@pytest.mark.parametrize("name", ["gpt2", "bare", "t5"])
def test_peft_reads_a_tuned_prompt(lms, capitals, tmp_path, name):
    lm = lms[name]
    prompt = tune(lm, capitals, template="[V]*3 [X] is in [Y]", num_vectors=3, epochs=2)
    folder = save_peft_prompt(prompt, tmp_path / "new" / "adapter", lm)
    assert folder == tmp_path / "new" / "adapter"
    assert_same_logits(lm, prompt, loaded_by_peft(lm, folder))


def test_peft_reads_a_moved_prompt(lms, tmp_path):
    source = random_prompt(lms["bert"], 3)
    source = dataclasses.replace(source, template="[V]*3 [X] [Y]", task="capitals")
    for name in ("gpt2", "bare"):
        moved = transfer(source, source=lms["bert"], target=lms[name])
        folder = save_peft_prompt(moved, tmp_path / name, lms[name])
        assert_same_logits(lms[name], moved, loaded_by_peft(lms[name], folder))


def tuned_by_peft(lm, examples, folder):
    """A prompt that the real library tunes on the label words of examples and saves; its loss before and after."""
    model = saved_by_peft(lm, folder)
    vectors = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(vectors, lr=0.1)
    texts = [lm.tokenizer(e.subject, return_tensors="pt")["input_ids"] for e in examples]
    labels = torch.tensor(lm.word_ids(e.object for e in examples))
    losses = []
    for _ in range(15):
        logits = torch.cat([model(input_ids=ids).logits[:, -1] for ids in texts])
        loss = torch.nn.functional.cross_entropy(logits, labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return losses[0], losses[-1]


@pytest.mark.parametrize(("source", "target"), [("gpt2", "bare"), ("bare", "gpt2")])
def test_a_prompt_of_peft_moves_to_another_lm_of_peft(lms, capitals, tmp_path, source, target):
    """Tuned by the real library on one LM, moved here, run by the real library on the other: as accurate as we say."""
    one, other, choices = lms[source], lms[target], ("Paris", "Lima", "Rome")
    facts = [*capitals.train, *capitals.dev, *capitals.test]
    examples = [Example(fact.subject, choices[i % 3], choices) for i, fact in enumerate(facts)]
    before, after = tuned_by_peft(one, examples[:10], tmp_path / "tuned")
    assert after < before - 0.1
    prompt = load_peft_prompt(tmp_path / "tuned", one, task="mine")
    moved = transfer(prompt, source=one, target=other)
    model = loaded_by_peft(other, save_peft_prompt(moved, tmp_path / "moved", other))
    ev = evaluate(other, moved, examples)
    ids, theirs = other.word_ids(choices), []
    with torch.no_grad():
        for example in examples:
            logits = model(**other.tokenizer(example.subject, return_tensors="pt")).logits[0, -1]
            theirs.append(choices[logits[ids].argmax()])
    assert list(ev.answers) == theirs
    assert ev.accuracy == sum(e.object == found for e, found in zip(examples, theirs, strict=True)) / len(examples)


def test_embeddings_are_enough_to_write(lms, tmp_path):
    light = load_lm(lms["bare"].name, embeddings_only=True)
    prompt = dataclasses.replace(random_prompt(light, 3), template="[V]*3 [X] [Y]")
    folder = save_peft_prompt(prompt, tmp_path / "adapter", light)
    assert_same_logits(lms["bare"], prompt, loaded_by_peft(lms["bare"], folder))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_round_trip_from_peft(lms, tmp_path, name):
    lm = lms[name]
    saved_by_peft(lm, tmp_path / "one", prompt_tuning_init="TEXT", prompt_tuning_init_text="France is in",
                  tokenizer_name_or_path=lm.name, revision="main")
    config = {**json.loads((tmp_path / "one" / CONFIG).read_text()), "base_model_name_or_path": "same/elsewhere"}
    (tmp_path / "one" / CONFIG).write_text(json.dumps(config))
    prompt = load_peft_prompt(tmp_path / "one", lm, base_model="same/elsewhere")
    assert (prompt.lm_name, prompt.meta["peft"]) == (lm.name, config)
    save_peft_prompt(prompt, tmp_path / "two", lm)
    assert json.loads((tmp_path / "two" / CONFIG).read_text()) == config
    one, two = (load_file(tmp_path / folder / WEIGHTS) for folder in ("one", "two"))
    assert one.keys() == two.keys() == {"prompt_embeddings"}
    assert torch.equal(one["prompt_embeddings"], two["prompt_embeddings"])
    save_peft_prompt(prompt, tmp_path / "two", lm, base_model="me/mine")
    assert json.loads((tmp_path / "two" / CONFIG).read_text()) == {**config, "base_model_name_or_path": "me/mine"}


@pytest.mark.parametrize("name", ["gpt2", "llama", "t5"])
def test_round_trip_to_peft(lms, tmp_path, name):
    lm = lms[name]
    prompt = dataclasses.replace(random_prompt(lm, 3), template="[V]*3 [X] [Y]")
    one = save_peft_prompt(prompt, tmp_path / "one", lm, with_start=True)
    back = load_peft_prompt(one, lm, template=prompt.template)
    assert torch.equal(back.vectors, prompt.vectors)
    assert (back.lm_name, back.meta["before_start"]) == (lm.name, False)
    kept = Prompt.load(back.save(tmp_path / "prompt"))
    assert torch.equal(kept.vectors, prompt.vectors)
    assert kept.meta == back.meta
    loaded_by_peft(lm, one).save_pretrained(tmp_path / "two")
    ours, theirs = (load_file(folder / WEIGHTS)["prompt_embeddings"] for folder in (one, tmp_path / "two"))
    assert torch.equal(ours, theirs)
    ours, theirs = (json.loads((folder / CONFIG).read_text()) for folder in (one, tmp_path / "two"))
    assert ours.items() <= theirs.items()
    assert ours["base_model_name_or_path"] == lm.name


def test_start_tokens_come_after_peft_vectors(lms, tmp_path):
    lm = lms["llama"]
    model = saved_by_peft(lm, tmp_path)
    prompt = load_peft_prompt(tmp_path, lm)
    assert prompt.meta["before_start"]
    assert (ptlib_logits(lm, prompt) - peft_logits(lm, model, prompt.template)).abs().max() > 1e-2


def test_start_tokens_as_virtual_tokens(lms, tmp_path):
    lm = lms["llama"]
    prompt = dataclasses.replace(random_prompt(lm, 3), template="[V]*3 [X] is in [Y]")
    with pytest.raises(PromptMismatchError, match=r"'<s>'.*\[V\]\*3 \[X\].*with_start=True"):
        save_peft_prompt(prompt, tmp_path / "adapter", lm)
    assert not any(tmp_path.iterdir())
    folder = save_peft_prompt(prompt, tmp_path / "adapter", lm, with_start=True)
    assert_same_logits(lm, prompt, loaded_by_peft(lm, folder), special=False)


def test_peft_ignores_the_half_for_the_decoder(lms, tmp_path):
    lm = lms["t5"]
    model = saved_by_peft(lm, tmp_path / "default")  # PEFT's default: two submodules
    stored = load_file(tmp_path / "default" / WEIGHTS)["prompt_embeddings"]
    assert stored.shape == (6, 16)
    prompt = load_peft_prompt(tmp_path / "default", lm)
    assert torch.equal(prompt.vectors, stored[:3])
    assert_same_logits(lm, prompt, model)
    assert_same_logits(lm, prompt, loaded_by_peft(lm, save_peft_prompt(prompt, tmp_path / "one", lm)))


def test_extra_keys_and_half_precision(lms, adapter):
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, "of_the_future": [1, None]}))
    vectors = load_file(adapter / WEIGHTS)["prompt_embeddings"]
    save_file({"prompt_embeddings": vectors.bfloat16(), "classifier": torch.zeros(2)}, adapter / WEIGHTS)
    prompt = load_peft_prompt(adapter, lms["gpt2"])
    assert torch.equal(prompt.vectors, vectors.bfloat16().float())
    save_peft_prompt(prompt, adapter, lms["gpt2"])
    assert json.loads((adapter / CONFIG).read_text())["of_the_future"] == [1, None]


@pytest.fixture
def prefix(lms) -> Prompt:
    return dataclasses.replace(random_prompt(lms["gpt2"], 3), template="[V]*3 [X] [Y]")


@pytest.fixture
def adapter(lms, prefix, tmp_path):
    return save_peft_prompt(prefix, tmp_path / "adapter", lms["gpt2"])


@pytest.mark.parametrize("spoil, words", [
    (lambda folder: (folder / CONFIG).unlink(), [CONFIG, "save_pretrained"]),
    (lambda folder: (folder / CONFIG).write_text("{"), [CONFIG, "save_pretrained"]),
    (lambda folder: (folder / CONFIG).write_bytes(b"\xff"), [CONFIG, "save_pretrained"]),
    (lambda folder: (folder / CONFIG).write_text("[" * 100_000), [CONFIG, "save_pretrained"]),
    (lambda folder: (folder / CONFIG).write_text("[]"), [CONFIG, "None", "PROMPT_TUNING"]),
    (lambda folder: (folder / CONFIG).write_text('{"peft_type": "LORA"}'), [CONFIG, "'LORA'", "PROMPT_TUNING"]),
    (lambda folder: (folder / WEIGHTS).unlink(), [WEIGHTS, "save_pretrained"]),
    (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8]), [WEIGHTS]),
    (lambda folder: save_file({"other": torch.zeros(3, 16)}, folder / WEIGHTS), [WEIGHTS, "prompt_embeddings"]),
    (lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.bin"), ["pickle", WEIGHTS, "save_pretrained"]),
], ids=["no config", "bad JSON", "bad text", "too deep", "a list", "LoRA", "no weights", "cut off", "other tensor",
        "pickle"])
def test_unreadable_checkpoint(lms, adapter, spoil, words):
    load_peft_prompt(adapter, lms["gpt2"])
    spoil(adapter)
    with pytest.raises(PromptLoadError) as error:
        load_peft_prompt(adapter, lms["gpt2"])
    assert all(word in str(error.value) for word in [str(adapter), *words])


def configure(adapter, **changes):
    """Change a configuration, and leave out what only ``save_peft_prompt`` notes beside the vectors."""
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, **changes}))
    save_file(load_file(adapter / WEIGHTS), adapter / WEIGHTS)


@pytest.mark.parametrize("name, task_type", [("gpt2", "SEQ_2_SEQ_LM"), ("t5", "CAUSAL_LM"), ("gpt2", "SEQ_CLS"),
                                             ("bert", "CAUSAL_LM"), ("gpt2", ["CAUSAL_LM"])])
def test_checkpoint_of_another_task_type(lms, adapter, name, task_type):
    configure(adapter, task_type=None, base_model_name_or_path=None)
    load_peft_prompt(adapter, lms[name])
    configure(adapter, task_type=task_type)
    said = re.escape(f"task_type {task_type!r}, but {lms[name].name} is {lms[name].kind}")
    with pytest.raises(PromptMismatchError, match=said):
        load_peft_prompt(adapter, lms[name])


@pytest.mark.parametrize("named", ["openai-community/gpt2-large", "", "/", "gpt2\0", "x" * 5000, "~nobody/x", 3,
                                   ["gpt2"]], ids=lambda named: repr(named)[:30])
def test_checkpoint_of_another_base_model(lms, adapter, named):
    configure(adapter, base_model_name_or_path=named)
    with pytest.raises(PromptMismatchError, match=re.escape(f"names the base model {named!r}") + ".*base_model="):
        load_peft_prompt(adapter, lms["gpt2"])
    load_peft_prompt(adapter, lms["gpt2"], base_model=named)
    with pytest.raises(PromptMismatchError, match="not 'another/gpt2'"):
        load_peft_prompt(adapter, lms["gpt2"], base_model="another/gpt2")


def test_names_that_the_base_model_may_have(lms, adapter, tmp_path, monkeypatch):
    lm = lms["gpt2"]
    (tmp_path / "link").symlink_to(lm.name)
    monkeypatch.chdir(tmp_path)
    for named in (lm.name, "openai-community/gpt2", "gpt2/", str(tmp_path / "link"), "link", None):
        configure(adapter, base_model_name_or_path=named)
        load_peft_prompt(adapter, lm).check(lm)


def test_a_fingerprint_counts_more_than_a_name(lms, prefix, tmp_path):
    lm, other = lms["gpt2"], lms["bare"]
    assert lm.dim == other.dim and lm.kind == other.kind
    adapter = save_peft_prompt(prefix, tmp_path / "adapter", lm, base_model=other.name)
    load_peft_prompt(adapter, lm).check(lm)
    for options in ({}, {"base_model": other.name}):
        with pytest.raises(PromptMismatchError, match=f"fingerprint {lm.fingerprint}.*{other.fingerprint}.*transfer"):
            load_peft_prompt(adapter, other, **options)
    configure(adapter)
    load_peft_prompt(adapter, other)  # now there is nothing but the name


def test_a_prompt_with_the_fingerprint_of_the_first_ptlib(lms, prefix, tmp_path):
    old = dataclasses.replace(prefix, lm_fingerprint=lms["gpt2"].table_fingerprint)
    adapter = save_peft_prompt(old, tmp_path / "adapter", lms["gpt2"])
    load_peft_prompt(adapter, lms["gpt2"]).check(lms["gpt2"])


def test_start_tokens_of_another_tokenizer(lms, tmp_path):
    prompt = dataclasses.replace(random_prompt(lms["llama"], 3), template="[V]*3 [X] [Y]")
    adapter = save_peft_prompt(prompt, tmp_path / "adapter", lms["llama"], with_start=True)
    save_file(load_file(adapter / WEIGHTS), adapter / WEIGHTS, metadata={"ptlib_start_tokens": "1"})
    assert torch.equal(load_peft_prompt(adapter, lms["llama"]).vectors, prompt.vectors)
    with pytest.raises(PromptMismatchError, match=f"1 start tokens, but the tokenizer of {lms['bare'].name} has 0"):
        load_peft_prompt(adapter, lms["bare"], base_model=lms["llama"].name)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
def test_vectors_that_are_no_real_numbers(lms, adapter, dtype):
    save_file({"prompt_embeddings": torch.ones(3, 16, dtype=dtype)}, adapter / WEIGHTS)
    with pytest.raises(PromptLoadError, match=f"prompt_embeddings as {dtype}"):
        load_peft_prompt(adapter, lms["gpt2"])


@pytest.mark.parametrize("shape", [(6, 16), (2, 16), (3,), (), (3, 8), (1, 3, 16)])
def test_vectors_of_another_shape(lms, adapter, shape):
    save_file({"prompt_embeddings": torch.zeros(shape)}, adapter / WEIGHTS)
    with pytest.raises(PromptMismatchError, match=re.escape(f"shape {shape}") + r".*\(3, 16\).*transfer"):
        load_peft_prompt(adapter, lms["gpt2"])


@pytest.mark.parametrize("count", [None, 0, "3", [3], {"3": 3}, 4])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_senseless_number_of_virtual_tokens(lms, adapter, name, count):
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**config, "num_virtual_tokens": count}))
    with pytest.raises(PromptMismatchError, match="num_virtual_tokens"):
        load_peft_prompt(adapter, lms[name])


def test_checkpoint_of_another_width_names_both_models(lms, adapter):
    with pytest.raises(PromptMismatchError) as error:
        load_peft_prompt(adapter, lms["roberta"])
    assert all(part in str(error.value) for part in ("(3, 16)", "(3, 24)", lms["roberta"].name, lms["gpt2"].name))


@pytest.mark.parametrize("template", ["[X] [V]*3 [Y]", "[V]*2 [X] [V] [Y]", "The [V]*3 [X] [Y]"])
def test_vectors_elsewhere_than_first(lms, prefix, tmp_path, template):
    with pytest.raises(PromptMismatchError, match=re.escape(repr(template)) + ".*all its prompt vectors first"):
        save_peft_prompt(dataclasses.replace(prefix, template=template), tmp_path / "adapter", lms["gpt2"])
    assert not any(tmp_path.iterdir())


def test_vectors_that_are_all_first_however_written(lms, prefix, tmp_path):
    for template in ("[V] [V]*2[X] [Y]", "[V][V][V] [X] in [Y]"):
        prompt = dataclasses.replace(prefix, template=template)
        save_peft_prompt(prompt, tmp_path / "adapter", lms["gpt2"])
        assert torch.equal(load_peft_prompt(tmp_path / "adapter", lms["gpt2"]).vectors, prefix.vectors)


def test_a_prompt_of_words_has_no_vectors_to_write(lms, prefix, tmp_path):
    words = dataclasses.replace(prefix, template="The capital of [X] is [Y]", vectors=torch.zeros(0, 16))
    with pytest.raises(PromptMismatchError, match="prompt vectors first"):
        save_peft_prompt(words, tmp_path / "adapter", lms["gpt2"])


@pytest.mark.parametrize("name", ["bert", "bart"])
def test_no_task_type_for_masked_lms_and_bart(lms, tmp_path, name):
    prompt = dataclasses.replace(random_prompt(lms[name], 3), template="[V]*3 [X] [Y]")
    with pytest.raises(PromptMismatchError, match=re.escape(lms[name].name) + ".*task type.*Prompt.save"):
        save_peft_prompt(prompt, tmp_path / "adapter", lms[name], with_start=True)
    assert not any(tmp_path.iterdir())


def test_prompt_of_another_lm(lms, prefix, tmp_path):
    with pytest.raises(PromptMismatchError, match="move it first"):
        save_peft_prompt(prefix, tmp_path / "adapter", lms["bare"])


def content(folder):
    """Every file below, with its bytes, and every folder and link."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_an_adapter_is_replaced_and_nothing_is_left_beside_it(lms, prefix, adapter, tmp_path):
    save_peft_prompt(dataclasses.replace(prefix, vectors=prefix.vectors + 1), adapter, lms["gpt2"])
    assert torch.equal(load_peft_prompt(adapter, lms["gpt2"]).vectors, prefix.vectors + 1)
    assert content(tmp_path).keys() == {adapter, adapter / CONFIG, adapter / WEIGHTS}


@pytest.mark.parametrize("block, error", [
    (lambda path: path.write_text("mine"), PromptTransferError),
    (lambda path: (path / "thesis").mkdir(parents=True), PromptTransferError),
    (lambda path: path.symlink_to("nowhere"), OSError),  # found out only when the files are written
], ids=["file", "other folder", "dangling link"])
def test_what_stands_in_the_way_stays(lms, prefix, tmp_path, block, error):
    block(tmp_path / "adapter")
    before = content(tmp_path)
    with pytest.raises(error, match="adapter"):
        save_peft_prompt(prefix, tmp_path / "adapter", lms["gpt2"])
    assert content(tmp_path) == before


def test_failed_save_leaves_the_old_adapter(lms, prefix, adapter, tmp_path):
    before = content(tmp_path)
    with pytest.raises(TypeError):
        save_peft_prompt(dataclasses.replace(prefix, meta={"peft": {"not JSON": object()}}), adapter, lms["gpt2"])
    with pytest.raises(OSError):
        save_peft_prompt(prefix, adapter / CONFIG / "below a file", lms["gpt2"])
    assert content(tmp_path) == before
