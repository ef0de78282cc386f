"""Refinement of prompts with a little compute on the target.

``refine`` improves a transferred prompt by distillation from the sources, without labels, or on labelled examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptMismatchError, PromptTransferError, TaskError
from ..evaluation.candidates import answerable, of_answerable
from ..evaluation.scores import candidate_distributions, mean_answers
from ..models.lm import LanguageModel
from ..moving.anchors import shared_anchors
from ..prompts.history import Refined
from ..prompts.prompt import Prompt, common_template, salted_generator
from ..prompts.templates import Template
from ..tasks.task import Example, LabelWord
from .training import BATCH_SIZE, Data, FreeVectors, Trainee, train
from .tuning import labelled

__all__ = ["refine", "refine_many"]

NEEDS = {"distill": {"source", "teacher"}, "few-shot": {"examples"}}
TAKES = {"distill": {"source", "teacher", "inputs", "candidates"}, "few-shot": {"examples"}}
EPOCHS = {"distill": 15, "few-shot": 30}
HELD_OUT = 0.2  # share of the inputs that the best epoch is chosen on
PLAIN_WORDS = 100  # how many shared words serve as inputs if none are given


def refine(prompt: Prompt, lm: LanguageModel, *, teacher: Prompt | Sequence[Prompt] | None = None,
           inputs: Sequence[str] | None = None, candidates: Sequence[LabelWord] | None = None,
           examples: Sequence[Example] | None = None, **options: Any) -> Prompt:
    """Refine one prompt; ``options`` and errors are those of ``refine_many``."""
    own = {"teacher": teacher, "inputs": inputs, "candidates": candidates, "examples": examples}
    options |= {name: {"prompt": value} for name, value in own.items() if value is not None}
    return refine_many({"prompt": prompt}, lm, **options)["prompt"]


def refine_many(prompts: Mapping[Any, Prompt], lm: LanguageModel, *, mode: str = "distill",
                source: LanguageModel | Sequence[LanguageModel] | None = None,
                teacher: Mapping[Any, Prompt | Sequence[Prompt]] | None = None,
                inputs: Mapping[Any, Sequence[str]] | None = None,
                candidates: Mapping[Any, Sequence[LabelWord]] | None = None,
                examples: Mapping[Any, Sequence[Example]] | None = None, decline: bool = False,
                epochs: int | None = None, lr: float = 5e-3, batch_size: int = BATCH_SIZE, seed: int = 0,
                progress: bool = True) -> dict[Any, Prompt]:
    """Improve existing prompts on their LM, all in one batch.

    ``"distill"`` needs no label. On unlabelled inputs, the prompt learns to predict what the sources predict with their
    own prompts: their mean distribution over the words that all LMs share, or over the candidates. It keeps the epoch
    with the best agreement on a held-out fifth of the inputs. ``"few-shot"`` tunes on labelled examples, and keeps the
    epoch that is best on the same examples.

    Args:
        prompts: {name: prompt for ``lm``}, all with the same template. The results have free vectors, even if these
            prompts are mixtures.
        lm: the LM of the prompts; it stays frozen.
        mode: ``"distill"`` or ``"few-shot"``.
        source: the LM that teaches, or several; for "distill".
        teacher: {name: the source's own prompt, or one for each source}; for "distill".
        inputs: {name: subjects}, for "distill". They may come from other relations. If None, 100 shared words are used.
        candidates: {name: the words that may answer}, for "distill": the label words of a classification, with a tuple
            for a class of several, of which the mean logit counts. If None, all words that the LMs share.
        examples: {name: labelled examples}; for "few-shot".
        decline: for "distill": leave a prompt as it is, mixture and offsets included, if the target is surer of its
            answers with it than the sources are with theirs (``confidence``, on the inputs), so that a weak source
            does not pull a strong target down. It needs no label, and one more forward pass for each input. It is off
            by default, because it also declines some prompts that a good source would have made better.
        epochs: passes over the inputs or examples; by default 15 for "distill" and 30 for "few-shot".
        lr: peak learning rate.
        batch_size: inputs or examples of each prompt in a step. A prompt that may read few inputs learns more from
            small ones.
        seed: of the order of the examples, the choice of held-out inputs, and the choice of words.
        progress: show a bar.

    Returns:
        {name: Prompt}. ``meta`` holds the record of the original prompt (``"from"``) and the cost: ``forwards`` and
        ``backwards`` count sequences on ``lm``, ``source_forwards`` those on the sources. ``"dropped"`` counts the
        examples and candidates that were not used, by reason.

    Raises:
        PromptMismatchError: a prompt or teacher was not made for its LM or has no vectors, or the templates differ.
        PromptTransferError: there are no prompts, the mode is unknown, or an argument is missing or superfluous.
        TaskError: there are no inputs, no example's object is one token of ``lm``, or a label word is unknown to it or
            begins like that of another class.
        NotFiniteError: the loss or the logits of a step are not finite.
    """
    given = {"source": source, "teacher": teacher, "inputs": inputs, "candidates": candidates, "examples": examples}
    _check(prompts, lm, mode, {name: value for name, value in given.items() if value is not None}, batch_size, decline)
    template = Template(common_template(prompts.values()))
    sources = [source] if isinstance(source, LanguageModel) else list(source or ())
    generators = {name: salted_generator(seed, f"{mode} {prompt.task}") for name, prompt in prompts.items()}
    if mode == "distill":
        assert teacher is not None
        words = shared_anchors(*sources, lm).words
        lessons = {name: _distillation(prompt, lm, template, sources, teacher[name], words,
                                       None if inputs is None else inputs[name],
                                       None if candidates is None else candidates[name], generators[name], decline)
                   for name, prompt in prompts.items()}
    else:
        assert examples is not None
        lessons = {name: _few_shot(name, lm, template, examples[name]) for name in prompts}
    trainees = {name: Trainee(FreeVectors(prompts[name].vectors.clone().to(lm.device)), [lesson.learnt],
                              [lesson.judged], generators[name], batch_size)
                for name, lesson in lessons.items() if not lesson.declined}
    epochs = EPOCHS[mode] if epochs is None else epochs
    for alike in together(trainees.values()):
        train([lm], alike, tables=[None], epochs=epochs, lr=lr, noise=0.0, progress=progress,
              desc=f"refining {len(alike)} prompts on {lm.name}")
    refined = {}
    for name, lesson in lessons.items():
        record = Refined(mode, epochs, lr, seed=seed, sources=tuple(of.name for of in sources), train=0,
                         forwards=lesson.forwards, backwards=0, source_forwards=lesson.source_forwards,
                         dropped=lesson.dropped, declined=lesson.declined, batch_size=batch_size,
                         start=prompts[name].meta)
        refined[name] = _finished(prompts[name], trainees.get(name), record)
    return refined


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one prompt learns from.

    Attributes:
        learnt, judged: the examples that it is trained on, and those that the best epoch is chosen on.
        dropped: {what: {reason: how many were not used}}.
        source_forwards: sequences that the sources have read for it.
        forwards: sequences that the target has read before the training.
        declined: the prompt stays as it is.
    """

    learnt: Data
    judged: Data
    dropped: dict[str, dict[str, int]]
    source_forwards: int = 0
    forwards: int = 0
    declined: bool = False


def _distillation(prompt: Prompt, lm: LanguageModel, template: Template, sources: Sequence[LanguageModel],
                  teacher: Prompt | Sequence[Prompt], words: Sequence[str], inputs: Sequence[str] | None,
                  candidates: Sequence[LabelWord] | None, generator: torch.Generator, decline: bool) -> Lesson:
    """The sources' answers to unlabelled inputs; see ``refine_many``."""
    teachers = [teacher] if isinstance(teacher, Prompt) else list(teacher)
    order = torch.randperm(len(words), generator=generator)[:PLAIN_WORDS].tolist()
    subjects = [words[i] for i in order] if inputs is None else list(dict.fromkeys(inputs))
    meant = words if candidates is None else candidates
    learnt, judged = _taught(lm, template, subjects, sources, teachers, meant, generator)
    dropped: dict[str, dict[str, int]] = {"examples": {}}
    if candidates is not None and len(learnt.candidates) < len(meant):
        dropped["candidates"] = {"not one token of every LM": len(meant) - len(learnt.candidates)}
    lesson = Lesson(learnt, judged, dropped, source_forwards=len(subjects) * len(sources))
    if not decline:
        return lesson
    own = candidate_distributions(lm, prompt, subjects, learnt.candidates)
    surer = confidence(own) > confidence(torch.cat([learnt.targets, judged.targets]))
    return replace(lesson, forwards=len(subjects), declined=surer)


def _few_shot(name: Any, lm: LanguageModel, template: Template, examples: Sequence[Example]) -> Lesson:
    """Labelled examples, on which the best epoch is chosen, too."""
    [learnt], dropped = labelled([lm], template, examples)
    if not learnt.layouts:
        raise TaskError(f"{name!r} has {len(examples)} examples, but none with an object that is one token of "
                        f"{lm.name}; give at least one that has")
    return Lesson(learnt, learnt, {"examples": dropped})


def _finished(prompt: Prompt, trainee: Trainee | None, record: Refined) -> Prompt:
    """The prompt after its training, with its record; a prompt that declined is as it was."""
    if trainee is not None:
        record = replace(record, train=len(trainee.train[0].layouts), forwards=record.forwards + trainee.forwards,
                         backwards=trainee.backwards)
        prompt = Prompt(trainee.prompt.on(None).detach().cpu(), prompt.template, prompt.lm_name, prompt.lm_fingerprint,
                        prompt.task)
    return replace(prompt, meta=record.as_json())


def together(trainees: Iterable[Trainee]) -> list[list[Trainee]]:
    """Those with the same candidates, which can be trained in one batch."""
    groups: dict[tuple, list[Trainee]] = {}
    for trainee in trainees:
        candidates = trainee.train[0].candidates
        groups.setdefault((candidates.tokens, candidates.owners), []).append(trainee)
    return list(groups.values())


def confidence(answers: Tensor) -> float:
    """How sure an LM is of its answers (n, words): the highest probability of each, in the mean over the n inputs."""
    return answers.amax(-1).mean().item()


def _taught(lm: LanguageModel, template: Template, subjects: Sequence[str], sources: Sequence[LanguageModel],
            teachers: Sequence[Prompt], meant: Sequence[LabelWord],
            generator: torch.Generator) -> tuple[Data, Data]:
    """The inputs to learn from and the held-out ones, each with the sources' mean distribution over what is meant."""
    if not subjects:
        raise TaskError("no inputs to distil on; expected a list of subjects, or inputs=None to use shared words")
    if len(teachers) != len(sources):
        raise PromptMismatchError(f"{len(teachers)} teaching prompts for {len(sources)} sources; expected one for each "
                                  "source")
    words = answerable(meant, [(lm, template.text), *((source, teacher.template) for source, teacher in
                                                      zip(sources, teachers, strict=True))])
    if len(words) < 2:
        raise TaskError(f"only {len(words)} words can answer the template {template.text!r} as one token of {lm.name} "
                        "and of the sources; expected at least two: put a space before [Y]")
    targets = mean_answers(sources, teachers, subjects, words)
    layouts = template.layout(lm, subjects)
    candidates = of_answerable(lm, words, template.place)
    order = torch.randperm(len(subjects), generator=generator).tolist()
    held = order[:round(HELD_OUT * len(order))] or order
    learnt, judged = (Data([layouts[i] for i in part], targets[part].argmax(-1), targets[part], candidates)
                      for part in (order[len(held):] or order, held))
    return learnt, judged


def _check(prompts: Mapping[Any, Prompt], lm: LanguageModel, mode: str, given: Mapping, batch_size: int,
           decline: bool) -> None:
    if batch_size < 1:
        raise PromptTransferError(f"batch_size={batch_size}; expected at least one input or example in a step")
    if not prompts:
        raise PromptTransferError("no prompts given; expected {name: Prompt} with at least one")
    if mode not in NEEDS:
        raise PromptTransferError(f"mode={mode!r}; expected one of {', '.join(NEEDS)}")
    if decline and mode == "few-shot":
        raise PromptTransferError("mode='few-shot' does not use decline: there is no source that may know less")
    if missing := NEEDS[mode] - {name for name, value in given.items() if value}:
        lacking = min(missing)
        raise PromptTransferError(f"mode={mode!r} with {lacking}={given.get(lacking)}; it needs "
                                  f"{' and '.join(sorted(NEEDS[mode]))}")
    if superfluous := given.keys() - TAKES[mode]:
        raise PromptTransferError(f"mode={mode!r} does not use {' and '.join(sorted(superfluous))}; it takes only "
                                  f"{', '.join(sorted(TAKES[mode]))}")
    for name, subjects in given.get("inputs", {}).items():
        if isinstance(subjects, str):
            raise TaskError(f"the inputs of {name!r} are {subjects!r}; expected a list of subjects")
    for name, words in given.get("candidates", {}).items():
        if isinstance(words, str):
            raise TaskError(f"the candidates of {name!r} are {words!r}; expected a list of words or classes")
    for option, value in given.items():
        if option != "source" and (absent := [name for name in prompts if name not in value]):
            raise PromptTransferError(f"{option} has no entry for {absent[0]!r}; expected one for every prompt")
    for prompt in prompts.values():
        prompt.check(lm)
