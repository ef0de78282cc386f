"""Moving prompts from one LM, or several, to another: every method behind one signature."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real

import torch

from ..errors import PromptMismatchError, PromptTransferError
from ..models.lm import LanguageModel
from ..prompts.prompt import Prompt, common_template
from .anchors import Anchors, shared_anchors
from .methods import METHODS, UNSCALED, Move, check_method
from .search import best_fit, matching_loss

__all__ = ["transfer", "transfer_many"]

FREQUENT_ANCHORS = 8  # for each dimension of the target, for method "auto"


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
            of several sources ``"procrustes"`` with "norm-preserving", both learnt from frequent words.
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
        anchors: shared words; if None, all that the LMs have in common, and for method "auto" of free vectors the most
            frequent of them, eight for each dimension of the target.
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
    if anchors is None:
        anchors = shared_anchors(*sources, target)
        if method == "auto" and not _of_words(rows):
            anchors = anchors.frequent(FREQUENT_ANCHORS * target.dim)  # from which maps carry more
    method, normalize = _resolve(method, normalize, rows, sources)
    options = check_method(method, normalize, method_options)
    template = common_template(prompt for row in rows.values() for prompt in row)
    vectors = [torch.stack([row[i].vectors for row in rows.values()]).to(target.device) for i in range(len(sources))]
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
        words = [p.mixture.truncated(options["num_words"]) for p in row] if method == "mixture" else []
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
        if _of_words(rows):
            method, best = "mixture", "none"
    return method, best if normalize == "auto" else normalize


def _of_words(rows: dict[Hashable, list[Prompt]]) -> bool:
    return all(prompt.mixture for row in rows.values() for prompt in row)


def _check_prompts(rows: dict[Hashable, list[Prompt]], sources: list[LanguageModel]) -> None:
    if not rows:
        raise PromptTransferError("no prompts were given; expected {name: Prompt}")
    for name, row in rows.items():
        if len(row) != len(sources):
            raise PromptMismatchError(f"{name!r} has {len(row)} prompts for {len(sources)} sources; expected one each")
        for prompt, lm in zip(row, sources, strict=True):
            prompt.check(lm)


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
