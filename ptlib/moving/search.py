"""The search for target vectors that have a given relative representation (section 3.3 of the paper).

Throughout, A is the (k, d) matrix of the target's anchors with rows of unit length, and r (k,) is a relative
representation. The paper maximises cos(r, Au) over u by gradient descent. The cosine ignores the length of u, so the
least-squares solution of Au = r has the best direction. Both searches need only AᵀA and Aᵀr, and so go through the k
anchors only once. With a mask (the paper's top-k), only the anchors in each vector's mask count, both in r and in Au.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..progress import progress_bar
from .relative import relative_representation

__all__ = ["HELD_OUT", "NORMALIZATIONS", "RIDGES", "Moments", "best_fit", "choose_ridge", "closed_form", "fit_score",
           "gradient_search", "gram_matrix", "held_out_fit", "matching_loss", "moments", "normalize_prompt",
           "ridge_fits", "solve", "split_anchors", "split_moments"]

NORMALIZATIONS = ("none", "scale", "affine", "affine-in-loss", "norm-preserving", "centered-norm")
RIDGES = (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0)
TINY = 1e-30  # makes the cosine of a zero vector 0, not 0 / 0
BLOCK = 4096  # anchors that are made float64 at a time
WEAK = 1e-3  # eigenvalues of AᵀA below this share of their mean ask for products in float64
HELD_OUT = 0.2  # share of the anchors that are left out of a fit, to judge it without labels


def closed_form(relative: Tensor, anchors: Tensor, ridge: float = 0.0, center: bool = False,
                mask: Tensor | None = None) -> Tensor:
    """The vectors with the relative representation closest to the given one, by least squares.

    u = (AᵀA + λI)⁻¹ Aᵀr with λ = ridge · tr(AᵀA) / d. With ridge 0, u has the highest possible cos(r, Au), which is
    the optimum of the paper's search. As the ridge grows, u turns towards Aᵀr, the sum of the anchors weighted by r.
    One factorisation in float64 serves all prompts (with a mask, each vector needs its own). Directions that no anchor
    spans get no weight: with k < d this is the minimum-norm solution.

    Args:
        relative: (..., k).
        anchors: (k, d), with rows of any length.
        ridge: relative to the mean eigenvalue of AᵀA.
        center: subtract the means over the anchors first, which replaces the cosine by Pearson correlation.
        mask: (..., k) bool, the anchors that count for each vector; all if None.

    Returns:
        (..., d) float64.
    """
    return moments(relative, anchors, mask).solve(ridge, center)


@dataclass(frozen=True, eq=False)
class Moments:
    """All that the search needs to know of k anchors a (rows of A) and the entries of r: counts, means and products.

    The products are those of the deviations from the means. Those of anchors and entries themselves follow from them
    without cancellation, and the moments of two sets of anchors add up to those of both (Chan et al. 1983). So one pass
    over the anchors serves the choice of a ridge, the fit and the loss. With a mask, each vector has its own moments.

    Attributes:
        count: k, () or (...) with a mask; so for the others.
        anchor: the mean anchor, (d,).
        entry: the mean of r, (...).
        gram: Σaaᵀ, (d, d).
        projected: Σra, (..., d).
        square: Σr², (...).
    """

    count: Tensor
    anchor: Tensor
    entry: Tensor
    gram: Tensor
    projected: Tensor
    square: Tensor

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        share, weight = other.count / count, self.count * other.count / count
        a, r = other.anchor - self.anchor, other.entry - self.entry
        return Moments(count, self.anchor + share.unsqueeze(-1) * a, self.entry + share * r,
                       with_outer(self.gram + other.gram, weight, a),
                       self.projected + other.projected + (weight * r).unsqueeze(-1) * a,
                       self.square + other.square + weight * r.square())

    def __neg__(self) -> Moments:
        """What adds up to nothing with these moments."""
        return replace(self, count=-self.count, gram=-self.gram, projected=-self.projected, square=-self.square)

    def __sub__(self, other: Moments) -> Moments:
        """The moments of the other anchors, where ``other`` has those of a part of these."""
        return self + -other

    def of_vector(self, i: int) -> Moments:
        """Those of one of n vectors that share their anchors."""
        return replace(self, entry=self.entry[i], projected=self.projected[i], square=self.square[i])

    def products(self, center: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """AᵀA, Aᵀr and rᵀr; with ``center`` those of the deviations from the means."""
        if center:
            return self.gram, self.projected, self.square
        count = self.count.unsqueeze(-1)
        return (with_outer(self.gram, self.count, self.anchor),
                self.projected + count * self.entry.unsqueeze(-1) * self.anchor,
                self.square + self.count * self.entry.square())

    @property
    def bears_rounding(self) -> bool:
        """Whether products of float32 give the same solutions: every eigenvalue of AᵀA is above ``WEAK`` of their mean.

        A smaller one would be drowned in the rounding of the largest, and directions that no anchor spans would get
        weight. The factorisation fails where an eigenvalue is not above the bound.
        """
        return not torch.linalg.cholesky_ex(shifted(self.gram, -WEAK)[0]).info.any()

    def solve(self, ridge: float, center: bool = False) -> Tensor:
        """``closed_form`` on these anchors."""
        gram, projected, _ = self.products(center)
        return solve(gram, projected, ridge)

    def cosine(self, vectors: Tensor, center: bool = False) -> Tensor:
        """cos(r, Au) for vectors u (..., d), one or several for each r, which is (Aᵀr)·u / (‖r‖ √(uᵀAᵀAu)): (...)."""
        gram, projected, square = self.products(center)
        u = normalize(vectors.double(), dim=-1)
        quadratic = ((u.unsqueeze(-2) @ gram).squeeze(-2) * u).sum(-1)
        return (projected * u).sum(-1) / (square * quadratic).clamp_min(TINY).sqrt()


def with_outer(gram: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    """G + w xxᵀ (..., d, d), in one pass: for wide tables, each further matrix costs more than the arithmetic."""
    return torch.addcmul(gram, (weight.unsqueeze(-1) * x).unsqueeze(-1), x.unsqueeze(-2))


def moments(relative: Tensor, anchors: Tensor, mask: Tensor | None = None,
            dtype: torch.dtype = torch.float64) -> Moments:
    """The moments of anchors (k, d), normalised to unit length, and r (..., k), in float64, a block after another.

    Args:
        relative, anchors, mask: as in ``closed_form``.
        dtype: of the products within a block; float32 takes half the time.
    """
    if mask is not None:
        rows = _moments_of_masks(relative.reshape(-1, len(anchors)), anchors, mask.reshape(-1, len(anchors)), dtype)
        parts = (torch.stack([getattr(row, field.name) for row in rows]) for field in fields(Moments))
        return Moments(*(part.unflatten(0, relative.shape[:-1]) for part in parts))
    blocks = zip(relative.split(BLOCK, -1), anchors.split(BLOCK), strict=True)
    return reduce(Moments.__add__, (_moments_of_block(r.to(dtype), a.to(dtype)) for r, a in blocks))


def _moments_of_masks(relative: Tensor, anchors: Tensor, masks: Tensor, dtype: torch.dtype) -> list[Moments]:
    """The moments of each vector's own anchors, of those it keeps or of those it leaves out, whichever are fewer."""
    keeps_most = 2 * masks.sum(1) > len(anchors)
    every = moments(relative, anchors, None, dtype) if keeps_most.any() else None
    found = []
    for i, (row, kept) in enumerate(zip(relative, masks, strict=True)):
        if every is not None and keeps_most[i]:
            found.append(every.of_vector(i) - moments(row[~kept], anchors[~kept], None, dtype))
        else:
            found.append(moments(row[kept], anchors[kept], None, dtype))
    return found


def _moments_of_block(r: Tensor, a: Tensor) -> Moments:
    a = normalize(a, dim=-1)
    anchor, entry = a.sum(0) / max(len(a), 1), r.sum(-1) / max(len(a), 1)  # a mask may leave no anchor
    a -= anchor
    r = r - entry.unsqueeze(-1)
    found = anchor, entry, gram_matrix(a), r @ a, r.square().sum(-1)
    return Moments(torch.tensor(float(len(a)), dtype=torch.float64, device=a.device), *(x.double() for x in found))


def gram_matrix(a: Tensor) -> Tensor:
    """AᵀA by blocks of columns, of which those below the diagonal are mirrored: 5/8 of the products of ``a.T @ a``."""
    d = a.shape[-1]
    gram = a.new_empty(d, d)
    starts = range(0, d, -(-d // 4))
    for start, block in zip(starts, a.split(starts.step, dim=-1), strict=True):
        stop = start + block.shape[-1]
        gram[start:stop, start:] = block.T @ a[:, start:]
        gram[stop:, start:stop] = gram[start:stop, stop:].T
    return gram


def shifted(gram: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """G + λI and λ = ridge · mean eigenvalue of G (..., d, d)."""
    shift = ridge * gram.diagonal(dim1=-2, dim2=-1).mean(-1)
    gram = gram.clone()
    gram.diagonal(dim1=-2, dim2=-1).add_(shift.unsqueeze(-1))
    return gram, shift


def solve(gram: Tensor, projected: Tensor, ridge: float) -> Tensor:
    """(G + λI)⁻¹ projected, with λ = ridge · mean eigenvalue of G; the minimum-norm solution if G is singular."""
    d, eps = gram.shape[-1], torch.finfo(gram.dtype).eps
    rows = projected.reshape(*gram.shape[:-2], -1, d)  # one solve for all vectors with the same Gram matrix
    ridged, shift = shifted(gram, ridge)
    factor, failed = torch.linalg.cholesky_ex(ridged)
    pivots = factor.diagonal(dim1=-2, dim2=-1)
    if not failed.any() and (pivots.amin(-1) > pivots.amax(-1) * (d * eps) ** 0.5).all():
        return torch.cholesky_solve(rows.mT, factor).mT.reshape(projected.shape)
    values, basis = torch.linalg.eigh(gram)  # costs ten times as much, but shows which directions no anchor spans
    tiny = values.amax(-1, keepdim=True) * d * eps
    inverse = torch.where(values > tiny, 1 / (values.clamp_min(tiny) + shift.unsqueeze(-1)), 0.0)
    return (((rows @ basis) * inverse.unsqueeze(-2)) @ basis.mT).reshape(projected.shape)


def split_anchors(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Positions of the anchors to fit on, and of the held-out share (``HELD_OUT``); a single anchor is in both."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    held = max(1, round(HELD_OUT * count))
    return (order[held:], order[:held]) if count > 1 else (order, order)


def held_out_fit(relative: Tensor, anchors: Tensor, center: bool = False, mask: Tensor | None = None,
                 seed: int = 0) -> Tensor:
    """How well the closed form predicts r on held-out anchors, for every ridge in ``RIDGES``. It needs no label.

    Args:
        relative: (..., k).
        anchors: (k, d).
        center, mask: as in ``closed_form``.
        seed: of the choice of held-out anchors.

    Returns:
        (len(RIDGES), ...): cos(r, Au), which is √R², on the held-out fifth of the anchors, with u fitted on the others.
        With ``center`` it is the Pearson correlation instead.
    """
    return ridge_fits(*split_moments(relative.double(), anchors, mask, seed), center)


def split_moments(relative: Tensor, anchors: Tensor, mask: Tensor | None = None,
                  seed: int = 0) -> tuple[Moments, Moments]:
    """The moments of the anchors to fit on, and of the held-out ones; their sum has those of all anchors.

    The products within a block are those of float32 where its rounding does no harm, and float64 is not asked for.
    """
    parts = [(relative[..., part], anchors[part], None if mask is None else mask[..., part])
             for part in (part.to(anchors.device) for part in split_anchors(len(anchors), seed))]
    if torch.float64 not in (relative.dtype, anchors.dtype):
        fitted, held = (moments(*part, torch.float32) for part in parts)
        if fitted.bears_rounding:
            return fitted, held
    fitted, held = (moments(*part) for part in parts)
    return fitted, held


def ridge_fits(fitted: Moments, held: Moments, center: bool = False) -> Tensor:
    """``held_out_fit`` from the moments of both parts."""
    gram, projected, _ = fitted.products(center)
    return held.cosine(torch.stack([solve(gram, projected, ridge) for ridge in RIDGES]), center)


def choose_ridge(fit: Tensor) -> float:
    """The ridge in ``RIDGES`` with the best mean ``held_out_fit`` over all prompts that are transferred together."""
    return RIDGES[int(fit.flatten(1).mean(1).argmax())]


def best_fit(fit: Tensor) -> Tensor:
    """``held_out_fit`` at the ridge that ``choose_ridge`` chooses: (...)."""
    return fit[RIDGES.index(choose_ridge(fit))]


def matching_loss(relative: Tensor, vectors: Tensor, anchors: Tensor, mask: Tensor | None = None,
                  center: bool = False) -> Tensor:
    """1 − cos(r, Au) for each vector u (the paper's objective): (...).

    Args:
        relative: r, (..., k).
        vectors: u, (..., d).
        anchors: (k, d).
        mask: (..., k) bool, the anchors that count for each vector; all if None.
        center: use Pearson correlation instead of the cosine.
    """
    r, own = relative.double(), relative_representation(vectors.double(), anchors.double())
    counts = torch.ones_like(r) if mask is None else mask.to(r.dtype)
    if center:
        total = counts.sum(-1, keepdim=True).clamp_min(1)
        r, own = (x - (x * counts).sum(-1, keepdim=True) / total for x in (r, own))
    return 1 - torch.cosine_similarity(r * counts, own * counts, dim=-1)


def fit_score(relative: Tensor, anchors: Tensor) -> Tensor:
    """The highest cos(r, Au) that any u reaches, which is √R² of r on the anchors: (...). It needs no labels."""
    return 1 - matching_loss(relative, closed_form(relative, anchors), anchors)


def gradient_search(relative: Tensor, anchors: Tensor, table: Tensor, *, steps: int = 2000, lr: float = 5e-3,
                    normalize_in_loss: bool = False, mask: Tensor | None = None, seed: int = 0,
                    progress: bool = False) -> Tensor:
    """The paper's search: Adam minimises the mean of 1 − cos(r, Au), starting from Xavier-normal vectors.

    The objective is computed as cos(r, Au) = (Aᵀr)·u / (‖r‖ √(uᵀAᵀAu)). Values and gradients are the same as with the
    k cosines, but a step costs d² instead of kd for each vector. The learning rate is constant, so a shorter search
    passes through the same vectors as a longer one.

    Args:
        relative: (n, m, k), n prompts.
        anchors: (k, d).
        table: (V, d), the target's embedding table, for ``normalize_in_loss``.
        steps, lr: of Adam.
        normalize_in_loss: apply ``normalize_prompt(..., "affine")`` to the vectors before each loss, and to the
            result, as the paper's reference code does.
        mask: (n, m, k) bool, the anchors that count for each vector; all if None.
        seed: of the initial vectors, which are the same for each of the n prompts.
        progress: show a bar.

    Returns:
        (n, m, d).
    """
    gram, projected, square = (product.float() for product in moments(relative, anchors, mask).products())
    lengths = square.sqrt()
    start = torch.nn.init.xavier_normal_(torch.empty(relative.shape[1], anchors.shape[1]),
                                         generator=torch.Generator().manual_seed(seed))
    vectors = start.to(gram.device).expand(len(relative), -1, -1).clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=lr)
    mean, std = table.mean(), table.std()  # computed once, because the table is large
    for _ in progress_bar(range(steps), show=progress, desc="searching"):
        u = _affine(vectors, mean, std) if normalize_in_loss else vectors
        quadratic = ((u.unsqueeze(-2) @ gram).squeeze(-2) * u).sum(-1)
        # The clamp keeps the root's gradient finite at u = 0.
        cosine = (projected * u).sum(-1) / (lengths * quadratic.clamp_min(1e-12).sqrt())
        optimizer.zero_grad(set_to_none=True)
        # Mean over a prompt's vectors, sum over prompts: so each prompt's gradient is the same as if it were alone.
        (1 - cosine).mean(-1).sum().backward()
        optimizer.step()
    found = vectors.detach()
    return _affine(found, mean, std) if normalize_in_loss else found


def normalize_prompt(vectors: Tensor, table: Tensor, how: str, lengths: Tensor | None = None,
                     origin: Tensor | None = None) -> Tensor:
    """Give vectors the scale of the target's embeddings (section 3.4 of the paper).

    | how | what happens to each prompt | directions |
    |---|---|---|
    | ``"none"`` | nothing | kept |
    | ``"scale"`` | its standard deviation becomes the table's | kept |
    | ``"affine"`` | its mean and standard deviation become the table's | changed |
    | ``"affine-in-loss"`` | nothing here: ``gradient_search`` has already applied "affine" | kept |
    | ``"norm-preserving"`` | each vector gets its norm from ``lengths`` | kept |
    | ``"centered-norm"`` | each vector gets its distance from ``origin`` from ``lengths`` | changed |

    Args:
        vectors: (..., m, d). A prompt's mean and standard deviation are scalars over its m vectors.
        table: (V, d), the target's embedding table.
        how: see the table.
        lengths: (..., m), for "norm-preserving" and "centered-norm".
        origin: (d,), for "centered-norm".

    Returns:
        (..., m, d).
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
    """Prompts (..., m, d), each shifted and scaled to have this mean and standard deviation."""
    own_mean, own_std = vectors.mean(dim=(-2, -1), keepdim=True), vectors.std(dim=(-2, -1), keepdim=True)
    return (vectors - own_mean) / own_std * std + mean
