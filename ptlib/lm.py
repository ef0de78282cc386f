"""One face over masked, causal and encoder–decoder language models."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .errors import ModelLoadError, NotFiniteError
from .identity import Checkpoint, fingerprint_of_memory, table_fingerprint
from .proof import prove
from .vocabulary import spellings

APART = '"'  # what no word runs together with

__all__ = ["LanguageModel", "kind_of", "only_positions"]


def kind_of(config) -> str:
    """``"seq2seq"``, ``"causal"`` or ``"masked"``, as the architecture's name has it: which class to load."""
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
        proof: what the model has shown when it was loaded, see ``ptlib.proof``; None of embeddings alone.
        embeddings: (V, d) float32 input embeddings, as they enter the first layer: of a factorised table (ALBERT),
            d is its inner width; a table that the model scales (Gemma) is scaled.
        dim: d.
        vocab_size: V.
        given_ids: (n,) ids that the tokenizer can give, in order: the other rows of the table were never trained.
        fingerprint: hash of the checkpoint (configuration, all weights, tokenizer); tells which LM a prompt belongs
            to.
    """

    def __init__(self, model, tokenizer, name: str, kind: str, embeddings: Tensor | None = None,
                 checkpoint: Checkpoint | None = None):
        """``model`` may be None where ``embeddings`` are given: enough to move prompts, not to run them.

        Raises:
            ModelLoadError: embeddings of tokens are not finite; the model fails its proof.
        """
        self._model = None if model is None else model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.kind, self.proof = tokenizer, name, kind, None
        given = sorted(set(tokenizer.get_vocab().values()))
        if model is not None:
            mend_other_rows(model, given)
        self.embeddings = input_table(model.get_input_embeddings()) if embeddings is None else embeddings
        self.vocab_size, self.dim = self.embeddings.shape
        self.given_ids = torch.tensor([i for i in given if i < self.vocab_size], device=self.device)
        self._ids: dict[str, dict[str, int | None]] = {}
        self._words: dict[str, dict[str, int]] = {}
        self._checkpoint, self._stamps = checkpoint, checkpoint and checkpoint.stamps
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
        shown = "embeddings only" if self.proof is None else "proved" if self.proof.ignores_padding else (
            "proved, in batches of equal length")
        return f"LanguageModel({self.name!r}, {self.kind}, {self.vocab_size} x {self.dim}, {shown})"

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
        if self._checkpoint is None:
            return fingerprint_of_memory(self.model, self.tokenizer)
        found = self._checkpoint.fingerprint
        if self._checkpoint.stamps != self._stamps:
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
    def frame(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text ([CLS] and [SEP], say)."""
        bare = self.tokenize("a")
        framed = self.tokenizer("a")["input_ids"]
        start = next((i for i in range(len(framed)) if bare and framed[i:i + len(bare)] == bare), None)
        if start is None:
            raise ModelLoadError(f"the tokenizer of {self.name} gives 'a' the ids {bare} alone and {framed} with "
                                 "special tokens; expected to find the ones in the others: mend its tokenizer.json")
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
        """Token ids of texts as they are behind ``before``: many tokenizers put a space before what they are given.

        Where the two would run together into other tokens, the text stands behind a quotation mark, and where it runs
        together with that too, alone.
        """
        texts, start = list(texts), self.tokenize(before)
        whole = self.tokenize_many([before + text for text in texts], special)
        apart = [ids[:len(start)] == start for ids in whole]
        rest = [text for text, known in zip(texts, apart, strict=True) if not known]
        fallback = iter(() if not rest else self.tokenize_many(rest, special) if before == APART else
                        self.tokenize_after(rest, APART, special))
        return [ids[len(start):] if known else next(fallback) for ids, known in zip(whole, apart, strict=True)]

    def tokenize_at(self, texts: Iterable[str], place: str, special: bool = False) -> list[list[int]]:
        """Token ids of texts as they are behind ``place``: "" is the start of a text, " " the space behind a word."""
        if not place:
            return self.tokenize_many(texts, special)
        spaced = place.endswith(" ")
        return self.tokenize_after((" " * spaced + text for text in texts), "a" if spaced else place, special)

    def word_ids(self, words: Iterable[str], place: str = " ") -> list[int | None]:
        """The one token that each word is at a place in a text, or None where it is several or unknown."""
        words, ids = list(words), self._ids.setdefault(place, {})
        new = [word for word in dict.fromkeys(words) if word not in ids]
        special = set(self.tokenizer.all_special_ids)
        for word, found in zip(new, self.tokenize_at(new, place), strict=True):
            # A tokenizer may hold tokens that the model has no embedding for.
            known = len(found) == 1 and found[0] not in special and found[0] < self.vocab_size
            ids[word] = found[0] if known else None
        return [ids[word] for word in words]

    @property
    def words(self) -> dict[str, int]:
        """The vocabulary's whole words and their ids, in order of id: word pieces and symbols are left out."""
        return self.words_at(" ")

    def words_at(self, place: str) -> dict[str, int]:
        """The whole words that are one token at a place in a text, with that token: behind a quotation mark, say.

        Pieces of words may be one token there as well. A whole word is one behind a space, too; or, in languages that
        put none between words, a space before it is a token of its own.
        """
        if place not in self._words:
            plausible = [(i, word) for i, word in enumerate(self._spellings)
                         if any(map(str.isalnum, word)) and not any(map(str.isspace, word))]
            ids = self.word_ids((word for _, word in plausible), place)
            found = {word: i for (i, word), own in zip(plausible, ids, strict=True) if own == i}
            if place != " ":
                apart = dict(zip(found, self.tokenize_at(found, " "), strict=True))
                found = {word: i for word, i in found.items() if word in self.words or (
                    apart[word][-1:] == [i] and not self.tokenizer.decode(apart[word][:-1]).strip())}
            self._words[place] = found
        return self._words[place]

    @cached_property
    def _spellings(self) -> list[str]:
        """How each token is written, by id."""
        return spellings(self.tokenizer, lambda words: self.word_ids(words))

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
            logits = self.model(inputs_embeds=embeds, attention_mask=mask, **inputs).logits[0].float()
        broken = int((~logits.isfinite()).any(1).sum())
        if broken:
            raise NotFiniteError(f"{broken} of {len(logits)} examples have logits that are not finite on {self.name} in "
                                 f"{self.model.dtype}; expected numbers: give shorter prompt vectors, or load it with "
                                 "dtype=torch.float32 if it is not")
        return logits

    def with_random_weights(self, seed: int = 0) -> LanguageModel:
        """The control that knows nothing: same architecture and tokenizer, weights freshly drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = type(self.model)(self.model.config)
        return LanguageModel(model.to(self.device), self.tokenizer, f"{self.name} (random weights)", self.kind)


def mend_other_rows(model, given: list[int]) -> None:
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
