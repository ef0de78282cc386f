"""``LanguageModel``: one interface to masked, causal and encoder–decoder language models.

Prompt vectors enter a model through its input embeddings. ``answer_logits`` reads its prediction at the answer slot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ..errors import ModelLoadError, NotFiniteError, first_line
from .fingerprints import Checkpoint, fingerprint_of_memory, table_fingerprint
from .heads import Head, head_of, only_words
from .prefixes import Prefixes
from .proof import answers_alone, prove, reuses
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import DynamicCache

# The names under which configurations give the maximum length of an input.
MAX_LENGTHS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")

__all__ = ["LanguageModel", "kind_of", "only_positions"]


def kind_of(config: Any) -> str:
    """``"seq2seq"``, ``"causal"`` or ``"masked"``, according to the configuration. It decides which class is loaded."""
    from transformers.models.auto import modeling_auto as auto  # takes seconds to import

    known_masked, known_causal = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES, auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if config.is_encoder_decoder:
        return "seq2seq"
    architecture = (config.architectures or [""])[0]
    masked, causal = (architecture in classes.values() for classes in (known_masked, known_causal))
    if masked != causal:
        return "masked" if masked else "causal"
    decoder = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    return "masked" if config.model_type in known_masked and not decoder else "causal"


@contextmanager
def only_positions(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """Inside this context, ``model``'s head sees only the hidden states at (rows[i], columns[i]).

    Its logits are then (1, N, V) instead of (B, T, V), which saves memory and time. This works for every head, because
    the hidden states are gathered before they reach it.
    """
    from transformers import PreTrainedModel

    def gather(module: Any, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[rows, columns].unsqueeze(0)
        return output

    # The head reads the output of a masked LM's encoder, or of any other LM's decoder.
    body = model.base_model if kind_of(model.config) == "masked" else model.get_decoder()
    if body is model or not isinstance(body, PreTrainedModel):  # transformers does not know this model's decoder
        handle = model.get_output_embeddings().register_forward_pre_hook(
            lambda head, args: (args[0][rows, columns].unsqueeze(0),))
    else:
        handle = body.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


class LanguageModel(Vocabulary):
    """A frozen Hugging Face LM with its tokenizer. Prompt vectors enter through its input embeddings.

    Attributes:
        name: the name that it was loaded by.
        kind: ``"masked"``, ``"causal"`` or ``"seq2seq"``.
        proof: what the tests on loading showed, see ``models.proof``; None if only the embeddings were loaded.
        embeddings: (V, d) float32, the input embeddings. If the model scales its table (Gemma), they are scaled. If it
            projects a narrower table to its hidden width (ALBERT), d is the width of the table.
        dim: the width d of the embeddings.
        vocab_size: the number V of embeddings.
        given_ids: (n,) the token ids that the tokenizer can produce, in ascending order. Other rows of the embedding
            table were never trained.
        fingerprint: hash of the checkpoint (configuration, all weights, tokenizer). It tells which LM a prompt
            belongs to.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, kind: str, embeddings: Tensor | None = None,
                 checkpoint: Checkpoint | None = None):
        """Wrap a model. With ``embeddings``, ``model`` may be None, which is enough to transfer prompts.

        Raises:
            ModelLoadError: the embedding of some token is not finite, or the model fails a test of ``models.proof``.
        """
        self._model = None if model is None else model.eval().requires_grad_(False)
        self.kind, self.proof = kind, None
        table = model.get_input_embeddings().weight if embeddings is None else embeddings
        super().__init__(tokenizer, name, len(table), None if checkpoint is None else checkpoint.tokenizer_digest)
        given = list(self.tokens)
        if model is not None:
            zero_broken_rows(model, given)
        self.embeddings = input_table(model.get_input_embeddings()) if embeddings is None else embeddings
        self.dim = self.embeddings.shape[1]
        self.given_ids = torch.tensor([i for i in given if i < self.vocab_size], device=self.device)
        self._checkpoint = checkpoint
        self._head: Head | None = None
        broken = self.given_ids[~finite_rows(self.embeddings)[self.given_ids]].tolist()
        if broken:
            first = tokenizer.convert_ids_to_tokens(broken[0])
            raise ModelLoadError(f"{name} has embeddings that are not finite for {len(broken)} of "
                                 f"{len(self.given_ids)} tokens (such as {first!r}); expected finite numbers: load it "
                                 "with dtype=torch.float32, and if that does not help, its weights are broken")
        if model is not None:
            self.proof = prove(self, kind)
            self.kind = self.proof.kind

    def __repr__(self) -> str:
        note = ", embeddings only" if self.proof is None else "" if self.proof.ignores_padding else (
            ", in batches of equal length")
        note += ", a full stop before subjects that stand first" * self.loses_first_token
        return f"LanguageModel({self.name!r}, {self.kind}, {self.vocab_size} x {self.dim}{note})"

    @property
    def model(self) -> Any:
        """The ``transformers`` model.

        Raises:
            ModelLoadError: only the embeddings were loaded.
        """
        if self._model is None:
            raise ModelLoadError(f"{self.name} was loaded with embeddings_only=True, which is enough only to transfer "
                                 "prompts; load it without that to tune or evaluate them")
        return self._model

    @property
    def device(self) -> torch.device:
        return self.embeddings.device

    @property
    def loses_first_token(self) -> bool:
        """Whether the LM hardly reads what stands first, as it is causal and its tokenizer adds no start token.

        A causal LM attends to the first token whatever it means (attention sinks, Xiao et al. 2024, arXiv 2309.17453).
        ``Template.layout`` puts a full stop before a subject that would stand first.
        """
        return self.kind == "causal" and not self.frame[0]

    @cached_property
    def fingerprint(self) -> str:
        if self._checkpoint is None:
            return fingerprint_of_memory(self.model, self.tokenizer)
        try:
            found = self._checkpoint.fingerprint
        except (OSError, ValueError, SafetensorError) as error:
            raise ModelLoadError(f"the files of {self.name} cannot all be read ({first_line(error)}), but the model's "
                                 "fingerprint depends on each of them; expected a complete checkpoint") from error
        if self._checkpoint.has_changed:
            raise ModelLoadError(f"the files of {self.name} have changed since it was loaded; load it again")
        return found

    @cached_property
    def table_fingerprint(self) -> str:
        """The model's fingerprint in ptlib 0.1.0, to recognise prompts that were saved with it."""
        return table_fingerprint(self.embeddings)

    @property
    def given_embeddings(self) -> Tensor:
        """(n, d) the embeddings of ``given_ids``. All statistics of the embedding table use only these."""
        whole = len(self.given_ids) == self.vocab_size
        return self.embeddings if whole else self.embeddings[self.given_ids]

    @cached_property
    def moments(self) -> tuple[float, float]:
        """The mean and standard deviation of all entries of ``given_embeddings``."""
        return self.given_embeddings.mean().item(), self.given_embeddings.std().item()

    @cached_property
    def mean_length(self) -> float:
        """The mean Euclidean norm of ``given_embeddings``."""
        return self.given_embeddings.norm(dim=-1).mean().item()

    @cached_property
    def blank_id(self) -> int:
        """The token at the answer slot, the mask token or T5's first sentinel. A causal LM needs none and gets 0.

        Raises:
            ModelLoadError: the tokenizer has no mask token.
        """
        if self.kind == "causal":
            return 0
        blank = self.tokenizer.mask_token_id
        if blank is None and self.kind == "seq2seq":
            blank = self.tokenizer.get_vocab().get("<extra_id_0>")
        if blank is None or blank == self.tokenizer.unk_token_id:  # an empty mask_token becomes the unknown token
            raise ModelLoadError(f"the tokenizer of {self.name} has no mask token, which the answer slot of a prompt "
                                 "needs; add one to its tokenizer_config.json")
        return blank

    @cached_property
    def max_length(self) -> int | None:
        """The maximum number of tokens in an input; None if the model has no limit."""
        limits = (getattr(self.model.config, name, None) for name in MAX_LENGTHS)
        limit = next((limit for limit in limits if isinstance(limit, int) and limit > 0), None)
        # RoBERTa-like models start counting positions after the position that is reserved for padding.
        tables = (module for name, module in self.model.named_modules() if name.endswith("position_embeddings"))
        padding = next((table.padding_idx for table in tables if getattr(table, "padding_idx", None) is not None), -1)
        return limit and limit - padding - 1

    def word_logits(self, ids: Tensor) -> Tensor:
        """(B, T, V) float32 logits at every position of texts (B, T) without padding, read as words.

        The logits at a position are those that ``answer_logits`` returns for an answer there.
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
        """Whether a sequence-to-sequence LM writes the whole text again (BART), or only the missing part (T5)."""
        return self.blank_id == self.tokenizer.mask_token_id

    @cached_property
    def prefixes(self) -> Prefixes | None:
        """The memory of the texts before the prompt vectors; None if the model cannot go on from what it has read."""
        prefixes = Prefixes(self.model)
        return prefixes if self.kind == "causal" and reuses(self, prefixes) else None

    @cached_property
    def answers_alone(self) -> bool:
        """Whether the model can be asked for the logits of some words alone."""
        return answers_alone(self)

    def head(self, ids: Tensor) -> Head | None:
        """The rows of some tokens in the model's last layer, kept until other tokens are asked for; see ``head_of``."""
        if self._head is None or not torch.equal(self._head.ids, ids):
            self._head = head_of(self.model, ids)
        return self._head

    def answer_logits(self, ids: Tensor, mask: Tensor, slots: Tensor, vectors: Tensor, answers: Tensor,
                      past: tuple[DynamicCache, Tensor] | None = None, words: Tensor | None = None) -> Tensor:
        """The logits at the answer slot, with prompt vectors in place of the embeddings at ``slots``.

        Args:
            ids: (B, T) token ids; those at ``slots`` are ignored.
            mask: (B, T) attention mask, 0 for padding.
            slots: (B, m) positions of the prompt vectors.
            vectors: (m, d) one prompt for all rows, or (B, m, d) one for each.
            answers: (B,) the positions at which the model predicts the answer.
            past: what stands before each row, as ``prefixes.cache`` gives it; None if nothing does.
            words: (n,) the token ids whose logits are wanted; all if None. Of few words they are computed alone, and
                in float32 whatever the type of the weights.

        Returns:
            (B, V) float32, or (B, n).

        Raises:
            NotFiniteError: some logits are not finite.
            ModelLoadError: the model's head needs more than the hidden states of its last layer.
        """
        embed = self.model.get_input_embeddings()
        embeds, inputs = self.embedded(ids, slots, vectors), dict[str, Any]()
        rows = torch.arange(len(ids), device=ids.device)
        if self.kind == "seq2seq":
            start = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)
            if self._writes_all:  # the answer is predicted from the text before it
                inputs["decoder_inputs_embeds"] = torch.cat([embed(start), embeds[:, :-1]], 1)
            else:
                # T5 writes each sentinel and then its text, so the answer is predicted right after the first sentinel.
                inputs["decoder_input_ids"] = torch.cat([start, torch.full_like(start, self.blank_id)], 1)
                answers = torch.ones_like(answers)
        if past is not None:
            cache, earlier = past
            inputs |= {"past_key_values": cache, "use_cache": True,
                       "position_ids": earlier.sum(1, keepdim=True) + torch.arange(ids.shape[1], device=ids.device)}
            mask = torch.cat([earlier, mask], 1)
        words = None if words is None else words.to(self.device)
        head = None if words is None or not self.answers_alone else self.head(words)
        with only_positions(self.model, rows, answers), only_words(self.model, head):
            [logits] = self.model(inputs_embeds=embeds, attention_mask=mask, **inputs).logits.float()
        if words is not None and head is None:
            logits = logits[:, words]
        if len(logits) != len(ids):
            raise ModelLoadError(f"the head of {type(self.model).__name__} reads more than the hidden states of the "
                                 "last layer; expected a model with a head that reads only those")
        broken = int((~logits.isfinite()).any(1).sum())
        if broken:
            raise NotFiniteError(f"{broken} of {len(logits)} examples have logits that are not finite on {self.name} "
                                 f"in {self.model.dtype}; expected finite numbers: use prompt vectors of smaller norm, "
                                 "or load the model with dtype=torch.float32")
        return logits

    def embedded(self, ids: Tensor, slots: Tensor, vectors: Tensor) -> Tensor:
        """What the model reads, (B, T, d): the embeddings of ``ids``, with prompt vectors in their place at ``slots``.

        The arguments are those of ``answer_logits``.
        """
        embeds = self.model.get_input_embeddings()(ids)
        if not slots.shape[1]:
            return embeds
        rows = torch.arange(len(ids), device=ids.device)
        return embeds.index_put((rows[:, None], slots), vectors.to(embeds.dtype).expand(len(ids), -1, -1))

    def with_random_weights(self, seed: int = 0) -> LanguageModel:
        """A control that has learnt nothing: the same architecture and tokenizer, with random weights."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = type(self.model)(self.model.config)
        return LanguageModel(model.to(self.device), self.tokenizer, f"{self.name} (random weights)", self.kind)


def finite_rows(table: Tensor) -> Tensor:
    """Whether all numbers of each row of a table (V, d) are finite: (V,)."""
    finite = table.sum(-1).isfinite()  # a sum is finite only of finite numbers; it costs a fifth of asking each of them
    overflowed = (~finite).nonzero().squeeze(1)
    finite[overflowed] = table[overflowed].isfinite().all(-1)
    return finite


def zero_broken_rows(model: Any, given: list[int]) -> None:
    """Set rows of the embeddings and of the head to zero if they are not finite and belong to no token.

    The tables often have more rows than the vocabulary has tokens. Some checkpoints have arbitrary values in the extra
    rows, and those that are not finite would spoil every gradient.
    """
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for weight in [] if layer is None else layer.parameters():
            other = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
            other[[i for i in given if i < len(weight)]] = False
            weight.data[other & ~finite_rows(weight.data.reshape(len(weight), -1))] = 0


def input_table(module: torch.nn.Embedding) -> Tensor:
    """The output of an embedding layer for every token, (V, d) float32."""
    if type(module) is torch.nn.Embedding:
        return module.weight.detach().float()
    table = torch.empty(module.weight.shape, device=module.weight.device)
    for ids in torch.arange(module.num_embeddings, device=table.device).split(4096):  # a whole copy more takes long
        table[ids[0]:ids[-1] + 1] = module(ids).detach()
    return table
