"""The search: closed form and gradient descent against brute force and against each other."""

import time

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ptlib import encode, random_prompt, shared_anchors
from ptlib.moving import search
from ptlib.moving.relative import relative_representation, top_k_mask
from ptlib.moving.search import (
    HELD_OUT,
    RIDGES,
    choose_ridge,
    closed_form,
    fit_score,
    gradient_search,
    gram_matrix,
    held_out_fit,
    matching_loss,
    moments,
    normalize_prompt,
    split_anchors,
    split_moments,
)

EACH = list(np.ndindex(2, 3))  # the vectors of the prompts below


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def anchors():
    """(60, 12) target anchors, whose mean is not zero."""
    return torch.randn(60, 12, generator=draws(1)) + 0.3


@pytest.fixture
def relative(anchors):
    """(2, 3, 60): two prompts in a source space that is the target's, bent."""
    source = torch.tanh(anchors[:, :8]) + 0.3 * torch.randn(60, 8, generator=draws(2))
    return relative_representation(torch.randn(2, 3, 8, generator=draws(3)), source)


@pytest.fixture(params=[None, 25, 45], ids=["all anchors", "top 25", "top 45"])
def mask(request, relative):
    """The anchors that count for each vector."""
    return None if request.param is None else top_k_mask(relative, request.param)


def kept(mask, index):
    """Positions of the anchors that count for one vector."""
    return np.arange(60) if mask is None else np.flatnonzero(mask[index])


def cosine(one, two):
    # torch's own cosine_similarity takes vectors shorter than 1e-8 for zero.
    return (normalize(one.double(), dim=-1, eps=1e-30) * normalize(two.double(), dim=-1, eps=1e-30)).sum(-1)


def agreement(relative, vectors, anchors, mask, center):
    """Cosine, or Pearson correlation, of the relative representations, on each vector's own anchors."""
    counts = torch.ones_like(relative, dtype=torch.float64) if mask is None else mask.double()

    def standard(x):
        mean = (x * counts).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)
        return (x - center * mean) * counts

    return cosine(standard(relative.double()), standard(relative_representation(vectors.double(), anchors.double())))


def ridge_regression(relative, anchors, mask, ridge, center):
    """Brute force: one plain least-squares problem a vector, the penalty as further rows; (2, 3, 12)."""
    found = np.empty((2, 3, 12))
    for index in EACH:
        rows = kept(mask, index)
        a, r = normalize(anchors.double(), dim=-1).numpy()[rows], relative.double().numpy()[index][rows]
        if center:
            a, r = a - a.mean(0), r - r.mean()
        penalty = np.sqrt(ridge * np.trace(a.T @ a) / 12) * np.eye(12)
        found[index] = np.linalg.lstsq(np.vstack([a, penalty]), np.hstack([r, np.zeros(12)]))[0]
    return found


def rivals(found):
    """Many vectors near and far from the found ones, and others drawn from nothing."""
    noise = torch.randn(200, *found.shape, generator=draws(4), dtype=found.dtype)
    size = found.norm(dim=-1, keepdim=True)
    return torch.cat([found + scale * size * noise for scale in (1e-4, 1e-2, 0.1, 1.0)] + [noise])


def test_matching_loss_is_one_minus_the_cosine_of_cosines(relative, anchors, mask):
    vectors = torch.randn(2, 3, 12, generator=draws())
    found = matching_loss(relative, vectors, anchors, mask)
    for index in EACH:
        rows, u = kept(mask, index), vectors.numpy()[index]
        r = relative.numpy()[index][rows]
        own = np.array([np.dot(u, a) / np.linalg.norm(u) / np.linalg.norm(a) for a in anchors.numpy()[rows]])
        expected = 1 - np.dot(r, own) / np.linalg.norm(r) / np.linalg.norm(own)
        assert found[index].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("center", [False, True])
def test_closed_form_beats_every_rival(relative, anchors, mask, center):
    found = closed_form(relative, anchors, center=center, mask=mask)
    best = agreement(relative, found, anchors, mask, center)
    assert (agreement(relative, rivals(found), anchors, mask, center) <= best + 1e-12).all()
    assert (best > 0.1).all(), "the spaces are related: there is something to find"
    # Neither the centring nor the choice of anchors is idle.
    other = closed_form(relative, anchors, center=not center, mask=mask)
    assert (agreement(relative, other, anchors, mask, center) < best - 1e-6).all()
    if mask is not None:
        other = closed_form(relative, anchors, center=center)
        assert (agreement(relative, other, anchors, mask, center) < best - 1e-6).all()


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.3, 3.0])
def test_closed_form_is_ridge_regression(relative, anchors, mask, ridge, center):
    found = closed_form(relative, anchors, ridge, center, mask)
    np.testing.assert_allclose(found.numpy(), ridge_regression(relative, anchors, mask, ridge, center), atol=1e-10)


@pytest.mark.parametrize("center", [False, True])
def test_moments_of_parts_add_up_to_those_of_the_whole(relative, anchors, mask, center):
    """Also of parts of very different means, which lie far from zero: nothing cancels."""
    shifted = anchors.double() + 30 * (torch.arange(len(anchors)) % 2 == 0).double()[:, None]
    unit = torch.nn.functional.normalize(shifted, dim=-1)
    halves = torch.arange(len(anchors)).chunk(3)
    parts = [moments(relative[..., half], shifted[half], None if mask is None else mask[..., half]) for half in halves]
    gram, projected, square = (parts[0] + parts[1] + parts[2]).products(center)
    for index in [(i, j) for i in range(relative.shape[0]) for j in range(relative.shape[1])]:
        rows = slice(None) if mask is None else mask[index]
        a, r = unit[rows], relative[index].double()[rows]
        if center:
            a, r = a - a.mean(0), r - r.mean()
        torch.testing.assert_close(gram if mask is None else gram[index], a.T @ a, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(projected[index], r @ a, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(square[index], r @ r, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 1), (9, 3), (40, 10), (5, 64)])
def test_gram_matrix_is_the_product(shape):
    a = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram_matrix(a), a.T @ a, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("center", [False, True])
def test_the_cosine_from_moments_is_that_of_the_cosines(relative, anchors, mask, center):
    vectors = torch.randn(*relative.shape[:2], anchors.shape[1], generator=torch.Generator().manual_seed(1))
    expected = 1 - matching_loss(relative, vectors, anchors, mask, center)
    torch.testing.assert_close(moments(relative, anchors, mask).cosine(vectors, center), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_blocks_of_anchors_change_nothing(relative, anchors, monkeypatch, block):
    expected = closed_form(relative, anchors, 0.01)
    monkeypatch.setattr(search, "BLOCK", block)
    torch.testing.assert_close(closed_form(relative, anchors, 0.01), expected, rtol=1e-9, atol=1e-12)


def test_huge_ridge_leaves_the_weighted_sum_of_anchors(relative, anchors, mask):
    counted = relative if mask is None else relative * mask
    weighted = counted.double() @ normalize(anchors.double(), dim=-1)
    assert (cosine(closed_form(relative, anchors, ridge=1e9, mask=mask), weighted) > 1 - 1e-9).all()


def test_lengths_of_the_anchors_do_not_matter(relative, anchors):
    lengths = torch.rand(60, 1, generator=draws()) + 0.1
    torch.testing.assert_close(closed_form(relative, anchors * lengths), closed_form(relative, anchors),
                               atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "albert"])
def test_self_transfer_returns_the_direction(toys, family):
    lm = toys[family]
    words = shared_anchors(*(toys[name] for name in ("bert", "roberta", "albert")))
    assert len(words) >= lm.dim
    prompt = random_prompt(lm)
    found = closed_form(encode(prompt, lm, words), words.of(lm))
    torch.testing.assert_close(found.float(), normalize(prompt.vectors, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("masked", [False, True], ids=["all anchors", "half of them"])
@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("degenerate", [
    lambda a: a[:5], lambda a: a[:1], lambda a: a[:12], lambda a: a[[0] * 60], lambda a: a[torch.arange(60) % 3],
    lambda a: torch.cat([a[:, :11], a[:, :1] + 1e-7 * a[:, 11:]], 1)],
    ids=["k < d", "k = 1", "k = d", "all equal", "rank 3", "near-singular"])
def test_degenerate_anchors_give_finite_vectors(relative, anchors, degenerate, center, ridge, masked):
    few = degenerate(anchors)
    part = relative[..., :len(few)]
    mask = top_k_mask(part, -(-len(few) // 2)) if masked else None
    found = closed_form(part, few, ridge, center, mask)
    assert found.shape == (2, 3, 12)
    assert found.isfinite().all()
    assert found.float().isfinite().all()
    assert held_out_fit(part, few, center, mask).isfinite().all()


def test_fewer_anchors_than_dimensions_are_interpolated_with_the_least_norm(relative, anchors):
    few, part = anchors[:5], relative[..., :5]
    found = closed_form(part, few)
    assert matching_loss(part, found, few).abs().max() < 1e-10
    np.testing.assert_allclose(found.numpy(), (part.double() @ torch.linalg.pinv(normalize(few.double(), dim=-1)).T),
                               atol=1e-10)


def test_centered_matching_loss_is_one_minus_pearson(relative, anchors, mask):
    vectors = torch.randn(2, 3, 12, generator=draws())
    own = relative_representation(vectors, anchors)
    found = matching_loss(relative, vectors, anchors, mask, center=True)
    for index in EACH:
        rows = slice(None) if mask is None else mask[index]
        expected = 1 - np.corrcoef(relative[index][rows], own[index][rows])[0, 1]
        assert found[index].item() == pytest.approx(expected, abs=1e-5)


def test_fit_score_is_the_root_of_r_squared(relative, anchors):
    a, r = normalize(anchors.double(), dim=-1).numpy(), relative.double().reshape(-1, 60).numpy()
    residual = r.T - a @ np.linalg.lstsq(a, r.T)[0]
    r_squared = 1 - (residual ** 2).sum(0) / (r ** 2).sum(1)
    np.testing.assert_allclose(fit_score(relative, anchors).flatten().numpy() ** 2, r_squared, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 7, 60, 1001])
def test_anchors_are_split_in_two(count):
    fitted, held = split_anchors(count, seed=4)
    assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(count))
    assert len(held) == max(1, round(HELD_OUT * count))
    assert torch.equal(split_anchors(count, seed=4)[1], held)
    assert count < 60 or not torch.equal(split_anchors(count, seed=5)[1], held)


@pytest.mark.parametrize("center", [False, True])
def test_held_out_fit_against_brute_force(relative, anchors, mask, center):
    found = held_out_fit(relative, anchors, center, mask, seed=7)
    assert found.shape == (len(RIDGES), 2, 3)
    judged = torch.zeros(60, dtype=torch.bool)
    judged[split_anchors(60, seed=7)[1]] = True
    counted = torch.ones(2, 3, 60, dtype=torch.bool) if mask is None else mask
    for ridge, row in zip(RIDGES, found, strict=True):
        solved = ridge_regression(relative, anchors, counted & ~judged, ridge, center)
        for index in EACH:
            rows = kept(counted & judged, index)
            own = normalize(anchors[rows].double(), dim=-1).numpy() @ solved[index]
            r = relative[index][rows].double().numpy()
            if center:  # judged as it was solved: by Pearson correlation
                r, own = r - r.mean(), own - own.mean()
            expected = r @ own / np.linalg.norm(r) / np.linalg.norm(own)
            assert row[index].item() == pytest.approx(expected, abs=1e-9)


def same(found, expected, within):
    """The moments are alike, relative to the largest number of each kind."""
    pairs = [(vars(found)[name], exact) for name, exact in vars(expected).items()]
    return all((one - exact).abs().max() <= within * exact.abs().max() for one, exact in pairs)


def test_products_of_float32_give_the_same_solutions(relative, anchors, mask):
    for found, expected in zip(split_moments(relative, anchors, mask),
                               split_moments(relative.double(), anchors, mask), strict=True):
        assert same(found, expected, 1e-6) and not torch.equal(found.gram, expected.gram)
        for ridge in RIDGES[1:]:
            u, exact = found.solve(ridge), expected.solve(ridge)
            assert ((u - exact).norm(dim=-1) <= 1e-3 * exact.norm(dim=-1)).all()


@pytest.mark.parametrize("weak", [0.0, 1e-3])
def test_products_are_of_float64_where_anchors_hardly_span_a_direction(relative, anchors, weak):
    anchors = anchors * torch.tensor([weak] + [1.0] * (anchors.shape[1] - 1))
    both = split_moments(relative, anchors), split_moments(relative.double(), anchors)
    for found, expected in zip(*both, strict=True):
        assert torch.equal(found.gram, expected.gram) and torch.equal(found.projected, expected.projected)


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
def test_held_out_anchors_judge_and_are_not_fitted(relative, anchors, ridge):
    """Where they say exactly what one ridge's solution from the others predicts, that ridge has a perfect fit."""
    fitted, held = split_anchors(60)
    solution = closed_form(relative[..., fitted], anchors[fitted], ridge)
    doctored = relative.double()
    doctored[..., held] = relative_representation(solution, anchors[held].double())
    fit = held_out_fit(doctored, anchors)
    torch.testing.assert_close(fit[RIDGES.index(ridge)], torch.ones(2, 3, dtype=torch.float64))
    assert (fit <= 1 + 1e-12).all()
    assert choose_ridge(fit) == ridge


@pytest.mark.parametrize("center", [False, True])
def test_chosen_ridge_predicts_unseen_anchors(relative, anchors, center):
    """Near the interpolation peak (k ≈ d), a ridge predicts them better than the paper's optimum."""
    few = slice(0, 16)  # 13 of them are fitted, 3 held out
    chosen = choose_ridge(held_out_fit(relative[..., few], anchors[few], center))
    assert chosen > 0
    unseen = {ridge: matching_loss(relative[..., 16:], closed_form(relative[..., few], anchors[few], ridge, center),
                                   anchors[16:]).mean() for ridge in (0.0, chosen)}
    assert unseen[chosen] < unseen[0.0]


def test_no_ridge_is_chosen_where_there_is_no_noise(anchors):
    exact = relative_representation(torch.randn(2, 3, 12, generator=draws()), anchors)
    fit = held_out_fit(exact, anchors)
    assert choose_ridge(fit) == 0.0
    torch.testing.assert_close(fit[0], torch.ones(2, 3, dtype=torch.float64), atol=1e-9, rtol=0)


def naive_search(relative, anchors, table, mask, steps, lr, normalize_in_loss, seed):
    """The paper's search of one prompt, written as it is, cosine of cosines: its vectors before and after each step."""
    vectors = torch.empty(len(relative), anchors.shape[1])
    vectors = torch.nn.init.xavier_normal_(vectors, generator=draws(seed)).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=lr)

    def candidate():
        if not normalize_in_loss:
            return vectors
        return (vectors - vectors.mean()) / vectors.std() * table.std() + table.mean()

    path = [candidate().detach().clone()]
    for _ in range(steps):
        cosines = torch.cosine_similarity(candidate()[:, None], anchors[None], dim=-1)
        losses = [1 - torch.cosine_similarity(cosines[i][rows], relative[i][rows], dim=0)
                  for i, rows in enumerate(kept(mask, i) for i in range(len(relative)))]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        path.append(candidate().detach().clone())
    return path


@pytest.mark.parametrize("normalize_in_loss", [False, True])
def test_gradient_search_takes_the_steps_of_the_naive_one(relative, anchors, mask, normalize_in_loss):
    """Adam divides by the gradient's size: equal steps mean equal gradients, for each prompt of the batch.

    And a search of fewer steps is the beginning of one of more.
    """
    table = torch.cat([anchors, 2 * anchors + 1])
    naive = [naive_search(prompt, anchors, table, None if mask is None else mask[i], 60, 0.02, normalize_in_loss, 3)
             for i, prompt in enumerate(relative)]
    for steps in (0, 1, 10, 60):
        found = gradient_search(relative, anchors, table, steps=steps, lr=0.02, mask=mask, seed=3,
                                normalize_in_loss=normalize_in_loss)
        torch.testing.assert_close(found, torch.stack([path[steps] for path in naive]), atol=2e-4, rtol=2e-3)


def test_gradient_of_the_short_objective_is_the_naive_ones(relative, anchors):
    """cos(r, Au) = (Aᵀr)·u / (‖r‖ √(uᵀAᵀAu)), in value and in gradient."""
    a, r = normalize(anchors.double(), dim=-1), relative[0].double()
    u = torch.randn(3, 12, generator=draws(), dtype=torch.float64, requires_grad=True)
    naive = torch.cosine_similarity(torch.cosine_similarity(u[:, None], anchors[None].double(), dim=-1), r, dim=-1)
    short = ((r @ a) * u).sum(-1) / (r.norm(dim=-1) * ((u @ (a.T @ a)) * u).sum(-1).sqrt())
    torch.testing.assert_close(short, naive)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), u)[0] for value in (short, naive)))


@pytest.mark.parametrize("search", [
    closed_form, lambda r, a, mask: closed_form(r, a, ridge=0.1, center=True, mask=mask),
    lambda r, a, mask: gradient_search(r, a, a, steps=20, mask=mask)],
    ids=["closed form", "ridge, centered", "gradient"])
def test_a_prompt_does_not_depend_on_the_batch(relative, anchors, mask, search):
    both = search(relative, anchors, mask=mask)
    for i in range(2):
        one = slice(i, i + 1)
        alone = search(relative[one], anchors, mask=None if mask is None else mask[one])
        torch.testing.assert_close(alone, both[one], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_closed_form_finds_more_than_2000_steps_in_a_fiftieth_of_the_time(bert_mini, roberta_mini, zoo_prompts):
    words = shared_anchors(bert_mini, roberta_mini)
    prompts = [*zoo_prompts.values(), *(random_prompt(bert_mini, seed=seed) for seed in range(22))]
    relative = torch.stack([encode(prompt, bert_mini, words) for prompt in prompts])
    anchors = words.of(roberta_mini)

    def timed(search):
        began = time.perf_counter()
        return search(), time.perf_counter() - began

    exact = [timed(lambda: closed_form(relative, anchors)) for _ in range(3)]
    descent, seconds = timed(lambda: gradient_search(relative, anchors, roberta_mini.embeddings))
    exact_loss, descent_loss = (matching_loss(relative, found, anchors) for found in (exact[0][0], descent))
    assert (exact_loss <= descent_loss + 1e-9).all()
    assert min(time for _, time in exact) * 50 < seconds
    torch.testing.assert_close(exact_loss, descent_loss, atol=0.02, rtol=0)  # the descent does arrive


@pytest.mark.parametrize(("how", "moments"), [("scale", False), ("affine", True)])
def test_normalization_gives_each_prompt_the_tables_statistics(how, moments):
    table = 0.4 * torch.randn(500, 12, generator=draws(5)) - 0.7
    vectors = torch.randn(3, 5, 12, generator=draws(6)) * torch.tensor([0.1, 1.0, 30.0])[:, None, None] + 2
    found = normalize_prompt(vectors, table, how)
    torch.testing.assert_close(found.std(dim=(1, 2)), table.std().expand(3))
    assert torch.allclose(found.mean(dim=(1, 2)), table.mean().expand(3), atol=1e-5) == moments
    keeps_direction = (cosine(found, vectors) > 1 - 1e-6).all()
    assert keeps_direction == (how == "scale")
    torch.testing.assert_close(normalize_prompt(found, table, how), found)  # twice is once


@pytest.mark.parametrize("how", ["none", "affine-in-loss"])
def test_normalizations_that_leave_found_vectors_alone(how):
    vectors = torch.randn(3, 5, 12)
    assert torch.equal(normalize_prompt(vectors, torch.randn(50, 12), how), vectors)


def test_norm_preserving_normalization_gives_the_norms_asked_for():
    table, vectors = torch.randn(50, 12, generator=draws(5)), 7 * torch.randn(2, 3, 12, generator=draws(6))
    lengths = torch.rand(2, 3, generator=draws(7)) + 0.1
    found = normalize_prompt(vectors, table, "norm-preserving", lengths)
    torch.testing.assert_close(found.norm(dim=-1), lengths)
    assert (cosine(found, vectors) > 1 - 1e-6).all()
    torch.testing.assert_close(normalize_prompt(vectors, table, "norm-preserving", vectors.norm(dim=-1)), vectors)
