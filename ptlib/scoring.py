"""Which words may answer, and how well an LM likes each of them at the answer slot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from .errors import TaskError
from .lm import LanguageModel
from .prompts import Prompt
from .tasks import Example
from .templates import Layout, Template, batches, collate

__all__ = ["answer_distributions", "candidate_scores", "candidate_tokens", "mean_answers"]


def candidate_tokens(lm: LanguageModel, examples: Sequence[Example], given: Iterable[str] | None,
                     multi_token: bool) -> dict[str, list[int]]:
    """{word: its tokens} to rank: those given, else the examples' choices, else all words, or all objects."""
    kinds = list(dict.fromkeys(example.choices for example in examples)) if given is None else []
    if len(kinds) > 1:
        raise TaskError(f"the examples have different label words ({' and '.join(map(str, kinds))}); expected the "
                        "examples of one task, or candidates=")
    choices = kinds[0] if kinds else None
    if given is None and choices is None and not multi_token:
        return {word: [i] for word, i in lm.words.items()}
    words = choices or sorted(set([e.object for e in examples] if given is None else given))
    if multi_token:
        special = set(lm.tokenizer.all_special_ids)
        spoken = lm.tokenize_after(" " + word for word in words)
        tokens = [None if special.intersection(ids) or max(ids, default=lm.vocab_size) >= lm.vocab_size else ids
                  for ids in spoken]
    else:
        tokens = [None if i is None else [i] for i in lm.word_ids(words)]
    found = {word: ids for word, ids in zip(words, tokens, strict=True) if ids is not None}
    # Without one of its words, or with two that are one, a classification would be another than it says.
    unknown = [word for word in choices or () if word not in found]
    if unknown:
        raise TaskError(f"label word {unknown[0]!r} is " + (f"unknown to {lm.name}" if multi_token else
                        f"not one token of {lm.name}") + "; expected label_words= that it knows"
                        + ("" if multi_token else ", or multi_token=True"))
    if choices and len(set(map(tuple, found.values()))) < len(found):
        raise TaskError(f"two of the label words {', '.join(choices)} are the same token to {lm.name}; expected "
                        "label_words= that it tells apart")
    return found


def extended(lm: LanguageModel, layout: Layout, filling: Sequence[int], at: int) -> Layout:
    """A layout that asks for one token of a longer answer: ``filling`` stands at the answer slot, ``at`` is asked."""
    here, wider = layout.answer, len(filling) - 1
    if lm.kind == "causal":
        return Layout([*layout.ids, *filling], layout.slots, here + at)
    return Layout([*layout.ids[:here], *filling, *layout.ids[here + 1:]],
                  [slot + wider * (slot > here) for slot in layout.slots], here + at)


def candidate_scores(lm: LanguageModel, layouts: Sequence[Layout], vectors: Tensor,
                     candidates: Sequence[list[int]]) -> Iterator[tuple[list[int], Tensor]]:
    """(indices, scores) of batches of layouts: (B, C) mean log-probability of the tokens of each candidate.

    A causal LM reads a candidate's tokens one after another; a masked one sees a blank for each of them. So one
    forward serves all candidates that begin alike, or are of one length. Of single tokens, the logits will do.
    """
    questions: dict[tuple, list[tuple[int, int]]] = {}
    for column, tokens in enumerate(candidates):
        for at, token in enumerate(tokens):
            filling = tokens[:at] if lm.kind == "causal" else [lm.blank_id] * len(tokens)
            questions.setdefault((*filling, at), []).append((column, token))
    asked = {question: torch.tensor(pairs, device=lm.device).T for question, pairs in questions.items()}
    lengths = torch.tensor([len(tokens) for tokens in candidates], device=lm.device)
    several = max(map(len, candidates)) > 1
    for rows, _ in batches(layouts, lm.device):
        scores = torch.zeros(len(rows), len(candidates), device=lm.device)
        for (*filling, at), (columns, tokens) in asked.items():
            batch = collate([extended(lm, layouts[i], filling, at) for i in rows], lm.device)
            logits = lm.answer_logits(batch.ids, batch.mask, batch.slots, vectors, batch.answers)
            scores[:, columns] += (logits.log_softmax(-1) if several else logits)[:, tokens]
        yield rows, scores / lengths


@torch.inference_mode()
def answer_distributions(lm: LanguageModel, prompt: Prompt, subjects: Sequence[str], words: Sequence[str]) -> Tensor:
    """(n, words) float32 on the CPU: the probability of each word as the answer to each subject, with the sum 1.

    Every word is one token of ``lm``.
    """
    prompt.check(lm)
    layouts, tokens = Template(prompt.template).layout(lm, subjects), [[i] for i in lm.word_ids(words)]
    found = torch.empty(len(subjects), len(words))
    for rows, scores in candidate_scores(lm, layouts, prompt.vectors.to(lm.device), tokens):
        found[rows] = scores.softmax(-1).cpu()
    return found


def mean_answers(lms: Sequence[LanguageModel], prompts: Sequence[Prompt], subjects: Sequence[str],
                 words: Sequence[str]) -> Tensor:
    """The mean of ``answer_distributions`` over several LMs, each with its own prompt."""
    return sum(answer_distributions(lm, prompt, subjects, words)
               for lm, prompt in zip(lms, prompts, strict=True)) / len(lms)
