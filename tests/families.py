"""Every family of language model at toy size: its architecture with random weights, and a tokenizer of its kind."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import torch
import transformers
from conftest import SENTENCES
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ptlib.zoo.tokenization import frame, train_tokenizer

WORDS = sorted({word for text in SENTENCES for word in text.split()})
LETTERS = sorted({letter for word in WORDS for letter in word} | set("[]<>{}\"'’,!?()_0123456789\n"))


def begin(tokenizer: Tokenizer, start: str) -> None:
    """Put a start token, and no end token, around every sequence."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", pair=f"{start} $A $B", special_tokens=[(start, tokenizer.token_to_id(start))])


def pieces(special: list[str], bare: bool = False) -> Tokenizer:
    """A Unigram model with words, letters and ▁, as SentencePiece has them; ``bare``: words at a start lack the ▁."""
    words = ["▁" + word for word in WORDS] + (WORDS if bare else [])
    scored = [(token, 0.0) for token in special] + [(word, -5.0) for word in words]
    known = {token for token, _ in scored}
    scored += [(letter, -20.0) for letter in ["▁", "▁▁", *LETTERS] if letter not in known]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=special.index("<unk>")))
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def xlmr_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = pieces(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    mask = AddedToken("<mask>", lstrip=True, special=True)
    tokenizer.add_special_tokens([mask])
    frame(tokenizer, "<s>", "</s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", eos_token="</s>",
                                   sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token=mask)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2's: a ▁ is put before whatever it is given, be there a space already or not."""
    tokenizer = pieces(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    begin(tokenizer, "<s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """As Gemma's: no ▁ is put anywhere, so that the first word is another token than later."""
    tokenizer = pieces(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], bare=True)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    begin(tokenizer, "<bos>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                                   unk_token="<unk>", mask_token="<mask>")


def t5_tokenizer() -> PreTrainedTokenizerFast:
    sentinels = ["<extra_id_1>", "<extra_id_0>"]
    tokenizer = pieces(["<pad>", "</s>", "<unk>", *sentinels])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>",
                                                             special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
                                   additional_special_tokens=sentinels)


def byte_level(special: list[str]) -> Tokenizer:
    """BPE that puts no space before the first word, and merges every word of the text whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(
        vocab_size=3000, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def opt_tokenizer() -> PreTrainedTokenizerFast:
    """As OPT's: what starts a text is </s>, of all tokens."""
    tokenizer = byte_level(["<pad>", "</s>"])
    begin(tokenizer, "</s>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", unk_token="</s>",
                                   pad_token="<pad>")


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """As Qwen's and GPT-NeoX's: nothing starts a text."""
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=byte_level([end]), eos_token=end, pad_token=end)


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    **{kind: partial(train_tokenizer, kind, SENTENCES) for kind in ("bert", "roberta", "gpt2")},
    "xlmr": xlmr_tokenizer, "llama": llama_tokenizer, "gemma": gemma_tokenizer, "t5": t5_tokenizer,
    "opt": opt_tokenizer, "qwen": qwen_tokenizer}


@cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """Trained once: the trainers break ties differently every time."""
    return TOKENIZERS[kind]()


@dataclass(frozen=True)
class Family:
    """What to build: class names of transformers without and with their ending, a tokenizer, sizes."""

    config: str
    model: str
    tokenizer: str
    sizes: dict = field(default_factory=dict)

    def build(self, tokenizer: PreTrainedTokenizerFast):
        special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
                   for name in ("pad", "bos", "eos", "cls", "sep")}
        config = getattr(transformers, self.config + "Config")(vocab_size=len(tokenizer), **special | self.sizes)
        torch.manual_seed(0)
        model = getattr(transformers, self.model)(config).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 2:
                    weight.normal_(std=0.2)  # at the usual 0.02 the logits would hardly depend on the context
        return model

    def save(self, folder: Path, **options):
        """Save model and tokenizer in ``folder``; returns the model."""
        tokenizer = tokenizer_of(self.tokenizer)
        model = self.build(tokenizer)
        model.save_pretrained(folder, **options)
        tokenizer.save_pretrained(folder)
        return model


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 64}
GROUPED = {**SMALL, "num_key_value_heads": 1}
HEADS = {**GROUPED, "head_dim": 8}
OPT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32,
       "max_position_embeddings": 64, "word_embed_proj_dim": 16}
BART = {"d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64,
        "decoder_start_token_id": 2}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
UNTIED = {"tie_word_embeddings": False}

MASKED = {
    "bert": Family("Bert", "BertForMaskedLM", "bert", SMALL),
    "bert-untied": Family("Bert", "BertForMaskedLM", "bert", SMALL | UNTIED),
    "roberta": Family("Roberta", "RobertaForMaskedLM", "roberta", SMALL),
    "xlm-roberta": Family("XLMRoberta", "XLMRobertaForMaskedLM", "xlmr", SMALL),
    "albert": Family("Albert", "AlbertForMaskedLM", "xlmr", SMALL | {"embedding_size": 8}),
    "distilbert": Family("DistilBert", "DistilBertForMaskedLM", "bert", {
        "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 64}),
    "electra": Family("Electra", "ElectraForMaskedLM", "bert", SMALL | {"embedding_size": 8}),
    "deberta-v2": Family("DebertaV2", "DebertaV2ForMaskedLM", "xlmr", SMALL | {
        "relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "position_biased_input":
        False}),
    "modernbert": Family("ModernBert", "ModernBertForMaskedLM", "bert", SMALL),
    "mpnet": Family("MPNet", "MPNetForMaskedLM", "bert", SMALL),
}
CAUSAL = {
    "gpt2": Family("GPT2", "GPT2LMHeadModel", "gpt2", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}),
    "gpt-neox": Family("GPTNeoX", "GPTNeoXForCausalLM", "qwen", SMALL),
    "opt": Family("OPT", "OPTForCausalLM", "opt", OPT),
    "opt-projected": Family("OPT", "OPTForCausalLM", "opt", OPT | {"word_embed_proj_dim": 8}),
    "llama": Family("Llama", "LlamaForCausalLM", "llama", GROUPED),
    "llama-tied": Family("Llama", "LlamaForCausalLM", "llama", GROUPED | {"tie_word_embeddings": True}),
    "mistral": Family("Mistral", "MistralForCausalLM", "llama", GROUPED),
    "qwen2": Family("Qwen2", "Qwen2ForCausalLM", "qwen", GROUPED),
    "qwen3": Family("Qwen3", "Qwen3ForCausalLM", "qwen", HEADS),
    "gemma": Family("Gemma", "GemmaForCausalLM", "gemma", HEADS | {"hidden_size": 24}),
    "gemma2": Family("Gemma2", "Gemma2ForCausalLM", "gemma", HEADS | {"hidden_size": 24}),
    "gemma3": Family("Gemma3Text", "Gemma3ForCausalLM", "gemma", HEADS | {"hidden_size": 24}),
    "bloom": Family("Bloom", "BloomForCausalLM", "gpt2", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
    "phi": Family("Phi", "PhiForCausalLM", "gpt2", SMALL),
}
SEQ2SEQ = {
    "t5": Family("T5", "T5ForConditionalGeneration", "t5", T5),
    "t5-untied": Family("T5", "T5ForConditionalGeneration", "t5", T5 | UNTIED),
    "bart": Family("Bart", "BartForConditionalGeneration", "roberta", BART),
    "bart-scaled": Family("Bart", "BartForConditionalGeneration", "roberta", BART | {"scale_embedding": True}),
}
FAMILIES = MASKED | CAUSAL | SEQ2SEQ
