"""A model proves itself: what it does decides, not what it is called."""

import copy

import pytest
import torch
from families import HEADS, SMALL, Family, tokenizer_of
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from ptlib import (
    Example,
    LanguageModel,
    ModelLoadError,
    NotFiniteError,
    evaluate,
    load_lm,
    load_task,
    manual_prompt,
    random_prompt,
    shared_anchors,
    transfer,
    tune,
)
from ptlib.prompts.templates import Template, batches

SUBJECTS = ["France", "New Zealand", "the old capital of Saint Helena", "Peru", "South Korea"]
CONV = SMALL | {"embedding_size": 16, "conv_kernel_size": 3, "head_ratio": 1}
HEARD = {
    "convbert": Family("ConvBert", "ConvBertForMaskedLM", "bert", CONV),
    "mobilebert": Family("MobileBert", "MobileBertForMaskedLM", "bert", SMALL | {
        "embedding_size": 16, "intra_bottleneck_size": 16, "hidden_size": 16, "true_hidden_size": 16}),
    "fnet": Family("FNet", "FNetForMaskedLM", "bert", {key: value for key, value in SMALL.items()
                                                       if key != "num_attention_heads"}),
}


def loaded(family: Family, folder) -> LanguageModel:
    family.save(folder)
    return load_lm(folder)


@pytest.mark.parametrize("name", HEARD)
def test_a_model_that_hears_padding_is_read_in_batches_of_equal_length(tmp_path, capitals, name):
    lm = loaded(HEARD[name], tmp_path)
    assert not lm.proof.ignores_padding
    assert "batches of equal length" in repr(lm)
    layouts = Template("The [V]*2 [X] is [Y] .").layout(lm, SUBJECTS)
    assert len({len(layout.ids) for layout in layouts}) > 1
    vectors = random_prompt(lm, 2).vectors
    for rows, batch in batches(layouts, lm):
        assert batch.mask.all()
        together = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
        for row, logits in zip(rows, together, strict=True):
            (_, own), = batches([layouts[row]], lm)
            alone = own.logits(lm, vectors)[0]
            torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)
    prompt = manual_prompt(lm, capitals)
    single = [evaluate(lm, prompt, [example]).ranks[0] for example in capitals.test]
    assert evaluate(lm, prompt, capitals.test).ranks.tolist() == single


XLM = {"emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64, "n_langs": 1, "use_lang_emb": False}


@pytest.mark.parametrize(("family", "kind"), [
    (Family("XLM", "XLMWithLMHeadModel", "bert", XLM | {"causal": False}), "masked"),
    (Family("Bert", "BertLMHeadModel", "bert", SMALL | {"is_decoder": True}), "causal"),
    (Family("Bert", "BertLMHeadModel", "bert", SMALL), "masked"),
    (Family("GPT2", "GPT2LMHeadModel", "gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
     "causal")])
def test_kind_is_what_a_model_does(tmp_path, family, kind):
    lm = loaded(family, tmp_path)
    assert lm.kind == lm.proof.kind == kind


def test_a_model_that_hears_nothing_is_what_its_configuration_says():
    tokenizer = tokenizer_of("bert")
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SMALL))
    for weight in model.parameters():
        weight.data.zero_()
    assert LanguageModel(model, tokenizer, "constant", "masked").kind == "masked"
    assert LanguageModel(model, tokenizer, "constant", "causal").kind == "causal"


def test_constant_logits_are_never_right():
    gpt = load_lm("zoo/gpt2-mini").with_random_weights()
    for weight in gpt.model.parameters():
        weight.data.zero_()
    lm = LanguageModel(gpt.model, gpt.tokenizer, "constant", "causal")
    task = load_task("zoo/sentiment")
    found = evaluate(lm, manual_prompt(lm, task), task.test)
    assert (found.accuracy, found.macro_f1, found.ties) == (0, 0, found.n)
    assert all(found.predictions["prediction"] != found.predictions["object"])


MARIAN = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
          "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
          "scale_embedding": True, "decoder_start_token_id": 0}
PER_LAYER = HEADS | {"hidden_size": 24, "num_hidden_layers": 4, "num_kv_shared_layers": 2,
                     "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
                     "layer_types": ["full_attention"] * 4, "altup_num_inputs": 2, "intermediate_size": [32] * 4,
                     "activation_sparsity_pattern": [0.0] * 4}


OTHERWISE = "gives other logits for the embeddings of words than for the words"


def test_a_model_that_scales_embeddings_outside_of_their_layer_is_refused(tmp_path):
    with pytest.raises(ModelLoadError, match=f"MarianMTModel .*{OTHERWISE}"):
        loaded(Family("Marian", "MarianMTModel", "roberta", MARIAN), tmp_path)


def test_a_model_with_embeddings_in_every_layer_is_refused(tmp_path):
    Family("Gemma3nText", "Gemma3nForCausalLM", "gemma", PER_LAYER).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    # These are zero at the start of training, when such a model hears nothing of its layers' own embeddings.
    weights |= {name: torch.ones_like(weight) for name, weight in weights.items() if "correct_output_scale" in name}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=f"Gemma3nForCausalLM .*{OTHERWISE}"):
        load_lm(tmp_path)


def test_the_proof_is_told(toys):
    for lm in toys.values():
        assert lm.proof.ignores_padding and lm.proof.seconds > 0
        assert repr(lm) == f"LanguageModel({lm.name!r}, {lm.kind}, {lm.vocab_size} x {lm.dim}" + (
            ", a full stop before subjects that stand first)" if lm.loses_first_token else ")")
    assert load_lm(toys["bert"].name, embeddings_only=True).proof is None


# --- numbers that are none ----------------------------------------------------------------------


def bert_with(tokenizer, more: int = 0) -> BertForMaskedLM:
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer) + more, **SMALL, pad_token_id=0)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(std=0.2)
    return model


@pytest.mark.parametrize("filling", [float("nan"), 0.0])
def test_rows_that_the_tokenizer_never_gives_change_nothing(capitals, toys, filling):
    tokenizer = tokenizer_of("bert")
    small, padded = bert_with(tokenizer), bert_with(tokenizer, more=1000)
    with torch.no_grad():
        for weight, own in zip(padded.parameters(), small.parameters(), strict=True):
            if weight.shape == own.shape:
                weight.copy_(own)
            else:
                weight[:len(own)] = own
                weight[len(own):] = filling
    lms = [LanguageModel(model, tokenizer, name, "masked") for name, model in (("small", small), ("padded", padded))]
    assert lms[0].moments == pytest.approx(lms[1].moments) and lms[0].mean_length == pytest.approx(lms[1].mean_length)
    source = toys["roberta"]
    prompt = random_prompt(source, 2)
    for method in ("closed-form", "linear"):
        for normalize in ("affine", "scale", "norm-preserving"):
            moved = [transfer(prompt, source=source, target=lm, method=method, normalize=normalize) for lm in lms]
            torch.testing.assert_close(moved[0].vectors, moved[1].vectors, atol=1e-5, rtol=1e-4)
    mixtures = [tune(lm, capitals, parameterization="mixture", num_vectors=2, epochs=1) for lm in lms]
    assert all(mixture.vectors.isfinite().all() for mixture in mixtures)
    ranks = [evaluate(lm, manual_prompt(lm, capitals), capitals.test).ranks.tolist() for lm in lms]
    assert ranks[0] == ranks[1]
    assert shared_anchors(*lms).words == shared_anchors(lms[0]).words


def test_embeddings_of_tokens_that_are_not_finite(toys):
    model = bert_with(tokenizer_of("bert"))
    model.get_input_embeddings().weight.data[tokenizer_of("bert").convert_tokens_to_ids("Paris")] = torch.inf
    with pytest.raises(ModelLoadError, match=r"not finite for 1 of \d+ tokens \(such as 'Paris'\)"):
        LanguageModel(model, tokenizer_of("bert"), "broken", "masked")


def test_logits_that_overflow_in_half_precision(capitals):
    lm = LanguageModel(bert_with(tokenizer_of("bert")).half(), tokenizer_of("bert"), "half", "masked")
    lm.model.cls.predictions.transform.LayerNorm.weight.data *= 60000
    with pytest.raises(NotFiniteError, match=r"of 8 examples have logits that are not finite on half in torch.float16"):
        evaluate(lm, manual_prompt(lm, capitals), capitals.test)
    with pytest.raises(ModelLoadError, match=r"BertForMaskedLM 'half' gives logits that are not finite in"):
        LanguageModel(lm.model, lm.tokenizer, "half", "masked")


def test_a_token_that_the_model_has_no_embedding_for(capitals):
    tokenizer = tokenizer_of("bert")
    model = bert_with(tokenizer)
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["Atlantis"])
    lm = LanguageModel(model, own, "wider", "masked")
    with pytest.raises(ModelLoadError, match=rf"the token 'Atlantis' the id {len(tokenizer)}.* {len(tokenizer)} emb"):
        evaluate(lm, manual_prompt(lm, capitals), [Example("Atlantis", "Paris")])
    assert evaluate(lm, manual_prompt(lm, capitals), capitals.test).n == len(capitals.test)
