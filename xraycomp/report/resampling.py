"""Bootstrap: what resampling the images with replacement would give, without drawing images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from xraycomp.report.intervals import BoolArray, FloatArray, IntArray, known_rows, ratio

CHUNK_CELLS = 1_000_000
"""How many bootstrap weights (4 bytes each) are held at once: memory stays flat, caches warm."""


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
    def of(cls, target: BoolArray, score: FloatArray, rows: IntArray, images: int) -> "_Column":
        """Sort ``images`` images, of which this column knows ``rows``."""
        levels, level = np.unique(score[target], return_inverse=True)
        segment = np.searchsorted(levels, score, "left") + np.searchsorted(levels, score, "right")
        return cls(
            _indicator(segment, rows, (2 * len(levels) + 1, images)),
            _indicator(level, rows[target], (len(levels), images)),
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


def _draws(
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


def resample_cells(
    cells: NDArray[np.int64], n_cells: int, resamples: int, rng: np.random.Generator
) -> IntArray:
    """Count the images in each cell of every column under resampling of whole images.

    Where an image falls in one cell a column, columns depend on each other, so no multinomial
    draw does it. The draws are those of `resample_rankings` with an equal ``rng``.

    Parameters
    ----------
    cells : int array of shape (n, k), n >= 1, values in [0, n_cells); -1 is counted nowhere

    Returns
    -------
    int array of shape (resamples, k, n_cells)
    """
    images, columns = cells.shape
    row, column = np.nonzero(cells >= 0)
    place = column * n_cells + cells[row, column]
    membership = _indicator(place, row, (columns * n_cells, images))
    counts = np.empty((resamples, columns * n_cells), np.int64)
    for part, weights in _draws(images, resamples, rng):
        counts[part] = (membership @ weights).T
    return counts.reshape(resamples, columns, n_cells)


def resample_rankings(
    targets: BoolArray | FloatArray,
    scores: FloatArray,
    resamples: int,
    rng: np.random.Generator,
) -> Rankings:
    """AUROC and average precision of every column under resampling of whole images.

    An image drawn w times is an image of weight w, so the scores are put in order once and each
    resample only adds up integer weights (sparse sums over all resamples of a chunk at a time). All
    columns share the draws: means over columns may be taken resample by resample. The result
    depends on the seed and, up to rounding, not on the chunk size.

    Parameters
    ----------
    targets : bool array of shape (n, k), n >= 1, or float array of 1, 0 and NaN (unknown: that
        image is left out of that column)
    scores : finite float array of shape (n, k)

    Returns
    -------
    Rankings of shape (resamples, k); NaN where a resample has one class only
    """
    images, classes = targets.shape
    columns = [_Column.of(*known, images) for known in known_rows(targets, scores)]
    auroc = np.empty((resamples, classes))
    average = np.empty((resamples, classes))
    support = np.empty((resamples, classes), np.int64)
    for part, weights in _draws(images, resamples, rng):
        for c, column in enumerate(columns):
            auroc[part, c], average[part, c], support[part, c] = column.figures(weights)
    return Rankings(auroc, average, support)
