"""The methods: one registered function for each way to move a prompt, with its options and what they may be.

To add one, write a function from a ``Move`` to vectors (n, m, d) and what it chose, and register it: it is then a
``method=`` of ``transfer``, its keywords are its options, and every test of all methods covers it.
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
from .search import NORMALIZATIONS, choose_ridge, closed_form, gradient_search, held_out_fit, normalize_prompt

__all__ = ["METHODS", "Method", "Move", "checked_options"]


@dataclass(frozen=True, eq=False)
class Move:
    """What every method starts from: n prompts of m vectors in each source.

    Attributes:
        vectors: one (n, m, d) a source.
        mixtures: n lists, the words that each source's vectors are made of, None for free ones.
        salts: n names, for what is drawn at random.
        weights: one a source, with the sum 1.
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
    def tables(self) -> list[Tensor]:
        """The anchors in each source, (k, d_i), on the target's device."""
        return [self.anchors.of(lm).to(self.target.device) for lm in self.sources]

    @cached_property
    def table(self) -> Tensor:
        """The anchors in the target, (k, d)."""
        return self.anchors.of(self.target)

    @cached_property
    def relatives(self) -> list[Tensor]:
        return [relative_representation(v, table) for v, table in zip(self.vectors, self.tables, strict=True)]

    @cached_property
    def relative(self) -> Tensor:
        """What the sources say together, (n, m, k)."""
        return mean_relative(self.relatives, self.weights)

    @cached_property
    def fit(self) -> Tensor:
        """``held_out_fit`` of the prompts, (ridges, n, m)."""
        return held_out_fit(self.relative, self.table, seed=self.seed)

    def scaled(self, found: Tensor) -> Tensor:
        """``found``, (n, m, d), on the scale of the target's embeddings, by ``normalize``."""
        if self.normalize == "none":
            return found
        centered = self.normalize == "centered-norm"  # the origin is then the mean of each LM's anchors
        origins = [table.mean(0) if centered else torch.zeros_like(table[0]) for table in [*self.tables, self.table]]
        radii = [(table - origin).norm(dim=-1).mean() for table, origin in zip([*self.tables, self.table], origins,
                                                                               strict=True)]
        shares = [w * (v - origin).norm(dim=-1) / radius for w, v, origin, radius in
                  zip(self.weights, self.vectors, origins[:-1], radii[:-1], strict=True)]
        return normalize_prompt(found, self.target.given_embeddings, self.normalize, sum(shares) * radii[-1],
                                origins[-1])

    def masked(self, top_k: int | None) -> tuple[Tensor, Tensor | None]:
        """The relative representation on the anchors that all sources together find the most similar, and these."""
        if top_k is None:
            return self.relative, None
        mask = top_k_mask(self.relative, top_k)
        return mean_relative([relative * mask for relative in self.relatives], self.weights), mask

    def through(self, maps: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        """The weighted mean of each source's vectors after its map, (n, m, d)."""
        moved = (w * one(v) for w, one, v in zip(self.weights, maps, self.vectors, strict=True))
        return sum(moved, start=torch.zeros(()))


# --- the registry ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What an option may be, in words and as a test."""

    words: str
    holds: Callable[[Any], bool]


COUNT = Kind("a whole number above 0", lambda v: isinstance(v, Integral) and int(v) >= 1)
COUNT_OR_ALL = Kind("None or a whole number of at least 1", lambda v: v is None or COUNT.holds(v))
STEPS = Kind("a whole number of at least 0", lambda v: isinstance(v, Integral) and int(v) >= 0)
RATE = Kind("a number above 0", lambda v: isinstance(v, Real) and 0 < float(v) < math.inf)
RIDGE = Kind("'auto' or a number of at least 0",
             lambda v: v == "auto" or (isinstance(v, Real) and 0 <= float(v) < math.inf))
SWITCH = Kind("True or False", lambda v: isinstance(v, bool))


Found = tuple[Tensor, dict[str, Any]]  # vectors (n, m, d), and what a method chose


@dataclass(frozen=True)
class Method:
    """A way to move prompts.

    Attributes:
        function: from a ``Move`` to vectors (n, m, d) and a dict of what it chose; its keywords are its options.
        kinds: {option: what it may be}.
        normalize: its normalisation where the caller names none; "none" of a method whose vectors have the scale of
            the target's embeddings already: they are never normalised.
        needs_mixtures: whether it moves only prompts that are made of words.
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


def checked_options(name: str, normalize: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a method, with its defaults filled in.

    Raises:
        PromptTransferError: an unknown method, option or normalisation, or a value that it cannot have.
    """
    if name not in METHODS:
        raise PromptTransferError(f"method={name!r}; expected 'auto' or one of {', '.join(METHODS)}")
    if normalize not in NORMALIZATIONS:
        raise PromptTransferError(f"normalize={normalize!r}; expected 'auto' or one of {', '.join(NORMALIZATIONS)}")
    if normalize == "affine-in-loss" and name != "gradient":
        raise PromptTransferError(f"normalize='affine-in-loss' with method={name!r}; only 'gradient' has a loss "
                                  "to normalise in; use normalize='affine'")
    options = METHODS[name].options
    if unknown := given.keys() - options.keys():
        raise PromptTransferError(f"method {name!r} has no option {', '.join(sorted(unknown))}; it has "
                                  f"{', '.join(options) or 'none'}")
    for option, value in given.items():
        kind = METHODS[name].kinds[option]
        if not kind.holds(value):
            raise PromptTransferError(f"{option}={value!r}; expected {kind.words}")
    return options | dict(given)


# --- the methods ----------------------------------------------------------------------------------


@method("closed-form", ridge=RIDGE, center=SWITCH, top_k=COUNT_OR_ALL)
def closed_form_method(move: Move, ridge: float | Literal["auto"] = "auto", center: bool = False,
                       top_k: int | None = None) -> Found:
    """The optimum of the paper's search (at ridge 0), in one solve."""
    relative, mask = move.masked(top_k)
    if ridge == "auto":
        plain = mask is None and not center
        ridge = choose_ridge(move.fit if plain else held_out_fit(relative, move.table, center, mask, move.seed))
    return closed_form(relative, move.table, ridge, center, mask), {"ridge": ridge}


@method("gradient", steps=STEPS, lr=RATE, top_k=COUNT_OR_ALL, progress=SWITCH)
def gradient_method(move: Move, steps: int = 2000, lr: float = 5e-3, top_k: int | None = None,
                    progress: bool = False) -> Found:
    """The paper's search, which ends at its last step."""
    relative, mask = move.masked(top_k)
    return gradient_search(relative, move.table, move.target.given_embeddings, steps=steps, lr=lr, mask=mask,
                           normalize_in_loss=move.normalize == "affine-in-loss", seed=move.seed, progress=progress), {}


@method("linear", ridge=RIDGE)
def linear_method(move: Move, ridge: float | Literal["auto"] = "auto") -> Found:
    """Ridge regression from the source's anchors to the target's."""
    found, ridges = zip(*(maps.ridge_map(x, move.table, ridge, move.seed) for x in move.tables), strict=True)
    return move.through(found), {"ridge": ridges[0] if len(ridges) == 1 else list(ridges)}


@method("procrustes", whiten=SWITCH)
def procrustes_method(move: Move, whiten: bool = False) -> Found:
    """The orthogonal map from the source's anchors to the target's."""
    return move.through([maps.procrustes_map(x, move.table, whiten) for x in move.tables]), {}


@method("projector", hidden=COUNT, epochs=COUNT, lr=RATE)
def projector_method(move: Move, hidden: int = 256, epochs: int = 50, lr: float = 1e-3) -> Found:
    """A perceptron from the source's anchors to the target's."""
    found, records = zip(*(maps.projector(x, move.table, hidden=hidden, epochs=epochs, lr=lr, seed=move.seed)
                           for x in move.tables), strict=True)
    return move.through(found), {"trained": list(records)}


@method("weighted-sum", top_k=COUNT_OR_ALL)
def weighted_sum_method(move: Move, top_k: int | None = None) -> Found:
    """The target's anchors, weighted by the source's cosines."""
    relative, _ = move.masked(top_k)
    return maps.weighted_sum(relative, move.table), {}


@method("discretize", normalize="none")
def discretize_method(move: Move) -> Found:
    """The anchor nearest to each vector, in the target."""
    return maps.nearest_anchors(move.relative, move.table), {}


@method("copy", normalize="none")
def copy_method(move: Move) -> Found:
    """The source's vectors as they are."""
    if len(move.sources) > 1:
        raise PromptMismatchError(f"method 'copy' moves the prompt of one source, but got {len(move.sources)}: vectors "
                                  "of different LMs cannot be averaged as they are; use another method")
    return maps.copy_vectors(move.vectors[0], move.sources[0], move.target), {}


@method("mixture", normalize="none", needs_mixtures=True, num_words=COUNT_OR_ALL)
def mixture_method(move: Move, num_words: int | None = None) -> Found:
    """The same words with the same weights, in the target's embeddings; of each vector the ``num_words`` heaviest."""
    rows = [[mixture for mixture in row if mixture is not None] for row in move.mixtures]  # here all prompts have one
    return torch.stack([sum((w * mixture.truncated(num_words).on(move.target)
                             for w, mixture in zip(move.weights, row, strict=True)), start=torch.zeros(()))
                        for row in rows]), {}


@method("random", normalize="none")
def random_method(move: Move) -> Found:
    """Random vectors on the scale of the target's embeddings."""
    return maps.draw_random(move.salts, move.vectors[0].shape[1], move.target, move.seed), {}
