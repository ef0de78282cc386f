"""Loading language models: from the zoo, a local folder in Hugging Face format, or the hub."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import constants, get_session, snapshot_download
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

from ..errors import ModelLoadError, first_line
from ..files import Stamp, stamp_of
from .fingerprints import Checkpoint
from .lm import LanguageModel, input_table, kind_of

__all__ = ["list_lms", "load_lm"]

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
UNFIT = {"reformer": "it reads text in chunks, which padding shifts, and gives no gradients but in training"}
ZOO = Path(__file__).parents[1] / "zoo" / "models"
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


def list_lms(group: str = "zoo") -> list[str]:
    """Names of embedded models, as ``load_lm`` takes them.

    Args:
        group: ``"zoo"``, or ``"zoo/halves"`` for those that were pretrained on disjoint halves of the zoo's text.
    """
    folders = sorted((ZOO / group.removeprefix("zoo").lstrip("/")).glob("*/config.json"))
    return [f"zoo/{config.parent.relative_to(ZOO).as_posix()}" for config in folders]


def load_lm(name: str | Path, device: str = "auto", dtype: torch.dtype | None = None, revision: str | None = None,
            embeddings_only: bool = False) -> LanguageModel:
    """Load a language model once a process.

    Args:
        name: ``"zoo/bert-mini"``, a local folder in Hugging Face format, or a hub id.
        device: a torch device, or ``"auto"``: CUDA, MPS or CPU, the first that is there.
        dtype: of the weights; float32 when None. Embeddings and logits are float32 anyway.
        revision: of a hub model.
        embeddings_only: read the tokenizer and the embedding table and nothing else, which is all that moving
            prompts to or from the model needs; tuning and evaluation need the whole.

    Raises:
        ModelLoadError: the folder, the hub model or one of its files is missing or unreadable, or the device is.
    """
    wanted = (str(name), full_device(str(device)), dtype or torch.float32, revision, embeddings_only)
    path = find_model(str(name))
    # A folder is what it is now, not what it was at the last call, nor what another one of the same name is.
    state = folder_state(path) if Path(path).is_dir() else None
    key = (*wanted, str(Path(path).resolve()) if state else None)
    if key not in _loaded or _loaded[key][0] != state:
        _loaded[key] = state, read_lm(path, *wanted)
    return _loaded[key][1]


_loaded: dict[tuple, tuple[tuple[Stamp, ...] | None, LanguageModel]] = {}


def find_model(name: str) -> str:
    """The folder of a model, or its hub id."""
    path = str(Path(name).expanduser())
    if name.startswith("zoo/"):
        known = list_lms() + list_lms("zoo/halves")
        if name not in known:
            raise ModelLoadError(f"the zoo has no model {name!r}; it has {', '.join(known)}")
        return str(ZOO / name.removeprefix("zoo/"))
    if not Path(path).is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise ModelLoadError(f"there is no folder {name!r}; give a folder with config.json, model.safetensors and "
                             f"tokenizer.json, a hub id such as 'bert-base-cased', or one of {', '.join(list_lms())}")
    return path


def folder_state(folder: str) -> tuple[Stamp, ...]:
    """Of all files in it, what changes when they do."""
    return tuple(stamp_of(file) for file in sorted(Path(folder).iterdir()) if file.is_file())


def full_device(device: str) -> str:
    """``"cuda:0"`` for ``"cuda"``, and for ``"auto"`` where there is one."""
    present = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    try:
        return str(torch.empty(0, device=present[0] if device == "auto" else device).device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, for want of a device or a driver
        raise ModelLoadError(f"device {device!r} cannot be had here ({first_line(error)}); expected 'auto' or one of "
                             f"{', '.join(present)}") from error


def hub_answers() -> bool:
    """Whether the hub can be reached, asked once: its client would try each file six times, for 20 seconds."""
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # offline by choice, by network or by proxy: each raises its own
        return False
    return True


def read_lm(path: str, name: str, device: str, dtype: torch.dtype, revision: str | None,
            embeddings_only: bool) -> LanguageModel:
    what = "a language model"
    way_out = "expected a folder with a readable config.json, model.safetensors and tokenizer.json"
    try:
        if not Path(path).is_dir():
            offline = not hub_answers()
            way_out = ("it is no folder here, the hub cannot be reached (offline), and no copy of it was kept from "
                       "before; download it elsewhere and give the folder" if offline else
                       "it is no folder here, and the hub does not give it: no such model, or a gated one (ask for "
                       "access, then `hf auth login`)")
            if offline:
                path = snapshot_download(path, revision=revision, local_files_only=True)
        config = AutoConfig.from_pretrained(path, revision=revision)
        what = (config.architectures or [what])[0]
        if config.model_type in UNFIT:
            raise ValueError(UNFIT[config.model_type])
        kind = kind_of(config)
        tokenizer = read_tokenizer(path, revision)
        checkpoint = find_checkpoint(path, tokenizer, revision)
        if embeddings_only:
            table = read_embeddings(checkpoint, config, kind, dtype)
            return LanguageModel(None, tokenizer, name, kind, table.to(device), checkpoint)
        with without_bars():
            model, info = AUTO[kind].from_pretrained(path, revision=revision, dtype=dtype, output_loading_info=True)
        if info["missing_keys"]:  # transformers only warns, and fills them with random numbers
            raise LookupError(f"its weights lack {', '.join(sorted(info['missing_keys'])[:3])}: it is a bare encoder "
                              f"or a classifier, and no {kind} language model with its head")
        model.config.use_cache = False  # of no use here, and some models write to it in place
        return LanguageModel(model.to(device), tokenizer, name, kind, checkpoint=checkpoint)
    except ModelLoadError:
        raise
    except Exception as error:  # the libraries below raise a dozen kinds for one reason: it cannot be read
        raise ModelLoadError(f"cannot load {what} from {name!r} ({first_line(error)}); {way_out}") from error


def read_tokenizer(path: str, revision: str | None):
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    try:
        tokenizer("a")  # some nonsense in its files shows only here
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what panics in Rust is no Exception
        raise ValueError(f"its tokenizer cannot tokenize: {first_line(error)}") from error
    files = tokenizer.vocab_files_names.values()
    # transformers makes an empty tokenizer up where there is none.
    if files and not any(find_file(path, file, revision) for file in ("tokenizer.json", *files)):
        raise FileNotFoundError(f"there is no tokenizer.json, nor {' and '.join(files)}")
    return tokenizer


def find_file(path: str, file: str, revision: str | None) -> Path | None:
    found = cached_file(path, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found).absolute()  # the working directory may change


def find_checkpoint(path: str, tokenizer, revision: str | None) -> Checkpoint:
    """The files that transformers reads a model from: weights in one file before shards, safetensors before pickles."""
    for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                 "pytorch_model.bin.index.json"):
        if weights := find_file(path, name, revision):
            break
    else:
        raise FileNotFoundError("there is no model.safetensors, nor a pytorch_model.bin")
    shards = [weights]
    if weights.suffix == ".json":
        names = sorted(set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values()))
        shards = [Path(cached_file(path, name, revision=revision)).absolute() for name in names]
    names = {*TOKENIZER_FILES, *tokenizer.vocab_files_names.values()}
    of_tokenizer = (find_file(path, name, revision) for name in sorted(names))
    return Checkpoint(find_file(path, "config.json", revision), tuple(shards),
                      tuple(file for file in of_tokenizer if file is not None))


def read_embeddings(checkpoint: Checkpoint, config, kind: str, dtype: torch.dtype) -> Tensor:
    """(V, d) float32 input embeddings from a safetensors checkpoint, sharded or not, without reading the rest of it."""
    with torch.device("meta"):
        skeleton = AUTO[kind].from_config(config)
    layer = skeleton.get_input_embeddings()
    # A tied table is stored once, under any of its names; a checkpoint of the bare encoder lacks the prefix.
    names = [name for name, weight in skeleton.named_parameters(remove_duplicate=False) if weight is layer.weight]
    names += [name.partition(".")[2] for name in names]
    for file in checkpoint.weights:
        if file.suffix != ".safetensors":
            raise LookupError(f"{file.name} is a pickle, of which no part can be read, expected model.safetensors")
        with safe_open(str(file), "pt") as tensors:
            found = next((name for name in names if name in tensors.keys()), None)  # noqa: SIM118
            if found is not None:
                layer.weight = torch.nn.Parameter(tensors.get_tensor(found).to(dtype), requires_grad=False)
                break
    else:
        raise LookupError(f"no tensor named {' or '.join(names)}; it may still load with embeddings_only=False")
    if hasattr(layer, "scalar_embed_scale"):  # Gemma's; its copy as a tensor has no value in the skeleton
        layer.embed_scale = torch.tensor(layer.scalar_embed_scale)
    return input_table(layer)
