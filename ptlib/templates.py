"""Templates such as ``"[X] [V]*5 [Y] ."``: where subject, prompt vectors and answer stand in a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import PromptMismatchError
from .lm import LanguageModel

__all__ = ["Batch", "Template", "batches", "collate"]

SLOT = re.compile(r"(\[X\]|\[Y\]|\[V\](?:\*\d+)?)")


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        text: as written. ``[X]`` is the subject, ``[Y]`` the answer, ``[V]`` one prompt vector, ``[V]*5`` five.
    """

    text: str

    def __post_init__(self):
        for slot in ("[X]", "[Y]"):
            if self.text.count(slot) != 1:
                raise PromptMismatchError(f"template {self.text!r} has {slot} {self.text.count(slot)} times; expected "
                                          "once each of [X] and [Y], as in '[X] [V]*5 [Y] .'")
        if re.search(r"\[V\]\*(?!0*[1-9])", self.text):
            raise PromptMismatchError(f"template {self.text!r} has [V]* without a count of at least 1; expected "
                                      "it as in '[X] [V]*5 [Y] .'")

    @property
    def parts(self) -> list[str]:
        """Slots and the raw text between them."""
        return [part for part in SLOT.split(self.text) if part]

    @property
    def num_vectors(self) -> int:
        return sum(slot_count(part) for part in self.parts)

    def layout(self, lm: LanguageModel, subjects: Sequence[str]) -> list[Layout]:
        """Token ids of the template around each subject, tokenized as running text would be.

        A causal LM predicts the answer from the token before it, so its sequence ends there.
        """
        start, end = lm.frame
        parts = self.parts
        if lm.kind == "causal":
            cut = parts.index("[Y]")
            if "[X]" not in parts[:cut] or any(slot_count(part) for part in parts[cut:]):
                raise PromptMismatchError(f"template {self.text!r} has slots after [Y], which a causal LM "
                                          f"({lm.name}) does not see; put [Y] last")
            parts, end = parts[:cut], []
        blank = lm.blank_id
        # The text between slots is the same for every subject: tokenized once.
        texts = {i: tokenize_text(lm, part, first=i == 0) for i, part in enumerate(parts)
                 if part not in ("[X]", "[Y]") and not slot_count(part) and part.strip()}
        layouts = []
        for subject_ids, spaced_ids in zip(lm.tokenize_many(subjects), lm.tokenize_many([" " + s for s in subjects]),
                                           strict=True):
            ids, slots, answer, spaced = list(start), [], None, False
            for i, part in enumerate(parts):
                if part == "[X]":
                    ids += spaced_ids if spaced else subject_ids
                elif part == "[Y]":
                    answer = len(ids)
                    ids.append(blank)
                elif slot_count(part):
                    slots += range(len(ids), len(ids) + slot_count(part))
                    ids += [blank] * slot_count(part)
                else:
                    ids += texts.get(i, [])
                # Whitespace belongs to the token that follows it, not to the slot before it.
                spaced = part[-1].isspace()
            ids += end
            layouts.append(Layout(ids, slots, len(ids) - 1 if answer is None else answer))
        return layouts


def tokenize_text(lm: LanguageModel, part: str, first: bool) -> list[int]:
    """Token ids of the text between slots, as they are in the middle of a sentence unless it is ``first``."""
    if first or part[0].isspace():
        return lm.tokenize((" " if part[0].isspace() else "") + part.strip())
    # Many tokenizers put a space before whatever they are given; after a word they do not.
    before, both = lm.tokenize("a"), lm.tokenize("a" + part.strip())
    return both[len(before):] if both[:len(before)] == before else lm.tokenize(part.strip())


def slot_count(part: str) -> int:
    """Prompt vectors in a part: 5 for ``[V]*5``, 1 for ``[V]``, 0 for anything else."""
    if not part.startswith("[V]"):
        return 0
    return int(part.removeprefix("[V]").lstrip("*") or 1)


@dataclass(frozen=True)
class Layout:
    """One filled template: token ids, positions of the prompt vectors, position that predicts the answer."""

    ids: list[int]
    slots: list[int]
    answer: int


@dataclass(frozen=True)
class Batch:
    """Layouts as tensors: ids (B, T), mask (B, T), slots (B, m), answers (B,)."""

    ids: Tensor
    mask: Tensor
    slots: Tensor
    answers: Tensor


def collate(layouts: Sequence[Layout], device: torch.device) -> Batch:
    """Pad layouts on the right to one length."""
    longest = max(len(layout.ids) for layout in layouts)
    padded = [layout.ids + [0] * (longest - len(layout.ids)) for layout in layouts]
    mask = [[1] * len(layout.ids) + [0] * (longest - len(layout.ids)) for layout in layouts]
    return Batch(torch.tensor(padded, device=device), torch.tensor(mask, device=device),
                 torch.tensor([layout.slots for layout in layouts], dtype=torch.long, device=device),
                 torch.tensor([layout.answer for layout in layouts], device=device))


def batches(layouts: Sequence[Layout], device: torch.device, size: int = 256) -> Iterator[tuple[list[int], Batch]]:
    """Batches of similar length, each with the indices of its layouts."""
    order = sorted(range(len(layouts)), key=lambda i: len(layouts[i].ids))
    for at in range(0, len(order), size):
        chosen = order[at:at + size]
        yield chosen, collate([layouts[i] for i in chosen], device)
