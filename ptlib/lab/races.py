"""Races: steps of ptlib beside the loops that others use, for the notebook benchmarks/race.

The loops of the paper's reference code (PTfer) and of OptiPrompt are written here after their description, with what
makes them slow: that is what is measured. ``python -m ptlib.lab.races MODEL MODEL`` prints as JSON how long it takes to
load two embedding tables and to find the shared words, in a process of its own.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, normalize

from ..evaluation.evaluations import evaluate
from ..laps import Laps
from ..models.lm import LanguageModel
from ..models.loading import load_lm
from ..moving.anchors import shared_anchors
from ..moving.relative import relative_representation
from ..moving.search import choose_ridge, ridge_fits, split_moments
from ..progress import set_progress
from ..prompts.prompt import Prompt, default_template
from ..prompts.templates import Layout, Template, collate
from ..tasks.task import Example, Task, words_of_class

__all__ = ["Race", "Tuned", "closed_form_search", "exponent", "fastest", "forget", "invented_prompts",
           "optiprompt_hits", "optiprompt_tuning", "peft_answers", "peft_tuning", "plain_hits", "plain_search",
           "ptlib_hits", "reference_search", "word_cost"]

ROWS = 10  # vectors that the reference's search holds; half of them are used
TRAIN_BATCH, EVAL_BATCH = 16, 8  # OptiPrompt's
LR = 5e-3  # of the paper's search


# --- the search -----------------------------------------------------------------------------------


class Race(NamedTuple):
    """What a search starts from: prompts (n, m, d_s), and the anchors of both models, (k, d_s) and (k, d_t)."""

    prompts: Tensor
    source: Tensor
    target: Tensor


def invented_prompts(num_prompts: int, num_vectors: int, num_anchors: int, width: int, target_width: int,
                     seed: int) -> Race:
    """Anchors with the same meaning in two models: the target's are a linear map of the source's, with noise."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(num_anchors, width, generator=generator)
    mapped = source @ torch.randn(width, target_width, generator=generator) / width ** 0.5
    target = mapped + 0.5 * torch.randn(num_anchors, target_width, generator=generator)
    return Race(torch.randn(num_prompts, num_vectors, width, generator=generator), source, target)


def reference_search(relative: Tensor, anchors: Tensor, mask: Tensor, *, steps: int, seed: int) -> Tensor:
    """The reference's search for one prompt: (m, d) after ``steps`` steps of Adam.

    It holds ten vectors where m are used, and normalises all anchors and standardises the candidate anew in each step.

    Args:
        relative: (m, k).
        anchors: (k, d), also the table whose mean and standard deviation the candidate is given.
        mask: (m, k) bool, the anchors that count for each vector.
        seed: of the first candidate.
    """
    again = torch.arange(ROWS) % len(relative)
    relative, counts = relative[again], mask[again].to(relative.dtype)
    candidate, moments = first_candidate(ROWS, anchors.shape[1], seed), (anchors.mean(), anchors.std())
    optimizer = torch.optim.Adam([candidate], lr=LR)
    read = []
    for _ in range(steps):
        own = relative_representation(standardised(candidate, *moments), anchors)
        loss = (1 - torch.cosine_similarity(own * counts, relative * counts, dim=-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        read += [loss.item(), loss.item()]
    return standardised(candidate.detach(), *moments)[:len(mask)]


def plain_search(relative: Tensor, anchors: Tensor, mask: Tensor, *, steps: int, seed: int) -> Tensor:
    """The same search for n prompts, well written: (n, m, d).

    What does not change is computed once, only the vectors that are used are held, and all prompts go through the
    anchors together.

    Args:
        relative, mask: (n, m, k).
        anchors: (k, d).
        seed: of the first candidate, the same for all prompts.
    """
    unit, wanted = normalize(anchors, dim=-1).T, normalize(relative * mask, dim=-1)
    moments = anchors.mean(), anchors.std()
    start = first_candidate(relative.shape[1], anchors.shape[1], seed).detach()
    candidate = start.expand(len(relative), -1, -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([candidate], lr=LR)
    for _ in range(steps):
        cosine = (normalize((standardised(candidate, *moments) @ unit) * mask, dim=-1) * wanted).sum(-1)
        optimizer.zero_grad()
        (1 - cosine).mean(-1).sum().backward()
        optimizer.step()
    return standardised(candidate.detach(), *moments)


def standardised(vectors: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Prompts (..., m, d), each with this mean and standard deviation over all its entries."""
    own_mean, own_std = vectors.mean(dim=(-2, -1), keepdim=True), vectors.std(dim=(-2, -1), keepdim=True)
    return (vectors - own_mean) / own_std * std + mean


def first_candidate(rows: int, width: int, seed: int) -> Tensor:
    start = torch.nn.init.xavier_normal_(torch.empty(rows, width), generator=torch.Generator().manual_seed(seed))
    return start.requires_grad_()


def closed_form_search(relative: Tensor, anchors: Tensor, *, seed: int) -> tuple[Tensor, float]:
    """The closed form as ``transfer`` uses it: the vectors (n, m, d), and the ridge chosen on held-out anchors."""
    fitted, held = split_moments(relative, anchors, seed=seed)
    ridge = choose_ridge(ridge_fits(fitted, held))
    return (fitted + held).solve(ridge), ridge


# --- tuning ---------------------------------------------------------------------------------------


class Tuned(NamedTuple):
    """A prompt, and how many sequences its training read for gradients, and in how many seconds."""

    prompt: Prompt
    sequences: int
    seconds: float


def optiprompt_tuning(lm: LanguageModel, task: Task, *, num_vectors: int = 5, epochs: int = 10, lr: float = 3e-3,
                      seed: int = 0) -> Tuned:
    """OptiPrompt's loop for one relation.

    Dropout is on, each batch of 16 is tokenized again and padded as it comes, the logits are those of every position,
    all weights collect gradients, and dev is evaluated three times an epoch in batches of 8.
    """
    template = default_template(num_vectors)
    train, targets = answerable_examples(lm, task.train)
    generator = torch.Generator().manual_seed(seed)
    start = lm.moments[0] + lm.moments[1] * torch.randn(num_vectors, lm.dim, generator=generator)
    vectors = start.to(lm.device).requires_grad_()
    steps = epochs * -(-len(train) // TRAIN_BATCH)
    optimizer, schedule = scheduled_adamw([vectors], lr, steps)
    every = max(1, steps // epochs // 3)
    best, kept, step, began = -1.0, vectors.detach().clone(), 0, time.perf_counter()
    with torch.random.fork_rng(), all_weights_training(lm):
        torch.manual_seed(seed)  # of dropout
        for _ in range(epochs):
            for rows in torch.randperm(len(train), generator=generator).split(TRAIN_BATCH):
                layouts = Template(template).layout(lm, [train[i].subject for i in rows])
                logits, answers = all_logits(lm, layouts, vectors)
                labels = torch.full_like(logits[..., 0], -100, dtype=torch.long)
                labels[range(len(rows)), answers] = targets[rows]
                optimizer.zero_grad()
                lm.model.zero_grad()
                cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
                optimizer.step()
                schedule.step()
                step += 1
                if step % every == 0:
                    lm.model.eval()
                    hits = optiprompt_hits(lm, prompt_of(lm, vectors, template, task), task.dev)
                    score = sum(hits) / max(1, len(hits))
                    lm.model.train()
                    if score > best:
                        best, kept = score, vectors.detach().clone()
    seconds = time.perf_counter() - began
    return Tuned(prompt_of(lm, kept, template, task), epochs * len(train), seconds)


def peft_tuning(lm: LanguageModel, task: Task, *, num_vectors: int = 5, epochs: int = 10, lr: float = 3e-2,
                seed: int = 0) -> Tuned:
    """PEFT's prompt tuning of a causal LM in a usual loop: vectors before the text, the object's loss, AdamW.

    Each batch of 16 is padded as it comes; dropout is off, as ``from_pretrained`` leaves it for these models.
    """
    from peft import PromptTuningConfig, TaskType, get_peft_model

    train, targets = answerable_examples(lm, task.train)
    template = f"[V]*{num_vectors} [X] [Y] ."
    layouts = Template(template).layout(lm, [example.subject for example in train])
    texts = [[*(i for at, i in enumerate(layout.ids) if at not in layout.slots), int(target)]
             for layout, target in zip(layouts, targets, strict=True)]
    torch.manual_seed(seed)
    lm.model.loss_type = "ForCausalLM"  # which a class of another kind of name, GPT2LMHeadModel, takes with a warning
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=num_vectors)
    with without_future_warnings():
        model = get_peft_model(lm.model, config)
    steps = epochs * -(-len(train) // TRAIN_BATCH)
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer, schedule = scheduled_adamw(parameters, lr, steps)
    began = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(train)).split(TRAIN_BATCH):
            batch = collate([Layout(texts[i], [], len(texts[i]) - 1) for i in rows], lm.device)
            labels = torch.full_like(batch.ids, -100)
            labels[range(len(rows)), batch.answers] = targets[rows]
            optimizer.zero_grad()
            model(input_ids=batch.ids, attention_mask=batch.mask, labels=labels).loss.backward()
            optimizer.step()
            schedule.step()
    seconds = time.perf_counter() - began
    vectors = model.get_prompt_embedding_to_save("default")
    return Tuned(prompt_of(lm, vectors, template, task), epochs * len(train), seconds)


@contextmanager
def without_future_warnings() -> Iterator[None]:
    """Inside this context, nothing is said of what PEFT asks of a later transformers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def scheduled_adamw(parameters: Sequence[Tensor], lr: float, steps: int) -> tuple[torch.optim.AdamW,
                                                                                  torch.optim.lr_scheduler.LambdaLR]:
    """AdamW with a warm-up of a tenth of the steps and linear decay."""
    warm = max(1, steps // 10)
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        (step + 1) / warm, (steps - step) / max(1, steps - warm)))


@contextmanager
def all_weights_training(lm: LanguageModel) -> Iterator[None]:
    """Inside this context, dropout is on and all weights collect gradients; no weight changes."""
    lm.model.train().requires_grad_(True)
    try:
        yield
    finally:
        lm.model.zero_grad(set_to_none=True)
        lm.model.eval().requires_grad_(False)


def answerable_examples(lm: LanguageModel, examples: Sequence[Example]) -> tuple[list[Example], Tensor]:
    """The examples with an object of one token, and these tokens."""
    ids = lm.word_ids([example.object for example in examples])
    kept = [(example, i) for example, i in zip(examples, ids, strict=True) if i is not None]
    return [example for example, _ in kept], torch.tensor([i for _, i in kept], device=lm.device)


def prompt_of(lm: LanguageModel, vectors: Tensor, template: str, task: Task) -> Prompt:
    return Prompt(vectors.detach().float().cpu().clone(), template, lm.name, lm.fingerprint, task.name)


# --- evaluation -----------------------------------------------------------------------------------


def all_logits(lm: LanguageModel, layouts: Sequence[Layout], vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The logits at every position, (B, T, V), and the positions of the answers, (B,)."""
    batch = collate(layouts, lm.device)
    embeds = lm.model.get_input_embeddings()(batch.ids)
    rows = torch.arange(len(layouts), device=lm.device)[:, None]
    embeds = embeds.index_put((rows, batch.slots), vectors.to(embeds).expand(len(layouts), -1, -1))
    return lm.model(inputs_embeds=embeds, attention_mask=batch.mask).logits, batch.answers


def optiprompt_hits(lm: LanguageModel, prompt: Prompt, examples: Sequence[Example]) -> list[bool]:
    """Whether each object ranks first among the whole words, as OptiPrompt finds out.

    Batches of 8 as they come, tokenized as they are read, and log-softmax over every position and the whole vocabulary.
    """
    examples, targets = answerable_examples(lm, examples)
    words = torch.tensor(list(lm.words.values()), device=lm.device)
    hits: list[bool] = []
    for rows in torch.arange(len(examples)).split(EVAL_BATCH):
        layouts = Template(prompt.template).layout(lm, [examples[i].subject for i in rows])
        with torch.no_grad():
            logits, answers = all_logits(lm, layouts, prompt.vectors)
            scores = log_softmax(logits, dim=-1)[range(len(rows)), answers]
        hits += (words[scores[:, words].argmax(-1)] == targets[rows]).tolist()
    return hits


def plain_hits(lm: LanguageModel, prompt: Prompt, examples: Sequence[Example]) -> list[bool]:
    """The same by a plain loop: one fact after another, each read alone."""
    examples, targets = answerable_examples(lm, examples)
    words = torch.tensor(list(lm.words.values()), device=lm.device)
    hits = []
    for example, target in zip(examples, targets, strict=True):
        with torch.no_grad():
            logits, answers = all_logits(lm, Template(prompt.template).layout(lm, [example.subject]), prompt.vectors)
        hits.append(bool(words[logits[0, answers[0], words].argmax()] == target))
    return hits


def peft_answers(lm: LanguageModel, folder: str | Path, examples: Sequence[Example]) -> list[str]:
    """The label words with which PEFT's own model answers, given an adapter of ``save_peft_prompt`` with start tokens.

    Each text is read alone. The mean logit of a class's words counts.
    """
    from peft import PeftModel

    with without_future_warnings():
        model = PeftModel.from_pretrained(lm.model, folder)
    answers = []
    for example in examples:
        classes = [words_of_class(given) for given in example.choices or ()]
        ids = torch.tensor([lm.tokenize_after([" " + example.subject])[0]], device=lm.device)
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, -1]
        scores = torch.stack([logits[lm.word_ids(words)].mean() for words in classes])
        answers.append(classes[int(scores.argmax())][0])
    return answers


def ptlib_hits(lm: LanguageModel, prompt: Prompt, examples: Sequence[Example]) -> list[bool]:
    """The same by ``evaluate``."""
    return (evaluate(lm, prompt, examples).ranks == 1).tolist()


def forget(lm: LanguageModel) -> None:
    """Clear a causal LM's memory of what it has read, so that a measurement starts with nothing."""
    if lm.prefixes is not None:
        lm.prefixes.known.clear()
        lm.prefixes.size = 0


# --- clocks ---------------------------------------------------------------------------------------


def fastest(run: Callable[[], object], repeats: int = 3) -> float:
    """The seconds of the fastest of some runs."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """e in seconds ∝ size^e: the slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def word_cost(*models: str) -> dict:
    """How many tokens the models have and words they share, and the seconds for the tables and for the words."""
    clock = Laps()
    lms = [load_lm(model, embeddings_only=True) for model in models]
    clock.lap("load the tables")
    for lm in lms:
        lm.fingerprint  # noqa: B018  # hashed once, then known
    clock.lap("hash the files")
    words = len(shared_anchors(*lms))
    clock.lap("find the words")
    return {"tokens": [lm.vocab_size for lm in lms], "words": words, "seconds": clock.seconds}


if __name__ == "__main__":
    set_progress(False)
    print(json.dumps(word_cost(*sys.argv[1:])))
