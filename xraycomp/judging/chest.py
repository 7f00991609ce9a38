"""Where on a film the patient is, estimated from brightness alone."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_SMOOTHING = 0.01
"""Deviation of the blur, in shares of the film's side: letters and noise go, the outline stays."""
_LEAST = 0.25
"""A patient fills more of a film than this."""
_MOST_INSIDE = 0.05
"""Where more of the film's middle is air, lungs have been taken for the air outside."""


def find_body(film: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """The patient's body on a film: a bool array of its shape, or None where that fails.

    Otsu's threshold (1979) parts the smoothed film into bright and dark, and once more the dark
    into lungs and soft tissue on one side and air on the other. Air that reaches the film's edge is
    outside; the largest piece of the rest, without its holes, is the body. So lungs that are as
    dark as air are in it, and letters in the corners are not. Arms, neck and belly count as body:
    this is no segmentation of the lungs, and tells no more than whether a place is on the patient
    or beside them. A film that shows nothing but the patient is all body. It fails where what is
    left is too small to be a patient, as on inverted or blank films.

    film : gray values, bright bones, of shape (height, width)
    """
    smooth = ndimage.gaussian_filter(film.astype(np.float32), _SMOOTHING * min(film.shape))
    dark = smooth[smooth <= otsu(smooth)]
    if np.unique(dark).size < 2:  # a blank film
        return None
    air, _ = ndimage.label(smooth <= otsu(dark))
    edge = np.concatenate([air[0], air[-1], air[:, 0], air[:, -1]])
    rest, n_pieces = ndimage.label(~np.isin(air, np.unique(edge[edge > 0])))
    if not n_pieces:
        return None
    largest = rest == np.bincount(rest.ravel())[1:].argmax() + 1
    body: NDArray[np.bool_] = ndimage.binary_fill_holes(largest)
    height, width = film.shape
    middle = body[int(0.3 * height) : int(0.8 * height), int(0.2 * width) : int(0.8 * width)]
    found = body.mean() > _LEAST and (~middle).mean() < _MOST_INSIDE
    return body if found else None


def otsu(values: NDArray[np.floating]) -> float:
    """The threshold that leaves the least variance within the two parts (256 bins)."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    sums = np.cumsum(counts * middles)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(middles[:-1][(below * above * (means[0] - means[1]) ** 2).argmax()])


def share_outside(heat: NDArray[np.floating], body: NDArray[np.bool_] | None) -> float:
    """The share of a heat map's sum that lies outside the body, in 0..1.

    heat : float array of the shape of ``body``; NaN where the network saw nothing

    NaN where there is no ``body``, and where the map is all 0.
    """
    seen = np.nan_to_num(heat)
    total = seen.sum()
    return float(seen[~body].sum() / total) if body is not None and total > 0 else float("nan")
