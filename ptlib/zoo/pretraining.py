"""Pretraining of the zoo's language models, which takes minutes for each model on one CPU core.

``SPECS`` lists the models, and ``pretrain`` makes one.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from ..errors import PromptTransferError
from ..models.lm import only_positions
from ..progress import progress_bar
from .corpus import Sentence, sentences
from .tokenization import train_tokenizer

__all__ = ["SPECS", "Spec", "pretrain"]

BATCH_SIZE = 64
WARMUP = 0.06
WEIGHT_DECAY = 0.2
ANSWER_MASKED = 0.6  # share of examples with a masked answer; the others have random masked tokens
TOKEN_MASKED = 0.15
CHECKPOINT_EVERY = 1000  # steps


@dataclass(frozen=True)
class Spec:
    """A zoo model: its sizes, learning rate, length of pretraining and seed."""

    family: str
    hidden: int
    layers: int
    heads: int
    learning_rate: float
    epochs: int
    seed: int
    embedding: int | None = None  # ALBERT's factorised embedding
    half: int | None = None  # 0 or 1, for one half of the text; None for all of it
    centered: bool = True  # whether its embeddings are centred at the end: see ``center_embeddings``


SPECS = {
    "bert-mini": Spec("bert", 128, 2, 4, 2e-3, 20, 1),
    "bert-small": Spec("bert", 160, 3, 4, 8e-4, 20, 2),
    "roberta-mini": Spec("roberta", 128, 2, 4, 2e-3, 20, 3),
    "roberta-small": Spec("roberta", 160, 3, 4, 8e-4, 20, 4),
    "albert-mini": Spec("albert", 160, 2, 4, 1e-3, 20, 5, embedding=96),
    "albert-small": Spec("albert", 192, 3, 4, 8e-4, 20, 6, embedding=128),
    "gpt2-mini": Spec("gpt2", 128, 2, 4, 2e-3, 20, 7),
    # These two read different halves of the text. With twice the epochs, the number of steps is the same.
    "halves/bert-first": Spec("bert", 128, 2, 4, 2e-3, 40, 8, half=0),
    "halves/roberta-second": Spec("roberta", 128, 2, 4, 2e-3, 40, 9, half=1),
}


def build_model(spec: Spec, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A newly initialised Hugging Face model. Dropout is off, because the model should memorise facts."""
    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
              "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    encoder = {**common, "hidden_size": spec.hidden, "num_hidden_layers": spec.layers,
               "num_attention_heads": spec.heads, "intermediate_size": 4 * spec.hidden,
               "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if spec.family == "bert":
        return BertForMaskedLM(BertConfig(**encoder, max_position_embeddings=64))
    if spec.family == "roberta":
        return RobertaForMaskedLM(RobertaConfig(**encoder, max_position_embeddings=66, type_vocab_size=1))
    if spec.family == "albert":
        assert spec.embedding is not None
        return AlbertForMaskedLM(AlbertConfig(**encoder, max_position_embeddings=64, embedding_size=spec.embedding,
                                              classifier_dropout_prob=0.0))
    return GPT2LMHeadModel(GPT2Config(**common, n_embd=spec.hidden, n_layer=spec.layers, n_head=spec.heads,
                                      n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))


@dataclass(frozen=True)
class Encoded:
    """A sentence as token ids, and the positions of the first token of each answer."""

    ids: tuple[int, ...]
    answers: tuple[int, ...]


def encode_corpus(tokenizer: PreTrainedTokenizerFast, corpus: Sequence[Sentence]) -> list[Encoded]:
    encodings = tokenizer([s.text for s in corpus], return_offsets_mapping=True)
    encoded = []
    for ids, offsets, sentence in zip(encodings["input_ids"], encodings["offset_mapping"], corpus, strict=True):
        # Look for a word's second character too: in some tokenizers the first belongs to a token of the space.
        at = [next(i for i, (a, b) in enumerate(offsets) if a <= start + 1 < b or a <= start < b)
              for start, _ in sentence.answers]
        encoded.append(Encoded(tuple(ids), tuple(at)))
    return encoded


def batches_of(encoded: Sequence[Encoded], draw: random.Random) -> list[list[Encoded]]:
    """The batches of one epoch in random order. A batch has sentences of one length, so it needs no padding."""
    by_length: dict[int, list[Encoded]] = {}
    for example in draw.sample(encoded, len(encoded)):
        by_length.setdefault(len(example.ids), []).append(example)
    batches = [group[i:i + BATCH_SIZE] for group in by_length.values() for i in range(0, len(group), BATCH_SIZE)]
    draw.shuffle(batches)
    return batches


def mask(batch: Sequence[Encoded], mask_id: int, draw: random.Random) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mask tokens: the ids (B, T) with masks, and the rows, columns and true ids of the masked positions."""
    ids = torch.tensor([example.ids for example in batch])
    rows, columns = [], []
    for row, example in enumerate(batch):
        if example.answers and draw.random() < ANSWER_MASKED:
            hidden = [draw.choice(example.answers)]
        else:
            inner = range(1, len(example.ids) - 1)
            hidden = [i for i in inner if draw.random() < TOKEN_MASKED] or [draw.choice(inner)]
        rows += [row] * len(hidden)
        columns += hidden
    masked = torch.tensor(rows), torch.tensor(columns)
    truth = ids[masked]
    ids[masked] = mask_id
    return ids, *masked, truth


def steps_from(start: int, encoded: Sequence[Encoded], seed: int) -> Iterator[tuple[list[Encoded], random.Random]]:
    """(batch, random generator for its masks) of every step from ``start`` on.

    They depend only on the seed and the number of the step, so a resumed run sees the same data as an unbroken one.
    """
    step = 0
    for epoch in itertools.count():
        for batch in batches_of(encoded, random.Random(f"{seed}-{epoch}")):
            if step >= start:
                yield batch, random.Random(f"{seed}-{step}")
            step += 1


def batch_loss(model: Any, batch: Sequence[Encoded], mask_id: int | None, draw: random.Random) -> Tensor:
    """The loss of a masked LM at its masked positions, or of a causal LM (no ``mask_id``) at all next tokens."""
    if mask_id is None:
        ids = torch.tensor([example.ids for example in batch])
        return cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    ids, rows, columns, truth = mask(batch, mask_id, draw)
    with only_positions(model, rows, columns):
        return cross_entropy(model(input_ids=ids).logits[0], truth)


def saved_tokenizer(family: str, texts: Sequence[str], folder: Path) -> PreTrainedTokenizerFast:
    """Train a tokenizer and save it, or read the saved one.

    A resumed run needs the saved one, because the WordPiece trainer breaks ties differently in every process.
    """
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        train_tokenizer(family, texts).save_pretrained(partial)
        os.replace(partial, folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def pretrain(name: str, out: Path, work: Path, *, spec: Spec | None = None, corpus: Sequence[Sentence] | None = None,
             epochs: int | None = None, progress: bool = True) -> Path:
    """Pretrain the model ``name`` and save it as float16 safetensors.

    Args:
        name: of the model. Without ``spec``, it must be one of ``SPECS``.
        out: the folder for the finished model.
        work: a folder for the tokenizer and the checkpoint ``<name>.pt``. If they exist, pretraining continues from
            there.
        spec: sizes and settings; ``SPECS[name]`` if None.
        corpus: the text; the zoo's own (or the half in ``spec.half``) if None.
        epochs: passes over the text; ``spec.epochs`` if None.
        progress: show a bar.

    Returns:
        The folder ``out / name``, with the model, its tokenizer, and ``loss.csv`` (step, epoch, mean loss of the last
        100 steps).
    """
    spec = SPECS[name] if spec is None else spec
    corpus = sentences(half=spec.half) if corpus is None else corpus
    (work / name).parent.mkdir(parents=True, exist_ok=True)
    tokenizer = saved_tokenizer(spec.family, [s.text for s in corpus], work / f"{name}-tokenizer")
    encoded = encode_corpus(tokenizer, corpus)
    per_epoch = len(batches_of(encoded, random.Random(0)))
    total = per_epoch * (epochs or spec.epochs)
    torch.manual_seed(spec.seed)
    model = build_model(spec, tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=spec.learning_rate, betas=(0.9, 0.98),
                                  weight_decay=WEIGHT_DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        step / (WARMUP * total), 0.5 + 0.5 * math.cos(math.pi * max(0.0, step / total - WARMUP) / (1 - WARMUP))))

    checkpoint, step, losses = work / f"{name}.pt", 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        step, losses = state["step"], state["losses"]
        if step > total:
            raise PromptTransferError(f"{checkpoint} has {step} steps, but {name} has only {total} in all; expected a "
                                      "checkpoint of the same run. Use another work folder")
        for part, restored in ((model, "model"), (optimizer, "optimizer"), (schedule, "schedule")):
            part.load_state_dict(state[restored])
    with progress_bar(steps_from(step, encoded, spec.seed), total=total, initial=step, desc=name, show=progress) as bar:
        for batch, draw in itertools.islice(bar, total - step):
            loss = batch_loss(model, batch, tokenizer.mask_token_id, draw)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            step += 1
            if step % CHECKPOINT_EVERY == 0:
                bar.set_postfix(loss=f"{mean(losses[-100:]):.3f}")
                partial = checkpoint.with_suffix(".partial")
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                            "schedule": schedule.state_dict(), "step": step, "losses": losses}, partial)
                os.replace(partial, checkpoint)
    if spec.centered:
        center_embeddings(model)
    folder, finished = out / name, work / f"{name}-finished"
    model.to(torch.float16).save_pretrained(finished)
    tokenizer.save_pretrained(finished)
    curve = [(end, end / per_epoch, mean(losses[end - 100:end])) for end in range(100, step + 1, 100)]
    pd.DataFrame(curve, columns=["step", "epoch", "loss"]).to_csv(finished / "loss.csv", index=False,
                                                                  float_format="%.4g")
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.move(finished, folder)
    return folder


@torch.no_grad()
def center_embeddings(model: Any) -> None:
    """Subtract the mean word embedding from the table, and add it to an embedding that every position gets anyway.

    This changes no probability, because a vector that all words share does not affect the softmax. In tiny LMs,
    pretraining makes this vector so long that cosines between words say little about their differences.
    """
    table = model.get_input_embeddings().weight
    everywhere = model.base_model.wpe if model.config.model_type == "gpt2" else (
        model.base_model.embeddings.token_type_embeddings)
    common = table.mean(0)
    table -= common
    everywhere.weight += common
