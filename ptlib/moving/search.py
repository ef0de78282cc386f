"""From a relative representation to the target vector that has it (section 3.3 of the paper).

Throughout, A is the (k, d) matrix of row-normalised target anchors and r a relative representation, (k,).
The paper maximises cos(r, Au) over u by gradient descent. Since the cosine ignores the length of u, its
maximiser is the direction of the least-squares solution of Au = r, and A enters only through its Gram matrix
AᵀA and through Aᵀr: so neither way of searching touches the k anchors more than once. With a mask (the paper's
top-k), each vector has anchors of its own, and only these count, on both sides.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..progress import progress_bar
from .relative import relative_representation

__all__ = ["HELD_OUT", "NORMALIZATIONS", "RIDGES", "best_fit", "choose_ridge", "closed_form", "fit_score",
           "gradient_search", "held_out_fit", "matching_loss", "normalize_prompt", "split_anchors"]

NORMALIZATIONS = ("none", "scale", "affine", "affine-in-loss", "norm-preserving", "centered-norm")
RIDGES = (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
HELD_OUT = 0.2  # share of the anchors that label-free choices are judged on


def closed_form(relative: Tensor, anchors: Tensor, ridge: float = 0.0, center: bool = False,
                mask: Tensor | None = None) -> Tensor:
    """The vectors with the relative representation closest to the given one, by least squares.

    u = (AᵀA + λI)⁻¹ Aᵀr with λ = ridge · tr(AᵀA) / d. With ridge 0, u has the highest possible cos(r, Au):
    the optimum of the paper's search. As ridge grows, u turns towards Aᵀr, the anchors weighted by r. In
    float64 from one factorisation, whatever the number of prompts (with a mask: one a vector); directions that
    no anchor spans get no weight (the minimum-norm solution, where k < d).

    Args:
        relative: (..., k).
        anchors: (k, d), of any row lengths.
        ridge: relative to the mean eigenvalue of AᵀA.
        center: subtract means over the anchors first, so that Pearson correlation takes the place of cosine.
        mask: (..., k) bool, the anchors that count for each vector; all if None.

    Returns:
        (..., d) float64.
    """
    gram, projected = _normal_equations(relative, anchors, center, mask)
    return _solve(gram, projected, ridge)


def _normal_equations(relative: Tensor, anchors: Tensor, center: bool = False,
                      mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """AᵀA, (d, d) or with a mask (..., d, d), and Aᵀr, (..., d), in float64."""
    a, r = normalize(anchors.double(), dim=-1), relative.double()
    if mask is not None:
        k, d = a.shape
        grams, projected = zip(*(_normal_equations(one[kept], a[kept], center) for one, kept in
                                 zip(r.reshape(-1, k), mask.reshape(-1, k), strict=True)), strict=True)
        return torch.stack(grams).view(*r.shape[:-1], d, d), torch.stack(projected).view(*r.shape[:-1], d)
    if center:
        a, r = a - a.mean(0), r - r.mean(-1, keepdim=True)
    return a.T @ a, r @ a


def _solve(gram: Tensor, projected: Tensor, ridge: float) -> Tensor:
    """(G + λI)⁻¹ projected with λ = ridge · mean eigenvalue of G; of a singular G the minimum-norm solution."""
    d, eps = gram.shape[-1], torch.finfo(gram.dtype).eps
    rows = projected.reshape(*gram.shape[:-2], -1, d)  # all vectors that share a Gram matrix, in one solve
    shift = ridge * gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    factor, failed = torch.linalg.cholesky_ex(gram + shift[..., None, None] * torch.eye(d, dtype=gram.dtype,
                                                                                         device=gram.device))
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    if not failed.any() and (pivots.amin(-1) > pivots.amax(-1) * (d * eps) ** 0.5).all():
        return torch.cholesky_solve(rows.mT, factor).mT.reshape(projected.shape)
    values, basis = torch.linalg.eigh(gram)  # ten times the cost, but it tells which directions no anchor spans
    tiny = values.amax(-1, keepdim=True) * d * eps
    inverse = torch.where(values > tiny, 1 / (values.clamp_min(tiny) + shift.unsqueeze(-1)), 0.0)
    return (((rows @ basis) * inverse.unsqueeze(-2)) @ basis.mT).reshape(projected.shape)


def split_anchors(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions of the anchors to fit on and of the ``HELD_OUT`` share to judge on; a single one is both."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = max(1, round(HELD_OUT * count))
    return (order[held:], order[:held]) if count > 1 else (order, order)


def held_out_fit(relative: Tensor, anchors: Tensor, center: bool = False, mask: Tensor | None = None,
                 seed: int = 0) -> Tensor:
    """√R² on anchors that the closed form has not seen, for every ridge of ``RIDGES``: needs no label.

    Args:
        relative: (..., k).
        anchors: (k, d).
        center, mask: as in ``closed_form``.
        seed: of the choice of held-out anchors.

    Returns:
        (len(RIDGES), ...): cos(r, Au) on the held-out fifth of the anchors, with u from the others; with ``center``
        their Pearson correlation.
    """
    fitted, held = (part.to(anchors.device) for part in split_anchors(len(anchors), seed))
    masks = [None, None] if mask is None else [mask[..., fitted], mask[..., held]]
    gram, projected = _normal_equations(relative[..., fitted], anchors[fitted], center, masks[0])
    return torch.stack([1 - matching_loss(relative[..., held], _solve(gram, projected, ridge), anchors[held], masks[1],
                                          center) for ridge in RIDGES])


def choose_ridge(fit: Tensor) -> float:
    """The ridge of ``RIDGES`` with the best mean ``held_out_fit``: one for all prompts that are moved together."""
    return RIDGES[int(fit.flatten(1).mean(1).argmax())]


def best_fit(fit: Tensor) -> Tensor:
    """``held_out_fit`` at the ridge that ``choose_ridge`` takes: (...)."""
    return fit[RIDGES.index(choose_ridge(fit))]


def matching_loss(relative: Tensor, vectors: Tensor, anchors: Tensor, mask: Tensor | None = None,
                  center: bool = False) -> Tensor:
    """1 − cos(r, relative representation of u) for each vector (the paper's objective): (...).

    Only the anchors in ``mask`` count; with ``center``, Pearson correlation takes the place of cosine.
    """
    r, own = relative.double(), relative_representation(vectors.double(), anchors.double())
    counts = torch.ones_like(r) if mask is None else mask.to(r.dtype)
    if center:
        total = counts.sum(-1, keepdim=True).clamp_min(1)
        r, own = (x - (x * counts).sum(-1, keepdim=True) / total for x in (r, own))
    return 1 - torch.cosine_similarity(r * counts, own * counts, dim=-1)


def fit_score(relative: Tensor, anchors: Tensor) -> Tensor:
    """√R² of r on the anchors, (...): the highest cos(r, Au) that any u reaches. Needs no labels."""
    return 1 - matching_loss(relative, closed_form(relative, anchors), anchors)


def gradient_search(relative: Tensor, anchors: Tensor, table: Tensor, *, steps: int = 2000, lr: float = 5e-3,
                    normalize_in_loss: bool = False, mask: Tensor | None = None, seed: int = 0,
                    progress: bool = False) -> Tensor:
    """The paper's search: Adam on the mean of 1 − cos(r, Au) from Xavier-normal vectors.

    The objective is written with AᵀA and Aᵀr, cos(r, Au) = (Aᵀr)·u / (‖r‖ √(uᵀAᵀAu)), which has the same
    values and gradients as the k cosines and costs d² instead of kd a vector and step. The rate is constant: a
    search of fewer steps is the beginning of one of more.

    Args:
        relative: (n, m, k), n prompts.
        anchors: (k, d).
        table: (V, d), the target's embedding table, for ``normalize_in_loss``.
        normalize_in_loss: apply ``normalize_prompt(..., "affine")`` to the candidate before the loss, and return
            it so, as the paper's reference code does.
        mask: (n, m, k) bool, the anchors that count for each vector; all if None.
        seed: of the initial vectors, the same for each of the n prompts.

    Returns:
        (n, m, d).
    """
    gram, projected = (t.float() for t in _normal_equations(relative, anchors, mask=mask))
    lengths = (relative if mask is None else relative * mask).norm(dim=-1)
    start = torch.nn.init.xavier_normal_(torch.empty(relative.shape[1], anchors.shape[1]),
                                         generator=torch.Generator().manual_seed(seed))
    vectors = start.to(gram.device).expand(len(relative), -1, -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=lr)
    moments = table.mean(), table.std()  # once, not at every step: the table is large
    for _ in progress_bar(range(steps), show=progress, desc="searching"):
        u = _affine(vectors, *moments) if normalize_in_loss else vectors
        quadratic = ((u.unsqueeze(-2) @ gram).squeeze(-2) * u).sum(-1)
        # The clamp keeps the root's gradient finite at u = 0.
        cosine = (projected * u).sum(-1) / (lengths * quadratic.clamp_min(1e-12).sqrt())
        optimizer.zero_grad(set_to_none=True)
        # The sum over prompts of the mean over a prompt's vectors: each prompt is searched as if alone.
        (1 - cosine).mean(-1).sum().backward()
        optimizer.step()
    found = vectors.detach()
    return _affine(found, *moments) if normalize_in_loss else found


def normalize_prompt(vectors: Tensor, table: Tensor, how: str, lengths: Tensor | None = None,
                     origin: Tensor | None = None) -> Tensor:
    """Give found vectors the scale of the target's embeddings (section 3.4 of the paper).

    Args:
        vectors: (..., m, d): each prompt of m vectors is standardised by its own scalar statistics.
        table: (V, d), the target's embedding table.
        how: ``"none"``; ``"scale"``: divide by the prompt's standard deviation, multiply by the table's;
            ``"affine"``: also move the prompt's mean to the table's; ``"affine-in-loss"`` has been applied by the
            search already; ``"norm-preserving"``: give each vector the norm in ``lengths``, and ``"centered-norm"``
            the distance from ``origin``. Scale and norm keep every direction, the shift does not.
        lengths: (..., m), for the last two.
        origin: (d,), for the last.
    """
    if how in ("none", "affine-in-loss"):
        return vectors
    if how == "norm-preserving":
        assert lengths is not None
        return normalize(vectors, dim=-1) * lengths.unsqueeze(-1)
    if how == "centered-norm":
        assert lengths is not None and origin is not None
        return origin + normalize(vectors - origin, dim=-1) * lengths.unsqueeze(-1)
    if how == "scale":
        return vectors / vectors.std(dim=(-2, -1), keepdim=True) * table.std()
    return _affine(vectors, table.mean(), table.std())


def _affine(vectors: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Prompts (..., m, d) standardised by their own scalar statistics, then given a mean and standard deviation."""
    own_mean, own_std = vectors.mean(dim=(-2, -1), keepdim=True), vectors.std(dim=(-2, -1), keepdim=True)
    return (vectors - own_mean) / own_std * std + mean
