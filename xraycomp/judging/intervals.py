"""95 % intervals: Wilson for rates, DeLong for AUROC, percentiles of a bootstrap for the rest.

Every function works on whole arrays of figures at once and answers NaN, silently, where a figure is
not defined.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri
from scipy.stats import rankdata

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Z = float(ndtri(0.975))


@dataclass(frozen=True)
class Estimate:
    """Figures with their 95 % intervals: three float64 arrays of one shape, NaN = not defined."""

    value: FloatArray
    low: FloatArray
    high: FloatArray

    def at(self, index: int) -> "Estimate":
        """Pick one figure of a row of them."""
        return Estimate(self.value[index], self.low[index], self.high[index])

    def entry(self) -> dict[str, float | None]:
        """Give a single figure as a JSON-ready ``{"value", "low", "high"}``, NaN as None."""
        figures = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(x) else float(x) for name, x in figures.items()}


def entries(estimates: dict[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """The JSON-ready entry of each of several single figures."""
    return {name: estimate.entry() for name, estimate in estimates.items()}


def ratio(part: ArrayLike, whole: ArrayLike) -> FloatArray:
    """Divide, with NaN (and no warning) where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    quotient: FloatArray = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient


def known_rows(
    targets: FloatArray, scores: FloatArray
) -> Iterator[tuple[BoolArray, FloatArray, IntArray]]:
    """Go through the columns: what is known to be so or not, its scores, and in which rows.

    Parameters
    ----------
    targets : float array of shape (n, k) of 1, 0 and NaN (unknown)
    scores : float array of shape (n, k)

    Yields
    ------
    bool, float64 and int arrays of shape (m,), m <= n
    """
    for target, score in zip(targets.T, scores.T, strict=True):
        rows = np.flatnonzero(~np.isnan(target))
        yield target[rows].astype(bool), score[rows], rows


def wilson(part: ArrayLike, whole: ArrayLike) -> Estimate:
    """Score interval of a rate, good at 0, at 1 and for few images (Wilson 1927).

    Parameters
    ----------
    part, whole : arrays of counts of one shape, 0 <= part <= whole
        ``part`` may be fractional (DeLong's fallback needs that).

    Returns
    -------
    Estimate of that shape, in [0, 1]; NaN where ``whole`` is 0
    """
    rate = ratio(part, whole)
    trials = np.where(np.isnan(rate), np.nan, np.asarray(whole, float))
    shrink = 1 + Z**2 / trials
    centre = (rate + Z**2 / (2 * trials)) / shrink
    half = Z * np.sqrt(rate * (1 - rate) / trials + (Z / (2 * trials)) ** 2) / shrink
    # Rounding can leave the bound 1e-17 on the wrong side of the rate at exactly 0 and 1.
    low = np.clip(np.minimum(centre - half, rate), 0, 1)
    high = np.clip(np.maximum(centre + half, rate), 0, 1)
    return Estimate(rate, low, high)


def mean_interval(values: FloatArray) -> Estimate:
    """Mean of all known values, plus and minus 1.96 standard errors.

    Rows are independent of each other, the values in a row need not be. Linearised, as the ratio of
    two sums over rows: a row moves the mean by what its values differ from it (Cochran 1977,
    §2.11).

    Parameters
    ----------
    values : float array of shape (n, m), NaN = unknown

    Returns
    -------
    Estimate of shape (); NaN where nothing is known
    """
    known = ~np.isnan(values)
    sums, numbers = np.where(known, values, 0).sum(axis=1), known.sum(axis=1)
    mean = ratio(sums.sum(), numbers.sum())
    moved = ratio(sums - mean * numbers, numbers.mean())
    error = moved.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return Estimate(mean, mean - Z * error, mean + Z * error)


def delong(targets: FloatArray, scores: FloatArray) -> Estimate:
    """AUROC of each column with DeLong's interval on the logit scale.

    The variance (DeLong, DeLong and Clarke-Pearson 1988) is that of the placement values, which
    come from three midrankings instead of all pairs (Sun and Xu 2014, IEEE Signal Processing
    Letters 21:1389).
    The logit scale keeps the bounds inside [0, 1] and the coverage right near 1 (Pepe 2003, §5.2).

    Where the placement values do not vary (classes perfectly apart, or one image of a class)
    DeLong's variance is 0 or undefined and would claim certainty. There the interval is Wilson's
    over min(positives, negatives) trials: that many disjoint pairs are independent comparisons.

    Parameters
    ----------
    targets : float array of shape (n, k) of 1, 0 and NaN (unknown: left out)
    scores : finite float array of shape (n, k), higher = more likely positive

    Returns
    -------
    Estimate of shape (k,), in [0, 1]; NaN where a column has one class only
    """
    columns = [_delong_column(target, score) for target, score, _ in known_rows(targets, scores)]
    area, error, pairs = np.array(columns, dtype=float).reshape(-1, 3).T
    regular = (error > 1e-9) & (area > 0) & (area < 1)
    safe = np.where(regular, area, 0.5)
    margin = Z * np.where(regular, error, 0) / (safe * (1 - safe))
    cautious = wilson(area * pairs, pairs)
    return Estimate(
        area,
        np.where(regular, expit(logit(safe) - margin), cautious.low),
        np.where(regular, expit(logit(safe) + margin), cautious.high),
    )


def _delong_column(target: BoolArray, score: FloatArray) -> tuple[float, float, int]:
    """AUROC, its standard error, and how many disjoint (positive, negative) pairs there are."""
    positives, negatives = int(target.sum()), int((~target).sum())
    if not positives or not negatives:
        return np.nan, np.nan, 0
    ranks = rankdata(score)
    beaten = (ranks[target] - rankdata(score[target])) / negatives
    beaten_by = (ranks[~target] - rankdata(score[~target])) / positives
    if min(positives, negatives) == 1:
        return beaten.mean(), np.nan, 1
    variance = beaten.var(ddof=1) / positives + beaten_by.var(ddof=1) / negatives
    return beaten.mean(), np.sqrt(variance), min(positives, negatives)


def percentile(value: ArrayLike, resampled: FloatArray) -> Estimate:
    """Percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13).

    Resamples in which the figure is not defined are left out. Where all resamples agree (a perfect
    result can only be resampled into a perfect result) the bootstrap knows nothing, so the bounds
    are NaN rather than a claim of certainty; so they are without any resample.

    Parameters
    ----------
    value : the figure itself, array of shape (...)
    resampled : float array of shape (resamples, ...)
    """
    value = np.asarray(value, float)
    if not len(resampled):
        return Estimate(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    known = ~np.isnan(resampled)
    # nanquantile warns about columns without any number: give them one, and blank them below.
    filled = np.where(known.any(axis=0), resampled, 0.0)
    low, high = np.nanquantile(filled, [0.025, 0.975], axis=0)
    silent = np.nanmax(filled, axis=0) - np.nanmin(filled, axis=0) < 1e-12
    return Estimate(value, np.where(silent, np.nan, low), np.where(silent, np.nan, high))
