"""Templates such as ``"[X] [V]*5 [Y] ."``: the order of subject, prompt vectors, words and answer.

``Template.layout`` turns a template and subjects into token ids, and ``batches`` pads them to tensors.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

from ..errors import ModelLoadError, PromptMismatchError
from ..models.lm import LanguageModel
from ..models.prefixes import common_length
from ..models.vocabulary import APART

__all__ = ["Batch", "Template", "batches", "collate"]

SLOT = re.compile(r"(\[X\]|\[Y\]|\[V\](?:\*\d+)?)")
OPENING = ". "  # stands before a subject that an LM would hardly read otherwise


@dataclass(frozen=True)
class Template:
    """A template.

    Attributes:
        text: the template as written. ``[X]`` is the subject, ``[Y]`` the answer, ``[V]`` one prompt vector, and
            ``[V]*5`` five prompt vectors.

    Raises:
        PromptMismatchError: the text does not have exactly one [X] and one [Y], or has [V]* without a count.
    """

    text: str

    def __post_init__(self) -> None:
        for slot in ("[X]", "[Y]"):
            if self.text.count(slot) != 1:
                raise PromptMismatchError(f"template {self.text!r} has {slot} {self.text.count(slot)} times; expected "
                                          "once each of [X] and [Y], as in '[X] [V]*5 [Y] .'")
        if re.search(r"\[V\]\*(?!0*[1-9])", self.text):
            raise PromptMismatchError(f"template {self.text!r} has [V]* without a count of at least 1; expected a "
                                      "count, as in '[X] [V]*5 [Y] .'")

    @property
    def parts(self) -> list[str]:
        """The slots and the text between them."""
        return [part for part in SLOT.split(self.text) if part]

    @property
    def place(self) -> str:
        """The text right before the answer, for ``LanguageModel.tokenize_at``. A word's tokens there depend on it.

        It is usually a space. It is "" at the start of a text, and otherwise the end of the text before [Y], such as a
        quotation mark. The content of [X] and [V] is not known. A word directly after them is tokenized as after a
        quotation mark.
        """
        before = self.text[:self.text.index("[Y]")]
        if not before or before.endswith(" "):
            return before[-1:]
        last = SLOT.split(before)[-1]
        return last.split(" ")[-1] or APART

    @property
    def num_vectors(self) -> int:
        """The number of prompt vectors."""
        return sum(slot_count(part) for part in self.parts)

    def layout(self, lm: LanguageModel, subjects: Sequence[str]) -> list[Layout]:
        """Fill the template with each subject and tokenize the whole as running text.

        A causal LM predicts the answer from the token before it, so its sequence ends there. If it would hardly read
        a subject that stands first (``lm.loses_first_token``), a full stop stands before it.

        Raises:
            PromptMismatchError: the template does not suit the LM: it is too long, or a causal LM would need slots
                after [Y], or no token stands before [Y].
            ModelLoadError: the LM has no embedding for some token.
        """
        parts, start, end = self.read_by(lm)
        texts = tokenize_parts(lm, parts)
        layouts = []
        taken = count_tokens(parts, texts, start, end)
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

    def read_by(self, lm: LanguageModel) -> tuple[list[str], list[int], list[int]]:
        """The parts that an LM reads, and the token ids that its tokenizer puts before and after them.

        Raises:
            PromptMismatchError: a causal LM would need slots after [Y].
        """
        (start, end), parts = lm.frame, self.parts
        if lm.kind == "causal":
            cut = parts.index("[Y]")
            if "[X]" not in parts[:cut] or any(slot_count(part) for part in parts[cut:]):
                raise PromptMismatchError(f"template {self.text!r} has slots after [Y], which a causal LM "
                                          f"({lm.name}) does not see; put [Y] last")
            parts, end = parts[:cut], []
            blank = not parts[0].strip()  # a space before the first subject does not make it the second token
            if lm.loses_first_token and parts[blank] == "[X]":
                parts = [OPENING, *parts[blank:]]
        return parts, start, end

    def length(self, lm: LanguageModel) -> int:
        """How many tokens an LM reads, without those of the subject.

        Raises:
            PromptMismatchError: as ``read_by``.
        """
        parts, start, end = self.read_by(lm)
        return count_tokens(parts, tokenize_parts(lm, parts), start, end)


def count_tokens(parts: Sequence[str], texts: dict[int, list[int]], start: Sequence[int], end: Sequence[int]) -> int:
    """The number of tokens without those of the subject. Arguments are those of ``read_by`` and ``tokenize_parts``."""
    return (len(start) + len(end) + sum(map(len, texts.values()))
            + sum(slot_count(part) or part == "[Y]" for part in parts))


def tokenize_parts(lm: LanguageModel, parts: Sequence[str]) -> dict[int, list[int]]:
    """{index in ``parts``: token ids} of the text between the slots, which is the same for every subject.

    A space belongs to the token after it, so a space before a slot is left to the slot.
    """
    texts = {}
    for i, part in enumerate(parts):
        if not SLOT.fullmatch(part):
            text = " " * part.startswith(" ") + part.strip(" ")
            tokenize = lm.tokenize_many if i == 0 else lm.tokenize_after
            texts[i] = tokenize([text], special=True)[0] if part.strip(" ") else []
    return texts


def tokenize_subjects(lm: LanguageModel, parts: Sequence[str], subjects: Sequence[str]) -> list[list[int]]:
    """The token ids of the subjects at their place in the template. Special tokens in a subject are plain text."""
    subjects = [subject.strip() for subject in subjects]
    at = parts.index("[X]")
    before = parts[at - 1] if at else ""
    if before.endswith(" "):
        return lm.tokenize_after(" " * bool(subject) + subject for subject in subjects)
    if not before or SLOT.fullmatch(before):
        return lm.tokenize_many(subjects)
    return lm.tokenize_after(subjects, before=before.split(" ")[-1])  # such as a quotation mark


def shortened(lm: LanguageModel, template: str, subjects: list[list[int]], taken: int) -> list[list[int]]:
    """Cut the end of subjects that are too long for the model, so that the rest of the template always fits.

    Args:
        taken: the number of tokens of the template without the subject.

    Raises:
        PromptMismatchError: the template alone is too long.
    """
    if lm.max_length is None:
        return subjects
    room = lm.max_length - taken
    if room < 0:
        raise PromptMismatchError(f"template {template!r} has {taken} tokens without its subject, but {lm.name} reads "
                                  f"at most {lm.max_length}; shorten it")
    long = sum(len(ids) > room for ids in subjects)
    if long:
        warnings.warn(f"{long} of {len(subjects)} subjects are cut to {room} tokens, because {lm.name} reads at most "
                      f"{lm.max_length} tokens", stacklevel=3)
    return [ids[:room] for ids in subjects]


def check_ids(lm: LanguageModel, layouts: Iterable[Layout]) -> None:
    """Raise ModelLoadError if the tokenizer gives a token that the model has no embedding for."""
    highest = max((max(layout.ids) for layout in layouts), default=0)
    if highest >= lm.vocab_size:
        token = lm.tokenizer.convert_ids_to_tokens(highest)
        raise ModelLoadError(f"the tokenizer of {lm.name} gives the token {token!r} the id {highest}, but the "
                             f"model has {lm.vocab_size} embeddings; use the tokenizer of the same checkpoint, or "
                             "texts without that token")


def slot_count(part: str) -> int:
    """The number of prompt vectors in a part: 5 for ``[V]*5``, 1 for ``[V]``, 0 for anything else."""
    if not part.startswith("[V]"):
        return 0
    return int(part.removeprefix("[V]").lstrip("*") or 1)


@dataclass(frozen=True)
class Layout:
    """A template filled with a subject.

    Attributes:
        ids: token ids, with a placeholder for each prompt vector.
        slots: the positions of the prompt vectors.
        answer: the position at which the LM predicts the answer.
    """

    ids: list[int]
    slots: list[int]
    answer: int


@dataclass(frozen=True)
class Batch:
    """Layouts as tensors: ids (B, T), mask (B, T), slots (B, m), answers (B,).

    If ``before`` is given, it has the first token ids of each layout, and the tensors are of the rest. The first
    ``alike`` tokens and prompt vectors of the tensors are the same in all rows, and so is what stands before them.
    """

    ids: Tensor
    mask: Tensor
    slots: Tensor
    answers: Tensor
    before: list[tuple[int, ...]] | None = None
    alike: int = 0

    def logits(self, lm: LanguageModel, vectors: Tensor, words: Tensor | None = None) -> Tensor:
        """The logits at the answer slots, (B, V), as ``LanguageModel.answer_logits`` gives them for the vectors.

        Given ``words``, n token ids, (B, n).
        """
        ids, mask, slots, answers, past = self.ids, self.mask, self.slots, self.answers, None
        once = self.alike and vectors.dim() == 2  # the same vectors for all: one row's reading serves all of them
        if self.before is not None:
            assert lm.prefixes is not None
            past = lm.prefixes.cache(self.before[:1] if once else self.before)
        if once:
            assert lm.prefixes is not None
            first, m = self.alike, int((slots[0] < self.alike).sum())
            past = lm.prefixes.after(lm.embedded(ids[:1, :first], slots[:1, :m], vectors[:m]), len(ids), past)
            ids, mask, slots, answers = ids[:, first:], mask[:, first:], slots[:, m:] - first, answers - first
            vectors = vectors[m:]
        return lm.answer_logits(ids, mask, slots, vectors, answers, past, words)


def begin_alike(layouts: Sequence[Layout]) -> int:
    """How many tokens and prompt vectors before the answer slot all layouts begin with, such as demonstrations."""
    marked = []
    for layout in layouts:
        ids = list(layout.ids)
        for slot in layout.slots:
            ids[slot] = -1  # whatever token holds the place
        marked.append(ids[:layout.answer])
    return common_length(marked)


def collate_after_prefixes(layouts: Sequence[Layout], device: torch.device) -> Batch:
    """Make a batch of layouts without what an LM can read beforehand.

    That is what stands before the first prompt vector, which an LM remembers for every prompt; in a text without
    vectors, what all layouts begin with. If they begin alike beyond a vector, that is counted and not left out.
    """
    begin, slots = begin_alike(layouts), layouts[0].slots  # all have as many vectors
    cuts = [layout.slots[0] if slots else begin for layout in layouts]
    alike = max(0, begin - cuts[0]) if len(layouts) > 1 else 0
    if not any(cuts):
        return replace(collate(layouts, device), alike=alike)
    rests = [Layout(layout.ids[cut:], [slot - cut for slot in layout.slots], layout.answer - cut)
             for layout, cut in zip(layouts, cuts, strict=True)]
    before = [tuple(layout.ids[:cut]) for layout, cut in zip(layouts, cuts, strict=True)]
    return replace(collate(rests, device), before=before, alike=alike)


def collate(layouts: Sequence[Layout], device: torch.device) -> Batch:
    """Make a batch of layouts, padded on the right to the same length."""
    longest = max(len(layout.ids) for layout in layouts)
    padded = [layout.ids + [0] * (longest - len(layout.ids)) for layout in layouts]
    mask = [[1] * len(layout.ids) + [0] * (longest - len(layout.ids)) for layout in layouts]
    return Batch(torch.tensor(padded, device=device), torch.tensor(mask, device=device),
                 torch.tensor([layout.slots for layout in layouts], dtype=torch.long, device=device),
                 torch.tensor([layout.answer for layout in layouts], device=device))


def batches(layouts: Sequence[Layout], lm: LanguageModel,
            size: int | None = None) -> Iterator[tuple[list[int], Batch]]:
    """Batches of ``size`` layouts of similar length, each with the indices of its layouts. By default, 256 on the CPU.

    A GPU takes four times as many: with fewer, it waits for the next batch.

    If padding changes the LM's logits, the layouts in a batch have equal lengths. If the LM can go on from what it has
    read, they are made by ``collate_after_prefixes``.
    """
    assert lm.proof is not None  # ``Template.layout`` needs the whole LM for ``max_length``, so it was tested
    make = collate if lm.prefixes is None else collate_after_prefixes
    order = sorted(range(len(layouts)), key=lambda i: len(layouts[i].ids))
    groups = [order] if lm.proof.ignores_padding else [
        list(group) for _, group in groupby(order, key=lambda i: len(layouts[i].ids))]
    size = size or (256 if lm.device.type == "cpu" else 1024)
    for group in groups:
        for at in range(0, len(group), size):
            chosen = group[at:at + size]
            yield chosen, make([layouts[i] for i in chosen], lm.device)
