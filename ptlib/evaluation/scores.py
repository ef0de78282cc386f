"""The scores and probabilities that an LM gives the candidate words at the answer slot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..errors import TaskError
from ..models.lm import LanguageModel
from ..prompts.prompt import Prompt
from ..prompts.templates import Layout, Template, batches, collate
from ..tasks.task import LabelWord
from .candidates import Candidates, of_answerable

__all__ = ["answer_distributions", "answer_scores", "candidate_distributions", "candidate_scores", "mean_answers"]


def extended(lm: LanguageModel, layout: Layout, filling: Sequence[int], at: int) -> Layout:
    """A layout that asks for one token of an answer of several tokens.

    Args:
        layout: the layout for an answer of one token.
        filling: the token ids to put at the answer slot.
        at: which token of the answer the model predicts, from 0.
    """
    start, extra = layout.answer, len(filling) - 1
    if lm.kind == "causal":
        return Layout([*layout.ids, *filling], layout.slots, start + at)
    return Layout([*layout.ids[:start], *filling, *layout.ids[start + 1:]],
                  [slot + extra * (slot > start) for slot in layout.slots], start + at)


def candidate_scores(lm: LanguageModel, layouts: Sequence[Layout], vectors: Tensor, candidates: Sequence[Sequence[int]],
                     offsets: Tensor | None = None) -> Iterator[tuple[list[int], Tensor]]:
    """Score the candidates for every layout, batch by batch.

    A causal LM reads the tokens of a candidate one after another, so one forward pass serves all candidates with the
    same first tokens. A masked LM reads one blank for each token, so one forward pass serves all candidates of the same
    length.

    Args:
        lm: the LM.
        layouts: one for each example.
        vectors: (m, d) the prompt vectors.
        candidates: the token ids of each candidate.
        offsets: (V,) added to the logits; only for candidates of one token.

    Yields:
        (indices, scores): the indices of a batch's layouts, and (B, C) the mean log-probability of each candidate's
        tokens. If all candidates are single tokens, the scores are logits, which have the same order.
    """
    if max(map(len, candidates)) == 1:
        yield from token_scores(lm, layouts, vectors, torch.tensor([token for token, in candidates]), offsets)
        return
    if offsets is not None:
        raise TaskError("the prompt is calibrated, which is known for answers of one token only; leave multi_token out")
    questions: dict[tuple, list[tuple[int, int]]] = {}
    for column, tokens in enumerate(candidates):
        for at, token in enumerate(tokens):
            filling = tuple(tokens[:at]) if lm.kind == "causal" else [lm.blank_id] * len(tokens)
            questions.setdefault((*filling, at), []).append((column, token))
    asked = {question: torch.tensor(pairs, device=lm.device).T for question, pairs in questions.items()}
    lengths = torch.tensor([len(tokens) for tokens in candidates], device=lm.device)
    for rows, _ in batches(layouts, lm):
        scores = torch.zeros(len(rows), len(candidates), device=lm.device)
        for (*filling, at), (columns, tokens) in asked.items():
            batch = collate([extended(lm, layouts[i], filling, at) for i in rows], lm.device)
            logits = batch.logits(lm, vectors)
            scores[:, columns] += logits.log_softmax(-1)[:, tokens]
        yield rows, scores / lengths


def token_scores(lm: LanguageModel, layouts: Sequence[Layout], vectors: Tensor, ids: Tensor | None,
                 offsets: Tensor | None) -> Iterator[tuple[list[int], Tensor]]:
    """The logits of tokens ``ids``, of all if None, plus their offsets: batches as ``candidate_scores`` yields them."""
    added = 0 if offsets is None else offsets.to(lm.device)[slice(None) if ids is None else ids]
    for rows, batch in batches(layouts, lm):
        yield rows, batch.logits(lm, vectors, ids) + added


@torch.inference_mode()
def answer_scores(lm: LanguageModel, prompt: Prompt, subjects: Sequence[str],
                  ids: Sequence[int] | None = None) -> Tensor:
    """The logits of tokens at the answer slot for each subject, with the prompt's offsets, on the CPU.

    Args:
        ids: n token ids; all V if None.

    Returns:
        (subjects, n).

    Raises:
        PromptMismatchError: the prompt was made for another LM.
    """
    prompt.check(lm)
    layouts = Template(prompt.template).layout(lm, subjects)
    scores = torch.empty(len(subjects), lm.vocab_size if ids is None else len(ids))
    chosen = None if ids is None else torch.tensor(ids)
    for rows, found in token_scores(lm, layouts, prompt.vectors.to(lm.device), chosen, prompt.offsets):
        scores[rows] = found.cpu()
    return scores


def answer_distributions(lm: LanguageModel, prompt: Prompt, subjects: Sequence[str],
                         words: Sequence[LabelWord]) -> Tensor:
    """The probability of each word as the answer for each subject.

    Args:
        words: words that are one token of ``lm`` at the answer slot. Several for one class, a tuple, count with the
            mean of their logits.

    Returns:
        (n, words) float32 on the CPU. Each row sums to 1.

    Raises:
        PromptMismatchError: the prompt was made for another LM.
    """
    return candidate_distributions(lm, prompt, subjects, of_answerable(lm, words, Template(prompt.template).place))


def candidate_distributions(lm: LanguageModel, prompt: Prompt, subjects: Sequence[str],
                            candidates: Candidates) -> Tensor:
    """``answer_distributions`` over candidates of one token each: (n, C)."""
    return candidates.pooled(answer_scores(lm, prompt, subjects, candidates.ids.tolist())).softmax(-1)


def mean_answers(lms: Sequence[LanguageModel], prompts: Sequence[Prompt], subjects: Sequence[str],
                 words: Sequence[LabelWord]) -> Tensor:
    """The mean of ``answer_distributions`` over several LMs, each with its own prompt."""
    return sum((answer_distributions(lm, prompt, subjects, words)
                for lm, prompt in zip(lms, prompts, strict=True)), start=torch.zeros(())) / len(lms)
