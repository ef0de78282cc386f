"""Prompt tuning on frozen LMs: free vectors (OptiPrompt, Zhong et al. 2021; section 3.1 of the paper) or mixtures.

``tune`` makes one prompt, ``tune_many`` one for each task, ``tune_seeds`` one for each seed and task.
"""

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
from ..evaluation.candidates import Candidates, candidates_of, scorable
from ..models.lm import LanguageModel
from ..moving.anchors import shared_anchors
from ..prompts.history import Tuned
from ..prompts.mixtures import Mixture
from ..prompts.prompt import Prompt, default_template, random_vectors, salted_generator, template_of
from ..prompts.templates import Template
from ..tasks.task import Example, Task
from .training import Data, FreeVectors, Trainee, WordMixtures, train

__all__ = ["starting_prompt", "tune", "tune_many", "tune_seeds"]

# Noise is relative to the standard deviation of the embeddings.
DEFAULTS = {"vectors": {"epochs": 30, "lr": 5e-3, "noise": 0.0}, "mixture": {"epochs": 60, "lr": 0.3, "noise": 1.5}}


def tune(lm: LanguageModel | Sequence[LanguageModel], task: Task, *, seed: int = 0, **options: Any) -> Prompt:
    """Tune one prompt for one task; ``options`` and errors are those of ``tune_seeds``."""
    return tune_many(lm, [task], seed=seed, **options)[task.name]


def tune_many(lm: LanguageModel | Sequence[LanguageModel], tasks: Sequence[Task], *, seed: int = 0,
              **options: Any) -> dict[str, Prompt]:
    """Tune one prompt for each task, all in one batch; ``options`` are those of ``tune_seeds``.

    Returns:
        {task.name: Prompt}.

    Raises:
        PromptTransferError: ``seed`` is not a whole number.
        PromptTransferError, TaskError, NotFiniteError, AnchorError: as ``tune_seeds`` raises them.
    """
    if not isinstance(seed, Integral):
        raise PromptTransferError(f"seed={seed!r}; expected one whole number. For several seeds use tune_seeds, which "
                                  "returns {(seed, task.name): Prompt}")
    return {name: prompt for (_, name), prompt in tune_seeds(lm, tasks, seeds=[int(seed)], **options).items()}


def tune_seeds(lm: LanguageModel | Sequence[LanguageModel], tasks: Sequence[Task], *, seeds: Sequence[int] = (0,),
               parameterization: str = "vectors", num_vectors: int = 5, template: str | None = None,
               init: str | Sequence[str] | None = None, epochs: int | None = None, lr: float | None = None,
               noise: float | None = None, progress: bool = True) -> dict[tuple[int, str], Prompt]:
    """Tune one prompt for each seed and task, all in one batch.

    Tuning minimises the cross-entropy of the object over the whole vocabulary (of a class with several label words: the
    mean over them; of a label word with several tokens: that of the first), with AdamW, warm-up 0.1, linear decay
    and batches of 16. It keeps the state with the best P@1 on the task's dev examples, measured as in ``evaluate``; the
    loss decides between equal ones. With noise it keeps the last state. Test examples are never read. Each task and
    seed has its own random numbers and schedule, so a prompt does not depend on the others in the batch.

    | parameterization | the prompt is | init | epochs | lr | noise |
    |---|---|---|---|---|---|
    | ``"vectors"`` | free vectors, as in the paper | random | 30 | 5e-3 | 0 |
    | ``"mixture"`` | softmax mixtures of words, each with a gain | manual if there is a template | 60 | 0.3 | 1.5 |

    The learning rate of a mixture is that of the logits of its weights. The paper tunes for 10 epochs of about a
    thousand facts for each relation, with ``lr`` 3e-3.

    Args:
        lm: the LM, which stays frozen; or several LMs, to tune one mixture on all of them with their mean loss.
        tasks: one prompt for each of them and each seed.
        seeds: of the initial vectors and the order of the examples.
        parameterization: see the table. A mixture uses the words that the LMs share, and works on other LMs that have
            these words: ``prompt.on(other)``.
        num_vectors: m, for the default template ``"[X] [V]*m [Y] ."``.
        template: with [X], [Y] and prompt slots; overrides ``num_vectors``.
        init: the initial vectors; the default is in the table. ``"random"``: random, on the scale of the embeddings.
            ``"manual"``: the embeddings of the manual template's words in their order, repeated from the first if they
            are fewer than the vectors. A list of words, such as ``anchors.words``: the embeddings of m words drawn
            from it. A mixture starts from random weights, or with half of each vector's weight on its word.
        epochs: passes over the train examples; the default is in the table.
        lr: peak learning rate; the default is in the table.
        noise: largest standard deviation of the normal noise that is added to the vectors. Every example draws its own
            level between 0 and this one, because models differ in how much they bear. It is relative to the standard
            deviation of the embedding table; the default is in the table. Noise makes mixtures transfer better
            (notebook 13_prompts_that_travel).
        progress: show a bar.

    With noise, a LayerNorm divides by the norm of vectors, positions and noise together. Without the noise, the vectors
    then weigh more than they did in tuning, by √(1 + noise²/3) if positions are as long as words, since the mean square
    of the levels is noise²/3. The gains of a mixture that was tuned on several LMs are therefore divided by it. A
    mixture that was tuned on one LM keeps its gains, because on other LMs the larger norms outweigh its errors.

    Returns:
        {(seed, task.name): Prompt}, ready for ``transfer_many`` and ``evaluate_many``. With several LMs, each prompt is
        for the first of them. ``history`` (a ``Tuned``, also in ``meta``) counts the sequences in the forward passes
        (``forwards``) and backward passes (``backwards``) of each LM, and the examples that were not used, by reason
        (``dropped``).

    Raises:
        TaskError: no train example's object is one token of ``lm``; a label word is unknown, or begins with the same
            token as that of another class; or ``init="manual"`` and the task has no manual template.
        NotFiniteError: the loss or the logits of a step are not finite, usually because ``lr`` is too high.
        PromptTransferError: there are no tasks, seeds or epochs; ``init`` or ``parameterization`` is unknown; or free
            vectors are to be tuned on several LMs.
        AnchorError: the LMs share no words.
    """
    lms = [lm] if isinstance(lm, LanguageModel) else list(lm)
    settings = _settings(parameterization, epochs=epochs, lr=lr, noise=noise)
    if not tasks or not seeds:
        raise PromptTransferError(f"got {len(tasks)} tasks and {len(seeds)} seeds; expected at least one of each")
    if not lms or (len(lms) > 1 and parameterization == "vectors"):
        raise PromptTransferError(f"parameterization={parameterization!r} for {len(lms)} LMs; expected one LM, or "
                                  "several with parameterization='mixture': free vectors belong to one LM")
    template = template or default_template(num_vectors)
    words: tuple[str, ...] | None = None
    tables: list[Tensor | None] = [None] * len(lms)
    if parameterization == "mixture":
        anchors = shared_anchors(*lms)
        words, tables = anchors.words, [anchors.of(model) for model in lms]
    examples = {task.name: _examples(lms, Template(template), task) for task in tasks}
    starts = {task.name: _default_init(parameterization, task) if init is None else init for task in tasks}
    trainees = {(seed, task.name): _start(lms, task, Template(template), starts[task.name], words, seed,
                                          *examples[task.name][:2]) for seed in seeds for task in tasks}
    train(lms, list(trainees.values()), tables=tables, **settings, progress=progress,
          desc=f"tuning {len(trainees)} prompts on {' and '.join(model.name for model in lms)}")
    prompts = {}
    for (seed, name), trainee in trainees.items():
        start = starts[name]
        record = Tuned(parameterization, start if isinstance(start, str) else "words", **settings,
                       lms=tuple(model.name for model in lms), seed=seed, train=len(trainee.train[0].layouts),
                       dev=len(trainee.dev[0].layouts), dropped=examples[name][2], dev_p_at_1=trainee.best[0],
                       forwards=trainee.forwards, backwards=trainee.backwards)
        prompts[seed, name] = _finished(lms, trainee, words, tables, template, name, record)
    return prompts


def _settings(parameterization: str, **given: float | None) -> dict[str, Any]:
    """Epochs, learning rate and noise: the given values, or else the defaults of the parameterization."""
    if parameterization not in DEFAULTS:
        raise PromptTransferError(f"parameterization={parameterization!r}; expected one of {', '.join(DEFAULTS)}")
    return DEFAULTS[parameterization] | {name: value for name, value in given.items() if value is not None}


def _default_init(parameterization: str, task: Task) -> str:
    """A mixture of tens of thousands of words does not get going from a random start; the template's words show it."""
    return "manual" if parameterization == "mixture" and task.manual_template else "random"


def starting_prompt(lm: LanguageModel, task: Task, *, num_vectors: int = 5, template: str | None = None,
                    init: str | Sequence[str] = "manual", seed: int = 0) -> Prompt:
    """The free vectors that ``tune`` would start from, for ``refine`` or as a baseline.

    Args:
        num_vectors, template, init, seed: as in ``tune_seeds``.

    Raises:
        TaskError, PromptTransferError: as ``tune_seeds`` raises them for ``init``.
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
    norms = torch.stack([own.norm(dim=-1) / model.mean_length for own, model in zip(vectors, lms, strict=True)])
    gains = trainee.prompt.gains.detach().cpu().sign() * norms.mean(0)
    if len(lms) > 1:
        gains = gains / math.hypot(1, record.noise / math.sqrt(3))  # makes up for the missing noise: see ``tune_seeds``
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
    """The train data, the dev data, and {split: {reason: how many examples were dropped}}.

    If there are no dev examples, the train examples take their place.
    """
    train_data, dropped = labelled(lms, template, task.train)
    if not train_data[0].layouts:
        raise TaskError(f"task {task.name!r} has {len(task.train)} train examples, but none with an object that is one "
                        f"token of {' and '.join(lm.name for lm in lms)}; tuning needs at least one (in a .jsonl file, "
                        "train examples have \"split\": \"train\")")
    dev_data, dropped_dev = labelled(lms, template, task.dev)
    return train_data, dev_data if dev_data[0].layouts else train_data, {"train": dropped, "dev": dropped_dev}


def labelled(lms: Sequence[LanguageModel], template: Template,
             examples: Sequence[Example]) -> tuple[list[Data], dict[str, int]]:
    """The examples that ``evaluate`` would score on every LM, tokenized for each, and {reason: how many were dropped}.

    Raises:
        TaskError: a label word is unknown to an LM, or begins like that of another class.
    """
    if not examples:  # candidates_of needs an example to know the task's label words
        none = torch.zeros(0, dtype=torch.long)
        return [Data([], none, none[:, None], Candidates((), (), lm.name, template.place)) for lm in lms], {}
    candidates = [candidates_of(lm, template, examples) for lm in lms]
    kept, dropped = list(examples), Counter[str]()
    for lm, own in zip(lms, candidates, strict=True):
        kept, _, others = scorable(lm, kept, own)
        dropped.update(f"object is {why}" for _, why in others)
    subjects = [example.subject for example in kept]
    columns = [torch.tensor(scorable(lm, kept, own)[1], dtype=torch.long)
               for lm, own in zip(lms, candidates, strict=True)]
    return [Data(template.layout(lm, subjects), right, own.answers[right], own)
            for lm, own, right in zip(lms, candidates, columns, strict=True)], dict(dropped)


def _initial_vectors(lm: LanguageModel, task: Task, count: int, init: str | Sequence[str],
                     generator: torch.Generator) -> Tensor:
    """The initial vectors, (count, d)."""
    if init == "random":
        return random_vectors(lm, (count,), generator)
    return lm.embeddings[_initial_ids(lm, task, count, init, generator)].clone()


def _initial_logits(lm: LanguageModel, task: Task, count: int, init: str | Sequence[str], words: tuple[str, ...],
                    generator: torch.Generator) -> Tensor:
    """The initial logits of the k words in each mixture, (count, k)."""
    logits = torch.randn(count, len(words), generator=generator)
    if init != "random":
        column_of = {i: column for column, i in enumerate(lm.word_ids(words))}
        for row, i in zip(logits, _initial_ids(lm, task, count, init, generator), strict=True):
            if i in column_of:  # a piece of a word, for example, is not in the mixture
                row[column_of[i]] = -torch.inf
                row[column_of[i]] = row.logsumexp(0)  # as much weight as all other words together
    return logits


def _initial_ids(lm: LanguageModel, task: Task, count: int, init: str | Sequence[str],
                 generator: torch.Generator) -> list[int]:
    """The tokens that ``count`` vectors start from."""
    if init == "manual":
        words = re.sub(r"\[[XY]\]|\W+$", " ", template_of(task)).split()
        if not words:
            raise TaskError(f"the manual template of task {task.name!r} has no words to start from; use init='random'")
        [ids] = lm.tokenize_after([" " + " ".join(words)])  # the space makes them tokens inside a sentence
        return [ids[i % len(ids)] for i in range(count)]
    if isinstance(init, str):
        raise PromptTransferError(f"init={init!r}; expected 'random', 'manual' or a list of words")
    known = [i for i in lm.word_ids(init) if i is not None]
    if not known:
        raise PromptTransferError(f"init has {len(init)} words, none of which is one token of {lm.name}; expected "
                                  "words such as anchors.words")
    return [known[i] for i in torch.randint(len(known), (count,), generator=generator).tolist()]
