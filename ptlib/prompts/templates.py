"""Templates such as ``"[X] [V]*5 [Y] ."``: where subject, prompt vectors and answer stand in a sentence."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from ..errors import ModelLoadError, PromptMismatchError
from ..models.lm import LanguageModel
from ..models.vocabulary import APART

__all__ = ["Batch", "Template", "batches", "collate"]

SLOT = re.compile(r"(\[X\]|\[Y\]|\[V\](?:\*\d+)?)")


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        text: as written. ``[X]`` is the subject, ``[Y]`` the answer, ``[V]`` one prompt vector, ``[V]*5`` five.
    """

    text: str

    def __post_init__(self) -> None:
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
    def place(self) -> str:
        """The text right before the answer, which decides by what tokens a word is written there; for ``tokenize_at``.

        A space, mostly; "" at the start of a text; the end of what stands there otherwise, a quotation mark, say. What
        stands in [X] or [V] is not known: directly behind it, a word is taken to be as it is behind a quotation mark.
        """
        before = self.text[:self.text.index("[Y]")]
        if not before or before.endswith(" "):
            return before[-1:]
        last = SLOT.split(before)[-1]
        return last.split(" ")[-1] or APART

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
        texts = tokenize_parts(lm, parts)
        taken = (len(start) + len(end) + sum(len(ids) for ids in texts.values())
                 + sum(slot_count(part) or part == "[Y]" for part in parts))
        layouts = []
        for subject_ids in shortened(lm, self.text, tokenize_subjects(lm, parts, subjects), taken):
            ids, answer = list(start), None
            slots: list[int] = []
            for i, part in enumerate(parts):
                if part == "[X]":
                    ids += subject_ids
                elif part == "[Y]":
                    answer = len(ids)
                    ids.append(lm.blank_id)
                elif slot_count(part):
                    slots += range(len(ids), len(ids) + slot_count(part))
                    ids += [lm.blank_id] * slot_count(part)
                else:
                    ids += texts[i]
            ids += end
            if not ids:
                raise PromptMismatchError(f"template {self.text!r} with an empty subject has no token before [Y] for "
                                          f"{lm.name} to predict it from; put words or [V] there")
            layouts.append(Layout(ids, slots, len(ids) - 1 if answer is None else answer))
        check_ids(lm, layouts)
        return layouts


def tokenize_parts(lm: LanguageModel, parts: Sequence[str]) -> dict[int, list[int]]:
    """{index in ``parts``: token ids} of the text between the slots: the same for every subject, tokenized once.

    A space belongs to the token that follows it, not to the slot before it.
    """
    texts = {}
    for i, part in enumerate(parts):
        if not SLOT.fullmatch(part):
            text = " " * part.startswith(" ") + part.strip(" ")
            tokenize = lm.tokenize_many if i == 0 else lm.tokenize_after
            texts[i] = tokenize([text], special=True)[0] if part.strip(" ") else []
    return texts


def tokenize_subjects(lm: LanguageModel, parts: Sequence[str], subjects: Sequence[str]) -> list[list[int]]:
    """Token ids of the subjects as they are at their place in the sentence; whatever they hold is plain text."""
    subjects = [subject.strip() for subject in subjects]
    at = parts.index("[X]")
    before = parts[at - 1] if at else ""
    if before.endswith(" "):
        return lm.tokenize_after(" " * bool(subject) + subject for subject in subjects)
    if not before or SLOT.fullmatch(before):
        return lm.tokenize_many(subjects)
    return lm.tokenize_after(subjects, before=before.split(" ")[-1])  # in quotes, say


def shortened(lm: LanguageModel, template: str, subjects: list[list[int]], taken: int) -> list[list[int]]:
    """Subjects without the end that the model has no position for: a long text loses it, the prompt nothing."""
    if lm.max_length is None:
        return subjects
    room = lm.max_length - taken
    if room < 0:
        raise PromptMismatchError(f"template {template!r} takes {taken} tokens beside its subject, of the "
                                  f"{lm.max_length} that {lm.name} reads at once; shorten it")
    long = sum(len(ids) > room for ids in subjects)
    if long:
        warnings.warn(f"{long} of {len(subjects)} subjects are cut to {room} tokens: {lm.name} reads {lm.max_length} "
                      "at once", stacklevel=3)
    return [ids[:room] for ids in subjects]


def check_ids(lm: LanguageModel, layouts: Iterable[Layout]) -> None:
    """Raise ModelLoadError for a token that the tokenizer has and the model has not."""
    highest = max((max(layout.ids) for layout in layouts), default=0)
    if highest >= lm.vocab_size:
        token = lm.tokenizer.convert_ids_to_tokens(highest)
        raise ModelLoadError(f"the tokenizer of {lm.name} gives the token {token!r} the id {highest}, but the "
                             f"model has {lm.vocab_size} embeddings; expected tokenizer and model of one checkpoint, "
                             "or texts without that token")


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


def batches(layouts: Sequence[Layout], lm: LanguageModel, size: int = 256) -> Iterator[tuple[list[int], Batch]]:
    """Batches of similar length, each with the indices of its layouts; of equal length where an LM reads padding."""
    assert lm.proof is not None  # layouts are of a whole LM, see ``LanguageModel.max_length``
    order = sorted(range(len(layouts)), key=lambda i: len(layouts[i].ids))
    alike = [order] if lm.proof.ignores_padding else [
        list(group) for _, group in groupby(order, key=lambda i: len(layouts[i].ids))]
    for group in alike:
        for at in range(0, len(group), size):
            chosen = group[at:at + size]
            yield chosen, collate([layouts[i] for i in chosen], lm.device)
