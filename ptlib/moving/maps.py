"""Transfer without relative representations: maps, and baselines such as copying and random vectors.

The maps (linear, Procrustes, projector) are learnt from the shared words alone: x is the source's embedding of
an anchor, y the target's. They see no prompt, no fact and no label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from ..errors import PromptMismatchError
from ..models.lm import LanguageModel
from ..prompts.prompt import random_vectors, salted_generator
from .search import RIDGES, gram_matrix, solve, split_anchors

__all__ = ["AffineMap", "copy_vectors", "draw_random", "local_map", "nearest_anchors", "procrustes_map", "projector",
           "ridge_map", "weighted_sum"]

TAU = 0.1  # a word weighs e times as much as one whose cosine with the vector is so much lower


def copy_vectors(vectors: Tensor, source: LanguageModel, target: LanguageModel) -> Tensor:
    """The source vectors (n, m, d), unchanged.

    Raises:
        PromptMismatchError: the two LMs have different widths.
    """
    if source.dim != target.dim:
        raise PromptMismatchError(f"cannot copy a prompt from {source.name} ({source.dim} wide) to {target.name} "
                                  f"({target.dim} wide); expected equal widths: use another method")
    return vectors


def nearest_anchors(relative: Tensor, anchors: Tensor) -> Tensor:
    """Discretization: the anchor (k, d) with the highest cosine in each relative representation (..., k): (..., d)."""
    return anchors[relative.argmax(-1)]


def weighted_sum(relative: Tensor, anchors: Tensor) -> Tensor:
    """Aᵀr: the sum of the target's normalised anchors (k, d), weighted by the source's cosines (..., k): (..., d).

    Nothing is solved or learnt. As its ridge grows, the closed form takes this direction.
    """
    return relative @ normalize(anchors, dim=-1)


def draw_random(salts: list[str], num_vectors: int, target: LanguageModel, seed: int) -> Tensor:
    """Random vectors on the scale of the target's embeddings: (n, m, d), one draw for each of the n salts."""
    drawn = [random_vectors(target, (num_vectors,), salted_generator(seed, salt)) for salt in salts]
    return torch.stack(drawn).to(target.device)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """v ↦ (v − x̄) W + ȳ: a linear map between centred embedding tables.

    Attributes:
        matrix: W, (d_source, d_target) float64.
        source_mean, target_mean: x̄ (d_source,) and ȳ (d_target,), the means of the anchors.
    """

    matrix: Tensor
    source_mean: Tensor
    target_mean: Tensor

    def __call__(self, vectors: Tensor) -> Tensor:
        return (vectors.double() - self.source_mean) @ self.matrix + self.target_mean


def _centered(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y = x.double(), y.double()
    return x - x.mean(0), y - y.mean(0), x.mean(0), y.mean(0)


def ridge_map(x: Tensor, y: Tensor, ridge: float | Literal["auto"] = "auto", seed: int = 0) -> tuple[AffineMap, float]:
    """Ridge regression of the target's anchors (k, d_t) on the source's (k, d_s), with an intercept.

    W = (XᵀX + λI)⁻¹ XᵀY with λ = ridge · tr(XᵀX) / d_s. It predicts the target from the source. The paper's search,
    seen as a linear map (A_t⁺ A_s), predicts in the opposite direction.

    Args:
        ridge: a number, or ``"auto"``: the one in ``RIDGES`` with the lowest squared error on held-out anchors.
        seed: of the choice of held-out anchors.

    Returns:
        The map, and the ridge that was used.
    """
    if ridge == "auto":
        fitted, held = split_anchors(len(x), seed)
        errors = [mse_loss(fitted_map(x[held]), y[held].double()).item()
                  for fitted_map in _ridge_maps(x[fitted], y[fitted], RIDGES).values()]
        ridge = RIDGES[errors.index(min(errors))]
    return _ridge_maps(x, y, (ridge,))[ridge], ridge


def _ridge_maps(x: Tensor, y: Tensor, ridges: tuple[float, ...]) -> dict[float, AffineMap]:
    """{ridge: map}, all from one Gram matrix. Directions that no anchor spans get no weight."""
    x, y, x_mean, y_mean = _centered(x, y)
    gram, projected = gram_matrix(x), y.T @ x
    return {ridge: AffineMap(solve(gram, projected, ridge).T, x_mean, y_mean) for ridge in ridges}


def local_map(x: Tensor, y: Tensor, *, neighbours: int = 500, local_ridge: float = 1.0,
              seed: int = 0) -> Callable[[Tensor], Tensor]:
    """Ridge regression, corrected for each vector by its errors on the nearest words (see Cleveland 1979).

    v ↦ f(v) + ē + (v − x̄)C, where f is ``ridge_map`` and C a second ridge regression, of the errors y − f(x) on x,
    on the words with the highest cosines with v, weighted by exp(cos / ``TAU``); ē and x̄ are the weighted means. A
    tuned prompt's vectors are no words, and a linear map extrapolates to them; the words around a vector know how far
    the map is off there.

    Args:
        x, y: the anchors in the source (k, d_s) and in the target (k, d_t).
        neighbours: how many words correct a vector; all if there are fewer.
        local_ridge: of C, relative to the mean square length of x − x̄. As it grows, only ē is left of the correction.
        seed: of the anchors that are held out to choose the ridge of f.

    Returns:
        The map, from vectors (..., d_s) to (..., d_t) float64.
    """
    regression, _ = ridge_map(x, y, seed=seed)
    x, y = x.double(), y.double()
    units = normalize(x - regression.source_mean, dim=-1)

    def moved(vector: Tensor) -> Tensor:
        cosines = units @ normalize(vector - regression.source_mean, dim=-1)
        nearest = cosines.topk(min(neighbours, len(x)))
        weights = (nearest.values / TAU).softmax(-1)
        near, errors = x[nearest.indices], y[nearest.indices] - regression(x[nearest.indices])
        centre, error = weights @ near, weights @ errors
        near, errors = near - centre, errors - error
        gram = near @ near.T
        shift = local_ridge * gram.diagonal().mean() / (len(weights) * weights).clamp_min(1e-9)
        gram = gram + torch.diag(shift.clamp_min(1e-12))  # a single word has no error left, and nothing to regress on
        return regression(vector) + error + (vector - centre) @ near.T @ torch.linalg.solve(gram, errors)

    def found(vectors: Tensor) -> Tensor:
        rows = vectors.double().flatten(0, -2)
        return torch.stack([moved(vector) for vector in rows]).unflatten(0, vectors.shape[:-1])

    return found


def procrustes_map(x: Tensor, y: Tensor, whiten: bool = False) -> AffineMap:
    """The orthogonal map from the source's anchors (k, d_s) to the target's (k, d_t) (Schönemann 1966).

    W = UVᵀ from the singular vectors of XᵀY. Among all maps with orthonormal rows or columns, it has the largest
    Σ(xW)·y. Unless the target is narrower than the source, it also has the lowest Σ‖xW − y‖².

    Args:
        whiten: whiten both tables first, then give the result the target's covariance (Artetxe et al. 2018):
            W = Cx^(−1/2) UVᵀ Cy^(1/2).
    """
    x, y, x_mean, y_mean = _centered(x, y)
    if not whiten:
        left, _, right = torch.linalg.svd(x.T @ y, full_matrices=False)
        return AffineMap(left @ right, x_mean, y_mean)
    from_x, _ = _whitening(x)
    from_y, to_y = _whitening(y)
    left, _, right = torch.linalg.svd(from_x.T @ x.T @ y @ from_y, full_matrices=False)
    return AffineMap(from_x @ left @ right @ to_y, x_mean, y_mean)


def _whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """C^(−1/2) and C^(1/2) of the covariance of x; directions without variance are dropped."""
    values, basis = torch.linalg.eigh(x.T @ x / len(x))
    kept = values > values.amax() * len(values) * torch.finfo(values.dtype).eps
    basis, roots = basis[:, kept], values[kept].sqrt()
    return basis / roots @ basis.T, basis * roots @ basis.T


def projector(x: Tensor, y: Tensor, *, hidden: int = 256, epochs: int = 50, lr: float = 1e-3,
              seed: int = 0) -> tuple[Callable[[Tensor], Tensor], dict[str, float | None]]:
    """A two-layer perceptron from the source's anchors (k, d_s) to the target's (k, d_t): the paper's projector.

    The layers are linear, ReLU, linear. Both tables are divided by the standard deviation of their entries. Adam
    minimises the mean squared error with a constant rate on batches of 256. The projector keeps the weights of the
    epoch with the lowest error on a held-out fifth of the anchors, and stops after five epochs without a better one.
    It is trained on words alone. The vectors of a tuned prompt are longer than any word's, so it has to extrapolate.

    Args:
        hidden: width of the hidden layer.
        epochs: the highest number of epochs.
        lr: learning rate of Adam.
        seed: of the weights, the batches and the held-out anchors.

    Returns:
        The map, and its record: ``held_out_r2`` (1 − error / variance, on the held-out anchors) and ``epoch``.
    """
    scale_x, scale_y = x.std(), y.std()
    x, y = x / scale_x, y / scale_y
    fitted, held = split_anchors(len(x), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = torch.nn.Sequential(torch.nn.Linear(x.shape[1], hidden), torch.nn.ReLU(),
                                      torch.nn.Linear(hidden, y.shape[1])).to(x.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    best, state, best_epoch = float("inf"), None, 0
    for epoch in range(epochs):
        for batch in fitted[torch.randperm(len(fitted), generator=generator)].split(256):
            optimizer.zero_grad(set_to_none=True)
            mse_loss(network(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            error = mse_loss(network(x[held]), y[held]).item()
        if error < best:
            best, best_epoch = error, epoch
            state = {name: weight.clone() for name, weight in network.state_dict().items()}
        elif epoch - best_epoch >= 5:
            break
    assert state is not None
    network.load_state_dict(state)
    network.requires_grad_(False)
    variance = y[held].var(0, correction=0).mean().item()
    # A single held-out anchor has no variance to compare with.
    record = {"held_out_r2": 1 - best / variance if variance else None, "epoch": best_epoch + 1}
    return lambda vectors: network(vectors / scale_x) * scale_y, record
