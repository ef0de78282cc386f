"""A little compute on the target: label-free distillation from the sources, or a few labelled examples."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch

from ..errors import PromptMismatchError, PromptTransferError, TaskError
from ..evaluation.candidates import answerable
from ..evaluation.scores import mean_answers
from ..models.lm import LanguageModel
from ..moving.anchors import shared_anchors
from ..prompts.history import Refined
from ..prompts.prompt import Prompt, common_template, salted_generator
from ..prompts.templates import Template
from ..tasks.task import Example
from .training import Data, FreeVectors, Trainee, train
from .tuning import labelled

__all__ = ["refine", "refine_many"]

NEEDS = {"distill": {"source", "teacher"}, "few-shot": {"examples"}}
TAKES = {"distill": {"source", "teacher", "inputs"}, "few-shot": {"examples"}}
EPOCHS = {"distill": 15, "few-shot": 30}
HELD_OUT = 0.2  # share of the inputs that the best epoch is chosen on
PLAIN_WORDS = 100  # read as inputs where there are none


def refine(prompt: Prompt, lm: LanguageModel, *, teacher: Prompt | Sequence[Prompt] | None = None,
           inputs: Sequence[str] | None = None, examples: Sequence[Example] | None = None, **options: Any) -> Prompt:
    """Refine one prompt: see ``refine_many``."""
    own = {"teacher": teacher, "inputs": inputs, "examples": examples}
    options |= {name: {"prompt": value} for name, value in own.items() if value is not None}
    return refine_many({"prompt": prompt}, lm, **options)["prompt"]


def refine_many(prompts: Mapping[Hashable, Prompt], lm: LanguageModel, *, mode: str = "distill",
                source: LanguageModel | Sequence[LanguageModel] | None = None,
                teacher: Mapping[Hashable, Prompt | Sequence[Prompt]] | None = None,
                inputs: Mapping[Hashable, Sequence[str]] | None = None,
                examples: Mapping[Hashable, Sequence[Example]] | None = None, epochs: int | None = None,
                lr: float = 5e-3, seed: int = 0, progress: bool = True) -> dict[Hashable, Prompt]:
    """Improve prompts on the LM that they are for, all in one batch, from wherever they are.

    ``"distill"`` needs no label: on unlabelled inputs, the prompt is to predict what the sources predict with prompts
    of their own (their mean distribution over the words that all LMs share). The best epoch is the one that agrees
    most with them on a fifth of the inputs. ``"few-shot"`` is tuning on labelled examples, on which the best epoch is
    chosen too.

    Args:
        prompts: {name: prompt for ``lm``}, of one template. Their vectors become free ones.
        lm: frozen.
        mode: ``"distill"`` or ``"few-shot"``.
        source, teacher: the LM or LMs that teach, and {name: the prompt, or one of each LM, that they do it with}.
        inputs: {name: subjects}, those of other relations too; if None, words that all LMs share.
        examples: {name: labelled examples}.
        epochs: passes over the inputs or the examples; by default 15 and 30.
        lr: peak learning rate.
        seed: of the order of examples, of the inputs that are held out, and of the choice of words.
        progress: show a bar.

    Returns:
        {name: Prompt}; ``meta`` says what it was (``"from"``) and what it cost: ``forwards`` and ``backwards`` are
        sequences through ``lm``, ``source_forwards`` through the sources. ``"dropped"`` counts the examples that did
        not count, by what their objects are.

    Raises:
        PromptMismatchError: a prompt or teacher is not of its LM, has no vectors, or the templates differ.
        PromptTransferError: no prompts, an unknown mode, or something that it needs is missing.
        TaskError: no inputs; no example has an object that is one token of ``lm``, or a label word is not.
        NotFiniteError: the loss, or the logits, of a step are not finite.
    """
    given = {"source": source, "teacher": teacher, "inputs": inputs, "examples": examples}
    _check(prompts, lm, mode, {name: value for name, value in given.items() if value is not None})
    template = Template(common_template(prompts.values()))
    sources = [source] if isinstance(source, LanguageModel) else list(source or ())
    words = shared_anchors(*sources, lm).words if sources else ()
    trainees, read, dropped = {}, dict.fromkeys(prompts, 0), {}
    for name, prompt in prompts.items():
        generator = salted_generator(seed, f"{mode} {prompt.task}")
        if mode == "distill":
            assert teacher is not None
            own = teacher[name]
            teachers = [own] if isinstance(own, Prompt) else list(own)
            order = torch.randperm(len(words), generator=generator)[:PLAIN_WORDS].tolist()
            subjects = [words[i] for i in order] if inputs is None else list(dict.fromkeys(inputs[name]))
            learnt, judged = _taught(lm, template, subjects, sources, teachers, words, generator)
            read[name] = len(subjects) * len(sources)
        else:
            assert examples is not None
            [learnt], dropped[name] = labelled([lm], template, examples[name])
            judged = learnt
            if not learnt.layouts:
                raise TaskError(f"{name!r} has {len(examples[name])} examples, none with an object that is one token "
                                f"of {lm.name}; expected some")
        trainees[name] = Trainee(FreeVectors(prompt.vectors.clone().to(lm.device)), [learnt], [judged], generator)
    epochs = EPOCHS[mode] if epochs is None else epochs
    train([lm], list(trainees.values()), tables=[None], epochs=epochs, lr=lr, noise=0.0, progress=progress,
          desc=f"refining {len(trainees)} prompts on {lm.name}")
    refined = {}
    for name, trainee in trainees.items():
        record = Refined(mode, epochs, lr, seed=seed, sources=tuple(one.name for one in sources),
                         train=len(trainee.train[0].layouts), forwards=trainee.forwards, backwards=trainee.backwards,
                         source_forwards=read[name], dropped={"examples": dropped.get(name, {})},
                         start=prompts[name].meta)
        refined[name] = Prompt(trainee.prompt.on(None).detach().cpu(), template.text, lm.name, lm.fingerprint,
                               prompts[name].task, record.as_json())
    return refined


def _taught(lm: LanguageModel, template: Template, subjects: Sequence[str], sources: Sequence[LanguageModel],
            teachers: Sequence[Prompt], words: Sequence[str], generator: torch.Generator) -> tuple[Data, Data]:
    """The inputs to learn from and to judge on, with the mean of the sources' distributions over the words."""
    if not subjects:
        raise TaskError("no inputs to distil on; expected some subjects, or inputs=None for plain words")
    if len(teachers) != len(sources):
        raise PromptMismatchError(f"{len(teachers)} teaching prompts for {len(sources)} sources; expected one each")
    words = answerable(words, [(lm, template.text), *((one, teacher.template) for one, teacher in
                                                      zip(sources, teachers, strict=True))])
    if len(words) < 2:
        raise TaskError(f"{len(words)} words are one token of {lm.name} and its sources where their templates ask for "
                        f"them ({template.text!r}); expected some: put a space before [Y]")
    targets = mean_answers(sources, teachers, subjects, words)
    layouts, tokens = template.layout(lm, subjects), torch.tensor(lm.word_ids(words, template.place))
    order = torch.randperm(len(subjects), generator=generator).tolist()
    held = order[:round(HELD_OUT * len(order))] or order
    learnt, judged = (Data([layouts[i] for i in part], targets[part], tokens)
                      for part in (order[len(held):] or order, held))
    return learnt, judged


def _check(prompts: Mapping[Hashable, Prompt], lm: LanguageModel, mode: str, given: Mapping) -> None:
    if not prompts:
        raise PromptTransferError("no prompts were given; expected {name: Prompt}")
    if mode not in NEEDS:
        raise PromptTransferError(f"mode={mode!r}; expected one of {', '.join(NEEDS)}")
    if missing := NEEDS[mode] - {name for name, value in given.items() if value}:
        lacking = min(missing)
        raise PromptTransferError(f"mode={mode!r} with {lacking}={given.get(lacking)}; it needs "
                                  f"{' and '.join(sorted(NEEDS[mode]))}")
    if superfluous := given.keys() - TAKES[mode]:
        raise PromptTransferError(f"mode={mode!r} with {' and '.join(sorted(superfluous))}; expected only "
                                  f"{', '.join(sorted(TAKES[mode]))}")
    for name, subjects in given.get("inputs", {}).items():
        if isinstance(subjects, str):
            raise TaskError(f"the inputs of {name!r} are {subjects!r}; expected a list of subjects")
    for about, value in given.items():
        if about != "source" and (absent := [name for name in prompts if name not in value]):
            raise PromptTransferError(f"{about} has nothing for {absent[0]!r}; expected something for every prompt")
    for prompt in prompts.values():
        prompt.check(lm)
