"""Moving prompts from one LM, or several, to another: every method behind one signature."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real

import torch
from torch import Tensor

from . import baselines
from .anchors import Anchors, shared_anchors
from .errors import PromptMismatchError, PromptTransferError
from .lm import LanguageModel
from .mixtures import Mixture
from .prompts import Prompt
from .relative import mean_relative, relative_representation, top_k_mask
from .search import (
    NORMALIZATIONS,
    best_fit,
    choose_ridge,
    closed_form,
    gradient_search,
    held_out_fit,
    matching_loss,
    normalize_prompt,
)

__all__ = ["METHODS", "transfer", "transfer_many"]


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
        return normalize_prompt(found, self.target.embeddings, self.normalize, sum(shares) * radii[-1], origins[-1])

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
    return gradient_search(relative, move.table, move.target.embeddings, steps=steps, lr=lr, mask=mask,
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
    return torch.stack([sum(w * _kept(mixture, num_words).on(move.target)
                            for w, mixture in zip(move.weights, row, strict=True)) for row in move.mixtures]), {}


def _kept(mixture: Mixture, num_words: int | None) -> Mixture:
    return mixture if num_words is None else mixture.truncated(num_words)


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


def transfer(prompt: Prompt | Sequence[Prompt], *, source: LanguageModel | Sequence[LanguageModel],
             target: LanguageModel, **options) -> Prompt:
    """Move one prompt, or one task's prompts of several sources, to ``target``: see ``transfer_many``."""
    return transfer_many({"prompt": prompt}, source=source, target=target, **options)["prompt"]


def transfer_many(prompts: Mapping[Hashable, Prompt | Sequence[Prompt]], *,
                  source: LanguageModel | Sequence[LanguageModel], target: LanguageModel, method: str = "auto",
                  anchors: Anchors | None = None, normalize: str = "auto", weights: Sequence[float] | None = None,
                  seed: int = 0, **method_options) -> dict[Hashable, Prompt]:
    """Move many prompts between one set of LMs, with one factorisation for all.

    Args:
        prompts: {name: prompt}, or {name: one prompt of each source}; all of one length.
        source: the LM that the prompts were made for, or several, of any widths and tokenizers.
        target: the LM that they go to. No label and no gradient of it is used, only its embeddings.
        method: ``"auto"`` or one of ``METHODS``. "auto" takes what did best here without labels or a forward pass of
            the target: ``"mixture"`` where all prompts are made of words, else ``"linear"`` with "centered-norm", and
            of several sources ``"procrustes"`` with "norm-preserving".
            ``"mixture"`` (option ``num_words=None``): the same words with the same weights, of each vector only the
            ``num_words`` heaviest;
            ``"closed-form"`` (``ridge="auto"`` | float, ``center=False``, ``top_k=None``), the optimum of the paper's
            search at ridge 0; "auto" chooses one ridge for all prompts of the call, on held-out anchors;
            ``"gradient"`` (``steps=2000``, ``lr=5e-3``, ``top_k=None``, ``progress=False``), the paper's search,
            which ends at its last step;
            maps learnt from the anchors: ``"linear"`` (``ridge="auto"`` | float), ridge regression from source to
            target, ``"procrustes"`` (``whiten=False``), ``"projector"`` (``hidden=256``, ``epochs=50``, ``lr=1e-3``);
            ``"weighted-sum"`` (``top_k=None``) of the target's anchors;
            ``"discretize"``, ``"copy"`` and ``"random"``, which are left on the scale that they have.
        anchors: shared words; all that the LMs have in common if None.
        normalize: of all but mixtures and the last three: ``"none"``, ``"scale"``, ``"affine"`` (the paper's, after
            the search), ``"affine-in-loss"`` (the reference code's; gradient only), ``"norm-preserving"``: each
            vector gets the norm that the source's had relative to the source's anchors, or ``"centered-norm"``:
            likewise, with the means of the anchors as the origins. "auto" is affine, but for method "auto".
        weights: how much each source counts; all the same if None.
        seed: of everything random.

    With several sources, a vector's relative representations are averaged at unit length: the optimum over
    that average is the optimum of the paper's mean loss. ``top_k`` keeps the anchors with the highest average. The
    maps are averaged after them. The order of the sources changes nothing.

    Returns:
        {name: Prompt} for ``target``. ``meta`` says method, options (chosen ones filled in), sources and their own
        records, anchors, ``fit`` and ``fit_per_vector`` (√R² on held-out anchors: how well any vector of the target
        can imitate the prompt, label-free, whatever the method), ``matching_loss`` (1 − cosine of the relative
        representations, of this method's vectors as they are returned) and ``seconds`` (of the method, for all
        prompts together).

    Raises:
        PromptMismatchError: a prompt is not of its source, has no vectors, or the lengths differ; ``"copy"`` between
            different widths.
        AnchorError: the LMs share no words.
        PromptTransferError: an unknown method, option, normalisation or weight.
    """
    sources = [source] if isinstance(source, LanguageModel) else list(source)
    rows = {name: [p] if isinstance(p, Prompt) else list(p) for name, p in prompts.items()}
    _check_prompts(rows, sources)
    method, normalize = _resolve(method, normalize, rows, sources)
    options = _check_method(method, normalize, method_options)
    template = next(iter(rows.values()))[0].template
    vectors = [torch.stack([row[i].vectors for row in rows.values()]).to(target.device) for i in range(len(sources))]
    anchors = anchors or shared_anchors(*sources, target)
    _check_top_k(options.get("top_k"), anchors)
    salts = [f"{row[0].task} {row[0].meta.get('seed')}" for row in rows.values()]  # each task and seed has its own
    mixtures = [[p.mixture for p in row] for row in rows.values()]
    move = Move(vectors, mixtures, salts, sources, target, anchors,
                _shares(weights, len(sources)), normalize, seed)

    began = time.perf_counter()
    found, chosen = METHODS[method](move, **options)
    if method not in UNSCALED:
        found = move.scaled(found)
    seconds = time.perf_counter() - began

    fit = best_fit(move.fit)
    loss = matching_loss(move.relative, found, move.table).mean(-1)
    found = found.float().cpu()
    about = {"method": method, "options": {**options, **chosen}, "normalize": normalize, "anchors": len(anchors),
             "weights": move.weights, "seed": seed, "target": target.name, "seconds": seconds}
    moved = {}
    for i, (name, row) in enumerate(rows.items()):
        origins = [{"lm": p.lm_name, "fingerprint": p.lm_fingerprint, "meta": p.meta} for p in row]
        words = [_kept(p.mixture, options["num_words"]) for p in row] if method == "mixture" else []
        for origin, mixture in zip(origins, words, strict=False):
            origin |= mixture.record(target)
        meta = {**about, "fit": fit[i].mean().item(), "fit_per_vector": fit[i].tolist(),
                "matching_loss": loss[i].item(), "sources": origins}
        moved[name] = Prompt(found[i], template, target.name, target.fingerprint, row[0].task, meta,
                             words[0] if len(words) == 1 else None)  # as it came, it can go on
    return moved


def _resolve(method: str, normalize: str, rows: dict[Hashable, list[Prompt]],
             sources: Sequence[LanguageModel]) -> tuple[str, str]:
    """Method and normalisation where they are "auto"."""
    best = "affine"
    if method == "auto":
        method, best = ("linear", "centered-norm") if len(sources) == 1 else ("procrustes", "norm-preserving")
        if all(prompt.mixture for row in rows.values() for prompt in row):
            method, best = "mixture", "none"
    return method, best if normalize == "auto" else normalize


def _check_prompts(rows: dict[Hashable, list[Prompt]], sources: list[LanguageModel]) -> None:
    if not rows:
        raise PromptTransferError("no prompts were given; expected {name: Prompt}")
    for name, row in rows.items():
        if len(row) != len(sources):
            raise PromptMismatchError(f"{name!r} has {len(row)} prompts for {len(sources)} sources; expected one each")
        for prompt, lm in zip(row, sources, strict=True):
            prompt.check(lm)
    templates = {prompt.template for row in rows.values() for prompt in row}
    if len(templates) > 1:
        raise PromptMismatchError(f"the prompts have different templates ({', '.join(sorted(templates))}); "
                                  "move them in one call for each template")
    if not len(next(iter(rows.values()))[0].vectors):
        raise PromptMismatchError(f"the template {templates.pop()!r} is words alone and works on every LM as it is; "
                                  "expected a prompt with vectors")


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


def _check_method(method: str, normalize: str, given: dict) -> dict:
    """All options of the method, with its defaults filled in."""
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


def _check_top_k(top_k: int | None, anchors: Anchors) -> None:
    if top_k is not None and top_k > len(anchors):
        raise PromptTransferError(f"top_k={top_k}, but there are {len(anchors)} anchors; expected at most as many, or "
                                  "None for all")


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    weights = [1.0] * count if weights is None else list(weights)
    usable = all(isinstance(w, Real) and 0 <= w < math.inf for w in weights)
    if len(weights) != count or not usable or not sum(weights):
        raise PromptTransferError(f"weights={weights} for {count} sources; expected one number of at least 0 for each, "
                                  "not all 0")
    return [float(weight / sum(weights)) for weight in weights]
