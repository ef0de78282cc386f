"""One face over masked, causal and encoder–decoder language models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .errors import ModelLoadError

__all__ = ["LanguageModel", "kind_of", "only_positions"]


def kind_of(config) -> str:
    """``"seq2seq"``, ``"causal"`` or ``"masked"``, by the architecture that the checkpoint names."""
    if config.is_encoder_decoder:
        return "seq2seq"
    architecture = (config.architectures or [""])[0]
    decoder = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    return "masked" if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decoder else "causal"


@contextmanager
def only_positions(model, rows: Tensor, columns: Tensor):
    """Inside, ``model``'s head sees only the hidden states at (rows[i], columns[i]).

    Its logits are then (1, N, V) instead of (B, T, V). Works for every head, because the hidden states
    are gathered before it.
    """

    def gather(module, args, output):
        output.last_hidden_state = output.last_hidden_state[rows, columns].unsqueeze(0)
        return output

    # Whatever the head reads: a masked LM's encoder, else the decoder.
    below = model.base_model if kind_of(model.config) == "masked" else model.get_decoder()
    handle = below.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


class LanguageModel:
    """A frozen Hugging Face LM with its tokenizer; prompts enter through its input embeddings.

    Attributes:
        name: what it was loaded as.
        kind: ``"masked"``, ``"causal"`` or ``"seq2seq"``.
        embeddings: (V, d) float32 input embeddings, as they enter the first layer: of a factorised table (ALBERT),
            d is its inner width; a table that the model scales (Gemma) is scaled.
        dim: d.
        vocab_size: V.
        fingerprint: hash of the embedding table; tells which LM a prompt belongs to.
    """

    def __init__(self, model, tokenizer, name: str, kind: str, embeddings: Tensor | None = None):
        """``model`` may be None where ``embeddings`` are given: enough to move prompts, not to run them."""
        self._model = None if model is None else model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.kind = tokenizer, name, kind
        self.embeddings = input_table(model.get_input_embeddings()) if embeddings is None else embeddings
        self.vocab_size, self.dim = self.embeddings.shape
        self._ids: dict[str, int | None] = {}

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.kind}, {self.vocab_size} x {self.dim})"

    @property
    def model(self):
        if self._model is None:
            raise ModelLoadError(f"{self.name} was loaded with embeddings_only=True, which serves to move prompts; "
                                 "load it whole to tune or evaluate them")
        return self._model

    @property
    def device(self) -> torch.device:
        return self.embeddings.device

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.embeddings.shape)).encode())
        digest.update(self.embeddings.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of all entries of the embedding table."""
        return self.embeddings.mean().item(), self.embeddings.std().item()

    @cached_property
    def mean_length(self) -> float:
        """Mean Euclidean length of an embedding."""
        return self.embeddings.norm(dim=-1).mean().item()

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text ([CLS] and [SEP], say)."""
        bare = self.tokenize("a")
        framed = self.tokenizer("a")["input_ids"]
        start = next(i for i in range(len(framed)) if framed[i:i + len(bare)] == bare)
        return framed[:start], framed[start + len(bare):]

    @cached_property
    def blank_id(self) -> int:
        """The token that stands at the answer slot: the mask, T5's first sentinel; a causal LM needs none."""
        if self.kind == "causal":
            return 0
        blank = self.tokenizer.mask_token_id
        if blank is None and self.kind == "seq2seq":
            blank = self.tokenizer.get_vocab().get("<extra_id_0>")
        if blank is None:
            raise ModelLoadError(f"the tokenizer of {self.name} has no mask token; expected one in its "
                                 "tokenizer_config.json, as a prompt's answer slot needs it")
        return blank

    @cached_property
    def max_length(self) -> int | None:
        """The most tokens that the model reads at once; None where its positions have no end."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        # RoBERTa and its like number the positions from behind the one of the padding.
        tables = (module for name, module in self.model.named_modules() if name.endswith("position_embeddings"))
        padding = next((table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None), -1)
        return limit and limit - padding - 1

    @cached_property
    def control_ids(self) -> set[int]:
        """Ids that steer a model ([MASK], </s>) and that no text may hold; the unknown token stands for text."""
        return set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        return self.tokenize_many([text], special)[0]

    def tokenize_many(self, texts: Iterable[str], special: bool = False) -> list[list[int]]:
        """Token ids of texts as they are at the start of a sentence.

        Args:
            special: read "[MASK]" and the like as the tokens that they name; otherwise they are characters as any.
        """
        texts = list(texts)
        if not texts:
            return []
        ids = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=not special)["input_ids"]
        unknown = self.tokenizer.unk_token_id
        if special or unknown is None:
            return ids
        # Some vocabularies (Unigram) hold these tokens as pieces of text too.
        return [[unknown if i in self.control_ids else i for i in row] for row in ids]

    def tokenize_after(self, texts: Iterable[str], before: str = "a", special: bool = False) -> list[list[int]]:
        """Token ids of texts as they are behind ``before``: many tokenizers put a space before what they are given."""
        texts, start = list(texts), self.tokenize(before)
        whole = self.tokenize_many([before + text for text in texts], special)
        # Where the two run together into other tokens, there is no telling them apart: the text stands alone.
        return [ids[len(start):] if ids[:len(start)] == start else self.tokenize(text, special)
                for text, ids in zip(texts, whole, strict=True)]

    def word_ids(self, words: Iterable[str]) -> list[int | None]:
        """The one token that each word is after a space, or None where it is several or unknown."""
        words = list(words)
        new = [word for word in dict.fromkeys(words) if word not in self._ids]
        special = set(self.tokenizer.all_special_ids)
        for word, ids in zip(new, self.tokenize_after(" " + word for word in new), strict=True):
            # A tokenizer may hold tokens that the model has no embedding for.
            known = len(ids) == 1 and ids[0] not in special and ids[0] < self.vocab_size
            self._ids[word] = ids[0] if known else None
        return [self._ids[word] for word in words]

    @cached_property
    def words(self) -> dict[str, int]:
        """The vocabulary's whole words and their ids, in order of id: word pieces and symbols are left out."""
        decoded = [text.strip() for text in self.tokenizer.batch_decode([[i] for i in range(len(self.tokenizer))])]
        plausible = [(i, word) for i, word in enumerate(decoded)
                     if any(map(str.isalnum, word)) and not any(map(str.isspace, word))]
        ids = self.word_ids(word for _, word in plausible)
        return {word: i for (i, word), found in zip(plausible, ids, strict=True) if found == i}

    def answer_logits(self, ids: Tensor, mask: Tensor, slots: Tensor, vectors: Tensor, answers: Tensor) -> Tensor:
        """Logits at the answer slot, with prompt vectors in place of the embeddings at ``slots``.

        Args:
            ids: (B, T) token ids; those at ``slots`` are ignored.
            mask: (B, T) attention mask.
            slots: (B, m) positions of the prompt vectors.
            vectors: (m, d) one prompt for all, or (B, m, d).
            answers: (B,) positions whose prediction is the answer.

        Returns:
            (B, V) float32.
        """
        embed = self.model.get_input_embeddings()
        embeds, inputs = embed(ids), {}
        rows = torch.arange(len(ids), device=ids.device)
        if slots.shape[1]:
            vectors = vectors.to(embeds.dtype).expand(len(ids), -1, -1)
            embeds = embeds.index_put((rows[:, None], slots), vectors)
        if self.kind == "seq2seq":
            start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
            if self.blank_id == self.tokenizer.mask_token_id:
                # BART writes the whole text again: the answer is predicted from the text before it.
                inputs["decoder_inputs_embeds"] = torch.cat([embed(start), embeds[:, :-1]], 1)
            else:
                # T5 writes what belongs at each sentinel: the answer comes first after the first one.
                inputs["decoder_input_ids"] = torch.cat([start, torch.full_like(start, self.blank_id)], 1)
                answers = torch.ones_like(answers)
        with only_positions(self.model, rows, answers):
            return self.model(inputs_embeds=embeds, attention_mask=mask, **inputs).logits[0].float()

    def with_random_weights(self, seed: int = 0) -> LanguageModel:
        """The control that knows nothing: same architecture and tokenizer, weights freshly drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = type(self.model)(self.model.config)
        return LanguageModel(model.to(self.device), self.tokenizer, f"{self.name} (random weights)", self.kind)


def input_table(module: torch.nn.Embedding) -> Tensor:
    """(V, d) float32: what an embedding layer gives for every token."""
    if type(module) is torch.nn.Embedding:
        return module.weight.detach().float()
    return module(torch.arange(module.num_embeddings, device=module.weight.device)).detach().float()
