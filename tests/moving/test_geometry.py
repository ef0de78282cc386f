"""Geometry and rank correlation against identities, pandas and brute force."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

from ptlib import PromptTransferError
from ptlib.evaluation.correlation import rank_correlation, spearman
from ptlib.moving.geometry import centred_fit, explained_by_first, held_out_r2, linear_cka, similarity_correlation
from ptlib.moving.relative import relative_representation
from ptlib.moving.search import RIDGES, held_out_fit, split_anchors

pytestmark = pytest.mark.slow

LIKENESS = (linear_cka, similarity_correlation)


def draws(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def x():
    """(50, 6), stretched, and with a mean that is not zero."""
    return torch.randn(50, 6, generator=draws(1)) * torch.linspace(0.5, 3, 6) + 0.4


@pytest.fixture
def y(x):
    """(50, 4): half of it x, half of it noise."""
    return x[:, :4] + torch.randn(50, 4, generator=draws(2))


@pytest.fixture
def rotation():
    return torch.linalg.qr(torch.randn(6, 6, generator=draws(3)))[0]


@pytest.mark.parametrize("likeness", LIKENESS)
def test_a_table_is_like_itself_however_it_is_turned_and_scaled(likeness, x, rotation):
    assert likeness(x, x) == pytest.approx(1, abs=1e-6)
    assert likeness(x, 7 * x @ rotation) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("likeness", LIKENESS)
def test_likeness_is_symmetric_and_small_for_noise(likeness, x, y):
    assert likeness(x, y) == pytest.approx(likeness(y, x), abs=1e-9)
    noise = torch.randn(50, 6, generator=draws(4))
    assert abs(likeness(x, noise)) < likeness(x, y) < 1


def test_cka_is_the_correlation_of_centred_gram_matrices(x, y):
    centring = np.eye(50) - 1 / 50
    one, two = (centring @ (t.double() @ t.double().T).numpy() @ centring for t in (x, y))
    by_hand = (one * two).sum() / np.sqrt((one * one).sum() * (two * two).sum())
    assert linear_cka(x, y) == pytest.approx(by_hand, abs=1e-9)


def test_similarity_correlation_by_hand(x, y):
    cosines = [[float(t[i] @ t[j] / (t[i].norm() * t[j].norm())) for i in range(50) for j in range(i)] for t in (x, y)]
    assert similarity_correlation(x, y) == pytest.approx(np.corrcoef(cosines)[0, 1], abs=1e-5)


def test_cka_does_not_see_a_shift(x, y):
    assert linear_cka(x + 5, y) == pytest.approx(linear_cka(x, y), abs=1e-4)


def test_r2_is_one_for_a_linear_map_and_about_zero_for_noise(x):
    assert held_out_r2(x, x @ torch.randn(6, 9, generator=draws(5)) + 2) == pytest.approx(1, abs=1e-6)
    assert held_out_r2(x, torch.randn(50, 6, generator=draws(6))) < 0.1


def test_r2_has_a_direction(x):
    """Two columns follow from six, and not six from two."""
    assert held_out_r2(x, x[:, :2]) > 0.99
    assert held_out_r2(x[:, :2], x) < 0.9


def test_first_direction():
    line = torch.linspace(-1, 1, 9)[:, None] * torch.tensor([[3.0, 4.0]])
    assert explained_by_first(line + 10) == pytest.approx(1, abs=1e-6)
    assert explained_by_first(torch.cat([torch.eye(4), -torch.eye(4)])) == pytest.approx(1 / 4, abs=1e-6)


def test_centred_fit_by_hand(x, y):
    """The best single ridge, from numpy's lstsq on rows that stand for the penalty."""
    relative = relative_representation(torch.randn(3, 4, generator=draws(7)), y)
    fitted, held = split_anchors(50, seed=1)
    table = normalize(x.double(), dim=-1).numpy()
    means, asked = table[fitted].mean(0), relative.double().numpy()
    found = []
    for ridge in RIDGES:
        design, wanted = table[fitted] - means, asked[:, fitted] - asked[:, fitted].mean(1, keepdims=True)
        penalty = np.sqrt(ridge * np.trace(design.T @ design) / 6) * np.eye(6)
        u = np.linalg.lstsq(np.vstack([design, penalty]), np.vstack([wanted.T, np.zeros((6, 3))]), rcond=None)[0]
        found.append([np.corrcoef(row, table[held] @ one)[0, 1] for row, one in zip(asked[:, held], u.T, strict=True)])
    best = max(found, key=np.mean)
    np.testing.assert_allclose(centred_fit(relative, x, seed=1), best, atol=1e-6)


def test_centred_fit_sees_through_a_constant_look(x):
    """Anchors far from the origin: all cosines are near 1, and a cosine of cosines says nothing."""
    far, noise = x + 50, torch.randn(1, 50, generator=draws(8))
    relative = 1 + 0.001 * noise
    assert held_out_fit(relative, far).max() > 0.99
    assert abs(centred_fit(relative, far).item()) < 0.7
    own = relative_representation(torch.randn(1, 6, generator=draws(9)), x)
    assert centred_fit(own, x).item() == pytest.approx(1, abs=1e-6)


def by_pandas(x, y):
    return np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1]


def test_spearman_is_pearson_of_mean_ranks():
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 6, 40), rng.normal(size=40)  # many ties
    assert spearman(one, two) == pytest.approx(by_pandas(one, two))
    assert spearman(two, np.exp(two)) == pytest.approx(1)
    assert spearman(two, -(two**3)) == pytest.approx(-1)
    assert np.isnan(spearman(np.ones(40), two))


def test_a_weight_is_a_repetition():
    rng = np.random.default_rng(1)
    one, two, weights = rng.integers(0, 4, 20), rng.normal(size=20), rng.integers(0, 3, (5, 20))
    repeated = [by_pandas(np.repeat(one, row), np.repeat(two, row)) for row in weights]
    np.testing.assert_allclose(spearman(one, two, weights), repeated)


def test_within_groups_the_differences_between_them_do_not_count():
    """Two groups, each falling, one far above the other: rising as a whole."""
    x, y = np.array([1, 2, 3, 11, 12, 13]), np.array([3, 2, 1, 13, 12, 11])
    assert rank_correlation(x, y)["correlation"] > 0.5
    assert rank_correlation(x, y, within=[*"aaabbb"])["correlation"] == pytest.approx(-1)


def test_a_group_without_a_correlation_is_left_out():
    found = rank_correlation([1, 1, 1, 1, 2, 3], [1, 2, 3, 1, 2, 3], within=[*"aaabbb"])
    assert found["correlation"] == pytest.approx(1)
    assert np.isnan(rank_correlation([1, 1], [1, 2])["correlation"])


def test_copies_of_a_row_do_not_narrow_the_interval_over_clusters():
    rng = np.random.default_rng(2)
    one = rng.normal(size=15)
    two = one + rng.normal(size=15)
    alone = rank_correlation(one, two)
    copied = rank_correlation(np.repeat(one, 10), np.repeat(two, 10), clusters=[np.repeat(np.arange(15), 10)])
    naive = rank_correlation(np.repeat(one, 10), np.repeat(two, 10))
    assert alone["low"] < alone["correlation"] < alone["high"]
    assert copied == pytest.approx(alone)
    assert naive["high"] - naive["low"] < 0.6 * (alone["high"] - alone["low"])


def test_two_columns_of_clusters_are_one_population():
    """Pairs of models by brute force: draw models, keep the pairs among them."""
    names = [*"ABCDE"]
    pairs = [(s, t) for s in names for t in names if s != t]
    rng = np.random.default_rng(3)
    one, two = rng.normal(size=(2, len(pairs)))
    found = rank_correlation(one, two, clusters=list(zip(*pairs, strict=True)), resamples=300, seed=4)
    drawn = np.random.default_rng(4).multinomial(5, [1 / 5] * 5, size=300)
    brute = []
    for counts in drawn:
        chosen = [i for i, (s, t) in enumerate(pairs) for _ in range(counts[names.index(s)] * counts[names.index(t)])]
        if len(chosen) > 1:
            brute.append(by_pandas(one[chosen], two[chosen]))
    np.testing.assert_allclose([found["low"], found["high"]], np.nanquantile(brute, [0.025, 0.975]), atol=1e-9)


def test_lengths_must_agree():
    with pytest.raises(PromptTransferError, match="as many of each"):
        rank_correlation([1, 2, 3], [1, 2])
    with pytest.raises(PromptTransferError, match="at least one"):
        rank_correlation([], [])
