"""The training loop that tuning and refinement share.

It trains many prompts in one batch, on one LM or several. Each prompt has its own data, schedule and random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from ..errors import NotFiniteError, PromptTransferError
from ..evaluation.candidates import Candidates
from ..evaluation.ranking import rank
from ..models.lm import LanguageModel
from ..progress import progress_bar
from ..prompts.templates import Layout, batches

__all__ = ["Data", "FreeVectors", "Trainee", "WordMixtures", "train"]

BATCH_SIZE = 16  # examples of each prompt in a step
WARMUP = 0.1  # share of the steps
GAIN_RATE = 0.1  # learning rate of a mixture's gains, relative to that of its weights


class FreeVectors(torch.nn.Module):
    """A soft prompt: (m, d) free vectors for one LM."""

    def __init__(self, start: Tensor):
        super().__init__()
        self.vectors = torch.nn.Parameter(start)

    def on(self, table: Tensor | None) -> Tensor:
        return self.vectors

    def groups(self) -> list[tuple[torch.nn.Parameter, float]]:
        """The parameters and their learning rates, relative to that of the training."""
        return [(self.vectors, 1.0)]


class WordMixtures(torch.nn.Module):
    """A prompt of m softmax mixtures of k words, each with a gain. Any LM that has the words can use it."""

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
    """n examples, tokenized for one LM.

    Attributes:
        layouts: n filled templates.
        columns: (n,) the right answer of each, among the candidates.
        targets: (n, w) token ids of the right answer's words, −1 where it has fewer; or (n, c) probabilities of the
            ``candidates``.
        candidates: c words or classes that answers are ranked among.
    """

    layouts: list[Layout]
    columns: Tensor
    targets: Tensor
    candidates: Candidates

    @property
    def asked(self) -> Tensor | None:
        """The token ids whose logits the loss reads: of target distributions those of the candidates, otherwise all."""
        return self.candidates.ids if self.targets.is_floating_point() else None

    def scores(self, logits: Tensor) -> Tensor:
        """(B, c) the scores of the candidates, given the logits of ``asked``."""
        return self.candidates.pooled(logits if self.asked is not None else logits[:, self.candidates.ids])


@dataclass
class Trainee:
    """A prompt in training: its parameters and data, and its best state on the dev examples so far.

    Attributes:
        train, dev: one ``Data`` for each LM, all of the same examples.
        generator: source of all random numbers of this prompt, which makes it independent of the other prompts.
        batch_size: how many train examples a step reads.
        queue: train examples that are left in this pass.
        best: P@1 and negative loss of ``best_state`` on dev.
        forwards, backwards: sequences in the forward and backward passes of each LM so far.
    """

    prompt: FreeVectors | WordMixtures
    train: list[Data]
    dev: list[Data]
    generator: torch.Generator
    batch_size: int = BATCH_SIZE
    queue: list[int] = field(default_factory=list)
    best: tuple[float, float] = (-1.0, 0.0)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    forwards: int = 0
    backwards: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """How many steps a pass over the train examples takes."""
        return -(-len(self.train[0].layouts) // self.batch_size)

    def next_batch(self) -> list[int]:
        if not self.queue:
            self.queue = torch.randperm(len(self.train[0].layouts), generator=self.generator).tolist()
        batch, self.queue = self.queue[:self.batch_size], self.queue[self.batch_size:]
        return batch


def train(lms: Sequence[LanguageModel], trainees: Sequence[Trainee], *, tables: Sequence[Tensor | None], epochs: int,
          lr: float, noise: float, progress: bool, desc: str) -> None:
    """Minimise each prompt's cross-entropy, averaged over the LMs, by AdamW with warm-up (0.1) and linear decay.

    Without noise, every prompt ends in its best state on dev: P@1 is measured after each epoch, and the loss decides
    between equal ones. With noise, it ends in its last state. Dev examples are read without noise, so they cannot show
    that later states are more robust.

    Args:
        lms: frozen.
        trainees: the prompts; their state and counts change in place.
        tables: for each LM, the embeddings (k, d) of the words in mixtures; None for free vectors.
        epochs: passes over each prompt's train examples.
        lr: peak learning rate.
        noise: largest level of the noise that is added to the prompt vectors. Each example draws its own level between
            0 and this one, and normal noise with it as standard deviation. It is relative to the standard deviation of
            the LM's embeddings.
        progress: show a bar.
        desc: label of the bar.

    Raises:
        PromptTransferError: ``epochs``, ``lr`` or ``noise`` is out of range.
        NotFiniteError: the logits or the loss of a step are not finite.
    """
    if not (epochs >= 1 and 0 < lr < math.inf and 0 <= noise < math.inf):
        raise PromptTransferError(f"epochs={epochs}, lr={lr}, noise={noise}; expected at least one pass over the "
                                  "examples, a learning rate above 0 and noise of at least 0")
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
                intervals = (trainee.steps_per_epoch * (epochs if noise else 1) for trainee in active)
                due = [trainee for trainee, every in zip(active, intervals, strict=True) if (step + 1) % every == 0]
                if due:
                    keep_best(lms, due, tables)
    for trainee in trainees:
        trainee.prompt.load_state_dict(trainee.best_state)


def add_gradients(lms: Sequence[LanguageModel], active: Sequence[Trainee], tables: Sequence[Tensor | None],
                  noise: float) -> None:
    """Add the gradients of each prompt's next batch on every LM."""
    chosen = [trainee.next_batch() for trainee in active]
    for at, (lm, table) in enumerate(zip(lms, tables, strict=True)):
        backward(lm, active, [trainee.train[at] for trainee in active], chosen, table, noise, share=1 / len(lms))
    for trainee, rows in zip(active, chosen, strict=True):
        trainee.forwards += len(rows)
        trainee.backwards += len(rows)


@contextmanager
def diverging(step: int, lr: float) -> Iterator[None]:
    """Add the step and the learning rate to the message of a ``NotFiniteError``."""
    try:
        yield
    except NotFiniteError as error:
        raise NotFiniteError(f"tuning diverged at step {step + 1} with lr={lr:g}: {error}; use a lower lr=") from None


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to zero."""
    warm = max(1, round(WARMUP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)


def losses(logits: Tensor, data: Data, rows: Sequence[int]) -> Tensor:
    """The cross-entropy of each example, (B,): over the vocabulary, or over the candidates for target distributions.

    For a class of several words it is the mean over them, that is, the class's score against the whole vocabulary.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    targets = data.targets[rows].to(logits.device)
    if targets.is_floating_point():
        values = cross_entropy(data.scores(logits), targets, reduction="none")
    else:
        given = targets >= 0
        values = -(logits.log_softmax(-1).gather(1, targets.clamp(min=0)) * given).sum(-1) / given.sum(-1)
    if not values.isfinite().all():
        raise NotFiniteError(f"{int((~values.isfinite()).sum())} of {len(rows)} losses are not finite")
    return values


def hits(logits: Tensor, parts: Sequence[Data], owner: Sequence[int], columns: Tensor) -> Tensor:
    """1 for each example with the right answer ranked first among its prompt's candidates, else 0: (B,).

    Ranks are those of ``evaluate``.
    """
    is_hit = torch.zeros(len(owner))
    rows_with: dict[int, list[int]] = {}  # by candidates: most prompts share theirs, and are ranked together
    for row, r in enumerate(owner):
        rows_with.setdefault(id(parts[r].candidates), []).append(row)
    for rows in rows_with.values():
        scores = parts[owner[rows[0]]].scores(logits[rows])
        ranks = rank(scores, columns[rows].to(logits.device)).ranks
        is_hit[rows] = (ranks == 1).float().cpu()
    return is_hit


def joined(parts: Sequence[Data], chosen: Sequence[Sequence[int]]) -> tuple[Data, list[int]]:
    """The chosen examples of all prompts as one ``Data``, and for each example the index of its prompt.

    Target distributions have to be of the same candidates.
    """
    layouts = [part.layouts[i] for part, rows in zip(parts, chosen, strict=True) for i in rows]
    columns = torch.cat([part.columns[rows] for part, rows in zip(parts, chosen, strict=True)])
    most = max(part.targets.shape[1] for part in parts)
    targets = torch.cat([pad(part.targets[rows], (0, most - part.targets.shape[1]), value=-1)
                         for part, rows in zip(parts, chosen, strict=True)])
    return Data(layouts, columns, targets, parts[0].candidates), [r for r, rows in enumerate(chosen) for _ in rows]


def backward(lm: LanguageModel, trainees: Sequence[Trainee], parts: Sequence[Data], chosen: Sequence[Sequence[int]],
             table: Tensor | None, noise: float, share: float) -> None:
    """Add ``share`` times the gradient of each prompt's mean loss on its batch."""
    data, owner = joined(parts, chosen)
    vectors = torch.stack([trainee.prompt.on(table).to(lm.device) for trainee in trainees])
    weight = torch.tensor([share / len(chosen[r]) for r in owner])
    added = None
    if noise:
        added = noise * lm.moments[1] * torch.cat([normal_noise(len(rows), vectors.shape[1:], trainee.generator)
                                                   for trainee, rows in zip(trainees, chosen, strict=True)])
    # A detached leaf collects the gradients, so that each batch can free its own graph after its backward pass.
    leaf = vectors.detach().requires_grad_()
    for rows, batch in batches(data.layouts, lm):
        of_rows = leaf[[owner[i] for i in rows]]
        if added is not None:
            of_rows = of_rows + added[rows].to(lm.device)
        loss = losses(batch.logits(lm, of_rows, data.asked), data, rows)
        (loss * weight[rows].to(lm.device)).sum().backward()
    vectors.backward(leaf.grad)


def normal_noise(count: int, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """(count, *shape) normal noise; its standard deviation is uniform between 0 and 1, one for each of the count.

    Weak noise lets a prompt find its way on models that strong noise confuses; strong noise makes it robust.
    """
    levels = torch.rand(count, *[1] * len(shape), generator=generator)
    return levels * torch.randn(count, *shape, generator=generator)


@torch.no_grad()
def keep_best(lms: Sequence[LanguageModel], trainees: Sequence[Trainee], tables: Sequence[Tensor | None]) -> None:
    """Score every prompt on its dev examples, and keep its state if it is the best so far."""
    everything = [range(len(trainee.dev[0].layouts)) for trainee in trainees]
    mean_hits, mean_losses = torch.zeros(()), torch.zeros(())
    for at, (lm, table) in enumerate(zip(lms, tables, strict=True)):
        parts = [trainee.dev[at] for trainee in trainees]
        data, owner = joined(parts, everything)
        vectors = torch.stack([trainee.prompt.on(table).to(lm.device) for trainee in trainees])
        hit, loss = torch.zeros(len(owner)), torch.zeros(len(owner))
        for rows, batch in batches(data.layouts, lm):
            prompt_of = [owner[i] for i in rows]
            logits = batch.logits(lm, vectors[prompt_of], data.asked)
            hit[rows] = hits(logits, parts, prompt_of, data.columns[rows])
            loss[rows] = losses(logits, data, rows).cpu()
        mean_hits, mean_losses = mean_hits + hit / len(lms), mean_losses + loss / len(lms)
    owners = torch.tensor(owner)
    for r, trainee in enumerate(trainees):
        score = (mean_hits[owners == r].mean().item(), -mean_losses[owners == r].mean().item())
        trainee.forwards += len(everything[r])
        if score > trainee.best:
            trainee.best = score
            trainee.best_state = {name: value.clone() for name, value in trainee.prompt.state_dict().items()}
