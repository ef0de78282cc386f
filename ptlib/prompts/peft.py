"""Reading and writing the prompt-tuning checkpoints of the PEFT library.

A checkpoint is a JSON file and a safetensors file, so this module does not need ``peft``. The tests use it to compare
the logits of both libraries.

PEFT puts its virtual tokens before all tokens of the text, including the start tokens that the tokenizer adds (Llama's
``<s>``). A ``Template`` puts the start tokens first. So PEFT's order is ``[V]*m <s> text``, and ptlib's is ``<s> [V]*m
text``. GPT-2 and T5 have no start tokens, and both orders are the same.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import PromptLoadError, PromptMismatchError, PromptTransferError
from ..models.lm import LanguageModel
from .prompt import Prompt

__all__ = ["load_peft_prompt", "save_peft_prompt"]

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TENSOR = "prompt_embeddings"
START, FINGERPRINT = "ptlib_start_tokens", "ptlib_lm_fingerprint"  # metadata that save_peft_prompt adds
TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}


def load_peft_prompt(folder: str | Path, lm: LanguageModel, *, template: str | None = None,
                     task: str | None = None, base_model: str | None = None) -> Prompt:
    """Read a checkpoint that a prompt-tuned PeftModel's ``save_pretrained`` or ``save_peft_prompt`` wrote.

    Args:
        folder: the folder with adapter_config.json and adapter_model.safetensors.
        lm: the LM that the prompt was trained on. A checkpoint of ``save_peft_prompt`` has the LM's fingerprint, which
            is compared. Other checkpoints have none. There, task type and width must fit, and the base model's name
            must be ``lm.name``, have the same last part, or lead to the same folder.
        template: the prompt's template. The default is ``"[V]*m[X] [Y]"``, without a space before the subject, because
            a text for PEFT usually starts without one.
        task: the name of the task that the prompt is for.
        base_model: the base model's name in the checkpoint, if it differs from ``lm.name``, as on another machine.

    Returns:
        A Prompt of (m, d) vectors. ``meta["peft"]`` is the content of adapter_config.json. ``meta["before_start"]`` is
        True if PEFT has the vectors before the LM's start tokens, where ptlib has them after. The logits of the two
        libraries then differ. It is False if there are no start tokens, or if ``save_peft_prompt`` wrote them as
        virtual tokens.

    Raises:
        PromptLoadError: a file is missing, unreadable, a pickle, or of another PEFT method.
        PromptMismatchError: the prompt was trained on another LM; the shape of the vectors does not fit the
            configuration and ``lm``; ``template`` does not have as many prompt slots.
    """
    folder = Path(folder)
    config = read_config(folder)
    vectors, notes = read_vectors(folder)
    m = config.get("num_virtual_tokens")
    if lm.kind == "seq2seq" and isinstance(m, int) and m and vectors.shape[:1] == (2 * m,):
        vectors = vectors[:m]  # the configuration has a second half for the decoder, but PEFT's forward never uses it
    if tuple(vectors.shape) != (m, lm.dim):
        raise PromptMismatchError(
            f"{folder / WEIGHTS} holds vectors of the shape {tuple(vectors.shape)}, but num_virtual_tokens in "
            f"{CONFIG} and the width of {lm.name} require {(m, lm.dim)}; load it with the LM that it was trained on "
            f"({config.get('base_model_name_or_path')}), then use ptlib.transfer")
    check_origin(folder, config, notes.get(FINGERPRINT), lm, base_model)
    start, included = str(len(lm.frame[0])), notes.get(START, "0")
    if included not in ("0", start):
        raise PromptMismatchError(f"{folder / WEIGHTS} starts with {included} start tokens, but the tokenizer of "
                                  f"{lm.name} has {start}; load it with the LM and the tokenizer that it was made with")
    vectors = vectors[int(included):]
    return Prompt(vectors, template or f"[V]*{len(vectors)}[X] [Y]", lm.name, lm.fingerprint, task,
                  {"method": "peft", "peft": config, "before_start": included != start})


def check_origin(folder: Path, config: dict[str, Any], fingerprint: str | None, lm: LanguageModel,
                 base_model: str | None) -> None:
    """Raise PromptMismatchError if the checkpoint's metadata show that it was made with another LM than ``lm``."""
    task_type, named = config.get("task_type"), config.get("base_model_name_or_path")
    if task_type not in (None, TASK_TYPES.get(lm.kind)):
        raise PromptMismatchError(f"{folder / CONFIG} has the task_type {task_type!r}, but {lm.name} is {lm.kind}; "
                                  "load the prompt with the LM that it was trained on, then use ptlib.transfer")
    if fingerprint is not None:
        if fingerprint != lm.fingerprint:
            raise PromptMismatchError(f"{folder / WEIGHTS} was made for {named} (fingerprint {fingerprint}), not for "
                                      f"{lm.name} ({lm.fingerprint}); load it with that LM, then use ptlib.transfer")
    elif named is not None and not (is_name_of(named, lm) if base_model is None else named == base_model):
        raise PromptMismatchError(f"{folder / CONFIG} names the base model {named!r}, not {base_model or lm.name!r}; "
                                  "load it with that LM, then use ptlib.transfer. If it is the same model under "
                                  f"another name, give base_model={named!r}")


def is_name_of(named: Any, lm: LanguageModel) -> bool:
    """Whether a base model's name or path means ``lm``: both end in the same name, or lead to the same folder."""
    if not isinstance(named, str):
        return False
    lm_path = os.path.expanduser(lm.name)
    return Path(lm_path).name == Path(named).name != "" or (
        os.path.isdir(lm_path) and os.path.isdir(named) and os.path.samefile(lm_path, named))


def save_peft_prompt(prompt: Prompt, folder: str | Path, lm: LanguageModel, *, base_model: str | None = None,
                     with_start: bool = False) -> Path:
    """Write a checkpoint that ``peft.PeftModel.from_pretrained`` can load.

    PEFT stores the vectors without the template. So give PEFT's model the text that follows the vectors in the
    template, up to the answer. Keep the space before it, if there is one: ``" France is in"`` for ``"[V]*5 [X] is in
    [Y]"``.

    Args:
        prompt: a prompt for ``lm``. Its template must start with all the vectors.
        folder: where to write. An adapter that is there is replaced in one step. A folder with other files is an error.
        lm: a causal LM, or a sequence-to-sequence LM like T5. Its embeddings are enough.
        base_model: the name or path by which others load ``lm``. The default is the base model's name in the checkpoint
            that the prompt was read from, if there was one, and ``lm.name`` otherwise.
        with_start: write the embeddings of the LM's start tokens as the first virtual tokens. PEFT then computes the
            same logits as ptlib, if the text is tokenized with ``add_special_tokens=False``.

    Returns:
        The folder.

    Raises:
        PromptMismatchError: the prompt is for another LM, PEFT cannot put the vectors where the template has them, or
            PEFT has no task type for such an LM.
        PromptTransferError: there is something other than an adapter at ``folder``.
    """
    prompt.check(lm)
    after = re.sub(r"^(\s*\[V\](\*\d+)?)+", "", prompt.template)
    if after == prompt.template or "[V]" in after:
        raise PromptMismatchError(f"template {prompt.template!r} does not have all its prompt vectors first, where "
                                  "PEFT puts them; use a template such as '[V]*5 [X] [Y]'")
    if lm.kind != "causal" and lm.blank_id == lm.tokenizer.mask_token_id:
        raise PromptMismatchError(f"{lm.name} is {lm.kind} with a mask token, but PEFT has no task type for masked LMs "
                                  "or for LMs like BART, which read the prompt in the decoder, too; transfer the "
                                  "prompt to a causal LM or one like T5, or save it with Prompt.save")
    start = lm.frame[0]
    if start and not with_start and not prompt.meta.get("before_start"):
        raise PromptMismatchError(
            f"the tokenizer of {lm.name} starts a text with {lm.tokenizer.decode(start)!r}. Template "
            f"{prompt.template!r} has its vectors after that, but PEFT puts them before it; use with_start=True, which "
            "writes it as the first virtual token, and tokenize the text with add_special_tokens=False")
    start = start if with_start else []
    vectors = torch.cat([lm.embeddings[start].cpu(), prompt.vectors])
    kept = prompt.meta.get("peft", {})
    config = {"prompt_tuning_init": "RANDOM", **kept, "peft_type": "PROMPT_TUNING", "task_type": TASK_TYPES[lm.kind],
              "base_model_name_or_path": base_model or kept.get("base_model_name_or_path") or lm.name,
              "num_virtual_tokens": len(vectors), "token_dim": lm.dim, "num_transformer_submodules": 1,
              "modules_to_save": None, "inference_mode": True}
    write(Path(folder), json.dumps(config, indent=2, sort_keys=True), vectors,
          {"format": "pt", START: str(len(start)), FINGERPRINT: lm.fingerprint})
    return Path(folder)


def read_config(folder: Path) -> dict[str, Any]:
    expected = "expected the folder that a prompt-tuned PeftModel's save_pretrained wrote"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PromptLoadError(f"cannot read {folder / CONFIG} ({error}); {expected}") from error
    method = config.get("peft_type") if isinstance(config, dict) else None
    if method != "PROMPT_TUNING":
        raise PromptLoadError(f"{folder / CONFIG} has the peft_type {method!r}; expected 'PROMPT_TUNING': tune with "
                              "PromptTuningConfig, because only its vectors enter a model as prompt vectors")
    return config


def read_vectors(folder: Path) -> tuple[Tensor, dict[str, str]]:
    """The vectors, (m, d) float32, and the metadata that ``save_peft_prompt`` added."""
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise PromptLoadError(f"{folder / PICKLE} is a pickle, which is not opened because it could run any code; "
                              f"expected {WEIGHTS}: if you trust it, load it with PEFT and use save_pretrained")
    expected = "expected a file that a prompt-tuned PeftModel's save_pretrained wrote"
    try:
        with safe_open(str(folder / WEIGHTS), "pt") as file:
            vectors, notes = file.get_tensor(TENSOR), file.metadata() or {}
    except (OSError, ValueError, SafetensorError) as error:
        raise PromptLoadError(f"{folder / WEIGHTS} holds no readable {TENSOR} ({error}); {expected}") from error
    if not vectors.is_floating_point():
        raise PromptLoadError(f"{folder / WEIGHTS} holds {TENSOR} as {vectors.dtype}, not as floating-point numbers; "
                              f"{expected}")
    return vectors.float(), notes


def write(folder: Path, config: str, vectors: Tensor, notes: dict[str, str]) -> None:
    """Write the files to a temporary folder next to ``folder``, then rename it, so that no reader sees half of them."""
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= {CONFIG, WEIGHTS}):
        raise PromptTransferError(f"{folder} exists and is not an adapter, or has other files, too; give a new or "
                                  f"empty folder, or one with only {CONFIG} and {WEIGHTS} to replace")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".ptlib-") as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        new.mkdir()
        (new / CONFIG).write_text(config, encoding="utf-8")
        save_file({TENSOR: vectors}, new / WEIGHTS, metadata=notes)
        if folder.exists():
            folder.rename(old)  # rename cannot replace a folder that is not empty
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
