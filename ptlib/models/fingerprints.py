"""Fingerprints: a language model is identified by a hash of its configuration, all its weights and its tokenizer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..files import Stamp, content_digest, remembered, stamp_of, text_digest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Checkpoint", "fingerprint_of_memory", "read_from", "table_fingerprint"]

# Entries of a configuration that do not change a model's answers.
UNIMPORTANT = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
READERS = ("transformers", "tokenizers", "gguf")  # the packages that make a tokenizer from a checkpoint's files


@remembered
def tensor_digests(path: Path) -> str:
    """JSON of {name: SHA-256 of type, shape and content} for every tensor in a safetensors file."""
    with safe_open(str(path), "pt") as file:
        return json.dumps({name: tensor_digest(file.get_tensor(name)) for name in file.keys()})  # noqa: SIM118


def tensor_digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """The files that determine a model's answers, and their state when this object was created.

    Attributes:
        config: the configuration file; None if the weight files contain the configuration, as in GGUF.
        weights: the weight files.
        tokenizer: the tokenizer's files.
        stamps: the size and times of change of every file at creation.
    """

    config: Path | None
    weights: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    stamps: tuple[Stamp, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamps", self._stamps())

    def _stamps(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(path) for path in (self.config, *self.weights, *self.tokenizer) if path is not None)

    @property
    def has_changed(self) -> bool:
        """Whether any file has changed since this object was created."""
        return self._stamps() != self.stamps

    @property
    def fingerprint(self) -> str:
        """The hash of the configuration, all weights and the tokenizer, as stored in the files.

        Tensors in safetensors files are hashed one by one, so that a sharded checkpoint has the fingerprint of the
        same model in one file. Other weight files are hashed whole. The type that the weights are converted to on
        loading makes no difference.
        """
        weights: dict[str, str] = {}
        for file in self.weights:
            is_safetensors = file.suffix == ".safetensors"
            weights |= json.loads(tensor_digests(file)) if is_safetensors else {file.name: content_digest(file)}
        config = {} if self.config is None else json.loads(self.config.read_text(encoding="utf-8"))
        return fingerprint(config, weights,
                           {file.name: content_digest(file) for file in self.tokenizer})

    @property
    def tokenizer_digest(self) -> str:
        """The hash of all that the tokenizer was read from. In a GGUF file it stands beside the weights."""
        return read_from(self.tokenizer or self.weights)


def read_from(files: Iterable[Path]) -> str:
    """The hash of files and of the versions of the packages that read a tokenizer from them."""
    return text_digest(repr([[content_digest(file) for file in files],
                             [version(package) for package in READERS if find_spec(package)]]))


def fingerprint(config: Mapping[str, Any], weights: Mapping[str, str], tokenizer: Mapping[str, str]) -> str:
    """The 32 hexadecimal digits that identify a model with this configuration and these hashes."""
    kept = {name: value for name, value in config.items() if name not in UNIMPORTANT}
    content = json.dumps([kept, weights, tokenizer], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def fingerprint_of_memory(model: PreTrainedModel, tokenizer: Any) -> str:
    """The fingerprint of a model that was not loaded from files."""
    weights = {name: tensor_digest(weight) for name, weight in model.state_dict().items()}
    return fingerprint(model.config.to_dict(), weights, {"class": type(tokenizer).__name__, **tokenizer.get_vocab()})


def table_fingerprint(table: Tensor) -> str:
    """The fingerprint of ptlib 0.1.0: a hash of the embedding table alone, in the type that it was loaded in."""
    digest = hashlib.sha256(repr(tuple(table.shape)).encode())
    digest.update(table.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
