"""A store of tuned prompts: a folder that runs share, on one machine or several, so that each prompt is tuned once.

The name of a prompt's file is a hash of everything that the prompt depends on. The first process that wants a missing
prompt claims and tunes it, and the others wait.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..models.lm import LanguageModel
from ..prompts.prompt import Prompt
from ..tasks.task import Task
from ..tuning.tuning import tune_seeds
from .claims import Others, claimed
from .inputs import code_digest

__all__ = ["STORE", "tuned"]

STORE = "PTLIB_STORE"  # environment variable with the folder; a sweep sets it for its runs
CODE = code_digest()  # taken at import, because this process does not run code that is edited later


def tuned(lm: LanguageModel | Sequence[LanguageModel], tasks: Sequence[Task], *, seeds: Sequence[int] = (0,),
          folder: str | Path | None = None, **options: Any) -> dict[tuple[int, str], Prompt]:
    """Read prompts from the store, and tune those that are not in it with ``tune_seeds``.

    Args:
        lm, tasks, seeds: as in ``tune_seeds``.
        folder: of the store. If None, the environment variable PTLIB_STORE names it; a sweep sets this for its runs.
            Without either, all prompts are tuned and none is saved.
        options: of ``tune_seeds``.

    Returns:
        {(seed, task.name): Prompt}.

    Raises:
        PromptLoadError: a file in the store cannot be read.
        PromptTransferError, TaskError, NotFiniteError, AnchorError: as ``tune_seeds`` raises them.
    """
    folder = folder or os.environ.get(STORE)
    if not folder:
        return tune_seeds(lm, tasks, seeds=seeds, **options)
    settings = inspect.signature(tune_seeds).bind(lm, tasks, **options)
    settings.apply_defaults()
    del settings.arguments["seeds"]
    by_name = {task.name: task for task in tasks}
    paths = {(seed, name): Path(folder) / f"{prompt_key(task, seed, settings.arguments)}.safetensors"
             for seed in seeds for name, task in by_name.items()}
    others = Others()
    while missing := {which: path for which, path in paths.items() if not path.exists()}:
        with claimed(missing) as mine:
            for of_seeds, names in groups(mine):
                new = tune_seeds(lm, [by_name[name] for name in names], seeds=of_seeds, **options)
                for which, prompt in new.items():
                    prompt.save(mine[which])
        if not mine:
            others.wait(missing.values())
    return {which: Prompt.load(path) for which, path in paths.items()}


def prompt_key(task: Task, seed: int, settings: Mapping[str, Any]) -> str:
    """Hash of everything that a tuned prompt depends on.

    That is ptlib's source, the facts, the options, and each LM's name, fingerprint and number type.
    """
    lm = settings["lm"]
    lms = [lm] if isinstance(lm, LanguageModel) else lm
    options = {name: value for name, value in settings.items() if name not in ("lm", "tasks", "progress")}
    facts = [[tuple(vars(example).values()) for example in part] for part in (task.train, task.dev)]
    about = [CODE, [(model.name, model.fingerprint, str(model.model.dtype)) for model in lms], task.name,
             task.manual_template, facts, int(seed), options]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def groups(which: Iterable[tuple[int, str]]) -> list[tuple[list[int], list[str]]]:
    """Split pairs (seed, task) into few groups of seeds × tasks, each for one call of ``tune_seeds``."""
    tasks_of: dict[int, list[str]] = {}
    for seed, name in which:
        tasks_of.setdefault(seed, []).append(name)
    seeds_of: dict[tuple[str, ...], list[int]] = {}
    for seed, names in tasks_of.items():
        seeds_of.setdefault(tuple(names), []).append(seed)
    return [(seeds, list(names)) for names, seeds in seeds_of.items()]
