"""One face over masked, causal and encoder–decoder language models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

from ..errors import ModelLoadError, NotFiniteError, first_line
from .fingerprints import Checkpoint, fingerprint_of_memory, table_fingerprint
from .proof import prove
from .vocabulary import Vocabulary

MAX_LENGTHS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")  # as configurations have it

__all__ = ["LanguageModel", "kind_of", "only_positions"]


def kind_of(config: Any) -> str:
    """``"seq2seq"``, ``"causal"`` or ``"masked"``, as the architecture's name has it: which class to load."""
    if config.is_encoder_decoder:
        return "seq2seq"
    architecture = (config.architectures or [""])[0]
    masked, causal = (architecture in classes.values() for classes in (MASKED, CAUSAL))
    if masked != causal:
        return "masked" if masked else "causal"
    decoder = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    return "masked" if config.model_type in MASKED and not decoder else "causal"


@contextmanager
def only_positions(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside, ``model``'s head sees only the hidden states at (rows[i], columns[i]).

    Its logits are then (1, N, V) instead of (B, T, V). Works for every head, because the hidden states
    are gathered before it.
    """

    def gather(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[rows, columns].unsqueeze(0)
        return output

    # Whatever the head reads: a masked LM's encoder, else the decoder.
    below = model.base_model if kind_of(model.config) == "masked" else model.get_decoder()
    if below is model or not isinstance(below, PreTrainedModel):  # it does not say what its decoder is
        handle = model.get_output_embeddings().register_forward_pre_hook(
            lambda head, args: (args[0][rows, columns].unsqueeze(0),))
    else:
        handle = below.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


class LanguageModel(Vocabulary):
    """A frozen Hugging Face LM with its tokenizer; prompts enter through its input embeddings.

    Attributes:
        name: what it was loaded as.
        kind: ``"masked"``, ``"causal"`` or ``"seq2seq"``.
        proof: what the model has shown when it was loaded, see ``models.proof``; None of embeddings alone.
        embeddings: (V, d) float32 input embeddings, as they enter the first layer: of a factorised table (ALBERT),
            d is its inner width; a table that the model scales (Gemma) is scaled.
        dim: d.
        vocab_size: V.
        given_ids: (n,) ids that the tokenizer can give, in order: the other rows of the table were never trained.
        fingerprint: hash of the checkpoint (configuration, all weights, tokenizer); tells which LM a prompt belongs
            to.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, kind: str, embeddings: Tensor | None = None,
                 checkpoint: Checkpoint | None = None):
        """``model`` may be None where ``embeddings`` are given: enough to move prompts, not to run them.

        Raises:
            ModelLoadError: embeddings of tokens are not finite; the model fails its proof.
        """
        self._model = None if model is None else model.eval().requires_grad_(False)
        self.kind, self.proof = kind, None
        given = sorted(set(tokenizer.get_vocab().values()))
        if model is not None:
            mend_other_rows(model, given)
        self.embeddings = input_table(model.get_input_embeddings()) if embeddings is None else embeddings
        self.dim = self.embeddings.shape[1]
        super().__init__(tokenizer, name, len(self.embeddings))
        self.given_ids = torch.tensor([i for i in given if i < self.vocab_size], device=self.device)
        self._checkpoint = checkpoint
        broken = self.given_ids[~self.given_embeddings.isfinite().all(-1)].tolist()
        if broken:
            first = tokenizer.convert_ids_to_tokens(broken[0])
            raise ModelLoadError(f"{name} has embeddings that are not finite for {len(broken)} of "
                                 f"{len(self.given_ids)} tokens (such as {first!r}); expected numbers: load it "
                                 "with dtype=torch.float32, and if that gives the same, its weights are broken")
        if model is not None:
            self.proof = prove(self, kind)
            self.kind = self.proof.kind

    def __repr__(self) -> str:
        note = ", embeddings only" if self.proof is None else "" if self.proof.ignores_padding else (
            ", in batches of equal length")
        return f"LanguageModel({self.name!r}, {self.kind}, {self.vocab_size} x {self.dim}{note})"

    @property
    def model(self) -> Any:
        if self._model is None:
            raise ModelLoadError(f"{self.name} was loaded with embeddings_only=True, which serves to move prompts; "
                                 "load it whole to tune or evaluate them")
        return self._model

    @property
    def device(self) -> torch.device:
        return self.embeddings.device

    @cached_property
    def fingerprint(self) -> str:
        if self._checkpoint is None:
            return fingerprint_of_memory(self.model, self.tokenizer)
        try:
            found = self._checkpoint.fingerprint
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelLoadError(f"the files of {self.name} cannot be read whole ({first_line(error)}), and a model is "
                                 "known by all of them; expected a complete checkpoint") from error
        if self._checkpoint.has_changed:
            raise ModelLoadError(f"the files of {self.name} have changed since it was loaded; load it again")
        return found

    @cached_property
    def table_fingerprint(self) -> str:
        """What ptlib 0.1.0 knew the model by."""
        return table_fingerprint(self.embeddings)

    @property
    def given_embeddings(self) -> Tensor:
        """(n, d) embeddings of ``given_ids``: those that count where the whole table is looked at."""
        whole = len(self.given_ids) == self.vocab_size
        return self.embeddings if whole else self.embeddings[self.given_ids]

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of all entries of the embedding table."""
        return self.given_embeddings.mean().item(), self.given_embeddings.std().item()

    @cached_property
    def mean_length(self) -> float:
        """Mean Euclidean length of an embedding."""
        return self.given_embeddings.norm(dim=-1).mean().item()

    @cached_property
    def blank_id(self) -> int:
        """The token that stands at the answer slot: the mask, T5's first sentinel; a causal LM needs none."""
        if self.kind == "causal":
            return 0
        blank = self.tokenizer.mask_token_id
        if blank is None and self.kind == "seq2seq":
            blank = self.tokenizer.get_vocab().get("<extra_id_0>")
        if blank is None or blank == self.tokenizer.unk_token_id:  # as which an empty mask_token is read
            raise ModelLoadError(f"the tokenizer of {self.name} has no mask token; expected one in its "
                                 "tokenizer_config.json, as a prompt's answer slot needs it")
        return blank

    @cached_property
    def max_length(self) -> int | None:
        """The most tokens that the model reads at once; None where its positions have no end."""
        limits = (getattr(self.model.config, name, None) for name in MAX_LENGTHS)
        limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
        # RoBERTa and its like number the positions from behind the one of the padding.
        tables = (module for name, module in self.model.named_modules() if name.endswith("position_embeddings"))
        padding = next((table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None), -1)
        return limit and limit - padding - 1

    def word_logits(self, ids: Tensor) -> Tensor:
        """(B, T, V) float32 logits at every position of texts (B, T) without padding, as the plain model has them.

        What a position answers is what ``answer_logits`` has for it.
        """
        inputs = {}
        if self.kind == "seq2seq":
            start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
            inputs["decoder_input_ids"] = torch.cat([start, ids[:, :-1] if self._writes_all else
                                                     torch.full_like(start, self.blank_id)], 1)
        logits = self.model(input_ids=ids, **inputs).logits.float()
        return logits if self.kind != "seq2seq" or self._writes_all else logits[:, 1:].expand(-1, ids.shape[1], -1)

    @property
    def _writes_all(self) -> bool:
        """Of a sequence-to-sequence LM: whether it writes the whole text again (BART), or what is missing (T5)."""
        return self.blank_id == self.tokenizer.mask_token_id

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

        Raises:
            NotFiniteError: logits are not finite.
        """
        embed = self.model.get_input_embeddings()
        embeds, inputs = embed(ids), {}
        rows = torch.arange(len(ids), device=ids.device)
        if slots.shape[1]:
            vectors = vectors.to(embeds.dtype).expand(len(ids), -1, -1)
            embeds = embeds.index_put((rows[:, None], slots), vectors)
        if self.kind == "seq2seq":
            start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
            if self._writes_all:  # the answer is predicted from the text before it
                inputs["decoder_inputs_embeds"] = torch.cat([embed(start), embeds[:, :-1]], 1)
            else:
                # What belongs at each sentinel: the answer comes first after the first one.
                inputs["decoder_input_ids"] = torch.cat([start, torch.full_like(start, self.blank_id)], 1)
                answers = torch.ones_like(answers)
        with only_positions(self.model, rows, answers):
            [logits] = self.model(inputs_embeds=embeds, attention_mask=mask, **inputs).logits.float()
        if len(logits) != len(ids):
            raise ModelLoadError(f"{type(self.model).__name__} has a head that reads more than its last hidden states; "
                                 "expected one that reads them alone")
        broken = int((~logits.isfinite()).any(1).sum())
        if broken:
            raise NotFiniteError(f"{broken} of {len(logits)} examples have logits that are not finite on {self.name} "
                                 f"in {self.model.dtype}; expected numbers: give shorter prompt vectors, or load it "
                                 "with dtype=torch.float32 if it is not")
        return logits

    def with_random_weights(self, seed: int = 0) -> LanguageModel:
        """The control that knows nothing: same architecture and tokenizer, weights freshly drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = type(self.model)(self.model.config)
        return LanguageModel(model.to(self.device), self.tokenizer, f"{self.name} (random weights)", self.kind)


def mend_other_rows(model: Any, given: list[int]) -> None:
    """Make rows of the embeddings and the head zero that are not finite and of no token: they reach every gradient.

    A table is often longer than its vocabulary, and nobody looks at what was left in memory there.
    """
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for weight in [] if layer is None else layer.parameters():
            other = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
            other[[i for i in given if i < len(weight)]] = False
            weight.data[other & ~weight.data.reshape(len(weight), -1).isfinite().all(1)] = 0


def input_table(module: torch.nn.Embedding) -> Tensor:
    """(V, d) float32: what an embedding layer gives for every token."""
    if type(module) is torch.nn.Embedding:
        return module.weight.detach().float()
    return module(torch.arange(module.num_embeddings, device=module.weight.device)).detach().float()
