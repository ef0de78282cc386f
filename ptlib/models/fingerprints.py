"""What a language model is known by: a hash of its whole checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from ..files import Stamp, content_digest, remembered, stamp_of

__all__ = ["Checkpoint", "fingerprint_of_memory", "table_fingerprint"]

UNIMPORTANT = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")  # of a config: they change no answer


@remembered
def tensor_digests(path: Path) -> str:
    """{name: SHA-256 of type, shape and content} of the tensors in a safetensors file, as JSON."""
    with safe_open(str(path), "pt") as file:
        return json.dumps({name: tensor_digest(file.get_tensor(name)) for name in file.keys()})  # noqa: SIM118


def tensor_digest(tensor: Tensor) -> str:
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """The files that decide a model's answers, as they were when this was made.

    Attributes:
        config: None where the files of the weights hold it, as GGUF's do.
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
        return self._stamps() != self.stamps

    @property
    def fingerprint(self) -> str:
        """Of configuration, all weights and tokenizer, as they lie in the files.

        The weights of safetensors files count one by one, so that shards are the same model as one file; those of
        other files as the files that they are. In which type they are loaded makes no difference.
        """
        weights: dict[str, str] = {}
        for file in self.weights:
            safe = file.suffix == ".safetensors"
            weights |= json.loads(tensor_digests(file)) if safe else {file.name: content_digest(file)}
        config = {} if self.config is None else json.loads(self.config.read_text(encoding="utf-8"))
        return fingerprint(config, weights,
                           {file.name: content_digest(file) for file in self.tokenizer})


def fingerprint(config: Mapping[str, Any], weights: Mapping[str, str], tokenizer: Mapping[str, str]) -> str:
    kept = {name: value for name, value in config.items() if name not in UNIMPORTANT}
    about = json.dumps([kept, weights, tokenizer], sort_keys=True, default=str)
    return hashlib.sha256(about.encode()).hexdigest()[:32]


def fingerprint_of_memory(model: PreTrainedModel, tokenizer: Any) -> str:
    """A model that came from no file, by what it holds."""
    weights = {name: tensor_digest(weight) for name, weight in model.state_dict().items()}
    return fingerprint(model.config.to_dict(), weights, {"class": type(tokenizer).__name__, **tokenizer.get_vocab()})


def table_fingerprint(table: Tensor) -> str:
    """What ptlib 0.1.0 knew a model by: its embedding table alone, in the type that it was loaded in."""
    digest = hashlib.sha256(repr(tuple(table.shape)).encode())
    digest.update(table.cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
