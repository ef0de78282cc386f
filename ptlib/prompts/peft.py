"""PEFT's prompt-tuning checkpoints, in and out: a JSON file and a safetensors file, so nothing here needs peft.

The tests do, and compare logits with the real library's.

PEFT puts its virtual tokens before everything that the tokenizer gives. A ``Template`` starts with the tokenizer's
start tokens (Llama's ``<s>``), so where there are any, PEFT's order is ``[V]*m <s> text`` and ptlib's ``<s> [V]*m
text``. GPT-2 and T5 have none: there both agree.
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
START, FINGERPRINT = "ptlib_start_tokens", "ptlib_lm_fingerprint"  # what save_peft_prompt notes beside the vectors
TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM"}


def load_peft_prompt(folder: str | Path, lm: LanguageModel, *, template: str | None = None,
                     task: str | None = None, base_model: str | None = None) -> Prompt:
    """Read what ``save_pretrained`` of a prompt-tuned PeftModel, or ``save_peft_prompt``, wrote.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        lm: what it was trained on: by the fingerprint that ``save_peft_prompt`` noted; else, as PEFT keeps none, by
            task type, width and name, which is to be ``lm.name``, end as it does, or lead to the same folder.
        template: ``"[V]*m[X] [Y]"`` if None: PEFT's users tokenize a text that starts without a space.
        task: name of the task that it is for.
        base_model: the name that the configuration has for ``lm``, where it is another one, as on another machine.

    Returns:
        A Prompt of (m, d) vectors. ``meta["peft"]`` is adapter_config.json as it was. ``meta["before_start"]`` is True
        where PEFT has the vectors before the LM's start tokens and ptlib after them: ptlib's logits are then not
        PEFT's. It is False where there are no such tokens, or ``save_peft_prompt`` wrote them as virtual tokens.

    Raises:
        PromptLoadError: a file is missing, unreadable, a pickle, or of another PEFT method.
        PromptMismatchError: it was trained on another LM; the vectors have not the shape that the config and ``lm``
            say, or ``template`` not as many slots.
    """
    folder = Path(folder)
    config = read_config(folder)
    vectors, notes = read_vectors(folder)
    m = config.get("num_virtual_tokens")
    if lm.kind == "seq2seq" and isinstance(m, int) and m and vectors.shape[:1] == (2 * m,):
        vectors = vectors[:m]  # the other half is for the decoder by PEFT's config, but PEFT's forward never uses it
    if tuple(vectors.shape) != (m, lm.dim):
        raise PromptMismatchError(
            f"{folder / WEIGHTS} holds vectors of the shape {tuple(vectors.shape)}, but num_virtual_tokens in "
            f"{CONFIG} and the width of {lm.name} say {(m, lm.dim)}; load it with the LM that it was trained on "
            f"({config.get('base_model_name_or_path')}), then move it with ptlib.transfer")
    check_origin(folder, config, notes.get(FINGERPRINT), lm, base_model)
    start, spelled_out = str(len(lm.frame[0])), notes.get(START, "0")
    if spelled_out not in ("0", start):
        raise PromptMismatchError(f"{folder / WEIGHTS} starts with {spelled_out} start tokens, but the tokenizer of "
                                  f"{lm.name} has {start}; load it with the LM and the tokenizer that it was made with")
    vectors = vectors[int(spelled_out):]
    return Prompt(vectors, template or f"[V]*{len(vectors)}[X] [Y]", lm.name, lm.fingerprint, task,
                  {"method": "peft", "peft": config, "before_start": spelled_out != start})


def check_origin(folder: Path, config: dict[str, Any], fingerprint: str | None, lm: LanguageModel,
                 base_model: str | None) -> None:
    """Raise PromptMismatchError unless the checkpoint was made with ``lm``, as far as it tells."""
    task_type, named = config.get("task_type"), config.get("base_model_name_or_path")
    if task_type not in (None, TASK_TYPES.get(lm.kind)):
        raise PromptMismatchError(f"{folder / CONFIG} has the task_type {task_type!r}, but {lm.name} is {lm.kind}; "
                                  "expected the LM that the prompt was trained on: load it with that one, then move "
                                  "it with ptlib.transfer")
    if fingerprint is not None:
        if fingerprint != lm.fingerprint:
            raise PromptMismatchError(f"{folder / WEIGHTS} was made for {named} (fingerprint {fingerprint}), not for "
                                      f"{lm.name} ({lm.fingerprint}); load it with that one, then move it with "
                                      "ptlib.transfer")
    elif named is not None and not (is_name_of(named, lm) if base_model is None else named == base_model):
        raise PromptMismatchError(f"{folder / CONFIG} names the base model {named!r}, not {base_model or lm.name!r}; "
                                  "load it with that one, then move it with ptlib.transfer, or, if it is the same "
                                  f"model by another name, say base_model={named!r}")


def is_name_of(named: Any, lm: LanguageModel) -> bool:
    """Whether a base model's name or path is that of ``lm``: but for the folders before it, or for links."""
    if not isinstance(named, str):
        return False
    ours = os.path.expanduser(lm.name)
    return Path(ours).name == Path(named).name != "" or (
        os.path.isdir(ours) and os.path.isdir(named) and os.path.samefile(ours, named))


def save_peft_prompt(prompt: Prompt, folder: str | Path, lm: LanguageModel, *, base_model: str | None = None,
                     with_start: bool = False) -> Path:
    """Write what ``peft.PeftModel.from_pretrained`` loads.

    PEFT keeps the vectors and no template: give its model the text that stands after them in the template, with the
    space before it if there is one (``" France is in"`` for ``"[V]*5 [X] is in [Y]"``), up to the answer.

    Args:
        prompt: made for ``lm``, with all its vectors first in the template.
        folder: replaced at once or not at all; one that holds more than an adapter is left alone.
        lm: causal, or T5's kind. Its embeddings are enough.
        base_model: name or path by which others load ``lm``; if None, what the checkpoint said that the prompt was
            read from, else ``lm.name``.
        with_start: write the embeddings of the LM's start tokens as the first virtual tokens. PEFT then sees what
            ptlib does, given text that is tokenized with ``add_special_tokens=False``.

    Raises:
        PromptMismatchError: the prompt is of another LM, PEFT cannot put its vectors where the template does, or
            PEFT has no task type for such an LM.
        PromptTransferError: at ``folder`` is something else.
    """
    prompt.check(lm)
    after = re.sub(r"^(\s*\[V\](\*\d+)?)+", "", prompt.template)
    if after == prompt.template or "[V]" in after:
        raise PromptMismatchError(f"template {prompt.template!r} has not all its prompt vectors first, where PEFT puts "
                                  "them; tune or move a prompt with a template such as '[V]*5 [X] [Y]'")
    if lm.kind != "causal" and lm.blank_id == lm.tokenizer.mask_token_id:
        raise PromptMismatchError(f"{lm.name} is {lm.kind} with a mask token, but PEFT has no task type for masked LMs "
                                  "and none for BART's kind, whose decoder reads the prompt, too; move the prompt to "
                                  "a causal LM or one of T5's kind, or keep it with Prompt.save")
    start = lm.frame[0]
    if start and not with_start and not prompt.meta.get("before_start"):
        raise PromptMismatchError(
            f"the tokenizer of {lm.name} starts with {lm.tokenizer.decode(start)!r}, after which template "
            f"{prompt.template!r} has its vectors and before which PEFT puts them; with_start=True writes it as the "
            "first virtual token, for text that is tokenized with add_special_tokens=False")
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
        raise PromptLoadError(f"{folder / CONFIG} has the peft_type {method!r}, expected 'PROMPT_TUNING': only "
                              "PromptTuningConfig gives vectors that enter a model as a prompt's do; tune with that")
    return config


def read_vectors(folder: Path) -> tuple[Tensor, dict[str, str]]:
    """(m, d) float32, and what ``save_peft_prompt`` noted: how many are start tokens that it spelled out, the LM."""
    if not (folder / WEIGHTS).exists() and (folder / PICKLE).exists():
        raise PromptLoadError(f"{folder / PICKLE} is a pickle, which could run any code and is not opened, expected "
                              f"{WEIGHTS}; if you trust it, load it with PEFT and write it with save_pretrained")
    expected = "expected what a prompt-tuned PeftModel's save_pretrained wrote"
    try:
        with safe_open(str(folder / WEIGHTS), "pt") as file:
            vectors, notes = file.get_tensor(TENSOR), file.metadata() or {}
    except (OSError, ValueError, SafetensorError) as error:
        raise PromptLoadError(f"{folder / WEIGHTS} holds no readable {TENSOR} ({error}); {expected}") from error
    if not vectors.is_floating_point():
        raise PromptLoadError(f"{folder / WEIGHTS} holds {TENSOR} as {vectors.dtype}, which are no vectors; {expected}")
    return vectors.float(), notes


def write(folder: Path, config: str, vectors: Tensor, notes: dict[str, str]) -> None:
    """Make the files beside ``folder``, then put them in its place."""
    if folder.exists() and not (folder.is_dir() and {file.name for file in folder.iterdir()} <= {CONFIG, WEIGHTS}):
        raise PromptTransferError(f"{folder} is there and not an adapter, or not that alone; expected a new or empty "
                                  f"folder, or one of {CONFIG} and {WEIGHTS} to replace: name another")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".ptlib-") as room:
        new, old = Path(room, "new"), Path(room, "old")
        new.mkdir()
        (new / CONFIG).write_text(config, encoding="utf-8")
        save_file({TENSOR: vectors}, new / WEIGHTS, metadata=notes)
        if folder.exists():
            folder.rename(old)  # a folder that is not empty cannot be replaced in one step
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
