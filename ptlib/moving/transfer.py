"""Moving prompts from one LM, or several, to another: every method behind one signature."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptMismatchError, PromptTransferError
from ..models.lm import LanguageModel
from ..prompts.history import Moved, Origin
from ..prompts.prompt import Prompt, common_template
from .anchors import Anchors, shared_anchors
from .methods import METHODS, Move, checked_options
from .search import best_fit, matching_loss

__all__ = ["transfer", "transfer_many"]

FREQUENT_ANCHORS = 8  # for each dimension of the target, for method "auto"
AUTO = {"words": ("mixture", "none"), "one source": ("linear", "centered-norm"),  # method and normalisation
        "several sources": ("procrustes", "norm-preserving")}


def transfer(prompt: Prompt | Sequence[Prompt], *, source: LanguageModel | Sequence[LanguageModel],
             target: LanguageModel, **options: Any) -> Prompt:
    """Move one prompt, or one task's prompts of several sources, to ``target``: see ``transfer_many``."""
    return transfer_many({"prompt": prompt}, source=source, target=target, **options)["prompt"]


def transfer_many(prompts: Mapping[Hashable, Prompt | Sequence[Prompt]], *,
                  source: LanguageModel | Sequence[LanguageModel], target: LanguageModel, method: str = "auto",
                  anchors: Anchors | None = None, normalize: str = "auto", weights: Sequence[float] | None = None,
                  seed: int = 0, **method_options: Any) -> dict[Hashable, Prompt]:
    """Move many prompts between one set of LMs, with one factorisation for all.

    Args:
        prompts: {name: prompt}, or {name: one prompt of each source}; all of one length.
        source: the LM that the prompts were made for, or several, of any widths and tokenizers.
        target: the LM that they go to. No label and no gradient of it is used, only its embeddings.
        method: ``"auto"`` or one of ``METHODS``, which has the options and the normalisation of each. "auto" takes what
            did best here without labels or a forward pass of the target: ``"mixture"`` where all prompts are made of
            words, else ``"linear"`` with "centered-norm", and of several sources ``"procrustes"`` with
            "norm-preserving", both learnt from frequent words.
        anchors: shared words; if None, all that the LMs have in common, and for method "auto" of free vectors the most
            frequent of them, eight for each dimension of the target.
        normalize: how the found vectors get the scale of the target, one of ``NORMALIZATIONS``: ``"none"``;
            ``"scale"``; ``"affine"`` (the paper's, after the search); ``"affine-in-loss"`` (its reference code's;
            gradient only); ``"norm-preserving"``: each vector gets the norm that the source's had relative to the
            source's anchors; ``"centered-norm"``: likewise, with the means of the anchors as the origins. "auto" is
            the method's own. Methods whose own is "none" have the right scale already and are never normalised.
        weights: how much each source counts; all the same if None.
        seed: of everything random.
        method_options: the method's own, such as ``ridge=0.1``.

    With several sources, a vector's relative representations are averaged at unit length: the optimum over
    that average is the optimum of the paper's mean loss. ``top_k`` keeps the anchors with the highest average. The
    maps are averaged after them. The order of the sources changes nothing.

    Returns:
        {name: Prompt} for ``target``. ``history`` (a ``Moved``, also in ``meta``) has the method, the options, chosen
        ones filled in, the sources and their own records, and two numbers that need no label: ``fit``, √R² on held-out
        anchors, how well any vector of the target can imitate the prompt, whatever the method; and
        ``matching_loss``, 1 − cosine of the relative representations of this method's vectors as they are returned.

    Raises:
        PromptMismatchError: a prompt is not of its source, has no vectors, or the lengths differ; ``"copy"`` between
            different widths.
        AnchorError: the LMs share no words.
        PromptTransferError: an unknown method, option, normalisation or weight.
    """
    sources = [source] if isinstance(source, LanguageModel) else list(source)
    rows = {name: [p] if isinstance(p, Prompt) else list(p) for name, p in prompts.items()}
    method, options, move = _plan(rows, sources, target, method, anchors, normalize, weights, seed, method_options)
    began = time.perf_counter()
    found, chosen = METHODS[method].function(move, **options)
    found = move.scaled(found)
    return _recorded(rows, move, found, method, {**options, **chosen}, time.perf_counter() - began)


Rows = Mapping[Hashable, Sequence[Prompt]]  # one prompt a source under each name


def _plan(rows: Rows, sources: Sequence[LanguageModel], target: LanguageModel, method: str, anchors: Anchors | None,
          normalize: str, weights: Sequence[float] | None, seed: int,
          given: Mapping[str, Any]) -> tuple[str, dict[str, Any], Move]:
    """What is to be done: the method, all its options, and what it starts from."""
    _check_prompts(rows, sources)
    of_words = all(prompt.mixture for row in rows.values() for prompt in row)
    if anchors is None:
        anchors = shared_anchors(*sources, target)
        if method == "auto" and not of_words:
            anchors = anchors.frequent(FREQUENT_ANCHORS * target.dim)  # from which maps carry more
    if method == "auto":
        method, own = AUTO["words" if of_words else "one source" if len(sources) == 1 else "several sources"]
    else:
        own = METHODS[method].normalize if method in METHODS else "none"
    options = checked_options(method, own if normalize == "auto" else normalize, given)
    _check_fit(method, options, of_words, anchors)
    if METHODS[method].normalize == "none" or normalize == "auto":
        normalize = own
    vectors = [torch.stack([row[i].vectors for row in rows.values()]).to(target.device) for i in range(len(sources))]
    salts = [f"{row[0].task} {row[0].meta.get('seed')}" for row in rows.values()]  # each task and seed has its own
    mixtures = [[prompt.mixture for prompt in row] for row in rows.values()]
    return method, options, Move(vectors, mixtures, salts, list(sources), target, anchors,
                                 _shares_of(weights, len(sources)), normalize, seed)


def _recorded(rows: Rows, move: Move, found: Tensor, method: str, options: Mapping[str, Any],
              seconds: float) -> dict[Hashable, Prompt]:
    """The prompts that were found, each with its record."""
    template = common_template(prompt for row in rows.values() for prompt in row)
    fit = best_fit(move.fit)
    loss = matching_loss(move.relative, found, move.table).mean(-1)
    moved, target = {}, move.target
    for i, (name, row) in enumerate(rows.items()):
        mixtures = [p.mixture for p in row if p.mixture is not None] if METHODS[method].needs_mixtures else []
        words = [mixture.truncated(options["num_words"]) for mixture in mixtures]
        lost = [mixture.record(target) for mixture in words] or [{}] * len(row)
        record = Moved(method, dict(options), move.normalize, len(move.anchors), tuple(move.weights), move.seed,
                       target.name, seconds, fit[i].mean().item(), tuple(fit[i].tolist()), loss[i].item(),
                       tuple(Origin(p.lm_name, p.lm_fingerprint, p.meta, **own)
                             for p, own in zip(row, lost, strict=True)))
        # The mixture of one source is as it was on the target too: it can be moved on from there.
        moved[name] = Prompt(found[i].float().cpu(), template, target.name, target.fingerprint, row[0].task,
                             record.as_json(), words[0] if len(words) == 1 else None)
    return moved


def _check_prompts(rows: Rows, sources: Sequence[LanguageModel]) -> None:
    if not rows:
        raise PromptTransferError("no prompts were given; expected {name: Prompt}")
    for name, row in rows.items():
        if len(row) != len(sources):
            raise PromptMismatchError(f"{name!r} has {len(row)} prompts for {len(sources)} sources; expected one each")
        for prompt, lm in zip(row, sources, strict=True):
            prompt.check(lm)
    common_template(prompt for row in rows.values() for prompt in row)


def _check_fit(method: str, options: Mapping[str, Any], of_words: bool, anchors: Anchors) -> None:
    """Raise where the method cannot move these prompts, or not with these anchors."""
    if METHODS[method].needs_mixtures and not of_words:
        raise PromptMismatchError(f"method {method!r} moves prompts that are made of words, but some of these have "
                                  "free vectors; tune them with parameterization='mixture', or use another method")
    top_k = options.get("top_k")
    if top_k is not None and top_k > len(anchors):
        raise PromptTransferError(f"top_k={top_k}, but there are {len(anchors)} anchors; expected at most as many, or "
                                  "None for all")


def _shares_of(weights: Sequence[float] | None, count: int) -> list[float]:
    """How much each source counts, with the sum 1."""
    weights = [1.0] * count if weights is None else list(weights)
    usable = all(isinstance(w, Real) and 0 <= w < math.inf for w in weights)
    if len(weights) != count or not usable or not sum(weights):
        raise PromptTransferError(f"weights={weights} for {count} sources; expected one number of at least 0 for each, "
                                  "not all 0")
    return [float(weight / sum(weights)) for weight in weights]
