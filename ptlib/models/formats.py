"""The formats of model files: how a checkpoint's configuration, tokenizer, weights and embedding table are read.

To add one, write a ``ModelFiles`` for it and name it in ``FORMATS`` by the suffix of its files. What has no suffix
there is a folder in Hugging Face format, or a hub id.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
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
from ..progress import progress_bar
from .fingerprints import Checkpoint
from .lm import input_table, kind_of

__all__ = ["FORMATS", "GgufFiles", "HuggingFaceFiles", "ModelFiles", "format_of"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "pytorch_model.bin.index.json")  # as transformers prefers them
EMBEDDINGS = "token_embd.weight"  # as GGUF calls the input embeddings
AUTO = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}


class ModelFiles(ABC):
    """A checkpoint: each part is read when it is asked for, whichever of them are.

    Where something cannot be read, any exception will do: ``load_lm`` says it with ``way_out``.

    Args:
        path: a file, a folder, or a hub id.
        revision: of a hub id.

    Attributes:
        way_out: what was expected, and what to do.
    """

    way_out: str

    def __init__(self, path: str, revision: str | None = None):
        self.path, self.revision = path, revision

    @abstractmethod
    def config(self) -> Any:
        """transformers' configuration."""

    @abstractmethod
    def tokenizer(self) -> Any:
        """transformers' fast tokenizer."""

    @abstractmethod
    def checkpoint(self, tokenizer: Any) -> Checkpoint:
        """The files that decide the model's answers."""

    @abstractmethod
    def model(self, kind: str, dtype: torch.dtype) -> PreTrainedModel:
        """The whole model with its head, on the CPU; ``kind`` is "masked", "causal" or "seq2seq"."""

    @abstractmethod
    def embeddings(self, config: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor:
        """(V, d) float32: the input embeddings alone, without reading the rest."""


class HuggingFaceFiles(ModelFiles):
    """A folder with config.json, model.safetensors and tokenizer.json, or a model of the hub."""

    way_out = "expected a folder with a readable config.json, model.safetensors and tokenizer.json"

    def __init__(self, path: str, revision: str | None = None):
        super().__init__(path, revision)
        is_here = Path(path).is_dir()
        self.offline = not is_here and not hub_answers()
        if self.offline:
            self.way_out = ("it is no folder here, the hub cannot be reached (offline), and no copy of it was kept "
                            "from before; download it elsewhere and give the folder")
        elif not is_here:
            self.way_out = ("it is no folder here, and the hub does not give it: no such model, or a gated one (ask "
                            "for access, then `hf auth login`)")

    def config(self) -> Any:
        if self.offline:
            self.path = snapshot_download(self.path, revision=self.revision, local_files_only=True)
        return AutoConfig.from_pretrained(self.path, revision=self.revision)

    def tokenizer(self) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(self.path, revision=self.revision)
        try:
            tokenizer("a")  # some nonsense in its files shows only here
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # what panics in Rust is no Exception
            raise ValueError(f"its tokenizer cannot tokenize: {first_line(error)}") from error
        files = tokenizer.vocab_files_names.values()
        # transformers makes an empty tokenizer up where there is none.
        if files and not any(self.find(file) for file in ("tokenizer.json", *files)):
            raise FileNotFoundError(f"there is no tokenizer.json, nor {' and '.join(files)}")
        return tokenizer

    def checkpoint(self, tokenizer: Any) -> Checkpoint:
        weights = next(filter(None, map(self.find, WEIGHT_FILES)), None)
        config = self.find("config.json")
        if weights is None or config is None:
            raise FileNotFoundError("there is no model.safetensors, nor a pytorch_model.bin")
        shards = [weights]
        if weights.suffix == ".json":
            names = sorted(set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()))
            found = [cached_file(self.path, name, revision=self.revision) for name in names]  # raises for want of one
            shards = [Path(cast(str, file)).absolute() for file in found]
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
        # A tied table is stored once, under any of its names; a checkpoint of the bare encoder lacks the prefix.
        names = [name for name, weight in skeleton.named_parameters(remove_duplicate=False) if weight is layer.weight]
        names += [name.partition(".")[2] for name in names]
        return table_of(layer, find_tensor(checkpoint, names), dtype)

    def find(self, file: str) -> Path | None:
        found = cached_file(self.path, file, revision=self.revision, _raise_exceptions_for_missing_entries=False)
        return None if found is None else Path(found).absolute()  # the working directory may change


class GgufFiles(ModelFiles):
    """A GGUF file, the format of llama.cpp: weights, mostly quantized, tokenizer and configuration in one."""

    way_out = "expected a GGUF file of a causal LM with its tokenizer, of an architecture that transformers reads"

    def __init__(self, path: str, revision: str | None = None):
        super().__init__(path, revision)
        if find_spec("gguf") is None:
            self.way_out = "expected the package gguf: pip install 'ptlib[gguf]'"
            raise ModelLoadError(f"cannot read {path!r}; {self.way_out}")
        self.read = {"pretrained_model_name_or_path": str(Path(path).parent), "gguf_file": Path(path).name}

    @cached_property
    def reader(self) -> Any:
        from gguf import GGUFReader  # an extra

        return GGUFReader(self.path)

    def config(self) -> Any:
        names = {tensor.name for tensor in self.reader.tensors}  # raises where the file is cut off
        if "tokenizer.ggml.tokens" not in self.reader.fields:
            raise LookupError("it has no tokenizer")
        if EMBEDDINGS not in names:
            raise LookupError(f"it has no tensor {EMBEDDINGS}")
        config = AutoConfig.from_pretrained(**self.read)
        if not config.architectures:
            config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
        return config

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(**self.read)

    def checkpoint(self, tokenizer: Any) -> Checkpoint:
        return Checkpoint(None, (Path(self.path).absolute(),), ())

    def model(self, kind: str, dtype: torch.dtype) -> PreTrainedModel:
        # Packed weights save memory, which these models do not need, and give no gradients to a prompt.
        plain = GgufConfig(dequantize=True)
        with without_bars(), own_bar():
            model, info = AUTO[kind].from_pretrained(**self.read, dtype=dtype, quantization_config=plain,
                                                     output_loading_info=True)
        check_loaded(info, kind)
        return model

    def embeddings(self, config: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Tensor:
        from gguf.quants import dequantize

        tensor = next(tensor for tensor in self.reader.tensors if tensor.name == EMBEDDINGS)
        with torch.device("meta"):
            layer = AUTO[kind_of(config)].from_config(config).get_input_embeddings()
        return table_of(layer, torch.tensor(dequantize(tensor.data, tensor.tensor_type)), dtype)


FORMATS: dict[str, type[ModelFiles]] = {".gguf": GgufFiles}  # {suffix, in any case: how such a file is read}


def format_of(path: str) -> type[ModelFiles]:
    return FORMATS.get(Path(path).suffix.lower(), HuggingFaceFiles)


def check_loaded(info: Mapping[str, Any], kind: str) -> None:
    if info["missing_keys"]:  # transformers only warns, and fills them with random numbers
        raise LookupError(f"its weights lack {', '.join(sorted(info['missing_keys'])[:3])}: it is a bare encoder "
                          f"or a classifier, and no {kind} language model with its head")


def table_of(layer: Any, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """(V, d) float32: what an embedding layer without values gives for every token, once it has these."""
    layer.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    if hasattr(layer, "scalar_embed_scale"):  # Gemma's; its copy as a tensor has no value in the skeleton
        layer.embed_scale = torch.tensor(layer.scalar_embed_scale)
    return input_table(layer)


def find_tensor(checkpoint: Checkpoint, names: list[str]) -> Tensor:
    """The tensor that has one of these names, of safetensors files, without reading the rest of them."""
    for file in checkpoint.weights:
        if file.suffix != ".safetensors":
            raise LookupError(f"{file.name} is a pickle, of which no part can be read, expected model.safetensors")
        with safe_open(str(file), "pt") as tensors:
            found = next((name for name in names if name in tensors.keys()), None)  # noqa: SIM118
            if found is not None:
                return tensors.get_tensor(found)
    raise LookupError(f"no tensor named {' or '.join(names)}; it may still load with embeddings_only=False")


def hub_answers() -> bool:
    """Whether the hub can be reached, asked once: its client would try each file six times, for 20 seconds."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # offline by choice, by network or by proxy: each raises its own
        return False
    return True


@contextmanager
def own_bar() -> Iterator[None]:
    """Inside, transformers' bar over the tensors of a GGUF file is ptlib's, which can be silenced and goes away."""
    module: Any = modeling_gguf_pytorch_utils
    theirs = module.tqdm
    module.tqdm = lambda tensors, desc: progress_bar(tensors, desc="reading tensors")
    try:
        yield
    finally:
        module.tqdm = theirs


@contextmanager
def without_bars() -> Iterator[None]:
    """Inside, transformers shows no bar: on local files it flashes by, and stays in notebooks for ever."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
