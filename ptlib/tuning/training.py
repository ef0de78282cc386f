"""The gradient descent that tuning and refinement share: many small problems in one batch, on one LM or several."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..errors import NotFiniteError, PromptTransferError
from ..evaluation.ranking import rank
from ..models.lm import LanguageModel
from ..progress import progress_bar
from ..prompts.templates import Batch, Layout, batches

__all__ = ["Data", "FreeVectors", "Trainee", "WordMixtures", "train"]

BATCH_SIZE = 16  # examples of each prompt a step
WARMUP = 0.1  # share of the steps
GAIN_RATE = 0.1  # learning rate of a mixture's gains, relative to that of its weights


class FreeVectors(torch.nn.Module):
    """A prompt as (m, d) numbers of their own, for one LM."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.vectors = torch.nn.Parameter(start)

    def on(self, table: Tensor | None) -> Tensor:
        return self.vectors

    def groups(self) -> list[tuple[torch.nn.Parameter, float]]:
        """The parameters and their learning rates, relative to that of the training."""
        return [(self.vectors, 1.0)]


class WordMixtures(torch.nn.Module):
    """A prompt as m softmax mixtures of k words with a gain each, for any LM that has the words."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.logits = torch.nn.Parameter(start)
        self.gains = torch.nn.Parameter(torch.ones(len(start), device=start.device))

    def on(self, table: Tensor | None) -> Tensor:
        assert table is not None
        return self.gains.unsqueeze(-1) * (self.logits.softmax(-1) @ table)

    def groups(self) -> list[tuple[torch.nn.Parameter, float]]:
        return [(self.logits, 1.0), (self.gains, GAIN_RATE)]


@dataclass
class Data:
    """n examples as one LM reads them.

    Attributes:
        layouts: n filled templates.
        targets: (n,) ids of tokens, or (n, c) probabilities of the tokens in ``candidates``.
        candidates: (c,) ids that an answer is judged among; of distributions, those that they are over.
    """

    layouts: list[Layout]
    targets: Tensor
    candidates: Tensor

    @cached_property
    def columns(self) -> Tensor:
        """(n,) the places of the right answers among the candidates."""
        if self.targets.ndim == 2:
            return self.targets.argmax(-1)
        places = {token: place for place, token in enumerate(self.candidates.tolist())}
        return torch.tensor([places[token] for token in self.targets.tolist()], dtype=torch.long)


@dataclass
class Trainee:
    """One prompt on its way: its parameters and data, and the best state on dev so far.

    Attributes:
        train, dev: one ``Data`` an LM, all of the same examples.
        generator: all random numbers of the prompt: it does not depend on those beside it.
        forwards, backwards: sequences that each LM has read so far, and gone back through.
    """

    prompt: FreeVectors | WordMixtures
    train: list[Data]
    dev: list[Data]
    generator: torch.Generator
    queue: list[int] = field(default_factory=list)
    best: tuple[float, float] = (-1.0, 0.0)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    forwards: int = 0
    backwards: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Steps that a pass over the train examples takes."""
        return -(-len(self.train[0].layouts) // BATCH_SIZE)

    def next_batch(self) -> list[int]:
        if not self.queue:
            self.queue = torch.randperm(len(self.train[0].layouts), generator=self.generator).tolist()
        batch, self.queue = self.queue[:BATCH_SIZE], self.queue[BATCH_SIZE:]
        return batch


def train(lms: Sequence[LanguageModel], trainees: Sequence[Trainee], *, tables: Sequence[Tensor | None], epochs: int,
          lr: float, noise: float, progress: bool, desc: str) -> None:
    """Lower each prompt's mean cross-entropy over the LMs with AdamW, warm-up 0.1 and linear decay.

    Every prompt ends in the state that was the best on its dev examples at the end of an epoch, by P@1, then by the
    loss. With noise it ends in its last state: dev examples are read without noise, where an earlier state scores as
    high although it is less robust.

    Args:
        tables: one an LM: (k, d) embeddings of the words that mixtures are made of.
        epochs: passes over each prompt's train examples.
        lr: peak learning rate.
        noise: standard deviation of what is added to the prompt vectors, anew for every example, relative to that
            of the LM's embeddings.

    Raises:
        PromptTransferError: no epochs, or a rate or noise that cannot be.
        NotFiniteError: logits or the loss of a step are not finite.
    """
    if not (epochs >= 1 and 0 < lr < math.inf and 0 <= noise < math.inf):
        raise PromptTransferError(f"epochs={epochs}, lr={lr}, noise={noise}; expected at least one pass over the "
                                  "examples, a rate above 0 and noise of at least 0")
    parameters = [(trainee, *group) for trainee in trainees for group in trainee.prompt.groups()]
    optimizer = torch.optim.AdamW([{"params": [parameter]} for _, parameter, _ in parameters], lr=lr)
    most = max(epochs * trainee.steps_per_epoch for trainee in trainees)
    with progress_bar(range(most), show=progress, desc=desc) as bar:
        for step in bar:
            active = [trainee for trainee in trainees if step < epochs * trainee.steps_per_epoch]
            for (trainee, _, scale), group in zip(parameters, optimizer.param_groups, strict=True):
                steps = epochs * trainee.steps_per_epoch
                group["lr"] = lr * scale * learning_rate(min(step, steps), steps)
            with diverging(step, lr):
                optimizer.zero_grad(set_to_none=True)
                add_gradients(lms, active, tables, noise)
                optimizer.step()
                ended = (trainee.steps_per_epoch * (epochs if noise else 1) for trainee in active)
                finished = [trainee for trainee, each in zip(active, ended, strict=True) if (step + 1) % each == 0]
                if finished:
                    keep_best(lms, finished, tables)
    for trainee in trainees:
        trainee.prompt.load_state_dict(trainee.best_state)


def add_gradients(lms: Sequence[LanguageModel], active: Sequence[Trainee], tables: Sequence[Tensor | None],
                  noise: float) -> None:
    """Of the next batch of each prompt, on every LM."""
    chosen = [trainee.next_batch() for trainee in active]
    for at, (lm, table) in enumerate(zip(lms, tables, strict=True)):
        backward(lm, active, [trainee.train[at] for trainee in active], chosen, table, noise, share=1 / len(lms))
    for trainee, rows in zip(active, chosen, strict=True):
        trainee.forwards += len(rows)
        trainee.backwards += len(rows)


@contextmanager
def diverging(step: int, lr: float) -> Iterator[None]:
    """Says at which step and rate logits or a loss stopped being finite."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"tuning diverged at step {step + 1} with lr={lr:g}: {error}; use a lower lr=") from None


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    warm = max(1, round(WARMUP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)


def logits_of(lm: LanguageModel, batch: Batch, vectors: Tensor) -> Tensor:
    """(B, V) logits at the answer slots."""
    return lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)


def losses(logits: Tensor, data: Data, rows: Sequence[int]) -> Tensor:
    """(B,) cross-entropy over the vocabulary, or of distributions over their candidates."""
    targets = data.targets[rows].to(logits.device)
    found = cross_entropy(logits if targets.ndim == 1 else logits[:, data.candidates], targets, reduction="none")
    if not found.isfinite().all():
        raise NotFiniteError(f"{int((~found.isfinite()).sum())} of {len(rows)} losses are not finite")
    return found


def hits(logits: Tensor, parts: Sequence[Data], owner: Sequence[int], columns: Tensor) -> Tensor:
    """(B,) 1 where the answer is the best of its own part's candidates, and 0 elsewhere: as ``evaluate`` judges it."""
    found = torch.zeros(len(owner))
    alike: dict[int, list[int]] = {}  # prompts of one task share their candidates, and so do most tasks
    for row, r in enumerate(owner):
        alike.setdefault(id(parts[r].candidates), []).append(row)
    for rows in alike.values():
        candidates = parts[owner[rows[0]]].candidates
        ranks = rank(logits[rows][:, candidates], columns[rows].to(logits.device)).ranks
        found[rows] = (ranks == 1).float().cpu()
    return found


def joined(parts: Sequence[Data], chosen: Sequence[Sequence[int]]) -> tuple[Data, list[int]]:
    """The chosen examples of every prompt in one, and which prompt each belongs to."""
    layouts = [part.layouts[i] for part, rows in zip(parts, chosen, strict=True) for i in rows]
    targets = torch.cat([part.targets[rows] for part, rows in zip(parts, chosen, strict=True)])
    return Data(layouts, targets, parts[0].candidates), [r for r, rows in enumerate(chosen) for _ in rows]


def backward(lm: LanguageModel, trainees: Sequence[Trainee], parts: Sequence[Data], chosen: Sequence[Sequence[int]],
             table: Tensor | None, noise: float, share: float) -> None:
    """Add the gradient of each prompt's mean loss on its batch, times ``share``."""
    data, owner = joined(parts, chosen)
    vectors = torch.stack([trainee.prompt.on(table).to(lm.device) for trainee in trainees])
    weight = torch.tensor([share / len(chosen[r]) for r in owner])
    added = None
    if noise:
        added = torch.cat([torch.randn(len(rows), *vectors.shape[1:], generator=trainee.generator)
                           for trainee, rows in zip(trainees, chosen, strict=True)]) * noise * lm.moments[1]
    # The vectors are a leaf here, so that each batch has a graph of its own to go backward through.
    leaf = vectors.detach().requires_grad_()
    for rows, batch in batches(data.layouts, lm):
        own = leaf[[owner[i] for i in rows]]
        if added is not None:
            own = own + added[rows].to(lm.device)
        loss = losses(logits_of(lm, batch, own), data, rows)
        (loss * weight[rows].to(lm.device)).sum().backward()
    vectors.backward(leaf.grad)


@torch.no_grad()
def keep_best(lms: Sequence[LanguageModel], trainees: Sequence[Trainee], tables: Sequence[Tensor | None]) -> None:
    """Measure every prompt on its dev examples and keep its state if it is the best so far."""
    everything = [range(len(trainee.dev[0].layouts)) for trainee in trainees]
    right, lost = torch.zeros(()), torch.zeros(())
    for at, (lm, table) in enumerate(zip(lms, tables, strict=True)):
        parts = [trainee.dev[at] for trainee in trainees]
        data, owner = joined(parts, everything)
        columns = torch.cat([part.columns for part in parts])
        vectors = torch.stack([trainee.prompt.on(table).to(lm.device) for trainee in trainees])
        hit, loss = torch.zeros(len(owner)), torch.zeros(len(owner))
        for rows, batch in batches(data.layouts, lm):
            of = [owner[i] for i in rows]
            logits = logits_of(lm, batch, vectors[of])
            hit[rows] = hits(logits, parts, of, columns[rows])
            loss[rows] = losses(logits, data, rows).cpu()
        right, lost = right + hit / len(lms), lost + loss / len(lms)
    owners = torch.tensor(owner)
    for r, trainee in enumerate(trainees):
        score = (right[owners == r].mean().item(), -lost[owners == r].mean().item())
        trainee.forwards += len(everything[r])
        if score > trainee.best:
            trainee.best = score
            trainee.best_state = {name: value.clone() for name, value in trainee.prompt.state_dict().items()}
