"""Continuous prompt tuning on a frozen LM (OptiPrompt, Zhong et al. 2021; section 3.1 of the paper)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .errors import PromptTransferError, TaskError
from .lm import LanguageModel
from .progress import progress_bar
from .prompts import Prompt, default_template, manual_prompt, random_vectors, salted_generator
from .tasks import Example, Task
from .templates import Layout, Template, batches

__all__ = ["tune", "tune_many"]

BATCH_SIZE = 16  # examples of each task a step
WARMUP = 0.1  # share of the steps


@dataclass
class Run:
    """The tuning of one task with one seed: its data, its parameter, and the best state on dev so far."""

    task: Task
    seed: int
    vectors: torch.nn.Parameter
    train: list[Layout]
    train_ids: list[int]
    dev: list[Layout]
    dev_ids: list[int]
    draw: torch.Generator
    steps: int
    queue: list[int] = field(default_factory=list)
    best: tuple[float, float] = (-1.0, 0.0)
    best_vectors: Tensor | None = None

    def next_batch(self) -> list[int]:
        if not self.queue:
            self.queue = torch.randperm(len(self.train), generator=self.draw).tolist()
        batch, self.queue = self.queue[:BATCH_SIZE], self.queue[BATCH_SIZE:]
        return batch

    def rate(self, step: int) -> float:
        """Linear warm-up, then linear decay to zero."""
        warm = max(1, round(WARMUP * self.steps))
        return (step + 1) / warm if step < warm else (self.steps - step) / max(1, self.steps - warm)


def tune(lm: LanguageModel, task: Task, *, seed: int = 0, **options) -> Prompt:
    """Tune one prompt: ``tune_many`` for one task and seed."""
    return tune_many(lm, [task], seed=seed, **options)[task.name]


def tune_many(lm: LanguageModel, tasks: Sequence[Task], *, num_vectors: int = 5, template: str | None = None,
              init: str | Sequence[str] = "random", epochs: int = 30, lr: float = 5e-3, seed: int | Sequence[int] = 0,
              progress: bool = True) -> dict[str, Prompt] | dict[tuple[int, str], Prompt]:
    """Tune one prompt for each task, or for each task and seed, all in one batch.

    Minimises the cross-entropy of the object over the whole vocabulary with AdamW, warm-up 0.1, linear decay
    and batches of 16; keeps the vectors with the best P@1 on the task's dev examples (ties: the lower loss).
    Test examples are not looked at. Each task and seed has its own random numbers and schedule: its prompt does
    not depend on those beside it.

    Args:
        lm: frozen; its weights get no gradients.
        num_vectors: m, for the default template ``"[X] [V]*m [Y] ."``.
        template: with [X], [Y] and prompt slots; overrides ``num_vectors``.
        init: where the vectors start: ``"random"`` on the scale of the embeddings; ``"manual"``, the embeddings of
            the manual template's words in their order, from the first again if they are fewer than the vectors;
            or words of the LM, such as ``anchors.words``, of which m are drawn.
        epochs: passes over the train examples (the paper: 10, with about a thousand facts a relation).
        lr: peak learning rate (the paper: 3e-3, over more steps).
        seed: of the initial vectors and the order of examples; several for several prompts a task.
        progress: show a bar.

    Returns:
        {task.name: Prompt}; of several seeds {(seed, task.name): Prompt}. Both go as they are into
        ``transfer_many`` and ``evaluate_many``.

    Raises:
        TaskError: a task has no train example whose object is one token of ``lm``; ``init="manual"`` and it has no
            manual template.
        PromptTransferError: no tasks, no seeds, no epochs, or no such start.
    """
    seeds = [seed] if isinstance(seed, Integral) else list(seed)
    if not tasks or not seeds or epochs < 1:
        raise PromptTransferError(f"{len(tasks)} tasks, {len(seeds)} seeds, epochs={epochs}; expected one of each at "
                                  "least")
    template = template or default_template(num_vectors)
    runs = [_start(lm, task, Template(template), init, epochs, one) for one in seeds for task in tasks]
    optimizer = torch.optim.AdamW([{"params": [run.vectors]} for run in runs], lr=lr)
    per_epoch = max(run.steps for run in runs) // epochs
    with progress_bar(range(per_epoch * epochs), show=progress, desc=f"tuning {len(runs)} prompts on {lm.name}") as bar:
        for step in bar:
            active = [run for run in runs if step < run.steps]
            for run, group in zip(runs, optimizer.param_groups, strict=True):
                group["lr"] = lr * run.rate(min(step, run.steps))
            optimizer.zero_grad(set_to_none=True)
            _backward(lm, active)
            optimizer.step()
            finished = [run for run in active if (step + 1) % (run.steps // epochs) == 0]  # an epoch of their own
            if finished:
                _keep_best(lm, finished)
    about = {"method": "tuned", "init": init if isinstance(init, str) else "words", "epochs": epochs, "lr": lr}
    return {run.task.name if isinstance(seed, Integral) else (run.seed, run.task.name): Prompt(
                run.best_vectors, template, lm.name, lm.fingerprint, run.task.name,
                {**about, "seed": run.seed, "train": len(run.train), "dev": len(run.dev), "dev_p_at_1": run.best[0]})
            for run in runs}


def _start(lm: LanguageModel, task: Task, template: Template, init: str | Sequence[str], epochs: int, seed: int) -> Run:
    train, train_ids = _usable(lm, template, task.train)
    dev, dev_ids = _usable(lm, template, task.dev)
    if not train:
        raise TaskError(f"task {task.name!r} has {len(task.train)} train examples, none with an object that is one "
                        f"token of {lm.name}; tuning needs some (a .jsonl file names them with \"split\": \"train\")")
    draw = salted_generator(seed, task.name)
    vectors = torch.nn.Parameter(_initial_vectors(lm, task, template.num_vectors, init, draw).to(lm.device))
    return Run(task, seed, vectors, train, train_ids, dev or train, dev_ids or train_ids, draw,
               steps=epochs * -(-len(train) // BATCH_SIZE))


def _initial_vectors(lm: LanguageModel, task: Task, count: int, init: str | Sequence[str],
                     draw: torch.Generator) -> Tensor:
    """(count, d)."""
    if init == "random":
        return random_vectors(lm, (count,), draw)
    if init == "manual":
        words = re.sub(r"\[[XY]\]|\W+$", " ", manual_prompt(lm, task).template).split()
        if not words:
            raise TaskError(f"the manual template of task {task.name!r} has no words to start from; use init='random'")
        [ids] = lm.tokenize_after([" " + " ".join(words)])  # as in the middle of a sentence
        return lm.embeddings[[ids[i % len(ids)] for i in range(count)]].clone()
    if isinstance(init, str):
        raise PromptTransferError(f"init={init!r}; expected 'random', 'manual' or a list of words")
    known = [i for i in lm.word_ids(init) if i is not None]
    if not known:
        raise PromptTransferError(f"init has {len(init)} words, none of them one token of {lm.name}; expected some, "
                                  "such as anchors.words")
    chosen = torch.randint(len(known), (count,), generator=draw).tolist()
    return lm.embeddings[[known[i] for i in chosen]].clone()


def _usable(lm: LanguageModel, template: Template, examples: Sequence[Example]) -> tuple[list[Layout], list[int]]:
    """Layouts and object ids of the examples whose object is one token."""
    ids = lm.word_ids(example.object for example in examples)
    kept = [(example, i) for example, i in zip(examples, ids, strict=True) if i is not None]
    return template.layout(lm, [example.subject for example, _ in kept]), [i for _, i in kept]


def _logits(lm: LanguageModel, runs: Sequence[Run], layouts: Sequence[Layout], owner: Sequence[int]):
    """(indices, logits) of batches of layouts, each with the vectors of the run that owns it."""
    for rows, batch in batches(layouts, lm.device):
        # Stacked in here, so that each batch has a graph of its own to go backward through.
        vectors = torch.stack([run.vectors for run in runs])[torch.tensor([owner[i] for i in rows])]
        yield rows, lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)


def _backward(lm: LanguageModel, runs: Sequence[Run]) -> None:
    """Add the gradient of each run's mean loss on its next batch."""
    chosen = [run.next_batch() for run in runs]
    layouts = [run.train[i] for run, batch in zip(runs, chosen, strict=True) for i in batch]
    targets = torch.tensor([run.train_ids[i] for run, batch in zip(runs, chosen, strict=True) for i in batch])
    owner = [r for r, batch in enumerate(chosen) for _ in batch]
    weight = torch.tensor([1 / len(batch) for batch in chosen for _ in batch])
    for rows, logits in _logits(lm, runs, layouts, owner):
        losses = cross_entropy(logits, targets[rows].to(lm.device), reduction="none")
        (losses * weight[rows].to(lm.device)).sum().backward()


@torch.no_grad()
def _keep_best(lm: LanguageModel, runs: Sequence[Run]) -> None:
    """Measure every run on its dev examples and keep the vectors that are the best so far."""
    layouts = [layout for run in runs for layout in run.dev]
    targets = torch.tensor([i for run in runs for i in run.dev_ids])
    owner = torch.tensor([r for r, run in enumerate(runs) for _ in run.dev])
    hits, losses = torch.zeros(len(targets)), torch.zeros(len(targets))
    for rows, logits in _logits(lm, runs, layouts, owner.tolist()):
        hits[rows] = (logits.argmax(-1).cpu() == targets[rows]).float()
        losses[rows] = cross_entropy(logits, targets[rows].to(lm.device), reduction="none").cpu()
    for r, run in enumerate(runs):
        score = (hits[owner == r].mean().item(), -losses[owner == r].mean().item())
        if score > run.best:
            run.best, run.best_vectors = score, run.vectors.detach().cpu().clone()
