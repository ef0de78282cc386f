"""Loading language models: from the zoo, a local folder in Hugging Face format, or the hub."""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import cached_file, logging

from .errors import ModelLoadError
from .lm import LanguageModel, kind_of

__all__ = ["list_lms", "load_lm"]

ZOO = Path(__file__).parent / "zoo" / "models"
AUTO = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}


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


def list_lms() -> list[str]:
    """Names of the embedded zoo's models, as ``load_lm`` takes them."""
    return [f"zoo/{folder.name}" for folder in sorted(ZOO.glob("*/")) if (folder / "config.json").exists()]


def load_lm(name: str | Path, device: str = "auto", dtype: torch.dtype | None = None, revision: str | None = None,
            embeddings_only: bool = False) -> LanguageModel:
    """Load a language model once a process.

    Args:
        name: ``"zoo/bert-mini"``, a local folder in Hugging Face format, or a hub id.
        device: a torch device, or ``"auto"``: CUDA, MPS or CPU, the first that is there.
        dtype: of the weights; float32 when None.
        revision: of a hub model.
        embeddings_only: read the tokenizer and the embedding table and nothing else, which is all that moving
            prompts to or from the model needs; tuning and evaluation need the whole.

    Raises:
        ModelLoadError: the folder, the hub model or one of its files is missing or unreadable.
    """
    if device == "auto":
        device = ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    return _load_lm(str(name), device, dtype or torch.float32, revision, embeddings_only)


@cache
def _load_lm(name: str, device: str, dtype: torch.dtype, revision: str | None, embeddings_only: bool) -> LanguageModel:
    """``load_lm``, once for each set of arguments, however they were written."""
    path = str(Path(name).expanduser())
    if name.startswith("zoo/"):
        path = str(ZOO / name.removeprefix("zoo/"))
        if name not in list_lms():
            raise ModelLoadError(f"the zoo has no model {name!r}; it has {', '.join(list_lms())}")
    elif not Path(path).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelLoadError(f"there is no folder {name!r}; give a folder with config.json, model.safetensors and "
                             f"tokenizer.json, a hub id such as 'bert-base-cased', or one of {', '.join(list_lms())}")
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        kind = kind_of(config)
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        if embeddings_only:
            table = read_embeddings(path, config, kind, dtype, revision)
            return LanguageModel(None, tokenizer, name, kind, table.to(device))
        with without_bars():
            model, info = AUTO[kind].from_pretrained(path, revision=revision, dtype=dtype, output_loading_info=True)
    except ModelLoadError:
        raise
    except Exception as error:  # the libraries below raise a dozen kinds for one reason: it cannot be read
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        way_out = ("Expected a folder with a readable config.json, model.safetensors and tokenizer.json."
                   if Path(path).is_dir() else
                   "It is no folder here, and the hub does not give it: offline, no such model, or a gated one (ask "
                   "for access, then `hf auth login`). Or download it elsewhere and give the folder.")
        raise ModelLoadError(f"cannot load a language model from {name!r}: {reason} {way_out}") from error
    if info["missing_keys"]:  # transformers only warns, and fills them with random numbers
        raise ModelLoadError(f"the weights of {name!r} lack {', '.join(sorted(info['missing_keys'])[:3])}; expected a "
                             f"{kind} language model with its head, not a bare encoder or a classifier")
    return LanguageModel(model.to(device), tokenizer, name, kind)


def read_embeddings(path: str, config, kind: str, dtype: torch.dtype, revision: str | None) -> Tensor:
    """(V, d) float32 input embeddings from a safetensors checkpoint, sharded or not, without reading the rest of it."""
    with torch.device("meta"):
        skeleton = AUTO[kind].from_config(config)
    layer = skeleton.get_input_embeddings()
    # A tied table is stored once, under either of its names; a checkpoint of the bare encoder lacks the prefix.
    same = [layer.weight]
    if config.tie_word_embeddings and skeleton.get_output_embeddings() is not None:
        same.append(skeleton.get_output_embeddings().weight)
    parameters = skeleton.named_parameters(remove_duplicate=False)
    names = [name for name, weight in parameters if any(weight is tied for tied in same)]
    names += [name.partition(".")[2] for name in names]
    index = cached_file(path, "model.safetensors.index.json", revision=revision,
                        _raise_exceptions_for_missing_entries=False)
    if index is None:
        file = cached_file(path, "model.safetensors", revision=revision)
        with safe_open(file, "pt") as tensors:
            shards = dict.fromkeys(tensors.keys(), "model.safetensors")
    else:
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
    found = next((name for name in names if name in shards), None)
    if found is None:
        raise ModelLoadError(f"the safetensors of {path!r} hold no {' or '.join(names)}; load the model whole, with "
                             "embeddings_only=False")
    with safe_open(cached_file(path, shards[found], revision=revision), "pt") as tensors:
        table = tensors.get_tensor(found).to(dtype)
    scale = getattr(layer, "scalar_embed_scale", getattr(layer, "embed_scale", 1.0))
    return (table if scale == 1.0 else table * torch.tensor(scale, dtype=dtype)).float()
