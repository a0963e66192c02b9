import numpy as np
import pytest

from lethe.measuring.intervals import Draws, Estimate, at_the_end

Z = 1.959964


def half(found: Estimate) -> float:
    return (found.hi - found.lo) / 2


def test_one_seed_is_the_normal_interval_of_the_mean():
    values = np.random.default_rng(0).normal(5, 2, (1, 400))
    found = Draws(1, 4000).mean({"monet": values}).interval()
    assert found.value == pytest.approx(values.mean())
    assert half(found) == pytest.approx(Z * values.std() / 20, rel=0.06)
    assert found.lo == pytest.approx(values.mean() - Z * values.std() / 20, abs=0.02)


def test_a_share_has_the_binomial_interval():
    values = (np.arange(200) < 50).astype(float)[None]
    found = Draws(1, 4000).mean({"retain": values}).interval()
    assert half(found) == pytest.approx(Z * np.sqrt(0.25 * 0.75 / 200), rel=0.08)


def test_strata_count_equally_whatever_their_size():
    small, large = np.full((1, 4), 1.0), np.full((1, 400), 3.0)
    found = Draws(1, 50).mean({"a": small, "b": large})
    assert found.value == 2.0
    assert np.all(found.replicates == 2.0)


def test_spread_over_training_seeds_widens_the_interval():
    """Crossed normal approximation: variance of the seeds' means over K plus variance of the prompts' means over n."""
    source = np.random.default_rng(1)
    seeds, prompts = 8, 300
    level = source.normal(0, 3, (seeds, 1))
    values = level + source.normal(0, 1, (1, prompts)) + np.zeros((seeds, prompts))
    found = Draws(seeds, 4000).mean({"monet": values}).interval()
    expected = Z * np.sqrt(level.var() / seeds + (values - level).mean(0).var() / prompts)
    assert half(found) == pytest.approx(expected, rel=0.1)
    alone = Draws(1, 4000).mean({"monet": values[:1]}).interval()
    assert half(found) > 4 * half(alone)


def test_more_seeds_do_not_shrink_the_spread_of_shared_prompts():
    prompts = np.random.default_rng(2).normal(0, 1, (1, 100))
    one = Draws(1, 2000).mean({"monet": prompts}).interval()
    five = Draws(5, 2000).mean({"monet": np.repeat(prompts, 5, axis=0)}).interval()
    assert half(five) == pytest.approx(half(one), rel=1e-6)


def test_paired_difference_loses_what_the_arms_share():
    source = np.random.default_rng(3)
    shared = source.normal(0, 10, (1, 300))
    own = source.normal(0, 0.5, (1, 300))
    draws = Draws(1, 4000)
    a, b = draws.mean({"monet": shared + 1 + own}), draws.mean({"monet": shared})
    found = (a - b).interval()
    assert found.value == pytest.approx(1 + own.mean())
    assert half(found) == pytest.approx(Z * own.std() / np.sqrt(300), rel=0.06)
    assert half(a.interval()) > 10 * half(found)


def test_an_arm_without_seeds_meets_one_with_seeds():
    draws = Draws(3, 500)
    base, trained = draws.mean({"m": np.ones((1, 6))}), draws.mean({"m": np.full((3, 6), 4.0)})
    assert (trained - base).interval() == Estimate(3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="2 training seeds"):
        draws.mean({"m": np.ones((2, 6))})


def test_draws_depend_on_name_and_size_alone():
    values = {"a": np.random.default_rng(4).normal(size=(1, 50)), "b": np.random.default_rng(5).normal(size=(1, 9))}
    first, second = Draws(1, 300), Draws(1, 300)
    alone = second.mean({"b": values["b"]})
    first.mean(values)
    assert np.array_equal(first.mean({"b": values["b"]}).replicates, alone.replicates)


def test_pictures_without_a_value_are_left_out():
    values = np.array([[1.0, np.nan, 3.0, np.nan]])
    found = Draws(1, 500).mean({"m": values})
    assert found.value == 2.0
    assert 1.0 <= found.interval().lo <= found.interval().hi <= 3.0


def test_ratio_is_taken_draw_by_draw():
    draws = Draws(1, 200)
    values = np.random.default_rng(6).uniform(1, 2, (1, 40))
    a, b = draws.mean({"m": values}), draws.mean({"m": 4 * values})
    assert a.ratio(b, 100).interval() == Estimate(pytest.approx(25), pytest.approx(25), pytest.approx(25))


@pytest.mark.parametrize(("value", "lo", "hi"), [(0.0, 0.0, 7.135), (100.0, 92.865, 100.0)])
def test_a_share_at_its_end_keeps_doubt(value, lo, hi):
    """Wilson at 0 of 50: z^2 / (50 + z^2) = 7.135 %."""
    found = at_the_end(50, value, 100.0)
    assert (found.value, found.lo, found.hi) == (value, pytest.approx(lo, abs=1e-3), pytest.approx(hi, abs=1e-3))
