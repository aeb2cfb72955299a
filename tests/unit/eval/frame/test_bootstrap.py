"""Intervals against scipy's bootstrap, and against theory where masks of a photo are alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sam_train.eval.frame.bootstrap import effective_units, interval, resampled_means


def test_one_mask_an_image_is_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(0).beta(5, 2, size=80)
    ours = interval(resampled_means(values, np.ones(80), times=20_000), confidence=0.9)
    theirs = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=2e-3)


def test_masks_of_an_image_are_drawn_together() -> None:
    # Fifty copies of each value say no more about the mean than one of them.
    values = np.random.default_rng(1).random(60)
    one = resampled_means(values, np.ones(60), times=500, seed=3)
    many = resampled_means(50 * values, np.full(60, 50.0), times=500, seed=3)
    assert many == pytest.approx(one)


def test_several_figures_are_resampled_alike() -> None:
    sums = np.random.default_rng(2).random((10, 3))
    counts = np.arange(1.0, 11.0)
    means = resampled_means(sums, counts, times=50)
    assert means.shape == (50, 3)
    for k in range(3):
        assert means[:, k] == pytest.approx(resampled_means(sums[:, k], counts, times=50))


def test_no_resampling_no_interval() -> None:
    ends = interval(resampled_means(np.ones(3), np.ones(3), times=0), confidence=0.95)
    assert np.isnan([ends.low, ends.high]).all()


@pytest.mark.parametrize("units", [6, 64])
def test_few_units_give_intervals_that_still_hold(units: int) -> None:
    rng = np.random.default_rng(units)
    holds = {"plain": 0, "few": 0}
    for _ in range(400):
        # Groups differ, their masks hardly do; the true mean is 0.5.
        counts = rng.integers(1, 9, units).astype(np.float64)
        means = resampled_means(counts * rng.normal(0.5, 0.1, units), counts, times=500)
        for name, number in {"plain": None, "few": effective_units(counts)}.items():
            ends = interval(means, confidence=0.95, units=number)
            holds[name] += ends.low <= 0.5 <= ends.high
    # Of 400, one standard error is 1.1 %.
    assert 0.92 <= holds["few"] / 400 <= 0.985
    assert holds["plain"] / 400 < (0.9 if units < 10 else 0.97)


def test_a_unit_that_holds_nearly_everything_is_one_unit() -> None:
    assert effective_units(np.full(7, 3.0)) == pytest.approx(7)
    assert effective_units(np.array([1.0, 3.0])) == pytest.approx(16 / 10)
    means = np.linspace(0.2, 0.8, 101)
    # Nothing is known beyond what was seen: the ends are the extremes.
    for units in (1.00001, 1.01, 2.0):
        ends = interval(means, confidence=0.95, units=units)
        assert (ends.low, ends.high) == pytest.approx((0.2, 0.8), abs=1e-6)
