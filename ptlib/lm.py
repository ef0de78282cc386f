"""One face over masked and causal language models."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

from .errors import ModelLoadError

__all__ = ["LanguageModel", "list_lms", "load_lm", "only_positions"]

ZOO = Path(__file__).parent / "zoo" / "models"


@contextmanager
def only_positions(model, rows: Tensor, columns: Tensor):
    """Inside, ``model``'s head sees only the hidden states at (rows[i], columns[i]).

    Its logits are then (1, N, V) instead of (B, T, V). Works for every head, because the hidden states
    are gathered before it.
    """

    def gather(module, args, output):
        output.last_hidden_state = output.last_hidden_state[rows, columns].unsqueeze(0)
        return output

    handle = model.base_model.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_bars():
    """Inside, transformers shows no bar: on local files it flashes by, and stays in notebooks for ever."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class LanguageModel:
    """A frozen Hugging Face LM with its tokenizer; prompts enter through its input embeddings.

    Attributes:
        name: what it was loaded as.
        kind: ``"masked"`` or ``"causal"``.
        embeddings: (V, d) float32 input embeddings; for a factorised table (ALBERT), d is its inner width.
        dim: d.
        vocab_size: V.
        fingerprint: hash of the embedding table; tells which LM a prompt belongs to.
    """

    def __init__(self, model, tokenizer, name: str, kind: str):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer, self.name, self.kind = tokenizer, name, kind
        self.embeddings = model.get_input_embeddings().weight.detach().float()
        self.vocab_size, self.dim = self.embeddings.shape
        self._ids: dict[str, int | None] = {}

    def __repr__(self) -> str:
        return f"LanguageModel({self.name!r}, {self.kind}, {self.vocab_size} x {self.dim})"

    @property
    def device(self) -> torch.device:
        return self.embeddings.device

    @cached_property
    def fingerprint(self) -> str:
        table = self.embeddings.cpu().contiguous()
        return hashlib.sha256(repr(tuple(table.shape)).encode() + table.numpy().tobytes()).hexdigest()[:16]

    @cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and after a text ([CLS] and [SEP], say)."""
        bare = self.tokenize("a")
        framed = self.tokenizer("a")["input_ids"]
        start = next(i for i in range(len(framed)) if framed[i:i + len(bare)] == bare)
        return framed[:start], framed[start + len(bare):]

    def tokenize(self, text: str) -> list[int]:
        return self.tokenize_many([text])[0]

    def tokenize_many(self, texts: Iterable[str]) -> list[list[int]]:
        texts = list(texts)
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def word_ids(self, words: Iterable[str]) -> list[int | None]:
        """The one token that each word is after a space, or None where it is several or unknown."""
        words = list(words)
        new = [word for word in dict.fromkeys(words) if word not in self._ids]
        special = set(self.tokenizer.all_special_ids)
        for word, ids in zip(new, self.tokenize_many(" " + word for word in new), strict=True):
            self._ids[word] = ids[0] if len(ids) == 1 and ids[0] not in special else None
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
            (B, V).
        """
        embeds = self.model.get_input_embeddings()(ids)
        rows = torch.arange(len(ids), device=ids.device)
        if slots.shape[1]:
            vectors = vectors.to(embeds.dtype).expand(len(ids), -1, -1)
            embeds = embeds.index_put((rows[:, None], slots), vectors)
        with only_positions(self.model, rows, answers):
            return self.model(inputs_embeds=embeds, attention_mask=mask).logits[0]

    def with_random_weights(self, seed: int = 0) -> LanguageModel:
        """The control that knows nothing: same architecture and tokenizer, weights freshly drawn."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model = type(self.model)(self.model.config)
        return LanguageModel(model.to(self.device), self.tokenizer, f"{self.name} (random weights)", self.kind)


def list_lms() -> list[str]:
    """Names of the embedded zoo's models, as ``load_lm`` takes them."""
    return [f"zoo/{folder.name}" for folder in sorted(ZOO.glob("*/")) if (folder / "config.json").exists()]


def load_lm(name: str | Path, device: str = "auto", dtype: torch.dtype | None = None,
            revision: str | None = None) -> LanguageModel:
    """Load a language model once a process.

    Args:
        name: ``"zoo/bert-mini"``, a local folder in Hugging Face format, or a hub id.
        device: a torch device, or ``"auto"``: CUDA, MPS or CPU, the first that is there.
        dtype: of the weights; float32 when None.
        revision: of a hub model.

    Raises:
        ModelLoadError: the folder, the hub model or one of its files is missing or unreadable.
    """
    if device == "auto":
        device = ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    return _load_lm(str(name), device, dtype or torch.float32, revision)


@cache
def _load_lm(name: str, device: str, dtype: torch.dtype, revision: str | None) -> LanguageModel:
    """``load_lm``, once for each set of arguments, however they were written."""
    path = name
    if name.startswith("zoo/"):
        path = str(ZOO / name.removeprefix("zoo/"))
        if name not in list_lms():
            raise ModelLoadError(f"the zoo has no model {name!r}; it has {', '.join(list_lms())}")
    elif not Path(name).expanduser().is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelLoadError(f"there is no folder {name!r}; give a folder with config.json, model.safetensors and "
                             f"tokenizer.json, a hub id such as 'bert-base-cased', or one of {', '.join(list_lms())}")
    try:
        path = str(Path(path).expanduser())
        config = AutoConfig.from_pretrained(path, revision=revision)
        kind = kind_of(config)
        auto = AutoModelForMaskedLM if kind == "masked" else AutoModelForCausalLM
        with without_bars():
            model, info = auto.from_pretrained(path, revision=revision, dtype=dtype, output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    except Exception as error:  # the libraries below raise a dozen kinds for one reason: it cannot be read
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelLoadError(f"cannot load a language model from {name!r}: {reason} Expected a folder or hub id with "
                             f"a readable config.json, model.safetensors and tokenizer.json.") from error
    if info["missing_keys"]:  # transformers only warns, and fills them with random numbers
        raise ModelLoadError(f"the weights of {name!r} lack {', '.join(sorted(info['missing_keys'])[:3])}; expected a "
                             f"{kind} language model with its head, not a bare encoder or a classifier")
    return LanguageModel(model.to(device), tokenizer, name, kind)


def kind_of(config) -> str:
    """``"causal"`` for decoders, else ``"masked"``, by the architecture that the checkpoint names."""
    architecture = (config.architectures or [""])[0]
    return "causal" if architecture.endswith(("ForCausalLM", "LMHeadModel")) else "masked"
