"""Every architecture of transformers at toy size with random weights; ``main`` prints what ptlib makes of each."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from tempfile import TemporaryDirectory

import torch
import transformers
from families import tokenizer_of
from torch import Tensor
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights
from transformers.models.auto import modeling_auto

from ptlib import ModelLoadError, load_lm
from ptlib.models.formats import without_bars
from ptlib.models.lm import LanguageModel
from ptlib.prompts.templates import Layout, Template, batches

MAPPINGS = {"masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
            "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
TOKENIZERS = {  # by kind; by family, where that is read in another way
    "masked": "bert", "causal": "qwen", "seq2seq": "roberta", "mpnet": "roberta", "xlnet": "bert",
    **dict.fromkeys(("t5", "mt5", "umt5", "longt5", "switch_transformers", "t5gemma", "t5gemma2"), "t5")}
LARGEST = 3_000_000  # parameters: what a size that nobody thought of would exceed by far
WORDS, VECTORS = "The capital of [X] is [Y] .", "The [V]*2 [X] [V] [Y] ."  # the same sentence
SUBJECTS = ["France", "the old capital of Saint Helena"]

ALIKE = {  # {size: everything that is given it}
    1: "n_group topk_group n_shared_experts num_shared_experts moe_num_shared_experts first_k_dense_replace "
       "mamba_n_groups",
    2: "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_encoder_layers "
       "num_decoder_layers num_self_attends_per_block num_key_value_heads swa_num_key_value_heads "
       "linear_num_key_heads linear_num_value_heads index_n_heads kv_n_heads num_experts_per_tok moe_topk moe_k",
    4: "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads "
       "num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads linear_num_heads "
       "qk_rope_head_dim qk_nope_head_dim rotary_dim num_experts num_local_experts n_routed_experts moe_num_experts "
       "sliding_window attention_window_size sliding_window_size local_attention window_size",
    8: "head_dim d_kv d_head swa_head_dim v_head_dim kv_lora_rank q_lora_rank kv_channels index_head_dim "
       "linear_key_head_dim linear_value_head_dim linear_head_dim attention_head_size mamba_d_state mamba_n_heads "
       "mamba_num_heads mamba_head_dim ssm_state_size state_size",
    32: "hidden_size d_model n_embd dim emb_dim embedding_size d_latents input_embedding_size output_embedding_size",
    48: "intermediate_size d_ff ffn_dim ffn_hidden_size d_inner encoder_ffn_dim decoder_ffn_dim moe_intermediate_size "
        "shared_expert_intermediate_size shared_intermediate_size hidden_dim expert_ffn_hidden_size feed_forward_size "
        "dim_ff dff moe_shared_expert_intermediate_size dense_intermediate_size shared_experts_intermediate_size "
        "intermediate_size_mlp",
    64: "max_position_embeddings n_positions n_ctx max_seq_len max_encoder_position_embeddings "
        "max_decoder_position_embeddings"}
SIZES = {name: size for size, names in ALIKE.items() for name in names.split()}

# What a family needs beside: sizes that have to agree, and one layer of each sort.
UNGROUPED = {"num_key_value_heads": 4}
PER_LAYER = {"vocab_size_per_layer_input": 600, "hidden_size_per_layer_input": 8}
NO_IMAGES = {"image_token_id": 0, "video_token_id": 0, "audio_token_id": 0}
HYBRID = {"layer_types": ["linear_attention", "full_attention"]}
CONVOLUTION = {"layer_types": ["conv", "full_attention"]}
NARROW, WINDOW, UNSCALED = {"head_dim": 8}, {"attention_window": 8}, {"logit_scale": 1.0}
OWN = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v3", "deepseek_v32", "dots3_note_text", "glm4_moe_lite", "glm_moe_dsa",
                     "minicpm3", "youtu"), UNGROUPED),
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), HYBRID),
    **dict.fromkeys(("bailing_hybrid", "kimi_linear"), HYBRID | UNGROUPED),
    **dict.fromkeys(("cohere", "cohere2", "cohere2_moe"), UNSCALED),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), NARROW),
    **dict.fromkeys(("lfm2_moe", "lfm3"), CONVOLUTION),
    **dict.fromkeys(("led", "longformer"), WINDOW),
    "bamba": {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 8, "use_cache": False, "decoder_config": {"hidden_size_global": 32},
            "encoder_config": {"hidden_size_global": 32, "intermediate_size": 48}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "funnel": {"block_sizes": [1, 1]},
    "gemma3n_text": PER_LAYER | {"num_hidden_layers": 4, "num_kv_shared_layers": 1,
                                 "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gemma4": NO_IMAGES | {"text_config": PER_LAYER},
    "gemma4_text": PER_LAYER,
    "gemma4_unified": NO_IMAGES,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "longcat_flash": {"head_dim": 4},
    "luke": {"entity_vocab_size": 8},
    "mamba2": {"num_heads": 8},
    "nemotron": {"num_key_value_heads": 2},
    "neomme": {"head_dim": 16},
    "phi4_multimodal": {"audio_config": {"nemo_conv_channels": 8, "num_blocks": 2}},
    "qwen3_asr": {"audio_config": {"downsample_hidden_size": 8}},
    "qwen4_exp_text": HYBRID | {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
                                "indexer_budget": 8, "indexer_compress_ratio": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh"],
                 "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16, "num_buckets": 4, "hash_seed": 0},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8},
    "xlstm": {"hidden_size": 64, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 4, "attn_layer_offset": 0},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}
SAME = {  # {name: another one of the same class}
    "masked/bart": "seq2seq/bart", "masked/mbart": "seq2seq/mbart", "masked/mvp": "seq2seq/mvp",
    "causal/xlm": "masked/xlm", "causal/gpt-sw3": "causal/gpt2", "causal/dots3_note": "causal/dots3_note_text",
    "causal/llama4": "causal/llama4_text", "causal/qwen3_5": "causal/qwen3_5_text",
    "causal/qwen3_5_moe": "causal/qwen3_5_moe_text", "causal/qwen4_exp": "causal/qwen4_exp_text",
    "seq2seq/moss_transcribe_diarize": "causal/moss_transcribe_diarize",
}
NOT_BUILT = {  # {name: why}
    "masked/mra": "its attention needs a CUDA kernel of its own, and gives zeros without",
    "causal/gemma3n": "its part that sees needs the package timm",
    "causal/gemma4_assistant": "drafts for another model, whose states it reads",
    "causal/gemma4_unified_assistant": "drafts for another model, whose states it reads",
    "causal/musicgen": "writes four streams of audio codes",
    "causal/musicgen_melody": "writes four streams of audio codes",
    "seq2seq/nemo_speechlm": "its parts that hear have sizes that depend on one another, three deep",
    "seq2seq/vibevoice_asr": "its part that hears does not become small by its configuration",
}
ARCHITECTURES = [name for kind, families in MAPPINGS.items() for family in families
                 if (name := f"{kind}/{family}") not in SAME and name not in NOT_BUILT]


def toy_config(kind: type[PreTrainedConfig], special: dict, own: dict) -> PreTrainedConfig:
    """A configuration with every size that it is known to have made small, in its parts too."""
    usual = {field.name: field.default for field in fields(kind)}
    sizes = {name: size for name, size in SIZES.items() if type(usual.get(name)) is int}
    whole = kind() if kind.sub_configs else None
    parts = {name: toy_config(type(part), special, own.get(name, {})) for name in kind.sub_configs
             if (part := getattr(whole, name)) is not None}
    return kind(**sizes | special | own | parts)


def build(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A toy of ``"causal/llama"``, say, and a tokenizer that suits it.

    Raises:
        ValueError: it is no toy. That is found out before there is a single weight: by default some fill a disk.
    """
    kind, _, family = name.partition("/")
    tokenizer = tokenizer_of(TOKENIZERS.get(family, TOKENIZERS[kind]))
    model_class, config_class = getattr(transformers, MAPPINGS[kind][family]), CONFIG_MAPPING[family]
    if config_class.sub_configs:  # the text's alone, if that is what the model reads
        config_class = model_class.config_class
    special = {f"{role}_token_id": i for role in ("pad", "bos", "eos", "cls", "sep")
               if (i := getattr(tokenizer, f"{role}_token_id")) is not None}
    if kind == "causal" and any(field.name == "is_decoder" for field in fields(config_class)):
        special["is_decoder"] = True  # else BERT & co. look ahead
    if kind == "seq2seq":  # many have it from their checkpoint alone
        special["decoder_start_token_id"] = tokenizer.eos_token_id if tokenizer.mask_token else tokenizer.pad_token_id
    config = toy_config(config_class, special | {"vocab_size": len(tokenizer)}, OWN.get(family, {}))
    with torch.device("meta"), no_init_weights():
        size = model_class(config).num_parameters()
    if size > LARGEST:
        raise ValueError(f"{name} has {size} parameters; expected a toy: name its sizes in ALIKE or OWN")
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1 and weight.requires_grad:  # sinusoids stay
                weight.normal_(std=0.2)  # at the usual 0.02 the logits would hardly depend on the context
        for table in model.modules():
            if isinstance(table, torch.nn.Embedding) and table.padding_idx is not None:
                table.weight[table.padding_idx] = 0  # as some make it again when they are loaded
    return model, tokenizer


@dataclass(frozen=True)
class Outcome:
    """What ptlib makes of an architecture.

    Attributes:
        name: its mapping and family, as in ``"causal/llama"``.
        model, config: names of its classes.
        result: ``"equal"``, or ``"refused"`` by name; in between, which nothing may be: ``"different"``, ``"error"``.
        reason: of a refusal or an error; else how far its logits are from plain transformers'.
        kind: what ptlib takes it for.
        heard: by how much other prompt vectors, which are no words, change the logits.
        not_tuned: why no gradient comes back to these vectors, where none does.
    """

    name: str
    model: str
    config: str
    result: str
    reason: str
    kind: str = ""
    heard: float = 0.0
    not_tuned: str = ""


@cache
def outcome_of(name: str) -> Outcome:
    model, tokenizer = build(name)
    about = name, type(model).__name__, type(model.config).__name__
    try:
        with TemporaryDirectory() as folder, without_bars():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            lm = load_lm(folder, device="cpu")
        sentences, words = (Template(text).layout(lm, SUBJECTS) for text in (VECTORS, WORDS))
        vectors = torch.stack([lm.embeddings[[plain.ids[at] for at in sentence.slots]]
                               for sentence, plain in zip(sentences, words, strict=True)])
        with torch.no_grad():
            own = torch.stack([plain_logits(model, lm, plain) for plain in words])
            together = ptlib_logits(lm, sentences, vectors)
            alone = torch.cat([ptlib_logits(lm, [sentence], vectors[i:i + 1]) for i, sentence in enumerate(sentences)])
        prompt = vectors[:1].mean(1, keepdim=True).repeat(1, vectors.shape[1], 1).requires_grad_()
        prompted = ptlib_logits(lm, sentences[:1], prompt)
    except ModelLoadError as error:
        return Outcome(*about, "refused", str(error))
    except Exception as error:  # any other is what is looked for
        return Outcome(*about, "error", f"{type(error).__name__}: {error}")
    equal = all(torch.allclose(logits, own, atol=1e-4, rtol=1e-4) for logits in (together, alone))
    gap = max((logits - own).abs().max().item() for logits in (together, alone))
    return Outcome(*about, "equal" if equal else "different", f"by up to {gap:.0e}", lm.kind,
                   (prompted - own[0]).abs().max().item(), gradient_fault(prompted, prompt))


def plain_logits(model: PreTrainedModel, lm: LanguageModel, layout: Layout) -> Tensor:
    """(V,) logits where the answer stands in one sentence, as a user of transformers would get them."""
    ids, inputs, at = torch.tensor([layout.ids]), {}, layout.answer
    if lm.kind == "seq2seq":
        start, sentinel = model.config.decoder_start_token_id, lm.tokenizer.mask_token is None
        written = lm.tokenizer.convert_tokens_to_ids(["<extra_id_0>"]) if sentinel else layout.ids[:-1]
        inputs["decoder_input_ids"], at = torch.tensor([[start, *written]]), 1 if sentinel else at
    return model(input_ids=ids, **inputs).logits[0, at]


def ptlib_logits(lm: LanguageModel, layouts: Sequence[Layout], vectors: Tensor) -> Tensor:
    """(B, V) logits of sentences, each with its prompt vectors (B, m, d), batched as ptlib does it."""
    found = {}
    for rows, batch in batches(layouts, lm):
        logits = batch.logits(lm, vectors[rows])
        found |= dict(zip(rows, logits, strict=True))
    return torch.stack([found[row] for row in range(len(layouts))])


def gradient_fault(logits: Tensor, prompt: Tensor) -> str:
    """Why these logits give a prompt no gradient; nothing where they do."""
    try:
        slope, = torch.autograd.grad(logits.square().mean(), prompt)
    except Exception as error:  # a backward pass may raise anything
        return f"{type(error).__name__}: {error}"
    return "" if slope.isfinite().all() and slope.any() else "the gradient is zero or no number"


def main() -> None:
    transformers.logging.set_verbosity_error()
    outcomes = sorted(map(outcome_of, ARCHITECTURES), key=lambda outcome: outcome.result)
    for one in outcomes:
        reason = f"{one.reason} ({one.not_tuned})" if one.not_tuned else one.reason
        print(f"{one.name:32}{one.model:46}{one.kind:9}{one.result:10}{' '.join(reason.split())}")
    for name, reason in NOT_BUILT.items():
        print(f"{name:87}not built {reason}")
    for name, other in SAME.items():
        print(f"{name:87}same as   {other}")
    print(dict(Counter(outcome.result for outcome in outcomes)), len(NOT_BUILT), "not built", len(SAME), "the same")


if __name__ == "__main__":
    main()
