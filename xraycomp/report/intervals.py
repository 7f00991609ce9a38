"""95 % intervals: Wilson for rates, DeLong for AUROC, bootstrap for what has no formula.

Every function works on whole arrays of figures at once and answers NaN, silently, where a figure is
not defined.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import expit, logit, ndtri
from scipy.stats import rankdata

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

Z = float(ndtri(0.975))
CHUNK_CELLS = 1_000_000
"""How many bootstrap weights (4 bytes each) are held at once: memory stays flat, caches warm."""


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


def ratio(part: ArrayLike, whole: ArrayLike) -> FloatArray:
    """Divide, with NaN (and no warning) where ``whole`` is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    quotient: FloatArray = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=quotient, where=whole != 0)
    return quotient


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
    """Mean of independent values, shape (n,), plus and minus 1.96 standard errors."""
    mean = np.asarray(values.mean())
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return Estimate(mean, np.asarray(mean - Z * error), np.asarray(mean + Z * error))


def delong(targets: BoolArray, scores: FloatArray) -> Estimate:
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
    targets : bool array of shape (n, k)
    scores : finite float array of shape (n, k), higher = more likely positive

    Returns
    -------
    Estimate of shape (k,), in [0, 1]; NaN where a column has one class only
    """
    columns = [_delong_column(targets[:, c], scores[:, c]) for c in range(targets.shape[1])]
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
    are NaN rather than a claim of certainty.

    Parameters
    ----------
    value : the figure itself, array of shape (...)
    resampled : float array of shape (resamples, ...)
    """
    value = np.asarray(value, float)
    known = ~np.isnan(resampled)
    # nanquantile warns about columns without any number: give them one, and blank them below.
    filled = np.where(known.any(axis=0), resampled, 0.0)
    low, high = np.nanquantile(filled, [0.025, 0.975], axis=0)
    silent = np.nanmax(filled, axis=0) - np.nanmin(filled, axis=0) < 1e-12
    return Estimate(value, np.where(silent, np.nan, low), np.where(silent, np.nan, high))


def resample_confusion(
    confusion: IntArray, resamples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the confusion matrices that resampling the images with replacement would give.

    Each image falls in one cell, so their counts are multinomial: the same distribution as drawing
    images, at a cost that does not grow with their number.

    Parameters
    ----------
    confusion : int array of shape (k, k), at least one image

    Returns
    -------
    int array of shape (resamples, k, k), each summing to ``confusion.sum()``
    """
    images = int(confusion.sum())
    drawn = rng.multinomial(images, confusion.ravel() / images, size=resamples)
    return drawn.reshape(resamples, *confusion.shape)


@dataclass(frozen=True)
class Rankings:
    """AUROC, average precision and positives of each resample: arrays of shape (resamples, k)."""

    auroc: FloatArray
    average_precision: FloatArray
    support: IntArray


@dataclass(frozen=True)
class _Column:
    """Which images fall between, and which on, the m distinct scores of one column's positives.

    ``segments @ weights`` gives the weight in 2m + 1 segments of ascending score: segment 2j + 1 is
    the j-th distinct positive score, even segments are the gaps, which hold negatives only.
    ``positives @ weights`` gives the positive weight on each of the m scores.
    """

    segments: csr_array
    positives: csr_array

    @classmethod
    def of(cls, target: BoolArray, score: FloatArray) -> "_Column":
        levels, level = np.unique(score[target], return_inverse=True)
        segment = np.searchsorted(levels, score, "left") + np.searchsorted(levels, score, "right")
        images = np.arange(len(score))
        return cls(
            _indicator(segment, images, (2 * len(levels) + 1, len(score))),
            _indicator(level, images[target], (len(levels), len(score))),
        )

    def figures(self, weights: NDArray[np.int32]) -> tuple[FloatArray, FloatArray, IntArray]:
        """AUROC, average precision and positive weight for each of b weightings, shape (n, b)."""
        hits = self.positives @ weights
        misses = self.segments @ weights
        misses[1::2] -= hits
        up_to = np.cumsum(misses, axis=0, dtype=np.int64)
        below, through = up_to[:-1:2], up_to[1::2]
        found = np.cumsum(hits[::-1], axis=0, dtype=np.int64)[::-1]
        positives, negatives = hits.sum(axis=0, dtype=np.int64), up_to[-1]
        # A negative with the same score counts as half beaten.
        auroc = ratio((hits * (below + through)).sum(axis=0), 2 * positives * negatives)
        called = found + negatives - below
        precision = found / np.maximum(called, 1)
        average = ratio((hits * precision).sum(axis=0), positives)
        return auroc, np.where(negatives > 0, average, np.nan), positives


def _indicator(rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)


def resample_rankings(
    targets: BoolArray, scores: FloatArray, resamples: int, rng: np.random.Generator
) -> Rankings:
    """AUROC and average precision of every column under resampling of whole images.

    An image drawn w times is an image of weight w, so the scores are put in order once and each
    resample only adds up integer weights (sparse sums over all resamples of a chunk at a time). All
    columns share the draws: means over columns may be taken resample by resample. The result
    depends on the seed and, up to rounding, not on the chunk size.

    Parameters
    ----------
    targets : bool array of shape (n, k), n >= 1
    scores : finite float array of shape (n, k)

    Returns
    -------
    Rankings of shape (resamples, k); NaN where a resample has one class only
    """
    images, classes = targets.shape
    columns = [_Column.of(targets[:, c], scores[:, c]) for c in range(classes)]
    chunk = min(max(CHUNK_CELLS // images, 1), resamples)
    auroc = np.empty((resamples, classes))
    average = np.empty((resamples, classes))
    support = np.empty((resamples, classes), np.int64)
    for start in range(0, resamples, chunk):
        part = slice(start, min(start + chunk, resamples))
        weights = np.empty((images, part.stop - start), np.int32)
        for b in range(part.stop - start):
            weights[:, b] = np.bincount(rng.integers(images, size=images), minlength=images)
        for c, column in enumerate(columns):
            auroc[part, c], average[part, c], support[part, c] = column.figures(weights)
    return Rankings(auroc, average, support)
