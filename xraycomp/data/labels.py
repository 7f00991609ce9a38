"""Labels as text in the manifest, and as the matrix of targets that is learned from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError

SEPARATOR = "|"
"""Parts several classes of one image in its label."""
UNKNOWN = "?"
"""Before a class: it is not known whether the image has it. Alone: nothing is known."""


def encode_targets(
    labels: Sequence[str] | pd.Series, classes: Sequence[str]
) -> NDArray[np.float32]:
    """The manifest's labels as targets of shape (n_images, n_classes): 1, 0, or NaN for unknown.

    A label is the image's class, or several parted by ``|``; the empty text is none of the classes;
    ``?name`` makes one NaN, ``?`` alone (an image without a label) the whole row.

    Raises ``UserError`` for a name that is no class.
    """
    codes, texts = pd.factorize(np.asarray(labels, dtype=object))
    known = {name: index for index, name in enumerate(classes)}
    rows = np.zeros((len(texts), len(classes)), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        if text == UNKNOWN:
            row[:] = np.nan
            continue
        for part in text.split(SEPARATOR) if text else []:
            name = part.removeprefix(UNKNOWN)
            if name not in known:
                raise UserError(f"The label {name!r} is none of the classes {', '.join(classes)}.")
            row[known[name]] = 1.0 if part == name else np.nan
    targets: NDArray[np.float32] = rows[codes]
    return targets


def is_labelled(labels: Sequence[str] | pd.Series) -> NDArray[np.bool_]:
    """Whether anything is known of each image, by its label in the manifest; shape (n_images,)."""
    known: NDArray[np.bool_] = np.asarray(labels, dtype=object) != UNKNOWN
    return known


def rarity(targets: NDArray[np.float32]) -> NDArray[np.int64]:
    """How rare the rarest class of each image is: int array of shape (n_images,).

    0 is the class with the fewest images, the number of classes (the columns of ``targets``) stands
    for images with none. What is unknown (NaN) does not count.
    """
    has = targets == 1
    ranks = np.argsort(np.argsort(has.sum(axis=0), kind="stable"), kind="stable")
    found = np.full(len(targets), targets.shape[1], dtype=np.int64)
    for column, rank in enumerate(ranks):
        found[has[:, column]] = np.minimum(found[has[:, column]], rank)
    return found


def decode_targets(
    targets: NDArray[np.float32] | NDArray[np.bool_], classes: Sequence[str]
) -> list[str]:
    """The label of each row of ``targets`` (n_images, n_classes), as ``encode_targets`` reads it
    back."""
    marks = {1: "", -1: UNKNOWN}
    rows = [tuple(row) for row in np.nan_to_num(targets.astype(np.float32), nan=-1).tolist()]
    texts = {
        row: SEPARATOR.join(
            marks[value] + name for name, value in zip(classes, row, strict=True) if value
        )
        for row in set(rows)  # a large table has few different rows
    }
    return [texts[row] for row in rows]
