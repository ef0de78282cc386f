"""Moving prompts from one LM, or several, to another: every method behind one signature."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from . import baselines
from .anchors import Anchors, shared_anchors
from .errors import PromptMismatchError, PromptTransferError
from .lm import LanguageModel
from .prompts import Prompt
from .relative import relative_representation
from .search import (
    NORMALIZATIONS,
    choose_ridge,
    closed_form,
    fit_score,
    gradient_search,
    matching_loss,
    normalize_prompt,
)

__all__ = ["METHODS", "transfer", "transfer_many"]

SEARCHES = ("closed-form", "gradient")  # these go through the relative space and are normalised after it
METHODS = (*SEARCHES, "discretize", "copy", "random")


def transfer(prompt: Prompt | Sequence[Prompt], *, source: LanguageModel | Sequence[LanguageModel],
             target: LanguageModel, **options) -> Prompt:
    """Move one prompt, or one task's prompts of several sources, to ``target``: see ``transfer_many``."""
    return transfer_many({"prompt": prompt}, source=source, target=target, **options)["prompt"]


def transfer_many(prompts: Mapping[str, Prompt | Sequence[Prompt]], *, source: LanguageModel | Sequence[LanguageModel],
                  target: LanguageModel, method: str = "closed-form", anchors: Anchors | None = None,
                  normalize: str = "affine", seed: int = 0, **method_options) -> dict[str, Prompt]:
    """Move many prompts between one set of LMs, with one factorisation for all.

    Args:
        prompts: {name: prompt}, or {name: one prompt of each source}; all of one length.
        source: the LM that the prompts were made for, or several.
        target: the LM that they go to. No label and no gradient of it is used, only its embeddings.
        method: ``"closed-form"`` (options ``ridge="auto"`` | float, ``center=False``), the optimum of the paper's
            search at ridge 0; "auto" chooses one ridge for all prompts of the call, on held-out anchors;
            ``"gradient"`` (``steps=2000``, ``lr=5e-3``, ``progress=False``), the paper's search;
            ``"discretize"``, ``"copy"`` and ``"random"``: baselines, left on the scale they have.
        anchors: shared words; all that the LMs have in common if None.
        normalize: of the searched vectors: ``"none"``, ``"scale"``, ``"affine"`` (the paper's, after the search)
            or ``"affine-in-loss"`` (the reference code's; gradient only).
        seed: of everything random.

    With several sources, a vector's relative representations are averaged at unit length: the optimum over
    that average is the optimum of the paper's mean loss, and the order of the sources changes nothing.

    Returns:
        {name: Prompt} for ``target``. ``meta`` says method, options, sources and their own records, anchors,
        ``fit`` and ``fit_per_vector`` (√R², what the best target vector reaches, label-free), ``matching_loss``
        (after normalisation) and ``seconds`` (of the whole call).

    Raises:
        PromptMismatchError: a prompt is not of its source, has no vectors, or the lengths differ.
        AnchorError: the LMs share no words.
        PromptTransferError: an unknown method, option or normalisation.
    """
    began = time.perf_counter()
    sources = [source] if isinstance(source, LanguageModel) else list(source)
    rows = {name: [p] if isinstance(p, Prompt) else list(p) for name, p in prompts.items()}
    _check(rows, sources, method, normalize)
    template = next(iter(rows.values()))[0].template
    vectors = [torch.stack([row[i].vectors for row in rows.values()]).to(target.device) for i in range(len(sources))]
    about = {"method": method, "options": method_options, "seed": seed, "target": target.name}
    per_prompt: list[dict] = [{} for _ in rows]
    if method in SEARCHES:
        anchors = anchors or shared_anchors(*sources, target)
        relative = _mean_relative([relative_representation(v, anchors.of(lm).to(target.device))
                                   for v, lm in zip(vectors, sources, strict=True)])
        table = anchors.of(target)
        moved, chosen = _search(relative, table, target, method, normalize, seed, method_options)
        fit = fit_score(relative, table)
        loss = matching_loss(relative, moved, table).mean(-1)
        about |= {"normalize": normalize, "anchors": len(anchors), "options": chosen}
        per_prompt = [{"fit": f.mean().item(), "fit_per_vector": f.tolist(), "matching_loss": one.item()}
                      for f, one in zip(fit, loss, strict=True)]
    else:
        moved = _baseline(vectors, sources, target, method, anchors, seed, method_options)
    about["seconds"] = time.perf_counter() - began
    moved = moved.float().cpu()
    return {name: Prompt(moved[i], template, target.name, target.fingerprint, row[0].task, {
                **about, **per_prompt[i],
                "sources": [{"lm": p.lm_name, "fingerprint": p.lm_fingerprint, "meta": p.meta} for p in row]})
            for i, (name, row) in enumerate(rows.items())}


def _check(rows: dict[str, list[Prompt]], sources: list[LanguageModel], method: str, normalize: str) -> None:
    if method not in METHODS:
        raise PromptTransferError(f"method={method!r}; expected one of {', '.join(METHODS)}")
    if normalize not in NORMALIZATIONS:
        raise PromptTransferError(f"normalize={normalize!r}; expected one of {', '.join(NORMALIZATIONS)}")
    if normalize == "affine-in-loss" and method != "gradient":
        raise PromptTransferError(f"normalize='affine-in-loss' with method={method!r}; only 'gradient' has a loss "
                                  "to normalise in; use normalize='affine'")
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


def _mean_relative(relatives: list[Tensor]) -> Tensor:
    """Mean of unit-length relative representations; of a single source, the representation itself."""
    if len(relatives) == 1:
        return relatives[0]
    stacked = torch.stack(relatives)
    lengths = stacked.norm(dim=-1, keepdim=True)
    # The mean length is given back: the relative lengths of a prompt's vectors matter to its normalisation.
    return (stacked / lengths).mean(0) * lengths.mean(0)


def _search(relative: Tensor, anchors: Tensor, target: LanguageModel, method: str, normalize: str, seed: int,
            options: dict) -> tuple[Tensor, dict]:
    """Target vectors (n, m, d) and the options that were used, those chosen automatically filled in."""
    try:
        if method == "closed-form":
            options = {"ridge": "auto", "center": False, **options}
            if options["ridge"] == "auto":
                options["ridge"] = choose_ridge(relative, anchors, options["center"], seed)
            if not options["ridge"] >= 0:
                raise PromptTransferError(f"ridge={options['ridge']!r}; expected 'auto' or a number of at least 0")
            found = closed_form(relative, anchors, **options)
        else:
            found = gradient_search(relative, anchors, target.embeddings, seed=seed,
                                    normalize_in_loss=normalize == "affine-in-loss", **options)
    except TypeError as error:
        raise PromptTransferError(f"method {method!r} does not take the options {sorted(options)}: {error}") from error
    return normalize_prompt(found, target.embeddings, normalize), options


def _baseline(vectors: list[Tensor], sources: list[LanguageModel], target: LanguageModel, method: str,
              anchors: Anchors | None, seed: int, options: dict) -> Tensor:
    if options:
        raise PromptTransferError(f"method {method!r} takes no options, but got {sorted(options)}")
    if method == "random":
        n, m, _ = vectors[0].shape  # one draw for all, as if each were moved alone
        return baselines.draw_random((m,), target, seed).expand(n, -1, -1)
    if len(sources) > 1:
        raise PromptMismatchError(f"method {method!r} moves the prompt of one source, but got {len(sources)}; "
                                  f"expected one source, or one of {', '.join(SEARCHES)}")
    if method == "copy":
        return baselines.copy_vectors(vectors[0], sources[0], target)
    return baselines.discretize(vectors[0], sources[0], target, anchors or shared_anchors(*sources, target))
