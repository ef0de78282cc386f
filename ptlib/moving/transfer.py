"""Transfer of prompts from one source LM, or several, to a target LM.

``transfer`` takes one prompt and ``transfer_many`` a dict of them. Both offer every method in ``METHODS``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..errors import PromptMismatchError, PromptTransferError
from ..models.lm import LanguageModel
from ..prompts.history import Moved, Origin
from ..prompts.prompt import Prompt, common_template
from .anchors import Anchors, shared_anchors
from .methods import METHODS, Move, checked_options, method_of
from .search import best_fit

__all__ = ["transfer", "transfer_many"]

FREQUENT_ANCHORS = 8  # how many for each dimension of the target, with method "auto"
AUTO = {"words": ("mixture", "none"), "one source": ("linear", "centered-norm"),  # method and normalisation
        "several sources": ("procrustes", "norm-preserving")}


def transfer(prompt: Prompt | Sequence[Prompt], *, source: LanguageModel | Sequence[LanguageModel],
             target: LanguageModel, **options: Any) -> Prompt:
    """Transfer one prompt to ``target``, or one task's prompts from several sources.

    ``options`` and errors are those of ``transfer_many``.
    """
    return transfer_many({"prompt": prompt}, source=source, target=target, **options)["prompt"]


def transfer_many(prompts: Mapping[Any, Prompt | Sequence[Prompt]], *,
                  source: LanguageModel | Sequence[LanguageModel], target: LanguageModel, method: str = "auto",
                  anchors: Anchors | None = None, normalize: str = "auto", weights: Sequence[float] | None = None,
                  seed: int = 0, **method_options: Any) -> dict[Any, Prompt]:
    """Transfer many prompts from the same source (or sources) to ``target``, with one factorisation for all.

    | method | default normalisation | options |
    |---|---|---|
    | ``"closed-form"`` | affine | ``ridge="auto"``, ``center=False``, ``top_k=None`` |
    | ``"gradient"`` (the paper's search) | affine | ``steps=2000``, ``lr=5e-3``, ``top_k=None``, ``progress=False`` |
    | ``"linear"`` | affine | ``ridge="auto"`` |
    | ``"local"`` | affine | ``neighbours=500``, ``local_ridge=1.0`` |
    | ``"procrustes"`` | affine | ``whiten=False`` |
    | ``"projector"`` | affine | ``hidden=256``, ``epochs=50``, ``lr=1e-3`` |
    | ``"weighted-sum"`` | affine | ``top_k=None`` |
    | ``"discretize"``, ``"copy"``, ``"random"`` | none | |
    | ``"mixture"`` | none | ``num_words=None`` |

    With ``method="auto"``, the method depends on the prompts:

    | prompts | method | normalisation | anchors |
    |---|---|---|---|
    | all mixtures of words | mixture | none | all |
    | free vectors, one source | linear | centered-norm | 8 frequent words for each dimension of the target |
    | free vectors, several sources | procrustes | norm-preserving | likewise |

    These choices did best in this repository's notebooks without labels or forward passes on the target.

    Several sources: methods that use relative representations average them at unit length. The optimum for this average
    is the optimum of the paper's mean loss, and ``top_k`` keeps the anchors with the highest average. Methods that
    learn maps apply each source's map to its prompt, then average the results. The order of the sources does not
    matter.

    Args:
        prompts: {name: prompt}, or {name: [one prompt for each source]}; all with the same template.
        source: the LM that the prompts were made for, or several LMs. Widths and tokenizers may differ.
        target: the LM to transfer to. Only its embeddings are used: no labels and no gradients.
        method: ``"auto"`` or one of ``METHODS``; see the tables.
        anchors: the shared words to use. If None: see the table for "auto"; otherwise all that the LMs share.
        normalize: how the vectors get the scale of the target, one of ``NORMALIZATIONS``, or "auto" for the default of
            the method. ``normalize_prompt`` explains them: ``"affine"`` is the paper's, ``"affine-in-loss"`` (gradient
            only) that of its reference code. "norm-preserving" and "centered-norm" keep each vector's length relative
            to the anchors' in its LM. Methods with the default "none" are never normalised.
        weights: how much each source counts; all count the same if None.
        seed: of everything random.
        method_options: the method's own options, such as ``ridge=0.1``.

    Returns:
        {name: Prompt} for ``target``. ``history`` (a ``Moved``, also in ``meta``) records the method, its options with
        the values that were chosen, and the sources with their own records. Two numbers in it need no label: ``fit``
        (√R² on held-out anchors) is how well vectors of the target can imitate the prompt, whatever the method;
        ``matching_loss`` is 1 − the cosine between the source's relative representation and that of the result.

    Raises:
        PromptMismatchError: a prompt was not made for its source or has no vectors, the templates differ, or the method
            cannot transfer these prompts (``"copy"`` between different widths, ``"mixture"`` of free vectors).
        AnchorError: the LMs share no words, or the anchors were made for other LMs.
        PromptTransferError: there are no prompts, or the method, an option, the normalisation or the weights are wrong.
    """
    sources = [source] if isinstance(source, LanguageModel) else list(source)
    rows = {name: [p] if isinstance(p, Prompt) else list(p) for name, p in prompts.items()}
    method, options, move = _plan(rows, sources, target, method, anchors, normalize, weights, seed, method_options)
    began = time.perf_counter()
    found, chosen = METHODS[method].function(move, **options)
    found = move.scaled(found)
    return _recorded(rows, move, found, method, {**options, **chosen}, time.perf_counter() - began)


Rows = Mapping[Any, Sequence[Prompt]]  # {name: [one prompt for each source]}


def _plan(rows: Rows, sources: Sequence[LanguageModel], target: LanguageModel, method: str, anchors: Anchors | None,
          normalize: str, weights: Sequence[float] | None, seed: int,
          given: Mapping[str, Any]) -> tuple[str, dict[str, Any], Move]:
    """Check everything that was given. Return the method, all its options, and the ``Move`` that it starts from."""
    _check_prompts(rows, sources)
    of_words = all(prompt.mixture for row in rows.values() for prompt in row)
    if anchors is None:
        anchors = shared_anchors(*sources, target)
        if method == "auto" and not of_words:
            anchors = anchors.frequent(FREQUENT_ANCHORS * target.dim)  # maps learnt from frequent words transfer better
    if method == "auto":
        method, own = AUTO["words" if of_words else "one source" if len(sources) == 1 else "several sources"]
    else:
        own = method_of(method).normalize
    options = checked_options(method, own if normalize == "auto" else normalize, given)
    _check_fit(method, options, of_words, anchors)
    if METHODS[method].normalize == "none" or normalize == "auto":
        normalize = own
    vectors = [torch.stack([row[i].vectors for row in rows.values()]).to(target.device) for i in range(len(sources))]
    salts = [f"{row[0].task} {row[0].meta.get('seed')}" for row in rows.values()]
    mixtures = [[prompt.mixture for prompt in row] for row in rows.values()]
    return method, options, Move(vectors, mixtures, salts, list(sources), target, anchors,
                                 _normalized_weights(weights, len(sources)), normalize, seed)


def _recorded(rows: Rows, move: Move, found: Tensor, method: str, options: Mapping[str, Any],
              seconds: float) -> dict[Any, Prompt]:
    """The transferred prompts, each with its record."""
    fit = best_fit(move.fit)
    fitted, held = move.moments
    loss = 1 - (fitted + held).cosine(found).mean(-1)
    moved, target = {}, move.target
    for i, (name, row) in enumerate(rows.items()):
        mixtures = [p.mixture for p in row if p.mixture is not None] if METHODS[method].needs_mixtures else []
        words = [mixture.truncated(options["num_words"]) for mixture in mixtures]
        lost = [mixture.record(target) for mixture in words] or [{}] * len(row)
        record = Moved(method, dict(options), move.normalize, len(move.anchors), tuple(move.weights), move.seed,
                       target.name, seconds, fit[i].mean().item(), tuple(fit[i].tolist()), loss[i].item(),
                       tuple(Origin(p.lm_name, p.lm_fingerprint, p.meta, **own)
                             for p, own in zip(row, lost, strict=True)))
        # With one source, the result is still a mixture of words, so it can be transferred further as one.
        moved[name] = Prompt(found[i].float().cpu(), row[0].template, target.name, target.fingerprint, row[0].task,
                             record.as_json(), words[0] if len(words) == 1 else None)
    return moved


def _check_prompts(rows: Rows, sources: Sequence[LanguageModel]) -> None:
    if not rows:
        raise PromptTransferError("no prompts given; expected {name: Prompt} with at least one")
    for name, row in rows.items():
        if len(row) != len(sources):
            raise PromptMismatchError(f"{name!r} has {len(row)} prompts for {len(sources)} sources; expected one each")
        for prompt, lm in zip(row, sources, strict=True):
            prompt.check(lm)
    common_template(prompt for row in rows.values() for prompt in row)


def _check_fit(method: str, options: Mapping[str, Any], of_words: bool, anchors: Anchors) -> None:
    """Raise an error if the method cannot transfer these prompts with these anchors."""
    if METHODS[method].needs_mixtures and not of_words:
        raise PromptMismatchError(f"method {method!r} takes only mixtures of words, but some of these prompts have "
                                  "free vectors; tune them with parameterization='mixture', or use another method")
    top_k = options.get("top_k")
    if top_k is not None and top_k > len(anchors):
        raise PromptTransferError(f"top_k={top_k}, but there are only {len(anchors)} anchors; use a smaller number, or "
                                  "None for all")


def _normalized_weights(weights: Sequence[float] | None, count: int) -> list[float]:
    """The weights of the sources, scaled to sum to 1."""
    weights = [1.0] * count if weights is None else list(weights)
    usable = all(isinstance(w, Real) and 0 <= w < math.inf for w in weights)
    if len(weights) != count or not usable or not sum(weights):
        raise PromptTransferError(f"weights={weights} for {count} sources; expected one number of at least 0 for each "
                                  "source, not all of them 0")
    return [float(weight / sum(weights)) for weight in weights]
