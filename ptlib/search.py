"""From a relative representation to the target vector that has it (section 3.3 of the paper).

Throughout, A is the (k, d) matrix of row-normalised target anchors and r a relative representation, (k,).
The paper maximises cos(r, Au) over u by gradient descent. Since the cosine ignores the length of u, its
maximiser is the direction of the least-squares solution of Au = r, and A enters only through its Gram matrix
AᵀA and through Aᵀr: so neither way of searching touches the k anchors more than once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .progress import progress_bar
from .relative import relative_representation

__all__ = ["NORMALIZATIONS", "RIDGES", "choose_ridge", "closed_form", "fit_score", "gradient_search", "matching_loss",
           "normalize_prompt"]

NORMALIZATIONS = ("none", "scale", "affine", "affine-in-loss")
RIDGES = (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
HELD_OUT = 0.2  # share of the anchors that choose_ridge sets aside


def closed_form(relative: Tensor, anchors: Tensor, ridge: float = 0.0, center: bool = False) -> Tensor:
    """The vectors with the relative representation closest to the given one, by least squares.

    u = (AᵀA + λI)⁻¹ Aᵀr with λ = ridge · tr(AᵀA) / d. With ridge 0, u has the highest possible cos(r, Au):
    the optimum of the paper's search. As ridge grows, u turns towards Aᵀr, the anchors weighted by r. In
    float64 from one eigendecomposition, whatever the number of prompts; directions that no anchor spans get
    no weight (the minimum-norm solution, where k < d).

    Args:
        relative: (..., k).
        anchors: (k, d), of any row lengths.
        ridge: relative to the mean eigenvalue of AᵀA.
        center: subtract means over the anchors first, so that Pearson correlation takes the place of cosine.

    Returns:
        (..., d) float64.
    """
    gram, projected = _normal_equations(relative, anchors, center)
    return _solve(torch.linalg.eigh(gram), projected, ridge)


def _normal_equations(relative: Tensor, anchors: Tensor, center: bool) -> tuple[Tensor, Tensor]:
    """AᵀA (d, d) and Aᵀr (..., d) in float64."""
    a, r = normalize(anchors.double(), dim=-1), relative.double()
    if center:
        a, r = a - a.mean(0), r - r.mean(-1, keepdim=True)
    return a.T @ a, r @ a


def _solve(factors: tuple[Tensor, Tensor], projected: Tensor, ridge: float) -> Tensor:
    """(AᵀA + λI)⁻¹ projected, from AᵀA's eigenvalues and eigenvectors, with λ = ridge · mean eigenvalue."""
    values, basis = factors
    tiny = values.amax() * len(values) * torch.finfo(values.dtype).eps
    inverse = torch.where(values > tiny, 1 / (values.clamp_min(tiny) + ridge * values.mean()), 0.0)
    return ((projected @ basis) * inverse) @ basis.T


def choose_ridge(relative: Tensor, anchors: Tensor, center: bool = False, seed: int = 0) -> float:
    """The ridge of ``RIDGES`` that predicts the relations to anchors it has not seen best: no labels needed.

    Args:
        relative: (n, k), all prompts that are to be moved.
        anchors: (k, d).
        center: as in ``closed_form``.
        seed: of the choice of held-out anchors.
    """
    order = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(seed)).to(anchors.device)
    count = max(1, round(HELD_OUT * len(order)))
    held, seen = order[:count], order[count:]
    if len(seen) == 0:
        return RIDGES[0]
    gram, projected = _normal_equations(relative[..., seen], anchors[seen], center)
    factors = torch.linalg.eigh(gram)  # one factorisation for all ridges
    losses = [matching_loss(relative[..., held], _solve(factors, projected, ridge), anchors[held]) for ridge in RIDGES]
    return RIDGES[min(range(len(RIDGES)), key=lambda i: float(losses[i].mean()))]


def matching_loss(relative: Tensor, vectors: Tensor, anchors: Tensor) -> Tensor:
    """1 − cos(r, relative representation of u) for each vector (the paper's objective): (...)."""
    own = relative_representation(vectors.double(), anchors.double())
    return 1 - torch.cosine_similarity(relative.double(), own, dim=-1)


def fit_score(relative: Tensor, anchors: Tensor) -> Tensor:
    """√R² of r on the anchors, (...): the highest cos(r, Au) that any u reaches. Needs no labels."""
    return 1 - matching_loss(relative, closed_form(relative, anchors), anchors)


def gradient_search(relative: Tensor, anchors: Tensor, table: Tensor, *, steps: int = 2000, lr: float = 5e-3,
                    normalize_in_loss: bool = False, seed: int = 0, progress: bool = False) -> Tensor:
    """The paper's search: Adam on the mean of 1 − cos(r, Au) from Xavier-normal vectors.

    The objective is written with AᵀA and Aᵀr, cos(r, Au) = (Aᵀr)·u / (‖r‖ √(uᵀAᵀAu)), which has the same
    values and gradients as the k cosines and costs d² instead of kd a vector and step.

    Args:
        relative: (n, m, k), n prompts.
        anchors: (k, d).
        table: (V, d), the target's whole embedding table, for ``normalize_in_loss``.
        normalize_in_loss: apply ``normalize_prompt(..., "affine")`` to the candidate before the loss, and return
            it so, as the paper's reference code does.
        seed: of the initial vectors, the same for each of the n prompts.

    Returns:
        (n, m, d).
    """
    gram, projected = (t.float() for t in _normal_equations(relative, anchors, center=False))
    lengths = relative.norm(dim=-1)
    start = torch.nn.init.xavier_normal_(torch.empty(relative.shape[1], anchors.shape[1]),
                                         generator=torch.Generator().manual_seed(seed))
    vectors = start.to(gram.device).expand(len(relative), -1, -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=lr)
    for _ in progress_bar(range(steps), show=progress, desc="searching"):
        u = normalize_prompt(vectors, table, "affine") if normalize_in_loss else vectors
        cosine = (projected * u).sum(-1) / (lengths * ((u @ gram) * u).sum(-1).clamp_min(1e-12).sqrt())
        optimizer.zero_grad(set_to_none=True)
        # The sum over prompts of the mean over a prompt's vectors: each prompt is searched as if alone.
        (1 - cosine).mean(-1).sum().backward()
        optimizer.step()
    found = vectors.detach()
    return normalize_prompt(found, table, "affine") if normalize_in_loss else found


def normalize_prompt(vectors: Tensor, table: Tensor, how: str) -> Tensor:
    """Give found vectors the scale of the target's embeddings (section 3.4 of the paper).

    Args:
        vectors: (..., m, d): each prompt of m vectors is standardised by its own scalar statistics.
        table: (V, d), the target's whole embedding table.
        how: ``"none"``; ``"scale"``: divide by the prompt's standard deviation, multiply by the table's;
            ``"affine"``: also move the prompt's mean to the table's. The scale alone keeps every direction,
            the shift does not. ``"affine-in-loss"`` has been applied by the search already.
    """
    if how in ("none", "affine-in-loss"):
        return vectors
    spread = vectors.std(dim=(-2, -1), keepdim=True) if vectors[..., 0].numel() else vectors
    if how == "scale":
        return vectors / spread * table.std()
    mean = vectors.mean(dim=(-2, -1), keepdim=True)
    return (vectors - mean) / spread * table.std() + table.mean()
