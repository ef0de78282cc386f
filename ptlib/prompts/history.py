"""How a prompt was made: one frozen record for each way to make a prompt.

``Prompt.history`` is the record, and ``Prompt.meta`` is the same as plain JSON, which ``Prompt.save`` writes. A record
contains the record of the prompt that was there before. So ``history.tuning_seed`` of a transferred and refined prompt
is the seed that its source prompt was tuned with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

__all__ = ["Averaged", "Calibrated", "Carried", "Demonstrated", "Moved", "Origin", "Other", "Record", "Refined",
           "Reweighted", "Selected", "Tuned", "history_of"]


@dataclass(frozen=True)
class Record:
    """The base class of all records, which are frozen dataclasses."""

    @property
    def tuning_seed(self) -> int | None:
        """The seed that the prompt was tuned with; None if it was not tuned or the seed is unknown."""
        return None

    @property
    def passes(self) -> int:
        """Forward plus backward passes on the prompt's own LM, in sequences; 0 if the LM was not run."""
        return 0

    def as_json(self) -> dict[str, Any]:
        """The record as plain JSON, for ``history_of``."""
        return {column.name: plain(getattr(self, column.name)) for column in fields(self)}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` returned."""
        given = {column.name: meta[column.name] for column in fields(cls) if column.name in meta}
        parts = given.get("dropped", {}).values()
        if not all(isinstance(count, int) for part in parts for count in part.values()):
            raise TypeError("the counts of dropped examples are not whole numbers")
        return cls(**{name: frozen(value) for name, value in given.items()})


def frozen(value: Any) -> Any:
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.as_json()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Other(Record):
    """A prompt that was made in any other way, or in an unknown way.

    The method may be "manual" (a template of words), "demonstrated" (the same, behind some facts), "random" or
    "untuned" (drawn at random), or "peft" (read from a PEFT checkpoint).

    Attributes:
        meta: ``Prompt.meta`` as it is.
    """

    meta: Mapping[str, Any]

    @property
    def method(self) -> str | None:
        """Its way, if the meta tells."""
        return self.meta.get("method")

    @property
    def tuning_seed(self) -> int | None:
        return self.meta.get("seed")

    def as_json(self) -> dict[str, Any]:
        return dict(self.meta)


@dataclass(frozen=True)
class Tuned(Record):
    """A prompt that ``tune`` made, with its options and its result.

    Attributes:
        noise: the largest level of noise. In prompts of ptlib 0.1.0 it was the only one.
        lms: the names of the LMs that it was tuned on.
        train, dev: the number of examples that were used.
        dev_p_at_1: P@1 on the dev examples, at the step that was kept.
        forwards, backwards: the number of sequences in forward and in backward passes, for each LM.
        dropped: {split: {reason: how many examples}} that could not be used. It is {} for prompts of ptlib 0.1.0.
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

    @property
    def passes(self) -> int:
        return self.forwards + self.backwards


@dataclass(frozen=True)
class Averaged(Record):
    """A mixture that ``average`` made of several.

    Attributes:
        parts: their records, which in JSON stand under ``KEY``.
    """

    KEY: ClassVar[str] = "averaged"

    parts: tuple[Record, ...]

    @property
    def tuning_seed(self) -> int | None:
        """The seed of the first part."""
        return self.parts[0].tuning_seed

    @property
    def passes(self) -> int:
        return sum(part.passes for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        return {self.KEY: [part.as_json() for part in self.parts]}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        return cls(tuple(map(history_of, meta[cls.KEY])))


@dataclass(frozen=True)
class Origin(Record):
    """One of the source prompts of a transfer.

    Attributes:
        lm, fingerprint: the name and the fingerprint of the source LM.
        meta: the record of the source prompt, as JSON.
        lost_weight, lacking: for a mixture, see ``Mixture.record``; None for free vectors.
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
    """A prompt that ``transfer`` made: the method, the sources and the quality of the match.

    Attributes:
        options: the method's options, including those that it chose itself.
        normalize: the normalisation of the vectors.
        anchors: how many anchors there were.
        weights: the weight of each source.
        target: the name of the target LM.
        fit: √R² on anchors that were left out, the mean over the vectors.
        fit_per_vector: the same for each vector.
        matching_loss: 1 − the cosine of the relative representations in source and target.
        seconds: how long the method took, for all prompts that were transferred in the same call.
        sources: the source prompts.
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
    """A prompt that ``refine`` made: how it learnt, what that cost, and the prompt that it started from.

    Attributes:
        method: ``"distill"`` or ``"few-shot"``.
        sources: the names of the source LMs that it learnt from.
        train: the number of inputs or examples that it learnt from.
        forwards, backwards: the number of sequences in the target's forward and backward passes.
        source_forwards: the number of sequences in the sources' forward passes.
        declined: whether the prompt stayed as it was, because the target was surer of its answers than the sources.
        start: the record of the prompt before refinement, as JSON. ``as_json`` calls it ``"from"``.
        dropped: {"examples" or "candidates": {reason: how many}} that could not be used. It is {} for prompts of ptlib
            0.1.0.
        batch_size: how many inputs or examples a step read.
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
    declined: bool = False
    batch_size: int = 16

    @property
    def history(self) -> Record:
        return history_of(self.start)

    @property
    def tuning_seed(self) -> int | None:
        return self.history.tuning_seed

    @property
    def passes(self) -> int:
        return self.forwards + self.backwards

    def as_json(self) -> dict[str, Any]:
        return {"from" if name == "start" else name: value for name, value in super().as_json().items()}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        return super().from_json({**meta, "start": meta["from"]})


@dataclass(frozen=True)
class Further(Record):
    """The base class of records of a prompt that was made from another one, and of what was done.

    In JSON, what was done stands beside the earlier record, under ``KEY``.

    Attributes:
        before: the record of the earlier prompt.
    """

    KEY: ClassVar[str]

    before: Record

    @property
    def tuning_seed(self) -> int | None:
        return self.before.tuning_seed

    @property
    def passes(self) -> int:
        return self.before.passes

    def as_json(self) -> dict[str, Any]:
        done = super().as_json()
        return {**done.pop("before"), self.KEY: done}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        before = history_of({name: value for name, value in meta.items() if name != cls.KEY})
        return super().from_json({**meta[cls.KEY], "before": before})


@dataclass(frozen=True)
class Selected(Further):
    """A prompt that ``select`` chose among several.

    Attributes:
        before: the record of the chosen prompt, also called ``chosen``.
        by: what its answers were compared with: the names of the sources, or "the other prompts".
        agreement: the agreement with those answers, from 0 to 1.
        among: the number of prompts to choose from.
        target_forwards: the number of sequences in the target's forward passes.
        dropped_candidates: the number of candidate words that are not one token of every LM.
    """

    KEY = "selected"

    by: tuple[str, ...] | str
    agreement: float
    among: int
    target_forwards: int
    dropped_candidates: int = 0

    @property
    def chosen(self) -> Record:
        return self.before

    @property
    def passes(self) -> int:
        return self.target_forwards + self.before.passes


@dataclass(frozen=True)
class Calibrated(Further):
    """A prompt that ``calibrate`` or ``calibrate_contextually`` gave offsets.

    Attributes:
        before: the record of the prompt without them.
        strength: λ, the part of the source's prior that was put in place of the target's.
        sources: the names of the LMs whose prior it is; () if the target's was only taken away.
        target_forwards, source_forwards: the number of sequences in the forward passes.
    """

    KEY = "calibrated"

    strength: float
    sources: tuple[str, ...]
    target_forwards: int
    source_forwards: int

    @property
    def passes(self) -> int:
        return self.target_forwards + self.before.passes


@dataclass(frozen=True)
class Demonstrated(Further):
    """A prompt that ``demonstrate`` put behind inputs with the sources' answers.

    Attributes:
        before: the record of the prompt without them.
        shown: (input, answer) of each.
        sources: the names of the LMs that answered.
        source_forwards: the number of sequences in their forward passes.
    """

    KEY = "demonstrated"

    shown: tuple[tuple[str, str], ...]
    sources: tuple[str, ...]
    source_forwards: int


@dataclass(frozen=True)
class Carried(Further):
    """A mixture that ``Prompt.on`` computed for another LM. In JSON, its values stand beside the earlier record's.

    Attributes:
        before: the record of the prompt on the first LM.
        lost_weight, lacking: see ``Mixture.record``.
    """

    KEY = "lost_weight"

    lost_weight: float
    lacking: Mapping[str, float]

    @property
    def passes(self) -> int:
        """0: it takes no run of the other LM. What tuning cost, on every LM that it ran, ``before`` says."""
        return 0

    def as_json(self) -> dict[str, Any]:
        return {**self.before.as_json(), "lost_weight": self.lost_weight, "lacking": self.lacking}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        rest = {name: value for name, value in meta.items() if name not in ("lost_weight", "lacking")}
        return cls(history_of(rest), meta["lost_weight"], meta["lacking"])


@dataclass(frozen=True)
class Reweighted(Further):
    """A mixture whose weights somebody changed with ``Prompt.with_weights``.

    Attributes:
        before: the record of the prompt with its own weights.
        weights: (vector, word, weight) of each change, which in JSON stand directly under ``KEY``.
    """

    KEY = "reweighted"

    weights: tuple[tuple[int, str, float], ...]

    def as_json(self) -> dict[str, Any]:
        return {**self.before.as_json(), self.KEY: [list(change) for change in self.weights]}

    @classmethod
    def from_json(cls, meta: Mapping[str, Any]) -> Self:
        rest = {name: value for name, value in meta.items() if name != cls.KEY}
        return cls(history_of(rest), tuple((vector, word, weight) for vector, word, weight in meta[cls.KEY]))


def history_of(meta: Mapping[str, Any]) -> Record:
    """The record in a prompt's ``meta``, which this version or ptlib 0.1.0 wrote."""
    kinds = (*((kind.KEY, kind) for kind in (Calibrated, Demonstrated, Selected, Carried, Reweighted)),
             ("from", Refined), ("matching_loss", Moved), (Averaged.KEY, Averaged), ("parameterization", Tuned))
    kind = next((kind for mark, kind in kinds if mark in meta), None)
    try:
        return Other(meta) if kind is None else kind.from_json(meta)
    except (TypeError, KeyError, IndexError, AttributeError):  # another version wrote it, so its format is unknown
        return Other(meta)
