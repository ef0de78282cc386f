"""The ways of moving a prompt that the search is compared with, each against brute force or a known answer."""

import numpy as np
import pytest
import torch

from ptlib import PromptMismatchError, encode, random_prompt, shared_anchors
from ptlib.moving.maps import (
    copy_vectors,
    draw_random,
    local_map,
    nearest_anchors,
    procrustes_map,
    projector,
    ridge_map,
    weighted_sum,
)
from ptlib.moving.search import RIDGES, split_anchors

WIDTHS = [(6, 6), (4, 7), (7, 4)]


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(count, width, seed=0):
    """Embeddings as they are: neither isotropic nor centred."""
    return draw(count, width, seed=seed) @ draw(width, width, seed=seed + 1) + 2 * draw(width, seed=seed + 2)


def orthonormal(rows, columns, seed=9):
    """A matrix with orthonormal rows or columns, whichever are fewer."""
    tall = torch.linalg.qr(draw(max(rows, columns), min(rows, columns), seed=seed)).Q
    return tall if rows >= columns else tall.T


def covariance(x):
    return torch.cov(x.T)


def test_copy_is_the_same_vectors(toys):
    vectors = torch.randn(2, 3, 16)
    assert torch.equal(copy_vectors(vectors, toys["bert"], toys["gpt2"]), vectors)
    with pytest.raises(PromptMismatchError, match=toys["roberta"].name):
        copy_vectors(vectors, toys["bert"], toys["roberta"])


def test_discretize_takes_the_nearest_shared_word(toys):
    source, target = toys["bert"], toys["roberta"]
    anchors, prompt = shared_anchors(source, target), random_prompt(source, 8)
    found = nearest_anchors(encode(prompt, source, anchors), anchors.of(target))
    for vector, moved in zip(prompt.vectors, found, strict=True):
        word = max(anchors.words, key=lambda word: torch.cosine_similarity(
            vector, source.embeddings[source.words[word]], dim=0))
        assert torch.equal(moved, target.embeddings[target.words[word]])


def test_weighted_sum_adds_unit_anchors():
    relative, anchors = draw(2, 3, 5), table(5, 4)
    expected = sum(relative[..., i, None] * anchors[i] / anchors[i].norm() for i in range(5))
    torch.testing.assert_close(weighted_sum(relative, anchors), expected)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("count", "ridge"), [(40, 0.0), (40, 1e-3), (40, 0.3), (40, 3.0), (4, 0.3)])
def test_ridge_map_is_ridge_regression_with_a_free_intercept(widths, count, ridge):
    x, y, new = table(count, widths[0]), table(count, widths[1], seed=5), table(9, widths[0], seed=6)
    size = widths[0]
    # A column of ones, and the penalty as further rows, which leave that column alone.
    root = np.sqrt(ridge * (x - x.mean(0)).square().sum().item() / size)
    left = np.vstack([np.hstack([x, np.ones((count, 1))]), np.hstack([root * np.eye(size), np.zeros((size, 1))])])
    solution = np.linalg.lstsq(left, np.vstack([y, np.zeros((size, widths[1]))]))[0]
    found, used = ridge_map(x, y, ridge)
    assert used == ridge
    np.testing.assert_allclose(found(new), np.hstack([new, np.ones((9, 1))]) @ solution, atol=1e-9)


@pytest.mark.parametrize("ridge", [0.0, "auto"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_ridge_map_recovers_an_affine_map(widths, ridge):
    x, new = table(40, widths[0]), table(9, widths[0], seed=6)
    matrix, shift = draw(*widths, seed=3), draw(widths[1], seed=4)
    found, used = ridge_map(x, x @ matrix + shift, ridge)
    assert used == 0.0, "where nothing is noise, no ridge predicts the unseen better"
    torch.testing.assert_close(found(new), new @ matrix + shift)


def test_auto_ridge_has_the_least_error_on_held_out_anchors():
    """Twelve words fitted in ten dimensions, and noise: the plain solution overfits."""
    x = table(15, 10)
    y = x @ draw(10, 8, seed=3) + 5 * draw(15, 8, seed=4)
    fitted, held = split_anchors(15, seed=2)
    errors = [(ridge_map(x[fitted], y[fitted], ridge)[0](x[held]) - y[held]).square().sum() for ridge in RIDGES]
    _, chosen = ridge_map(x, y, "auto", seed=2)
    assert chosen == RIDGES[int(torch.stack(errors).argmin())] > 0


@pytest.mark.parametrize("count", [1, 2, 5, 7])
@pytest.mark.parametrize("learn", [lambda x, y: ridge_map(x, y, 0.0)[0], lambda x, y: ridge_map(x, y, 0.1)[0],
                                   lambda x, y: ridge_map(x, y)[0], local_map, procrustes_map,
                                   lambda x, y: procrustes_map(x, y, whiten=True),
                                   lambda x, y: projector(x.float(), y.float(), epochs=2)[0]],
                         ids=["ridge 0", "ridge 0.1", "auto ridge", "local", "procrustes", "whitened", "projector"])
def test_fewer_anchors_than_dimensions_give_finite_maps(learn, count):
    found = learn(table(count, 16), table(count, 12, seed=5))
    assert found(draw(2, 3, 16, seed=6).float()).isfinite().all()


def test_ridge_map_interpolates_fewer_anchors_than_dimensions():
    x, y = table(5, 16), table(5, 12, seed=5)
    torch.testing.assert_close(ridge_map(x, y, 0.0)[0](x), y)


@pytest.mark.parametrize("local_ridge", [1e-3, 1.0, 30.0])
def test_local_map_is_a_weighted_regression_of_the_nearest_words_errors(local_ridge):
    """The dual solution that ``local_map`` has is the primal one: weighted least squares with a penalty."""
    x, y, vector = table(60, 6), table(60, 8, seed=5), draw(6, seed=6)
    linear = ridge_map(x, y)[0]
    mean = x.mean(0)
    cosines = torch.cosine_similarity(x - mean, vector - mean)
    nearest = cosines.argsort(descending=True)[:20]
    weights = (cosines[nearest] / 0.1).exp() / (cosines[nearest] / 0.1).exp().sum()
    near, errors = x[nearest], y[nearest] - linear(x[nearest])
    centre, error = weights @ near, weights @ errors
    near, errors, weighed = near - centre, errors - error, 20 * weights
    penalty = local_ridge * near.square().sum(1).mean() * torch.eye(6, dtype=torch.float64)
    slopes = torch.linalg.solve(near.T @ (weighed[:, None] * near) + penalty, near.T @ (weighed[:, None] * errors))
    expected = linear(vector) + error + (vector - centre) @ slopes
    found = local_map(x, y, neighbours=20, local_ridge=local_ridge)
    torch.testing.assert_close(found(vector.expand(2, 3, -1)), expected.expand(2, 3, -1))


def test_local_map_corrects_what_is_not_linear():
    """Two clouds of words, each with a map of its own: no linear map serves both, but the words nearby do."""
    x = torch.cat([table(80, 6) + 10, table(80, 6, seed=1) - 10])
    ways = draw(2, 6, 8, seed=3)
    y, new = torch.cat([x[:80] @ ways[0], x[80:] @ ways[1]]), table(20, 6, seed=4) + 10
    errors = {name: (learnt(new) - new @ ways[0]).norm() for name, learnt in
              {"linear": ridge_map(x, y)[0], "local": local_map(x, y, neighbours=80, local_ridge=1e-6)}.items()}
    assert errors["local"] < 0.01 * errors["linear"]


@pytest.mark.parametrize("widths", WIDTHS)
def test_local_map_leaves_an_affine_map_as_it_is(widths):
    x, matrix, new = table(40, widths[0]), draw(*widths, seed=3), table(9, widths[0], seed=6)
    torch.testing.assert_close(local_map(x, x @ matrix + 2)(new), new @ matrix + 2)


@pytest.mark.parametrize("widths", [(6, 6), (4, 7)])
def test_procrustes_recovers_a_rotation(widths):
    x, rotation = table(40, widths[0]), orthonormal(*widths)
    found = procrustes_map(x, x @ rotation + draw(widths[1]))
    torch.testing.assert_close(found.matrix, rotation)
    torch.testing.assert_close(found(x), x @ rotation + draw(widths[1]))


@pytest.mark.parametrize("widths", WIDTHS)
def test_procrustes_is_the_best_of_the_orthonormal_maps(widths):
    """The one under which the tables agree the most; where no width is lost, also the one with the least error."""
    x, y = table(40, widths[0]), table(40, widths[1], seed=5)
    x, y = x - x.mean(0), y - y.mean(0)
    best = procrustes_map(x, y).matrix
    fewer = best.T @ best if widths[0] > widths[1] else best @ best.T
    torch.testing.assert_close(fewer, torch.eye(min(widths), dtype=torch.float64))
    for seed in range(50):
        # A neighbour: the found map after a small rotation of the wider side; and one from anywhere.
        turn = torch.matrix_exp(0.1 * (lambda a: a - a.T)(draw(max(widths), max(widths), seed=seed)))
        for rival in (turn @ best if widths[0] > widths[1] else best @ turn, orthonormal(*widths, seed=seed)):
            assert (x @ rival * y).sum() < (x @ best * y).sum()
            if widths[0] <= widths[1]:
                assert (x @ rival - y).square().sum() > (x @ best - y).square().sum()


@pytest.mark.parametrize("width", [1, 6])
def test_whitened_procrustes_recovers_any_invertible_affine_map(width):
    x, matrix, shift = table(40, width), draw(width, width, seed=3), draw(width, seed=4)
    new = table(9, width, seed=6)
    torch.testing.assert_close(procrustes_map(x, x @ matrix + shift, whiten=True)(new), new @ matrix + shift)


@pytest.mark.parametrize("widths", [(6, 6), (7, 4)])
def test_whitened_procrustes_gives_the_targets_covariance(widths):
    x, y = table(40, widths[0]), table(40, widths[1], seed=5)
    torch.testing.assert_close(covariance(procrustes_map(x, y, whiten=True)(x)), covariance(y))
    assert not torch.allclose(covariance(procrustes_map(x, y)(x)), covariance(y), rtol=0.1)


@pytest.fixture(scope="module")
def easy():
    """A linear relation between tables of different scales, and one more table of the source."""
    x = 0.1 * draw(600, 8).float()
    matrix = 30 * draw(8, 6, seed=3).float()
    return x[:500], x[:500] @ matrix, x[500:], x[500:] @ matrix


def test_projector_learns_a_linear_relation(easy):
    x, y, new_x, new_y = easy
    found, record = projector(x, y, hidden=64, epochs=50, lr=5e-3, seed=1)
    _, held = split_anchors(500, seed=1)

    def r2(x, y):
        return 1 - ((found(x) - y).square().mean() / (y - y.mean(0)).square().mean()).item()

    assert record["held_out_r2"] == pytest.approx(r2(x[held], y[held]), abs=1e-5)
    assert record["held_out_r2"] > 0.9
    assert r2(new_x, new_y) > 0.9, "it should learn the relation, not the anchors"
    assert not found(new_x).requires_grad


def test_projector_keeps_the_best_epoch(easy):
    x, y, *_ = easy
    records = [projector(x, y, hidden=16, epochs=epochs, lr=0.1)[1] for epochs in range(1, 12)]
    scores = [record["held_out_r2"] for record in records]
    assert scores == sorted(scores), "further epochs can only replace the best one"
    assert all(record["epoch"] <= epochs for epochs, record in enumerate(records, 1))
    assert any(record["epoch"] < epochs for epochs, record in enumerate(records, 1)), "the rate is high: some are worse"


def test_projector_follows_its_seed_and_leaves_the_callers_random_numbers_alone(easy):
    x, y, new, _ = easy
    state = torch.get_rng_state()
    one, again, other = (projector(x, y, epochs=2, seed=seed)[0](new) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, rtol=1e-2)


def test_random_vectors_follow_seed_and_salt_and_scale(toys):
    lm = toys["roberta"]
    one, again, other = (draw_random(["a", "b"], 300, lm, seed) for seed in (0, 0, 1))
    assert one.shape == (2, 300, 24)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    assert torch.equal(draw_random(["b", "c"], 300, lm, 0)[0], one[1])
    assert one.std().item() == pytest.approx(lm.embeddings.std().item(), rel=0.05)
    assert one.mean().item() == pytest.approx(lm.embeddings.mean().item(), abs=0.01)
