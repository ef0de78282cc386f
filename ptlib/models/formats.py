"""The formats of model files: how a checkpoint's configuration, tokenizer, weights and embedding table are read.

To add a format, write a subclass of ``ModelFiles`` and add it to ``FORMATS`` under the suffix of its files. A path
without such a suffix is a folder in Hugging Face format or a hub id.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
import transformers
from huggingface_hub import constants, get_session, snapshot_download
from safetensors import safe_open
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import cached_file, logging

from ..errors import ModelLoadError, first_line
from ..files import kept
from ..progress import progress_bar
from .fingerprints import Checkpoint, read_from
from .lm import input_table, kind_of

__all__ = ["FORMATS", "GgufFiles", "HuggingFaceFiles", "ModelFiles", "format_of"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json")  # in the order that transformers prefers
SETTINGS = ("add_bos_token", "add_eos_token", "add_prefix_space", "chat_template")  # of a GGUF file's tokenizer
EMBEDDINGS = "token_embd.weight"  # GGUF's name of the input embeddings
AUTO = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}


class ModelFiles(ABC):
    """A checkpoint in one format. Each method reads its part of the checkpoint and nothing else.

    A method may raise any exception if it cannot read its part. ``load_lm`` turns the exception into a
    ``ModelLoadError`` that ends with ``way_out``.

    Args:
        path: a file, a folder, or a hub id.
        revision: the revision of a hub model.

    Attributes:
        way_out: the end of the error message: what was expected, and what to do.
    """

    way_out: str

    def __init__(self, path: str, revision: str | None = None):
        self.path, self.revision = path, revision

    @classmethod
    def files(cls, path: Path) -> list[Path]:
        """Every file that the model depends on: ``load_lm`` reads it again when one of them has changed."""
        return sorted(path.iterdir()) if path.is_dir() else [path]

    @abstractmethod
    def config(self) -> Any:
        """The model's configuration, as a ``transformers`` object."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """The model's tokenizer, as a fast tokenizer of ``transformers``."""

    @abstractmethod
    def checkpoint(self, tokenizer: Any) -> Checkpoint:
        """The files that determine the model's answers."""

    @abstractmethod
    def model(self, kind: str, dtype: torch.dtype) -> PreTrainedModel:
        """The whole model with its head, on the CPU; ``kind`` is "masked", "causal" or "seq2seq"."""

    @abstractmethod
    def embeddings(self, config: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor:
        """The input embeddings, (V, d) float32. No other weights are read."""


class HuggingFaceFiles(ModelFiles):
    """A folder with config.json, model.safetensors and tokenizer.json, or a model on the Hugging Face hub."""

    way_out = "expected a folder with a readable config.json, model.safetensors and tokenizer.json"

    def __init__(self, path: str, revision: str | None = None):
        super().__init__(path, revision)
        is_here = Path(path).is_dir()
        self.offline = not is_here and not hub_answers()
        if self.offline:
            self.way_out = ("there is no such folder, the hub cannot be reached (offline), and there is no earlier "
                            "download; download the model on another machine and give its folder")
        elif not is_here:
            self.way_out = ("there is no such folder, and the hub does not provide it: the model does not exist, or "
                            "it is gated (ask for access, then run `hf auth login`)")

    def config(self) -> Any:
        if self.offline:
            self.path = snapshot_download(self.path, revision=self.revision, local_files_only=True)
        return AutoConfig.from_pretrained(self.path, revision=self.revision)

    def tokenizer(self) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(self.path, revision=self.revision)
        try:
            tokenizer("a")  # some errors in its files show only when it is used
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the Rust code is not an Exception
            raise ValueError(f"its tokenizer cannot tokenize: {first_line(error)}") from error
        files = tokenizer.vocab_files_names.values()
        # Without any tokenizer files, transformers makes up an empty tokenizer.
        if files and not any(self.find(file) for file in ("tokenizer.json", *files)):
            raise FileNotFoundError(f"there is no tokenizer.json and no {' and '.join(files)}")
        return tokenizer

    def checkpoint(self, tokenizer: Any) -> Checkpoint:
        weights = next(filter(None, map(self.find, WEIGHT_FILES)), None)
        config = self.find("config.json")
        if weights is None or config is None:
            raise FileNotFoundError("there is no model.safetensors and no pytorch_model.bin")
        shards = [weights]
        if weights.suffix == ".json":
            names = sorted(set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()))
            files = [cached_file(self.path, name, revision=self.revision) for name in names]  # raises if one is missing
            shards = [Path(cast(str, file)).absolute() for file in files]
        of_tokenizer = map(self.find, sorted({*TOKENIZER_FILES, *tokenizer.vocab_files_names.values()}))
        return Checkpoint(config, tuple(shards), tuple(filter(None, of_tokenizer)))

    def model(self, kind: str, dtype: torch.dtype) -> PreTrainedModel:
        with without_bars():
            model, info = AUTO[kind].from_pretrained(self.path, revision=self.revision, dtype=dtype,
                                                     output_loading_info=True)
        check_loaded(info, kind)
        return model

    def embeddings(self, config: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor:
        with torch.device("meta"):
            skeleton = AUTO[kind_of(config)].from_config(config)
        layer = skeleton.get_input_embeddings()
        # A table that is tied to the head is stored once, under either name. A bare encoder's names lack the prefix.
        names = [name for name, weight in skeleton.named_parameters(remove_duplicate=False) if weight is layer.weight]
        names += [name.partition(".")[2] for name in names]
        return table_of(layer, find_tensor(checkpoint, names), dtype)

    def find(self, file: str) -> Path | None:
        """The path of one of the checkpoint's files, downloaded if necessary; None if it does not exist."""
        found = cached_file(self.path, file, revision=self.revision, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found).absolute()  # absolute, as the working directory may change


class GgufFiles(ModelFiles):
    """A GGUF file, the format of llama.cpp: one file with weights (often quantized), tokenizer and configuration."""

    way_out = "expected a GGUF file of a causal LM with its tokenizer, of an architecture that transformers can read"

    def __init__(self, path: str, revision: str | None = None):
        super().__init__(path, revision)
        if find_spec("gguf") is None:
            raise ModelLoadError(f"cannot read {path!r}; expected the package gguf: pip install 'ptlib[gguf]'")
        self.read = {"pretrained_model_name_or_path": str(Path(path).parent), "gguf_file": Path(path).name}

    @cached_property
    def reader(self) -> Any:
        from .gguf_reader import Reader  # needs an optional dependency

        return Reader(self.path)

    def config(self) -> Any:
        names = {tensor.name for tensor in self.reader.tensors}  # raises if the file is truncated
        if "tokenizer.ggml.tokens" not in self.reader.fields:
            raise LookupError("it has no tokenizer")
        if EMBEDDINGS not in names:
            raise LookupError(f"it has no tensor {EMBEDDINGS}")
        name, settings = kept("configurations", self.state, self.read_config)
        return getattr(transformers, name).from_dict(settings)

    def read_config(self) -> tuple[str, dict[str, Any]]:
        """The class of the configuration and its entries. transformers reads all words of the file on the way."""
        with self.read_once():
            config = AutoConfig.from_pretrained(**self.read)
        if not config.architectures:
            causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
            config.architectures = [causal.__name__]
        return type(config).__name__, json.loads(config.to_json_string(use_diff=False))

    @cached_property
    def state(self) -> str:
        """The hash of all that the configuration and the tokenizer depend on. Both are kept in the user's cache."""
        return read_from([Path(self.path), Path(__file__)])

    def tokenizer(self) -> Any:
        name, settings, content = kept("tokenizers", self.state, self.build_tokenizer)
        with TemporaryDirectory() as folder:
            file = Path(folder) / "tokenizer.json"
            file.write_text(content, encoding="utf-8")
            return getattr(transformers, name)(tokenizer_file=str(file), **settings)

    def build_tokenizer(self) -> tuple[str, dict[str, Any], str]:
        """The class of the tokenizer, its settings, and its tokenizer.json. It takes long for many words."""
        with self.read_once():
            tokenizer = AutoTokenizer.from_pretrained(**self.read)
        settings = {key: value for key, value in tokenizer.init_kwargs.items() if key in SETTINGS}
        return type(tokenizer).__name__, settings | tokenizer.special_tokens_map, tokenizer.backend_tokenizer.to_str()

    @contextmanager
    def read_once(self) -> Iterator[None]:
        """Inside this context, transformers takes our reader: it would read the file's words anew at each step."""
        import gguf

        ours, theirs = self.reader, cast(Any, gguf.GGUFReader)
        gguf.GGUFReader = lambda path: ours  # type: ignore[assignment, misc]  # for transformers alone
        try:
            yield
        finally:
            gguf.GGUFReader = theirs  # type: ignore[misc]

    def checkpoint(self, tokenizer: Any) -> Checkpoint:
        return Checkpoint(None, (Path(self.path).absolute(),), ())

    def model(self, kind: str, dtype: torch.dtype) -> PreTrainedModel:
        # No gradients flow through quantized weights, which tuning needs; and these models are small enough without.
        dequantized = GgufConfig(dequantize=True)
        with without_bars(), own_bar(), self.read_once():
            model, info = AUTO[kind].from_pretrained(**self.read, dtype=dtype, quantization_config=dequantized,
                                                     output_loading_info=True)
        check_loaded(info, kind)
        return model

    def embeddings(self, config: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor:
        from gguf.quants import dequantize

        tensor = next(tensor for tensor in self.reader.tensors if tensor.name == EMBEDDINGS)
        with torch.device("meta"):
            layer = AUTO[kind_of(config)].from_config(config).get_input_embeddings()
        # gguf takes 16 rows a step. A row is a number of whole blocks, so several rows in one are dequantized alike.
        data = np.asarray(tensor.data)
        longer = dequantize(data.reshape(len(data) // math.gcd(len(data), 64), -1), tensor.tensor_type)
        table = np.require(longer.reshape(len(data), -1), requirements="W")  # what is not quantized is still the file
        return table_of(layer, torch.from_numpy(table), dtype)


FORMATS: dict[str, type[ModelFiles]] = {".gguf": GgufFiles}  # {suffix in lower case: reader of such files}


def format_of(path: str) -> type[ModelFiles]:
    """The class that reads a model at ``path``: a file by its suffix in upper or lower case, and any folder."""
    return HuggingFaceFiles if Path(path).is_dir() else FORMATS.get(Path(path).suffix.lower(), HuggingFaceFiles)


def check_loaded(info: Mapping[str, Any], kind: str) -> None:
    """Raise LookupError if the checkpoint lacks some of the model's weights."""
    if info["missing_keys"]:  # transformers only warns, and fills them with random numbers
        raise LookupError(f"its weights lack {', '.join(sorted(info['missing_keys'])[:3])}: it is a bare encoder "
                          f"or a classifier, not a {kind} language model with its head")


def table_of(layer: Any, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The embedding of every token, (V, d) float32, after ``weight`` is put into an empty embedding layer."""
    layer.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    if hasattr(layer, "scalar_embed_scale"):  # Gemma's layer scales its table; an empty layer lacks the factor's value
        layer.embed_scale = torch.tensor(layer.scalar_embed_scale)
    return input_table(layer)


def find_tensor(checkpoint: Checkpoint, names: list[str]) -> Tensor:
    """The first tensor that has one of these names. Only this tensor is read from the safetensors files."""
    for file in checkpoint.weights:
        if file.suffix != ".safetensors":
            raise LookupError(f"{file.name} is a pickle, which can only be read whole; expected model.safetensors")
        with safe_open(str(file), "pt") as tensors:
            present = next((name for name in names if name in tensors.keys()), None)  # noqa: SIM118
            if present is not None:
                return tensors.get_tensor(present)
    raise LookupError(f"it has no tensor named {' or '.join(names)}; try embeddings_only=False")


def hub_answers() -> bool:
    """Whether the hub can be reached. Asking first is quicker: offline, its client tries each file for 20 seconds."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # offline mode, a missing network and a proxy each raise their own kind
        return False
    return True


@contextmanager
def own_bar() -> Iterator[None]:
    """Inside this context, reading a GGUF file shows ptlib's progress bar, which ``set_progress`` can hide."""
    module: Any = modeling_gguf_pytorch_utils
    theirs = module.tqdm
    module.tqdm = lambda tensors, desc: progress_bar(tensors, desc="reading tensors")
    try:
        yield
    finally:
        module.tqdm = theirs


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside this context, transformers shows no progress bar: it is over in a moment, but stays in notebooks."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
