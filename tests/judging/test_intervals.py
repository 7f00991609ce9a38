"""Intervals against slow references written from the definitions, and by simulation."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from xraycomp.judging.intervals import (
    Estimate,
    delong,
    mean_interval,
    percentile,
    ratio,
    wilson,
)


def scored(n, k, seed, prevalence=0.3, digits=None):
    """Targets and scores that know something of them; few ``digits`` make ties."""
    rng = np.random.default_rng(seed)
    targets = rng.random((n, k)) < prevalence
    scores = 1 / (1 + np.exp(-rng.normal(size=(n, k)) - 1.2 * targets))
    return targets, scores if digits is None else scores.round(digits)


def delong_by_pairs(target, score):
    """AUROC and DeLong's variance from the definition: the kernel of every pair."""
    positive, negative = score[target], score[~target]
    kernel = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    variance = kernel.mean(axis=1).var(ddof=1) / len(positive)
    variance += kernel.mean(axis=0).var(ddof=1) / len(negative)
    return kernel.mean(), variance


def test_ratio_is_nan_where_nothing_is_divided_by():
    np.testing.assert_array_equal(ratio([0, 1, 1], [0, 0, 4]), [np.nan, np.nan, 0.25])


def test_estimate_entry_is_ready_for_json():
    estimate = Estimate(np.array([0.5, np.nan]), np.array([0.4, np.nan]), np.array([0.6, np.nan]))
    assert estimate.at(0).entry() == {"value": 0.5, "low": 0.4, "high": 0.6}
    assert estimate.at(1).entry() == {"value": None, "low": None, "high": None}
    assert type(estimate.at(0).entry()["value"]) is float


@pytest.mark.parametrize(("part", "whole"), [(0, 5), (5, 5), (3, 7), (320, 341), (0, 1), (1, 1)])
def test_wilson_equals_scipy(part, whole):
    expected = binomtest(part, whole).proportion_ci(method="wilson")
    found = wilson(part, whole)
    assert found.value == part / whole
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], atol=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_wilson_of_no_images_is_nan():
    found = wilson(np.array([0, 1]), np.array([0, 2]))
    np.testing.assert_array_equal(np.isnan([found.value, found.low, found.high]), [[1, 0]] * 3)


def test_mean_interval_is_the_normal_one():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = mean_interval(values[:, None])
    low, high = norm.interval(0.95, values.mean(), values.std(ddof=1) / 2)
    np.testing.assert_allclose([found.low, found.value, found.high], [low, 4.0, high])
    assert np.isnan(mean_interval(np.array([[1.0]])).low)


def test_mean_interval_takes_rows_as_independent_and_leaves_out_what_is_not_known():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 3)) + rng.normal(size=(40, 1))
    values[rng.random(values.shape) < 0.3] = np.nan
    found = mean_interval(values)
    assert found.value == pytest.approx(np.nanmean(values))
    drawn = [np.nanmean(values[rng.integers(40, size=40)]) for _ in range(4000)]
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(drawn), rel=0.1)
    assert np.isnan(mean_interval(np.full((3, 2), np.nan)).value)


@pytest.mark.parametrize("digits", [None, 1])
def test_delong_equals_the_pairwise_definition(digits):
    targets, scores = scored(150, 3, seed=1, digits=digits)
    found = delong(targets, scores)
    for c in range(3):
        area, variance = delong_by_pairs(targets[:, c], scores[:, c])
        margin = norm.ppf(0.975) * np.sqrt(variance) / (area * (1 - area))
        expected = 1 / (1 + np.exp(-np.log(area / (1 - area)) + margin * np.array([1, -1])))
        assert found.value[c] == pytest.approx(area, abs=1e-12)
        np.testing.assert_allclose([found.low[c], found.high[c]], expected, atol=1e-10)


def test_delong_covers_the_true_area():
    """Two normal distributions 1.5 apart: the true area is known, 95 % of intervals hold it."""
    rng = np.random.default_rng(2)
    target = np.arange(120) < 40
    truth, trials = norm.cdf(1.5 / np.sqrt(2)), 1000
    scores = rng.normal(size=(120, trials)) + 1.5 * target[:, None]
    found = delong(np.repeat(target[:, None], trials, axis=1), scores)
    assert 0.93 < ((found.low <= truth) & (truth <= found.high)).mean() < 0.97


def test_delong_claims_no_certainty_from_a_perfect_ranking():
    target = np.arange(30) < 10
    found = delong(np.stack([target] * 3, axis=1), np.stack([target, ~target, target * 0], axis=1))
    np.testing.assert_array_equal(found.value, [1, 0, 0.5])
    exact = [wilson(10, 10), wilson(0, 10), wilson(5, 10)]
    np.testing.assert_allclose(found.low, [e.low for e in exact])
    np.testing.assert_allclose(found.high, [e.high for e in exact])
    assert found.low[0] < 0.75


def test_delong_of_few_or_no_positives():
    targets = np.zeros((20, 3), bool)
    targets[4, 0] = True
    targets[:, 2] = True
    found = delong(targets, np.random.default_rng(0).random((20, 3)))
    assert 0 <= found.low[0] <= found.value[0] <= found.high[0] <= 1
    assert found.high[0] - found.low[0] > 0.5
    for figure in (found.value, found.low, found.high):
        np.testing.assert_array_equal(np.isnan(figure), [False, True, True])


def test_percentile_leaves_out_what_is_not_defined_and_is_silent_about_no_spread():
    resampled = np.stack(
        [np.arange(101.0), np.full(101, 1.0), np.full(101, np.nan), np.arange(101.0)], axis=1
    )
    resampled[::2, 3] = np.nan
    found = percentile(np.array([50.0, 1.0, np.nan, 50.0]), resampled)
    np.testing.assert_allclose(found.low, [2.5, np.nan, np.nan, 3.45])
    np.testing.assert_allclose(found.high, [97.5, np.nan, np.nan, 96.55])
