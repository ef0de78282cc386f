"""Loading language models: from the zoo, a folder in Hugging Face format, a GGUF file, or the hub."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import ModelLoadError, first_line
from ..files import Stamp, stamp_of
from .lm import LanguageModel, kind_of

__all__ = ["list_lms", "load_lm"]

# Whatever imports ``formats`` does so where a model is loaded, because transformers takes seconds to import.
UNFIT = {"reformer": "it reads text in chunks, which padding shifts, and gives gradients only in training mode"}
ZOO = Path(__file__).parents[1] / "zoo" / "models"


def list_lms(group: str = "zoo") -> list[str]:
    """The names of the models that come with ptlib, for ``load_lm``.

    Args:
        group: ``"zoo"``, or ``"zoo/halves"`` for the models that were pretrained on disjoint halves of the zoo's text.
    """
    folders = sorted((ZOO / group.removeprefix("zoo").lstrip("/")).glob("*/config.json"))
    return [f"zoo/{config.parent.relative_to(ZOO).as_posix()}" for config in folders]


def load_lm(name: str | Path, device: str = "auto", dtype: torch.dtype | str | None = None,
            revision: str | None = None, embeddings_only: bool = False) -> LanguageModel:
    """Load a language model. Later calls in the same process return the same object while the files are unchanged.

    Args:
        name: a zoo model such as ``"zoo/bert-mini"``, a folder in Hugging Face format, a GGUF file, or a hub id.
        device: a torch device, or ``"auto"`` for the first available of CUDA, MPS and CPU.
        dtype: the type of the weights; float32 if None. ``"auto"``: bfloat16 where the device computes in it, which
            is two to four times as fast, otherwise float32. Embeddings and logits are always float32.
        revision: the revision of a hub model.
        embeddings_only: read only the tokenizer and the embedding table. That is enough to transfer prompts to or from
            the model. Tuning and evaluation need the whole model.

    Raises:
        ModelLoadError: the model or one of its files is missing or unreadable, the device is not available, ``dtype``
            is another string, or the model fails a test of ``models.proof``.
    """
    place = full_device(str(device))
    wanted = (str(name), place, full_dtype(dtype, place), revision, embeddings_only)
    path = find_model(str(name))
    # The files may have changed since the last call, and a relative path may mean another folder now.
    state = files_state(Path(path)) if Path(path).exists() else None
    key = (*wanted, str(Path(path).resolve()) if state else None)
    if key not in _loaded or _loaded[key][0] != state:
        _loaded[key] = state, read_lm(path, *wanted)
    return _loaded[key][1]


_loaded: dict[tuple, tuple[tuple[Stamp, ...] | None, LanguageModel]] = {}


def find_model(name: str) -> str:
    """The path of a model on disk, or its hub id."""
    from .formats import FORMATS

    path = str(Path(name).expanduser())
    if name.startswith("zoo/"):
        known = list_lms() + list_lms("zoo/halves")
        if name not in known:
            raise ModelLoadError(f"the zoo has no model {name!r}; expected one of {', '.join(known)}")
        return str(ZOO / name.removeprefix("zoo/"))
    if Path(path).is_dir():
        return path
    if Path(path).suffix.lower() in FORMATS:
        if not Path(path).is_file():
            raise ModelLoadError(f"there is no file {name!r}; give the path of a file that exists, or of a folder in "
                                 "Hugging Face format")
    elif name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelLoadError(f"there is no folder {name!r}; give a folder with config.json, model.safetensors and "
                             f"tokenizer.json, a hub id such as 'bert-base-cased', or one of {', '.join(list_lms())}")
    return path


def files_state(path: Path) -> tuple[Stamp, ...]:
    """The stamps of all files of a model. They change when the files do."""
    from .formats import format_of

    return tuple(stamp_of(file) for file in format_of(str(path)).files(path) if file.is_file())


def full_device(device: str) -> str:
    """The full name of a device: ``"cuda:0"`` for ``"cuda"``, and for ``"auto"`` on a machine with a GPU."""
    present = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    try:
        return str(torch.empty(0, device=present[0] if device == "auto" else device).device)
    except (RuntimeError, AssertionError) as error:  # which one torch raises depends on what is missing
        raise ModelLoadError(f"device {device!r} is not available ({first_line(error)}); expected 'auto' or one of "
                             f"{', '.join(present)}") from error


def full_dtype(dtype: torch.dtype | str | None, device: str) -> torch.dtype:
    """The type of the weights that ``dtype`` means on a device.

    Where the processor only imitates bfloat16, it is hundreds of times slower than float32.
    """
    if isinstance(dtype, str):
        if dtype != "auto":
            raise ModelLoadError(f"dtype={dtype!r}; expected a torch dtype, 'auto', or None for float32")
        processor = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = {"cuda": torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False),
                  "cpu": processor.get("avx512_bf16", False) or processor.get("amx_bf16", False)}
        return torch.bfloat16 if native.get(torch.device(device).type) else torch.float32
    return dtype or torch.float32


def read_lm(path: str, name: str, device: str, dtype: torch.dtype, revision: str | None,
            embeddings_only: bool) -> LanguageModel:
    from .formats import format_of

    what, way_out = "a language model", format_of(path).way_out
    try:
        files = format_of(path)(path, revision)
        way_out = files.way_out
        config = files.config()
        what = (config.architectures or [what])[0]
        if config.model_type in UNFIT:
            raise ValueError(UNFIT[config.model_type])
        kind, tokenizer = kind_of(config), files.tokenizer()
        checkpoint = files.checkpoint(tokenizer)
        if embeddings_only:
            table = files.embeddings(config, checkpoint, dtype)
            return LanguageModel(None, tokenizer, name, kind, table.to(device), checkpoint)
        model = files.model(kind, dtype)
        model.config.use_cache = False  # nothing is generated here, and some models change the cache in place
        model = model.to(device)  # type: ignore[arg-type]  # mypy does not bind methods behind functools.wraps
        return LanguageModel(model, tokenizer, name, kind, checkpoint=checkpoint)
    except ModelLoadError:
        raise
    except Exception as error:  # the libraries raise a dozen kinds of error for a file that cannot be read
        raise ModelLoadError(f"cannot load {what} from {name!r} ({first_line(error)}); {way_out}") from error
