import numpy as np
import pytest

from lethe.measuring import mmd
from lethe.measuring.metrics import fid, kid


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_equal_sets_are_at_distance_zero(rng):
    features = rng.normal(size=(40, 7))
    assert fid.frechet(features, features) == pytest.approx(0, abs=1e-9)
    few = rng.normal(size=(5, 30))
    assert fid.frechet(few, few[::-1]) == pytest.approx(0, abs=1e-9)


def test_distance_of_known_normal_distributions(rng):
    draws = rng.normal(size=(200, 5))
    white = np.linalg.solve(np.linalg.cholesky(np.cov(draws, rowvar=False)), (draws - draws.mean(0)).T).T
    scale, shift = np.array([1.0, 2.0, 3.0, 0.5, 0.0]), np.array([0.0, 1.0, 0.0, 2.0, 0.0])
    # diagonal covariances: sum of squared differences of means and of standard deviations
    assert fid.frechet(white * scale + shift, white) == pytest.approx(5 + ((scale - 1) ** 2).sum())


@pytest.mark.parametrize("n", [300, 12])
def test_equals_clean_fid(rng, n):
    from cleanfid.fid import frechet_distance

    drawn, real = rng.normal(size=(n, 20)), rng.normal(0.5, 2, size=(250, 20))
    moments = [(x.mean(0), np.cov(x, rowvar=False)) for x in (drawn, real)]
    assert fid.frechet(drawn, real) == pytest.approx(frechet_distance(*moments[0], *moments[1]), rel=1e-4)


@pytest.mark.parametrize(("n", "m"), [(300, 250), (40, 50)])
def test_the_roots_trace_is_that_of_scipys_matrix_root(rng, n, m):
    """64 features: covariances of full rank, and of rank 39 and 49."""
    from scipy.linalg import sqrtm

    drawn, real = rng.normal(size=(n, 64)), rng.normal(0.5, 2, size=(m, 64))
    product = np.cov(drawn, rowvar=False) @ np.cov(real, rowvar=False)
    (mean, r), (other, r_other) = fid.factor(drawn), fid.factor(real)
    apart = ((mean - other) ** 2).sum() + (r**2).sum() + (r_other**2).sum()
    trace = (apart - fid.frechet(drawn, real)) / 2
    assert trace == pytest.approx(np.trace(sqrtm(product)).real, rel=1e-7)


def test_kernel_distance_is_the_unbiased_estimate(rng):
    drawn, real = rng.normal(size=(30, 6)), rng.normal(0.3, 1, size=(30, 6))
    own, within, cross = kid.kernel(drawn, drawn), kid.kernel(real, real), kid.kernel(drawn, real)
    off = ~np.eye(30, dtype=bool)
    wanted = own[off].mean() + within[off].mean() - 2 * cross.mean()
    state = np.random.get_state()[1].copy()
    assert kid.kernel_distance(drawn, real, 4) == pytest.approx(wanted)
    assert np.array_equal(np.random.get_state()[1], state)
    assert kid.kernel(drawn[:1], real[:1])[0, 0] == pytest.approx((drawn[0] @ real[0] / 6 + 1) ** 3)


def test_resamples_are_centred_on_the_estimate_and_blocks_do_not_matter(rng, monkeypatch):
    drawn, real = rng.normal(size=(60, 6)), rng.normal(1, 1, size=(45, 6))
    found = mmd.resampled(drawn, real, kid.kernel)
    own, within, cross = kid.kernel(drawn, drawn), kid.kernel(real, real), kid.kernel(drawn, real)
    estimate = own[~np.eye(60, dtype=bool)].mean() + within[~np.eye(45, dtype=bool)].mean() - 2 * cross.mean()
    assert found.mean() == pytest.approx(estimate, abs=4 * found.std() / np.sqrt(len(found)) + 0.02 * estimate)
    monkeypatch.setattr(mmd, "BLOCK", 7)
    np.testing.assert_allclose(mmd.resampled(drawn, real, kid.kernel), found)


@pytest.mark.parametrize(("n", "width"), [(200, 6), (20, 30)])
def test_influence_is_the_derivative_by_a_pictures_weight(rng, n, width):
    """A picture of weight 1 + e, all weights scaled back to sum n, against central differences."""
    drawn, real = rng.normal(0.2, 1.5, size=(n, width)), rng.normal(size=(n + 50, width))

    def weighted(weights):
        weights = weights / weights.sum()
        mean = weights @ drawn
        r = np.sqrt(weights * n / (n - 1))[:, None] * (drawn - mean)
        return fid._distance((mean, r), fid.factor(real))

    value, found = fid.distance_and_influence(drawn, real)
    assert value == pytest.approx(fid.frechet(drawn, real))
    assert weighted(np.ones(n)) == pytest.approx(fid.frechet(drawn, real))
    assert found.mean() == pytest.approx(0, abs=1e-9)
    for i in (0, 7):
        step = np.zeros(n)
        step[i] = 1e-4
        derivative = (weighted(1 + step) - weighted(1 - step)) / 2e-4
        assert found[i] / n == pytest.approx(derivative, rel=1e-3, abs=1e-6)


def test_influence_of_the_kernel_distance_is_its_derivative_by_a_pictures_weight(rng, monkeypatch):
    drawn, real = rng.normal(size=(40, 6)), rng.normal(0.5, 1, size=(30, 6))
    own, cross = kid.kernel(drawn, drawn), kid.kernel(drawn, real).mean(1)
    np.fill_diagonal(own, 0)

    def weighted(weights):
        weights = weights / weights.sum()
        return weights @ own @ weights * 40 / 39 - 2 * weights @ cross

    found = mmd.influence(drawn, real, kid.kernel)
    for i in (0, 39):
        step = np.zeros(40)
        step[i] = 1e-4
        assert found[i] / 40 == pytest.approx((weighted(1 + step) - weighted(1 - step)) / 2e-4, rel=1e-3)
    monkeypatch.setattr(mmd, "BLOCK", 7)
    np.testing.assert_allclose(mmd.influence(drawn, real, kid.kernel), found)


def test_the_spread_of_the_influences_is_that_of_resamples(rng):
    drawn, real = rng.normal(0.3, 1, size=(400, 5)), rng.normal(size=(500, 5))
    again = [fid.frechet(drawn[rng.integers(0, 400, 400)], real) for _ in range(300)]
    assert fid.influence(drawn, real).std() / 20 == pytest.approx(np.std(again), rel=0.15)
    assert mmd.influence(drawn, real, kid.kernel).std() / 20 == pytest.approx(
        mmd.resampled(drawn, real, kid.kernel).std(), rel=0.1
    )
