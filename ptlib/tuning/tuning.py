"""Prompt tuning on frozen LMs: free vectors (OptiPrompt, Zhong et al. 2021; section 3.1 of the paper), or mixtures."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptTransferError, TaskError
from ..evaluation.candidates import candidates_of, scorable
from ..models.lm import LanguageModel
from ..moving.anchors import shared_anchors
from ..prompts.history import Tuned
from ..prompts.mixtures import Mixture
from ..prompts.prompt import Prompt, default_template, manual_prompt, random_vectors, salted_generator
from ..prompts.templates import Template
from ..tasks.task import Example, Task
from .training import Data, FreeVectors, Trainee, WordMixtures, train

__all__ = ["starting_prompt", "tune", "tune_many", "tune_seeds"]

# Passes over the train examples, peak learning rate, and noise on the vectors relative to the embeddings' deviation.
DEFAULTS = {"vectors": {"epochs": 30, "lr": 5e-3, "noise": 0.0}, "mixture": {"epochs": 60, "lr": 0.3, "noise": 1.0}}


def tune(lm: LanguageModel | Sequence[LanguageModel], task: Task, *, seed: int = 0, **options: Any) -> Prompt:
    """Tune one prompt: ``tune_seeds`` for one task and seed."""
    return tune_many(lm, [task], seed=seed, **options)[task.name]


def tune_many(lm: LanguageModel | Sequence[LanguageModel], tasks: Sequence[Task], *, seed: int = 0,
              **options: Any) -> dict[str, Prompt]:
    """Tune one prompt for each task, all in one batch: ``tune_seeds`` for one seed.

    Returns:
        {task.name: Prompt}.

    Raises:
        PromptTransferError: ``seed`` is no whole number, and all that ``tune_seeds`` raises.
    """
    if not isinstance(seed, Integral):
        raise PromptTransferError(f"seed={seed!r}; expected one whole number: tune_seeds takes several, and returns "
                                  "{(seed, task.name): Prompt}")
    return {name: prompt for (_, name), prompt in tune_seeds(lm, tasks, seeds=[int(seed)], **options).items()}


def tune_seeds(lm: LanguageModel | Sequence[LanguageModel], tasks: Sequence[Task], *, seeds: Sequence[int] = (0,),
               parameterization: str = "vectors", num_vectors: int = 5, template: str | None = None,
               init: str | Sequence[str] = "random", epochs: int | None = None, lr: float | None = None,
               noise: float | None = None, progress: bool = True) -> dict[tuple[int, str], Prompt]:
    """Tune one prompt for each seed and task, all in one batch.

    Minimises the cross-entropy of the object over the whole vocabulary with AdamW, warm-up 0.1, linear decay and
    batches of 16; keeps the state with the best P@1 on the task's dev examples, as ``evaluate`` has it (ties: the lower
    loss), with noise the last one. Test examples are not looked at. Each task and seed has its own random numbers and
    schedule: its prompt does not depend on those beside it.

    Args:
        lm: frozen; its weights get no gradients. Several for one mixture that is tuned on all of them at once, with
            the mean of their losses.
        seeds: of the initial vectors and the order of examples; a prompt of each for every task.
        parameterization: ``"vectors"``, free ones, as in the paper; or ``"mixture"``, softmax mixtures of the LMs'
            common words with a gain each, which other LMs understand as well: ``prompt.on(other)``.
        num_vectors: m, for the default template ``"[X] [V]*m [Y] ."``.
        template: with [X], [Y] and prompt slots; overrides ``num_vectors``.
        init: where the vectors start: ``"random"`` on the scale of the embeddings; ``"manual"``, the embeddings of
            the manual template's words in their order, from the first again if they are fewer than the vectors;
            or words of the LM, such as ``anchors.words``, of which m are drawn. A mixture starts from random
            weights, or with half of each vector's weight on its word.
        epochs: passes over the train examples; by default 30, for mixtures 60 (the paper: 10, with about a thousand
            facts a relation).
        lr: peak learning rate; by default 5e-3 (the paper: 3e-3, over more steps), of the logits of mixtures 0.3.
        noise: standard deviation of normal noise on the vectors, anew for every example, relative to that of the
            embedding table; by default 0, for mixtures 1, which is what makes them travel. A LayerNorm divides by the
            length of vectors, positions and noise together; without the noise the vectors are louder than they were
            tuned to be, by √(1 + noise²) where positions are as long as words. A mixture of several LMs is given with
            its gains divided by that; that of one is not, whose errors elsewhere the loudness drowns
            (notebook 13_prompts_that_travel).
        progress: show a bar.

    Returns:
        {(seed, task.name): Prompt}, which goes as it is into ``transfer_many`` and ``evaluate_many``. Of several LMs,
        the prompt as it is on the first. ``history`` (a ``Tuned``, also in ``meta``) counts the sequences that each LM
        has read (``forwards``) and gone back through (``backwards``), and the examples that did not count, by what
        their objects are (``dropped``).

    Raises:
        TaskError: a task has no train example whose object is one token of ``lm``, or a label word is not;
            ``init="manual"`` and it has no manual template.
        NotFiniteError: the loss, or the logits, of a step are not finite: ``lr`` is too high.
        PromptTransferError: no tasks, no seeds, no epochs; no such start or parameterization; several LMs for free
            vectors.
        AnchorError: the LMs share no words.
    """
    lms = [lm] if isinstance(lm, LanguageModel) else list(lm)
    settings = _settings(parameterization, epochs=epochs, lr=lr, noise=noise)
    if not tasks or not seeds:
        raise PromptTransferError(f"{len(tasks)} tasks and {len(seeds)} seeds; expected one of each at least")
    if not lms or (len(lms) > 1 and parameterization == "vectors"):
        raise PromptTransferError(f"parameterization={parameterization!r} for {len(lms)} LMs; expected one, or several "
                                  "with parameterization='mixture', as free vectors live in the space of one")
    template = template or default_template(num_vectors)
    words: tuple[str, ...] | None = None
    tables: list[Tensor | None] = [None] * len(lms)
    if parameterization == "mixture":
        anchors = shared_anchors(*lms)
        words, tables = anchors.words, [anchors.of(one) for one in lms]
    examples = {task.name: _examples(lms, Template(template), task) for task in tasks}
    trainees = {(seed, task.name): _start(lms, task, Template(template), init, words, seed, *examples[task.name][:2])
            for seed in seeds for task in tasks}
    train(lms, list(trainees.values()), tables=tables, **settings, progress=progress,
          desc=f"tuning {len(trainees)} prompts on {' and '.join(one.name for one in lms)}")
    found = {}
    for (seed, name), trainee in trainees.items():
        record = Tuned(parameterization, init if isinstance(init, str) else "words", **settings,
                       lms=tuple(one.name for one in lms), seed=seed, train=len(trainee.train[0].layouts),
                       dev=len(trainee.dev[0].layouts), dropped=examples[name][2], dev_p_at_1=trainee.best[0],
                       forwards=trainee.forwards, backwards=trainee.backwards)
        found[seed, name] = _finished(lms, trainee, words, tables, template, name, record)
    return found


def _settings(parameterization: str, **given: float | None) -> dict[str, Any]:
    """Epochs, rate and noise: those given, else those of the parameterization."""
    if parameterization not in DEFAULTS:
        raise PromptTransferError(f"parameterization={parameterization!r}; expected one of {', '.join(DEFAULTS)}")
    return DEFAULTS[parameterization] | {name: value for name, value in given.items() if value is not None}


def starting_prompt(lm: LanguageModel, task: Task, *, num_vectors: int = 5, template: str | None = None,
                    init: str | Sequence[str] = "manual", seed: int = 0) -> Prompt:
    """The free vectors that ``tune`` would start from: to ``refine``, or as a baseline.

    Args:
        num_vectors, template, init, seed: as in ``tune_many``.
    """
    template = template or default_template(num_vectors)
    vectors = _initial_vectors(lm, task, Template(template).num_vectors, init, salted_generator(seed, task.name))
    return Prompt(vectors.cpu(), template, lm.name, lm.fingerprint, task.name,
                  {"method": "untuned", "init": init if isinstance(init, str) else "words", "seed": seed})


def _finished(lms: Sequence[LanguageModel], trainee: Trainee, words: tuple[str, ...] | None,
              tables: Sequence[Tensor | None], template: str, task: str, record: Tuned) -> Prompt:
    lm, vectors = lms[0], [trainee.prompt.on(table).detach().cpu() for table in tables]
    if words is None:
        return Prompt(vectors[0], template, lm.name, lm.fingerprint, task, record.as_json())
    assert isinstance(trainee.prompt, WordMixtures)
    lengths = torch.stack([own.norm(dim=-1) / one.mean_length for own, one in zip(vectors, lms, strict=True)])
    gains = trainee.prompt.gains.detach().cpu().sign() * lengths.mean(0)
    if len(lms) > 1:
        gains = gains / math.hypot(1, record.noise)
    mixture = Mixture(words, trainee.prompt.logits.detach().softmax(-1).cpu(), gains)
    return Prompt(mixture.on(lm).cpu(), template, lm.name, lm.fingerprint, task, record.as_json(), mixture)


def _start(lms: Sequence[LanguageModel], task: Task, template: Template, init: str | Sequence[str],
           words: tuple[str, ...] | None, seed: int, train_data: list[Data], dev_data: list[Data]) -> Trainee:
    generator = salted_generator(seed, task.name)
    if words is None:
        start = _initial_vectors(lms[0], task, template.num_vectors, init, generator)
        prompt: FreeVectors | WordMixtures = FreeVectors(start.to(lms[0].device))
    else:
        start = _initial_logits(lms[0], task, template.num_vectors, init, words, generator)
        prompt = WordMixtures(start.to(lms[0].device))
    return Trainee(prompt, train_data, dev_data, generator)


def _examples(lms: Sequence[LanguageModel], template: Template,
              task: Task) -> tuple[list[Data], list[Data], dict[str, dict[str, int]]]:
    """What to learn from, what to choose the best state on, and {split: {what objects are: how many of them}} dropped.

    Without dev examples, the train examples are both.
    """
    train_data, dropped = labelled(lms, template, task.train)
    if not train_data[0].layouts:
        raise TaskError(f"task {task.name!r} has {len(task.train)} train examples, none with an object that is one "
                        f"token of {' and '.join(lm.name for lm in lms)}; tuning needs some (a .jsonl file names them "
                        "with \"split\": \"train\")")
    dev_data, of_dev = labelled(lms, template, task.dev)
    return train_data, dev_data if dev_data[0].layouts else train_data, {"train": dropped, "dev": of_dev}


def labelled(lms: Sequence[LanguageModel], template: Template,
             examples: Sequence[Example]) -> tuple[list[Data], dict[str, int]]:
    """The examples that ``evaluate`` would score on every LM, as each reads them; and {what the others are: how many}.

    Raises:
        TaskError: a label word is not one token of an LM.
    """
    if not examples:  # of no task, so that nobody knows their label words
        return [Data([], torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)) for _ in lms], {}
    candidates = [candidates_of(lm, template, examples) for lm in lms]
    kept, dropped = list(examples), Counter[str]()
    for lm, own in zip(lms, candidates, strict=True):
        kept, _, others = scorable(lm, kept, own)
        dropped.update(f"object is {why}" for _, why in others)
    subjects = [example.subject for example in kept]
    return [Data(template.layout(lm, subjects), own.ids[scorable(lm, kept, own)[1]], own.ids)
            for lm, own in zip(lms, candidates, strict=True)], dict(dropped)


def _initial_vectors(lm: LanguageModel, task: Task, count: int, init: str | Sequence[str],
                     generator: torch.Generator) -> Tensor:
    """(count, d)."""
    if init == "random":
        return random_vectors(lm, (count,), generator)
    return lm.embeddings[_initial_ids(lm, task, count, init, generator)].clone()


def _initial_logits(lm: LanguageModel, task: Task, count: int, init: str | Sequence[str], words: tuple[str, ...],
                    generator: torch.Generator) -> Tensor:
    """(count, k)."""
    logits = torch.randn(count, len(words), generator=generator)
    if init != "random":
        where = {i: w for w, i in enumerate(lm.word_ids(words))}
        for row, i in zip(logits, _initial_ids(lm, task, count, init, generator), strict=True):
            if i in where:  # the others are no words of the mixture, such as a piece of a word
                row[where[i]] = -torch.inf
                row[where[i]] = row.logsumexp(0)  # as much as all other words together
    return logits


def _initial_ids(lm: LanguageModel, task: Task, count: int, init: str | Sequence[str],
                 generator: torch.Generator) -> list[int]:
    """The tokens that ``count`` vectors start from."""
    if init == "manual":
        words = re.sub(r"\[[XY]\]|\W+$", " ", manual_prompt(lm, task).template).split()
        if not words:
            raise TaskError(f"the manual template of task {task.name!r} has no words to start from; use init='random'")
        [ids] = lm.tokenize_after([" " + " ".join(words)])  # as in the middle of a sentence
        return [ids[i % len(ids)] for i in range(count)]
    if isinstance(init, str):
        raise PromptTransferError(f"init={init!r}; expected 'random', 'manual' or a list of words")
    known = [i for i in lm.word_ids(init) if i is not None]
    if not known:
        raise PromptTransferError(f"init has {len(init)} words, none of them one token of {lm.name}; expected some, "
                                  "such as anchors.words")
    return [known[i] for i in torch.randint(len(known), (count,), generator=generator).tolist()]
