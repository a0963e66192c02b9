import numpy as np
import pytest

from lethe.measuring import mmd

KERNEL = mmd.gaussian(3.0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def one(x, y) -> float:
    return float(np.exp(-sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / (2 * 3.0**2)))


def test_distance_is_that_of_a_double_loop(rng):
    x, y = rng.normal(size=(7, 4)), rng.normal(0.5, 1, size=(5, 4))
    own = [one(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within = [one(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    cross = [one(a, b) for a in x for b in y]
    assert mmd.distance(x, y, KERNEL) == pytest.approx(np.mean(own) + np.mean(within) - 2 * np.mean(cross), abs=1e-14)


def test_paired_distance_is_that_of_a_double_loop(rng):
    x, y = rng.normal(size=(6, 4)), rng.normal(0.5, 1, size=(6, 4))
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    wanted = np.mean([one(x[i], x[j]) + one(y[i], y[j]) - one(x[i], y[j]) - one(x[j], y[i]) for i, j in pairs])
    value, shares = mmd.paired(x, y, KERNEL)
    assert value == pytest.approx(wanted, abs=1e-14)
    assert shares.mean() == pytest.approx(0, abs=1e-15)


def test_equal_pairs_are_at_zero_and_other_pairs_are_not(rng):
    x = rng.normal(size=(20, 5))
    value, shares = mmd.paired(x, x.copy(), KERNEL)
    assert value == 0
    assert not shares.any()
    assert mmd.paired(x, x + 0.5, KERNEL)[0] > 0


def test_both_estimates_are_without_bias(rng):
    """Two samples of one distribution are at 0 on average, however few; pairs may be alike in themselves."""
    apart, alike = [], []
    for _ in range(2000):
        x, noise = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
        apart.append(mmd.distance(x, rng.normal(size=(4, 3)), KERNEL))
        alike.append(mmd.paired(x, 0.8 * x + 0.6 * noise, KERNEL)[0])
    for found in (apart, alike):
        assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))


def test_known_distance_of_two_points():
    """All of one set at the origin, all of the other at distance d: 2 - 2 exp(-d**2 / 2 sigma**2)."""
    x, y = np.zeros((3, 2)), np.tile([3.0, 4.0], (4, 1))
    assert mmd.distance(x, y, mmd.gaussian(10)) == pytest.approx(2 - 2 * np.exp(-25 / 200))


@pytest.mark.parametrize("pairs", [False, True])
def test_influence_is_the_derivative_by_a_pictures_weight(rng, pairs):
    """A picture, or a pair, of weight 1 + e, against central differences of the weighted estimate."""
    x, y = rng.normal(size=(9, 4)), rng.normal(0.5, 1, size=(9, 4))
    off = ~np.eye(9, dtype=bool)
    own, within, cross = KERNEL(x, x), KERNEL(y, y), KERNEL(x, y)

    def weighted(w):
        both = np.outer(w, w) * off
        if pairs:
            return (both * (own + within - cross - cross.T)).sum() / both.sum()
        return (both * own).sum() / both.sum() + within[off].mean() - 2 * (w @ cross).sum() / w.sum() / 9

    found = mmd.paired(x, y, KERNEL)[1] if pairs else mmd.influence(x, y, KERNEL)
    value = mmd.paired(x, y, KERNEL)[0] if pairs else mmd.distance(x, y, KERNEL)
    assert weighted(np.ones(9)) == pytest.approx(value)
    for i in range(9):
        step = np.zeros(9)
        step[i] = 1e-5
        assert found[i] / 9 == pytest.approx((weighted(1 + step) - weighted(1 - step)) / 2e-5, abs=1e-8)


def test_resamples_are_centred_on_the_distance_and_blocks_do_not_matter(rng, monkeypatch):
    x, y = rng.normal(size=(40, 4)), rng.normal(0.5, 1, size=(30, 4))
    found, value, shares = mmd.resampled(x, y, KERNEL), mmd.distance(x, y, KERNEL), mmd.influence(x, y, KERNEL)
    assert found.mean() == pytest.approx(value, abs=4 * found.std() / np.sqrt(len(found)))
    assert found.std() == pytest.approx(shares.std() / np.sqrt(40), rel=0.15)  # influences tell the same spread
    monkeypatch.setattr(mmd, "BLOCK", 7)
    np.testing.assert_allclose(mmd.resampled(x, y, KERNEL), found)
    np.testing.assert_allclose(mmd.influence(x, y, KERNEL), shares, atol=1e-15)
    assert mmd.distance(x, y, KERNEL) == pytest.approx(value, abs=1e-15)


def test_resamples_of_few_pictures_that_hold_one_alone_are_left_out(rng):
    found = mmd.resampled(rng.normal(size=(2, 3)), rng.normal(size=(4, 3)), KERNEL)
    assert 0 < len(found) < mmd.RESAMPLES
    assert np.isfinite(found).all()
