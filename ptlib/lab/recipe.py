"""The lines of code that make one setting of the explorer again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..prompts.history import Carried, Record, Reweighted, Tuned

if TYPE_CHECKING:
    from .explorations import Exploration

__all__ = ["code_of"]


def code_of(exploration: Exploration) -> str:
    """Lines that make ``exploration.moved`` and its P@1 with ptlib's public functions."""
    names = ", ".join(f"ptlib.load_lm({lm.name!r})" for lm in exploration.sources)
    setting = dict(exploration.setting)
    num, select, seed, strength = (setting.pop(name) for name in ("num_anchors", "select", "seed", "strength"))
    lines = ["import ptlib", "", f"sources = [{names}]", f"target = ptlib.load_lm({exploration.target.name!r})",
             f"task = ptlib.load_task({_task(exploration.task.name)})", *_prompts(exploration)]
    if num is not None:
        lines.append(f"anchors = ptlib.shared_anchors(*sources, target, num={num}, select={select!r}, seed={seed})")
    anchors = "" if num is None else "anchors=anchors, "
    options = _keywords({"seed": seed, **setting})
    lines.append(f"moved = ptlib.transfer(prompts, source=sources, target=target, {anchors}{options})")
    if strength is not None:
        chosen = _keywords({} if strength == "auto" else {"strength": strength})
        lines += ["subjects = [example.subject for example in task.train]",
                  "moved = ptlib.calibrate(moved, target, source=sources, teacher=prompts, inputs=subjects"
                  f"{', ' if chosen else ''}{chosen})"]
    return "\n".join([*lines, "words = ptlib.shared_anchors(*sources, target).words",
                      "print(ptlib.evaluate(target, moved, task.test, candidates=words))", ""])


def _prompts(exploration: Exploration) -> list[str]:
    """Lines that make ``prompts``: tuned, and with the weights that were changed."""
    prompt = exploration.prompts[0]
    record: Record = prompt.history
    changes = record.weights if isinstance(record, Reweighted) else ()
    while isinstance(record, Reweighted | Carried):
        record = record.before
    if not isinstance(record, Tuned):
        return ['prompts = [ptlib.Prompt.load("source.safetensors")]  # one for each source, as it was given']
    given = {"num_vectors": len(prompt.vectors), "epochs": record.epochs, "seed": record.seed}
    if prompt.mixture is None:
        return [f"prompts = [ptlib.tune(source, task, {_keywords(given)}) for source in sources]"]
    lines = [f'mixture = ptlib.tune(sources, task, parameterization="mixture", {_keywords(given)})']
    if changes:
        weights = ", ".join(f"({vector}, {word!r}): {weight:g}" for vector, word, weight in changes)
        lines.append(f"mixture = mixture.with_weights(sources[0], {{{weights}}})")
    return [*lines, "prompts = [mixture, *(mixture.on(source) for source in sources[1:])]"]


def _task(name: str) -> str:
    return repr(name) if name.startswith("zoo/") else f"{name!r}, root=None"  # the folder with the data is the reader's


def _keywords(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())
