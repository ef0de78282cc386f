"""Where a prompt came from: a frozen record for each way to get one.

``Prompt.meta`` holds a record as plain JSON, as it is saved; ``Prompt.history`` is the record itself. Each record holds
the ones before it, so that ``history.tuning_seed`` of a moved and refined prompt is that of its tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

__all__ = ["Carried", "Moved", "Origin", "Other", "Record", "Refined", "Selected", "Tuned", "history_of"]


@dataclass(frozen=True)
class Record:
    """What all records have; each is a frozen dataclass."""

    @property
    def tuning_seed(self) -> int | None:
        """The seed that the prompt was tuned with; None where it was not, or where that is not known."""
        return None

    def as_json(self) -> dict[str, Any]:
        """What ``history_of`` reads back."""
        return {about.name: plain(getattr(self, about.name)) for about in fields(self)}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        given = {about.name: meta[about.name] for about in fields(cls) if about.name in meta}
        parts = given.get("dropped", {}).values()
        if not all(isinstance(count, int) for part in parts for count in part.values()):
            raise TypeError("dropped examples are counted")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in given.items()})


def plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_json()
    return [plain(one) for one in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Other(Record):
    """Any other way: written by hand ("manual"), drawn ("random", "untuned"), read from PEFT ("peft"), not known.

    Attributes:
        meta: all that is noted.
    """

    meta: Mapping[str, Any]

    @property
    def tuning_seed(self) -> int | None:
        return self.meta.get("seed")

    def as_json(self) -> dict[str, Any]:
        return dict(self.meta)


@dataclass(frozen=True)
class Tuned(Record):
    """``tune``: the options as they were, and what it found.

    Attributes:
        train, dev: how many examples counted.
        dev_p_at_1: P@1 on the dev examples, of the state that was kept.
        forwards, backwards: sequences that each LM has read, and gone back through.
        dropped: {part: {what objects are: how many examples}} that did not count; {} of 0.1.0.
    """

    parameterization: str
    init: str
    epochs: int
    lr: float
    noise: float
    lms: tuple[str, ...]
    seed: int
    train: int
    dev: int
    dev_p_at_1: float
    forwards: int
    backwards: int
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    method: str = "tuned"

    @property
    def tuning_seed(self) -> int | None:
        return self.seed


@dataclass(frozen=True)
class Origin(Record):
    """The prompt of one source that was moved.

    Attributes:
        lm, fingerprint: the source.
        meta: the record of the prompt there, as JSON.
        lost_weight, lacking: of a mixture, see ``Mixture.record``; None of free vectors.
    """

    lm: str
    fingerprint: str
    meta: Mapping[str, Any]
    lost_weight: float | None = None
    lacking: Mapping[str, float] | None = None

    @property
    def history(self) -> Record:
        return history_of(self.meta)

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in super().as_json().items() if value is not None}


@dataclass(frozen=True)
class Moved(Record):
    """``transfer``: how, from where, and what it says of itself.

    Attributes:
        options: of the method, with what it chose.
        anchors: how many.
        weights: one a source.
        target: name of the LM.
        fit, fit_per_vector: √R² on anchors that were not used, the mean and each vector's.
        matching_loss: 1 − cosine of the relative representations.
        seconds: of the method, for all prompts that were moved together.
    """

    method: str
    options: Mapping[str, Any]
    normalize: str
    anchors: int
    weights: tuple[float, ...]
    seed: int
    target: str
    seconds: float
    fit: float
    fit_per_vector: tuple[float, ...]
    matching_loss: float
    sources: tuple[Origin, ...]

    @property
    def tuning_seed(self) -> int | None:
        return self.sources[0].history.tuning_seed

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        return super().from_json({**meta, "sources": tuple(Origin.from_json(origin) for origin in meta["sources"])})


@dataclass(frozen=True)
class Refined(Record):
    """``refine``: what it was taught by, what it cost, and what it started from.

    Attributes:
        method: ``"distill"`` or ``"few-shot"``.
        sources: names of the LMs that taught.
        train: how many inputs or examples it learnt from.
        forwards, backwards, source_forwards: sequences through the LM and through the sources.
        dropped: {"examples": {what objects are: how many}} that did not count; {} of 0.1.0.
        start: the record of the prompt before, as JSON; there it is called ``"from"``.
    """

    method: str
    epochs: int
    lr: float
    seed: int
    sources: tuple[str, ...]
    train: int
    forwards: int
    backwards: int
    source_forwards: int
    start: Mapping[str, Any]
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def history(self) -> Record:
        return history_of(self.start)

    @property
    def tuning_seed(self) -> int | None:
        return self.history.tuning_seed

    def as_json(self) -> dict[str, Any]:
        found = super().as_json()
        return {"from" if name == "start" else name: value for name, value in found.items()}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        return super().from_json({**meta, "start": meta["from"]})


@dataclass(frozen=True)
class Selected(Record):
    """``select``: which prompt it took, out of how many, by what.

    Attributes:
        chosen: the record of the prompt that was taken.
        by: names of the sources whose answers counted, or "the other prompts".
        agreement: with their answers, from 0 to 1.
        among: how many prompts there were.
        target_forwards: inputs that the target has read for it.
        dropped_candidates: words that are not one token of every LM.
    """

    chosen: Record
    by: tuple[str, ...] | str
    agreement: float
    among: int
    target_forwards: int
    dropped_candidates: int = 0

    @property
    def tuning_seed(self) -> int | None:
        return self.chosen.tuning_seed

    def as_json(self) -> dict[str, Any]:
        about = super().as_json()
        return {**about.pop("chosen"), "selected": about}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        rest = {name: value for name, value in meta.items() if name != "selected"}
        return super().from_json({**meta["selected"], "chosen": history_of(rest)})


@dataclass(frozen=True)
class Carried(Record):
    """``prompt.on(lm)``: the words of a mixture on another LM.

    Attributes:
        before: the record of the prompt there.
        lost_weight, lacking: see ``Mixture.record``.
    """

    before: Record
    lost_weight: float
    lacking: Mapping[str, float]

    @property
    def tuning_seed(self) -> int | None:
        return self.before.tuning_seed

    def as_json(self) -> dict[str, Any]:
        about = super().as_json()
        return {**about.pop("before"), **about}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        rest = {name: value for name, value in meta.items() if name not in ("lost_weight", "lacking")}
        return super().from_json({**meta, "before": history_of(rest)})


def history_of(meta: Mapping[str, Any]) -> Record:
    """The record that ``as_json`` has written, of this version or of 0.1.0."""
    kinds = (("selected", Selected), ("lost_weight", Carried), ("from", Refined), ("matching_loss", Moved),
             ("parameterization", Tuned))
    kind = next((kind for mark, kind in kinds if mark in meta), None)
    try:
        return Other(meta) if kind is None else kind.from_json(meta)
    except (TypeError, KeyError, IndexError, AttributeError):  # of another version: nothing is known for sure
        return Other(meta)
