"""The search: closed form and gradient descent against brute force and against each other."""

import time

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ptlib import encode, random_prompt, shared_anchors
from ptlib.relative import relative_representation
from ptlib.search import (
    RIDGES,
    choose_ridge,
    closed_form,
    fit_score,
    gradient_search,
    matching_loss,
    normalize_prompt,
)


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


def cosine(one, two):
    # torch's own cosine_similarity takes vectors shorter than 1e-8 for zero.
    return (normalize(one.double(), dim=-1, eps=1e-30) * normalize(two.double(), dim=-1, eps=1e-30)).sum(-1)


def pearson(one, two):
    return cosine(one - one.mean(-1, keepdim=True), two - two.mean(-1, keepdim=True))


def rivals(found):
    """Many vectors near and far from the found ones, and others drawn from nothing."""
    noise = torch.randn(200, *found.shape, generator=draws(4), dtype=found.dtype)
    size = found.norm(dim=-1, keepdim=True)
    return torch.cat([found + scale * size * noise for scale in (1e-4, 1e-2, 0.1, 1.0)] + [noise])


def test_matching_loss_is_one_minus_the_cosine_of_cosines(relative, anchors):
    vectors = torch.randn(2, 3, 12, generator=draws())
    own = np.array([[[np.dot(u, a) / np.linalg.norm(u) / np.linalg.norm(a) for a in anchors.numpy()] for u in prompt]
                    for prompt in vectors.numpy()])
    for index in np.ndindex(2, 3):
        r = relative.numpy()[index]
        expected = 1 - np.dot(r, own[index]) / np.linalg.norm(r) / np.linalg.norm(own[index])
        assert matching_loss(relative, vectors, anchors)[index].item() == pytest.approx(expected, abs=1e-6)


def test_closed_form_beats_every_rival(relative, anchors):
    found = closed_form(relative, anchors)
    best = matching_loss(relative, found, anchors)
    assert (matching_loss(relative, rivals(found), anchors) >= best - 1e-12).all()
    assert (best < 0.9).all(), "the spaces are related: there is something to find"


def test_centered_closed_form_has_the_highest_pearson_correlation(relative, anchors):
    found = closed_form(relative, anchors, center=True)
    best = pearson(relative.double(), relative_representation(found, anchors.double()))
    others = pearson(relative.double(), relative_representation(rivals(found), anchors.double()))
    assert (others <= best + 1e-12).all()
    plain = pearson(relative.double(), relative_representation(closed_form(relative, anchors), anchors.double()))
    assert (plain < best - 1e-6).all(), "the mean of the anchors should make a difference"


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.3, 3.0])
def test_closed_form_is_ridge_regression(relative, anchors, ridge, center):
    a, r = normalize(anchors.double(), dim=-1).numpy(), relative.double().reshape(-1, 60).numpy()
    if center:
        a, r = a - a.mean(0), r - r.mean(1, keepdims=True)
    # The penalty as further rows of a plain least-squares problem.
    penalty = np.sqrt(ridge * np.trace(a.T @ a) / 12) * np.eye(12)
    expected = np.linalg.lstsq(np.vstack([a, penalty]), np.hstack([r, np.zeros((6, 12))]).T)[0].T
    found = closed_form(relative, anchors, ridge=ridge, center=center)
    np.testing.assert_allclose(found.reshape(6, 12).numpy(), expected, atol=1e-10)


def test_huge_ridge_leaves_the_weighted_sum_of_anchors(relative, anchors):
    weighted = relative.double() @ normalize(anchors.double(), dim=-1)
    assert (cosine(closed_form(relative, anchors, ridge=1e9), weighted) > 1 - 1e-9).all()


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


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("degenerate", [
    lambda a: a[:5], lambda a: a[:1], lambda a: a[:12], lambda a: a[[0] * 60], lambda a: a[torch.arange(60) % 3],
    lambda a: torch.cat([a[:, :11], a[:, :1] + 1e-7 * a[:, 11:]], 1)],
    ids=["k < d", "k = 1", "k = d", "all equal", "rank 3", "near-singular"])
def test_degenerate_anchors_give_finite_vectors(relative, anchors, degenerate, center, ridge):
    few = degenerate(anchors)
    found = closed_form(relative[..., :len(few)], few, ridge=ridge, center=center)
    assert found.shape == (2, 3, 12)
    assert found.isfinite().all()
    assert found.float().isfinite().all()


def test_fewer_anchors_than_dimensions_are_interpolated_with_the_least_norm(relative, anchors):
    few, part = anchors[:5], relative[..., :5]
    found = closed_form(part, few)
    assert matching_loss(part, found, few).abs().max() < 1e-10
    np.testing.assert_allclose(found.numpy(), (part.double() @ torch.linalg.pinv(normalize(few.double(), dim=-1)).T),
                               atol=1e-10)


def test_fit_score_is_the_root_of_r_squared(relative, anchors):
    a, r = normalize(anchors.double(), dim=-1).numpy(), relative.double().reshape(-1, 60).numpy()
    residual = r.T - a @ np.linalg.lstsq(a, r.T)[0]
    r_squared = 1 - (residual ** 2).sum(0) / (r ** 2).sum(1)
    np.testing.assert_allclose(fit_score(relative, anchors).flatten().numpy() ** 2, r_squared, atol=1e-6)


@pytest.mark.parametrize("center", [False, True])
def test_chosen_ridge_is_the_best_on_held_out_anchors(relative, anchors, center):
    """Near the interpolation peak (k ≈ d), a ridge predicts unseen anchors better than the paper's optimum."""
    few = slice(0, 16)  # 13 of them are fitted, 3 held out
    chosen = choose_ridge(relative[..., few], anchors[few], center)
    assert chosen in RIDGES
    assert chosen > 0
    unseen = {ridge: matching_loss(relative[..., 16:], closed_form(relative[..., few], anchors[few], ridge, center),
                                   anchors[16:]).mean() for ridge in (0.0, chosen)}
    assert unseen[chosen] < unseen[0.0]


def test_no_ridge_is_chosen_where_there_is_no_noise(anchors):
    exact = relative_representation(torch.randn(2, 3, 12, generator=draws()), anchors)
    assert choose_ridge(exact, anchors) == 0.0
    assert choose_ridge(exact[..., :1], anchors[:1]) in RIDGES  # nothing is left to hold out


def naive_search(relative, anchors, table, steps, lr, normalize_in_loss, seed):
    """The paper's search of one prompt, written as it is: cosine of cosines, k of them."""
    vectors = torch.empty(len(relative), anchors.shape[1])
    vectors = torch.nn.init.xavier_normal_(vectors, generator=draws(seed)).requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=lr)

    def candidate():
        if not normalize_in_loss:
            return vectors
        return (vectors - vectors.mean()) / vectors.std() * table.std() + table.mean()

    for _ in range(steps):
        cosines = torch.cosine_similarity(candidate()[:, None], anchors[None], dim=-1)
        loss = (1 - torch.cosine_similarity(cosines, relative, dim=-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return candidate().detach()


@pytest.mark.parametrize("normalize_in_loss", [False, True])
def test_gradient_search_takes_the_steps_of_the_naive_one(relative, anchors, normalize_in_loss):
    """Adam divides by the gradient's size: equal steps mean equal gradients, for each prompt of the batch."""
    table = torch.cat([anchors, 2 * anchors + 1])
    found = gradient_search(relative, anchors, table, steps=60, lr=0.02, normalize_in_loss=normalize_in_loss, seed=3)
    for one, prompt in zip(found, relative, strict=True):
        naive = naive_search(prompt, anchors, table, 60, 0.02, normalize_in_loss, 3)
        torch.testing.assert_close(one, naive, atol=2e-4, rtol=2e-3)


def test_gradient_of_the_short_objective_is_the_naive_ones(relative, anchors):
    """cos(r, Au) = (Aᵀr)·u / (‖r‖ √(uᵀAᵀAu)), in value and in gradient."""
    a, r = normalize(anchors.double(), dim=-1), relative[0].double()
    u = torch.randn(3, 12, generator=draws(), dtype=torch.float64, requires_grad=True)
    naive = torch.cosine_similarity(torch.cosine_similarity(u[:, None], anchors[None].double(), dim=-1), r, dim=-1)
    short = ((r @ a) * u).sum(-1) / (r.norm(dim=-1) * ((u @ (a.T @ a)) * u).sum(-1).sqrt())
    torch.testing.assert_close(short, naive)
    torch.testing.assert_close(*(torch.autograd.grad(value.sum(), u)[0] for value in (short, naive)))


@pytest.mark.parametrize("search", [
    closed_form, lambda r, a: closed_form(r, a, ridge=0.1, center=True),
    lambda r, a: gradient_search(r, a, a, steps=20)],
    ids=["closed form", "ridge, centered", "gradient"])
def test_a_prompt_does_not_depend_on_the_batch(relative, anchors, search):
    both = search(relative, anchors)
    for i in range(2):
        torch.testing.assert_close(search(relative[i:i + 1], anchors)[0], both[i], atol=1e-5, rtol=1e-5)


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
