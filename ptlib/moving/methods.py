"""The transfer methods: one registered function for each, with its options and their allowed values.

To add a method, write a function that takes a ``Move`` and returns vectors (n, m, d) and a dict of what it chose. Then
register it with ``@method``. ``transfer`` accepts it as ``method=`` from then on, its keywords become its options, and
the tests that run over all methods cover it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import PromptMismatchError, PromptTransferError
from ..models.lm import LanguageModel
from ..prompts.mixtures import Mixture
from . import maps
from .anchors import Anchors
from .relative import mean_relative, relative_representation, top_k_mask
from .search import (
    NORMALIZATIONS,
    Moments,
    choose_ridge,
    gradient_search,
    normalize_prompt,
    ridge_fits,
    split_moments,
)

__all__ = ["METHODS", "Method", "Move", "checked_options", "method_of"]


@dataclass(frozen=True, eq=False)
class Move:
    """A transfer to be made: what every method starts from. It has n prompts of m vectors for each source.

    Attributes:
        vectors: one tensor (n, m, d_i) for each source.
        mixtures: n lists with one entry for each source: the mixture of words behind the vectors, or None for free
            vectors.
        salts: n strings that make the random numbers of each prompt its own.
        weights: one for each source; they sum to 1.
        normalize: the normalisation, one of ``NORMALIZATIONS``.
        seed: of everything random.
    """

    vectors: list[Tensor]
    mixtures: list[list[Mixture | None]]
    salts: list[str]
    sources: list[LanguageModel]
    target: LanguageModel
    anchors: Anchors
    weights: list[float]
    normalize: str
    seed: int

    @cached_property
    def source_anchors(self) -> list[Tensor]:
        """The embeddings of the anchors in each source, (k, d_i), on the target's device."""
        return [self.anchors.of(lm).to(self.target.device) for lm in self.sources]

    @cached_property
    def target_anchors(self) -> Tensor:
        """The embeddings of the anchors in the target, (k, d)."""
        return self.anchors.of(self.target)

    @cached_property
    def relatives(self) -> list[Tensor]:
        """The relative representations of each source's vectors, (n, m, k)."""
        return [relative_representation(v, anchors) for v, anchors in zip(self.vectors, self.source_anchors,
                                                                          strict=True)]

    @cached_property
    def relative(self) -> Tensor:
        """The mean relative representation of all sources, (n, m, k)."""
        return mean_relative(self.relatives, self.weights)

    @cached_property
    def moments(self) -> tuple[Moments, Moments]:
        """``split_moments`` of the prompts: of the anchors that maps are fitted on, and of those that judge the fit."""
        return split_moments(self.relative, self.target_anchors, seed=self.seed)

    @cached_property
    def fit(self) -> Tensor:
        """``held_out_fit`` of the prompts, (len(RIDGES), n, m)."""
        return ridge_fits(*self.moments)

    def scaled(self, found: Tensor) -> Tensor:
        """The vectors that a method found, (n, m, d), normalised to the scale of the target's embeddings."""
        if self.normalize == "none":
            return found
        centered = self.normalize == "centered-norm"  # the origin is then the mean of each LM's anchors
        tables = [*self.source_anchors, self.target_anchors]
        origins = [table.mean(0) if centered else torch.zeros_like(table[0]) for table in tables]
        mean_norms = [(table - origin).norm(dim=-1).mean() for table, origin in zip(tables, origins, strict=True)]
        relative_norms = [w * (v - origin).norm(dim=-1) / mean_norm for w, v, origin, mean_norm in
                          zip(self.weights, self.vectors, origins[:-1], mean_norms[:-1], strict=True)]
        return normalize_prompt(found, self.target.given_embeddings, self.normalize,
                                sum(relative_norms) * mean_norms[-1], origins[-1])

    def masked(self, top_k: int | None) -> tuple[Tensor, Tensor | None]:
        """The relative representation on each vector's ``top_k`` anchors, (n, m, k), and the mask of these anchors.

        The top anchors are those with the highest mean similarity over the sources. Without ``top_k``, all anchors
        count and the mask is None.
        """
        if top_k is None:
            return self.relative, None
        mask = top_k_mask(self.relative, top_k)
        return mean_relative([relative * mask for relative in self.relatives], self.weights), mask

    def through(self, maps: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        """Each source's vectors after its own map, averaged with the weights: (n, m, d)."""
        mapped = (w * map_of_source(v) for w, map_of_source, v in zip(self.weights, maps, self.vectors, strict=True))
        return sum(mapped, start=torch.zeros(()))


# --- the registry ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """The values that an option accepts, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


def is_finite(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:
        return False


COUNT = Kind("a whole number above 0", lambda v: isinstance(v, Integral) and int(v) >= 1)
COUNT_OR_ALL = Kind("None or a whole number of at least 1", lambda v: v is None or COUNT.holds(v))
STEPS = Kind("a whole number of at least 0", lambda v: isinstance(v, Integral) and int(v) >= 0)
RATE = Kind("a number above 0", lambda v: is_finite(v) and float(v) > 0)
RIDGE = Kind("'auto' or a number of at least 0", lambda v: v == "auto" or (is_finite(v) and float(v) >= 0))
SWITCH = Kind("True or False", lambda v: isinstance(v, bool))


Found = tuple[Tensor, dict[str, Any]]  # vectors (n, m, d), and the options that the method chose itself


@dataclass(frozen=True)
class Method:
    """A way to transfer prompts.

    Attributes:
        function: takes a ``Move``; returns vectors (n, m, d) and a dict of what it chose. Its keywords are its options.
        kinds: {option: the values that it accepts}.
        normalize: the default normalisation. "none" means that the method's vectors already have the scale of the
            target's embeddings. Then they are never normalised, even if the caller asks for it.
        needs_mixtures: whether the method transfers only mixtures of words.
    """

    function: Callable[..., Found]
    kinds: Mapping[str, Kind]
    normalize: str = "affine"
    needs_mixtures: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """{option: its default}."""
        parameters = inspect.signature(self.function).parameters
        return {name: parameter.default for name, parameter in parameters.items() if name != "move"}


METHODS: dict[str, Method] = {}


def method(name: str, *, normalize: str = "affine", needs_mixtures: bool = False,
           **kinds: Kind) -> Callable[[Callable[..., Found]], Callable[..., Found]]:
    """Register a function as the method of this name."""

    def register(function: Callable[..., Found]) -> Callable[..., Found]:
        METHODS[name] = Method(function, kinds, normalize, needs_mixtures)
        return function

    return register


def method_of(name: str) -> Method:
    """The method with this name.

    Raises:
        PromptTransferError: there is no such method.
    """
    if name not in METHODS:
        raise PromptTransferError(f"method={name!r}; expected 'auto' or one of {', '.join(METHODS)}")
    return METHODS[name]


def checked_options(name: str, normalize: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method: those given, and defaults for the rest.

    Raises:
        PromptTransferError: the method, an option or the normalisation is unknown, or a value is not allowed.
    """
    own = method_of(name)
    if normalize not in NORMALIZATIONS:
        raise PromptTransferError(f"normalize={normalize!r}; expected 'auto' or one of {', '.join(NORMALIZATIONS)}")
    if normalize == "affine-in-loss" and name != "gradient":
        raise PromptTransferError(f"normalize='affine-in-loss' with method={name!r}; only 'gradient' normalises in its "
                                  "loss: use normalize='affine'")
    options = own.options
    if unknown := given.keys() - options.keys():
        raise PromptTransferError(f"method {name!r} has no option {', '.join(sorted(unknown))}; it has "
                                  f"{', '.join(options) or 'none'}")
    for option, value in given.items():
        kind = own.kinds[option]
        if not kind.holds(value):
            raise PromptTransferError(f"{option}={value!r}; expected {kind.words}")
    return options | dict(given)


# --- the methods ----------------------------------------------------------------------------------


@method("closed-form", ridge=RIDGE, center=SWITCH, top_k=COUNT_OR_ALL)
def closed_form_method(move: Move, ridge: float | Literal["auto"] = "auto", center: bool = False,
                       top_k: int | None = None) -> Found:
    """Solve for the optimum of the paper's search (exactly so at ridge 0)."""
    relative, mask = move.masked(top_k)
    fitted, held = move.moments if mask is None else split_moments(relative, move.target_anchors, mask, move.seed)
    if ridge == "auto":
        ridge = choose_ridge(move.fit if mask is None and not center else ridge_fits(fitted, held, center))
    return (fitted + held).solve(ridge, center), {"ridge": ridge}


@method("gradient", steps=STEPS, lr=RATE, top_k=COUNT_OR_ALL, progress=SWITCH)
def gradient_method(move: Move, steps: int = 2000, lr: float = 5e-3, top_k: int | None = None,
                    progress: bool = False) -> Found:
    """The paper's gradient search: always all ``steps``, without early stopping."""
    relative, mask = move.masked(top_k)
    return gradient_search(relative, move.target_anchors, move.target.given_embeddings, steps=steps, lr=lr, mask=mask,
                           normalize_in_loss=move.normalize == "affine-in-loss", seed=move.seed, progress=progress), {}


@method("linear", ridge=RIDGE)
def linear_method(move: Move, ridge: float | Literal["auto"] = "auto") -> Found:
    """Ridge regression from the source's anchors to the target's."""
    learnt, ridges = zip(*(maps.ridge_map(x, move.target_anchors, ridge, move.seed) for x in move.source_anchors),
                         strict=True)
    return move.through(learnt), {"ridge": ridges[0] if len(ridges) == 1 else list(ridges)}


@method("local", neighbours=COUNT, local_ridge=RATE)
def local_method(move: Move, neighbours: int = 500, local_ridge: float = 1.0) -> Found:
    """Ridge regression, corrected for each vector by the nearest words."""
    return move.through([maps.local_map(x, move.target_anchors, neighbours=neighbours, local_ridge=local_ridge,
                                        seed=move.seed) for x in move.source_anchors]), {}


@method("procrustes", whiten=SWITCH)
def procrustes_method(move: Move, whiten: bool = False) -> Found:
    """The orthogonal map from the source's anchors to the target's."""
    return move.through([maps.procrustes_map(x, move.target_anchors, whiten) for x in move.source_anchors]), {}


@method("projector", hidden=COUNT, epochs=COUNT, lr=RATE)
def projector_method(move: Move, hidden: int = 256, epochs: int = 50, lr: float = 1e-3) -> Found:
    """A perceptron from the source's anchors to the target's."""
    learnt, records = zip(*(maps.projector(x, move.target_anchors, hidden=hidden, epochs=epochs, lr=lr, seed=move.seed)
                            for x in move.source_anchors), strict=True)
    return move.through(learnt), {"trained": list(records)}


@method("weighted-sum", top_k=COUNT_OR_ALL)
def weighted_sum_method(move: Move, top_k: int | None = None) -> Found:
    """The target's anchors, weighted by the source's cosines."""
    relative, _ = move.masked(top_k)
    return maps.weighted_sum(relative, move.target_anchors), {}


@method("discretize", normalize="none")
def discretize_method(move: Move) -> Found:
    """The target's embedding of the anchor nearest to each vector."""
    return maps.nearest_anchors(move.relative, move.target_anchors), {}


@method("copy", normalize="none")
def copy_method(move: Move) -> Found:
    """The source's vectors, unchanged."""
    if len(move.sources) > 1:
        raise PromptMismatchError(f"method 'copy' takes prompts from one source, but got {len(move.sources)} sources; "
                                  "use another method to combine them")
    return maps.copy_vectors(move.vectors[0], move.sources[0], move.target), {}


@method("mixture", normalize="none", needs_mixtures=True, num_words=COUNT_OR_ALL)
def mixture_method(move: Move, num_words: int | None = None) -> Found:
    """The same words with the same weights, in the target's embeddings. ``num_words`` keeps each vector's heaviest."""
    rows = [[mixture for mixture in row if mixture is not None] for row in move.mixtures]  # none is None; mypy asks
    return torch.stack([sum((w * mixture.truncated(num_words).on(move.target)
                             for w, mixture in zip(move.weights, row, strict=True)), start=torch.zeros(()))
                        for row in rows]), {}


@method("random", normalize="none")
def random_method(move: Move) -> Found:
    """Random vectors on the scale of the target's embeddings."""
    return maps.draw_random(move.salts, move.vectors[0].shape[1], move.target, move.seed), {}
