"""How well an LM likes each candidate word at the answer slot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from ..models.lm import LanguageModel
from ..prompts.prompt import Prompt
from ..prompts.templates import Layout, Template, batches, collate

__all__ = ["answer_distributions", "candidate_scores", "mean_answers"]


def extended(lm: LanguageModel, layout: Layout, filling: Sequence[int], at: int) -> Layout:
    """A layout that asks for one token of a longer answer: ``filling`` stands at the answer slot, ``at`` is asked."""
    here, wider = layout.answer, len(filling) - 1
    if lm.kind == "causal":
        return Layout([*layout.ids, *filling], layout.slots, here + at)
    return Layout([*layout.ids[:here], *filling, *layout.ids[here + 1:]],
                  [slot + wider * (slot > here) for slot in layout.slots], here + at)


def candidate_scores(lm: LanguageModel, layouts: Sequence[Layout], vectors: Tensor,
                     candidates: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, scores) of batches of layouts: (B, C) mean log-probability of the tokens of each candidate.

    A causal LM reads a candidate's tokens one after another; a masked one sees a blank for each of them. So one
    forward serves all candidates that begin alike, or are of one length. Of single tokens, the logits will do.
    """
    if max(map(len, candidates)) == 1:
        ids = torch.tensor([token for token, in candidates], device=lm.device)
        for rows, batch in batches(layouts, lm):
            yield rows, lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)[:, ids]
        return
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
            logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
            scores[:, columns] += logits.log_softmax(-1)[:, tokens]
        yield rows, scores / lengths


@torch.inference_mode()
def answer_distributions(lm: LanguageModel, prompt: Prompt, subjects: Sequence[str], words: Sequence[str]) -> Tensor:
    """(n, words) float32 on the CPU: the probability of each word as the answer to each subject, with the sum 1.

    Every word is one token of ``lm`` at the answer's place.
    """
    prompt.check(lm)
    template = Template(prompt.template)
    layouts, ids = template.layout(lm, subjects), cast(list[int], lm.word_ids(words, template.place))
    found = torch.empty(len(subjects), len(words))
    for rows, scores in candidate_scores(lm, layouts, prompt.vectors.to(lm.device), [[i] for i in ids]):
        found[rows] = scores.softmax(-1).cpu()
    return found


def mean_answers(lms: Sequence[LanguageModel], prompts: Sequence[Prompt], subjects: Sequence[str],
                 words: Sequence[str]) -> Tensor:
    """The mean of ``answer_distributions`` over several LMs, each with its own prompt."""
    return sum((answer_distributions(lm, prompt, subjects, words)
                for lm, prompt in zip(lms, prompts, strict=True)), start=torch.zeros(())) / len(lms)
