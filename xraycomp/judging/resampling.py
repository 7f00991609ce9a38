"""Bootstrap: what resampling the images with replacement would give, without drawing images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from xraycomp.judging.figures import Counts, outcomes
from xraycomp.judging.intervals import BoolArray, FloatArray, IntArray, known_rows, ratio

CHUNK_CELLS = 1_000_000
"""How many bootstrap weights (4 bytes each) are held at once: memory stays flat, caches warm."""


@dataclass(frozen=True)
class Resampled:
    """What each resample gives, all of the same images: arrays of shape (resamples, k)."""

    counts: Counts
    auroc: FloatArray
    """NaN, as is the average precision, where a resample has one kind of images only."""
    average_precision: FloatArray


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
    def of(cls, target: BoolArray, score: FloatArray, rows: IntArray, images: int) -> "_Column":
        """Sort ``images`` images, of which this column knows ``rows``."""
        levels, level = np.unique(score[target], return_inverse=True)
        segment = np.searchsorted(levels, score, "left") + np.searchsorted(levels, score, "right")
        return cls(
            _indicator(segment, rows, (2 * len(levels) + 1, images)),
            _indicator(level, rows[target], (len(levels), images)),
        )

    def figures(self, weights: NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
        """AUROC and average precision for each of b weightings of n images, shape (n, b)."""
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
        return auroc, np.where(negatives > 0, average, np.nan)


def _indicator(rows: IntArray, columns: IntArray, shape: tuple[int, int]) -> csr_array:
    return csr_array((np.ones(len(rows), np.int32), (rows, columns)), shape=shape)


def draws(
    images: int, resamples: int, rng: np.random.Generator
) -> Iterator[tuple[slice, NDArray[np.int32]]]:
    """How often each resample draws each image, chunk by chunk: shape (images, resamples)."""
    chunk = min(max(CHUNK_CELLS // images, 1), resamples)
    for start in range(0, resamples, max(chunk, 1)):
        part = slice(start, min(start + chunk, resamples))
        weights = np.empty((images, part.stop - start), np.int32)
        for b in range(part.stop - start):
            weights[:, b] = np.bincount(rng.integers(images, size=images), minlength=images)
        yield part, weights


def resample(
    targets: FloatArray,
    called: BoolArray,
    scores: FloatArray,
    resamples: int,
    rng: np.random.Generator,
) -> Resampled:
    """Judge every class under resampling of whole images, with replacement.

    An image drawn w times is an image of weight w, so the scores are put in order once and each
    resample only adds up integer weights (sparse sums over all resamples of a chunk at a time). All
    classes share the draws: means over classes may be taken resample by resample. The result
    depends on the seed and, up to rounding, not on the chunk size.

    Parameters
    ----------
    targets : float array of shape (n, k), n >= 1, of 1, 0 and NaN (unknown: that image is left out
        of that class)
    called : bool array of shape (n, k)
    scores : finite float array of shape (n, k)
    """
    images, classes = targets.shape
    columns = [_Column.of(*known, images) for known in known_rows(targets, scores)]
    members = csr_array(np.concatenate(outcomes(targets, called), axis=1).T, dtype=np.int32)
    counts = np.empty((4, resamples, classes), np.int64)
    auroc, average = np.empty((2, resamples, classes))
    for part, weights in draws(images, resamples, rng):
        counts[:, part] = (members @ weights).reshape(4, classes, -1).swapaxes(1, 2)
        for c, column in enumerate(columns):
            auroc[part, c], average[part, c] = column.figures(weights)
    return Resampled(Counts(*counts), auroc, average)
