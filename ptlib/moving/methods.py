"""The ways to move a prompt: one function a method, and the options that each takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real

import torch
from torch import Tensor

from ..errors import PromptMismatchError, PromptTransferError
from ..models.lm import LanguageModel
from ..prompts.mixtures import Mixture
from . import maps as baselines
from .anchors import Anchors
from .relative import mean_relative, relative_representation, top_k_mask
from .search import NORMALIZATIONS, choose_ridge, closed_form, gradient_search, held_out_fit, normalize_prompt

__all__ = ["METHODS", "UNSCALED", "Move", "check_method"]


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
        return sum(w * one(v) for w, one, v in zip(self.weights, maps, self.vectors, strict=True))


# --- One function a method: Move → vectors (n, m, d), and what it chose. Its keywords are its options. ---


def _closed_form(move: Move, ridge: float | str = "auto", center: bool = False, top_k: int | None = None):
    relative, mask = move.masked(top_k)
    if ridge == "auto":
        plain = mask is None and not center
        ridge = choose_ridge(move.fit if plain else held_out_fit(relative, move.table, center, mask, move.seed))
    return closed_form(relative, move.table, ridge, center, mask), {"ridge": ridge}


def _gradient(move: Move, steps: int = 2000, lr: float = 5e-3, top_k: int | None = None, progress: bool = False):
    relative, mask = move.masked(top_k)
    return gradient_search(relative, move.table, move.target.given_embeddings, steps=steps, lr=lr, mask=mask,
                           normalize_in_loss=move.normalize == "affine-in-loss", seed=move.seed, progress=progress), {}


def _weighted_sum(move: Move, top_k: int | None = None):
    relative, _ = move.masked(top_k)
    return baselines.weighted_sum(relative, move.table), {}


def _linear(move: Move, ridge: float | str = "auto"):
    maps, ridges = zip(*(baselines.ridge_map(x, move.table, ridge, move.seed) for x in move.tables), strict=True)
    return move.through(maps), {"ridge": ridges[0] if len(ridges) == 1 else list(ridges)}


def _procrustes(move: Move, whiten: bool = False):
    return move.through([baselines.procrustes_map(x, move.table, whiten) for x in move.tables]), {}


def _projector(move: Move, hidden: int = 256, epochs: int = 50, lr: float = 1e-3):
    maps, records = zip(*(baselines.projector(x, move.table, hidden=hidden, epochs=epochs, lr=lr, seed=move.seed)
                          for x in move.tables), strict=True)
    return move.through(maps), {"trained": list(records)}


def _discretize(move: Move):
    return baselines.nearest_anchors(move.relative, move.table), {}


def _mixture(move: Move, num_words: int | None = None):
    if not all(mixture for row in move.mixtures for mixture in row):
        raise PromptMismatchError("method 'mixture' moves prompts that are made of words, but some of these have free "
                                  "vectors; tune them with parameterization='mixture', or use another method")
    return torch.stack([sum(w * mixture.truncated(num_words).on(move.target)
                            for w, mixture in zip(move.weights, row, strict=True)) for row in move.mixtures]), {}


def _copy(move: Move):
    if len(move.sources) > 1:
        raise PromptMismatchError(f"method 'copy' moves the prompt of one source, but got {len(move.sources)}: vectors "
                                  "of different LMs cannot be averaged as they are; use another method")
    return baselines.copy_vectors(move.vectors[0], move.sources[0], move.target), {}


def _random(move: Move):
    return baselines.draw_random(move.salts, move.vectors[0].shape[1], move.target, move.seed), {}


METHODS = {"closed-form": _closed_form, "gradient": _gradient, "linear": _linear, "procrustes": _procrustes,
           "projector": _projector, "weighted-sum": _weighted_sum, "discretize": _discretize, "copy": _copy,
           "mixture": _mixture, "random": _random}
UNSCALED = ("discretize", "mixture", "copy", "random")  # have the scale of an embedding already: not normalised


# What each option may be, in words and as a test.
OPTIONS = {
    **dict.fromkeys(("hidden", "epochs"), ("a whole number above 0", lambda v: isinstance(v, Integral) and v >= 1)),
    "ridge": ("'auto' or a number of at least 0", lambda v: v == "auto" or (isinstance(v, Real) and 0 <= v < math.inf)),
    "lr": ("a number above 0", lambda v: isinstance(v, Real) and 0 < v < math.inf),
    "steps": ("a whole number of at least 0", lambda v: isinstance(v, Integral) and v >= 0),
    **dict.fromkeys(("top_k", "num_words"), ("None or a whole number of at least 1",
                                             lambda v: v is None or (isinstance(v, Integral) and v >= 1))),
    **dict.fromkeys(("center", "whiten", "progress"), ("True or False", lambda v: isinstance(v, bool))),
}


def check_method(method: str, normalize: str, given: dict) -> dict:
    """All options of the method, with its defaults filled in.

    Raises:
        PromptTransferError: an unknown method, option or normalisation, or a value that it cannot have.
    """
    if method not in METHODS:
        raise PromptTransferError(f"method={method!r}; expected 'auto' or one of {', '.join(METHODS)}")
    if normalize not in NORMALIZATIONS:
        raise PromptTransferError(f"normalize={normalize!r}; expected 'auto' or one of {', '.join(NORMALIZATIONS)}")
    if normalize == "affine-in-loss" and method != "gradient":
        raise PromptTransferError(f"normalize='affine-in-loss' with method={method!r}; only 'gradient' has a loss "
                                  "to normalise in; use normalize='affine'")
    known = {name: p.default for name, p in inspect.signature(METHODS[method]).parameters.items() if name != "move"}
    if unknown := given.keys() - known.keys():
        raise PromptTransferError(f"method {method!r} has no option {', '.join(sorted(unknown))}; it has "
                                  f"{', '.join(known) or 'none'}")
    for name, value in given.items():
        words, holds = OPTIONS[name]
        if not holds(value):
            raise PromptTransferError(f"{name}={value!r}; expected {words}")
    return known | given
