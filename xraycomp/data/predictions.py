"""Probability tables: the joint between training, ensembles, evaluation and submission."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError, listing
from xraycomp.data.files import check_columns, read_table
from xraycomp.data.labels import encode_targets

ID = "image"
SUM_TOLERANCE = 0.01
"""How far from 1 the probabilities of one image may add up: wide enough for float16 and for rounded
digits, too narrow for logits."""


def probability_table(
    images: list[str], probs: NDArray[np.floating], classes: tuple[str, ...]
) -> pd.DataFrame:
    """A table with the column ``image`` and one column a class.

    ``probs`` has the shape (n_images, n_classes) and values in 0..1.
    """
    table = pd.DataFrame(np.asarray(probs, dtype=np.float64), columns=list(classes))
    table.insert(0, ID, images)
    return table


def read_predictions(path: Path, classes: tuple[str, ...]) -> pd.DataFrame:
    """Read a probability table: the columns ``image`` and ``classes``, others dropped.

    Raises ``UserError`` for a missing file or column, duplicate ids, and values that are no number
    in 0..1.
    """
    if not path.is_file():
        raise UserError(f"There is no prediction table {path}. Check the path.")
    table = read_table(path)
    check_columns(table, path, [ID, *classes])
    repeated = table[ID][table[ID].duplicated()]
    if len(repeated):
        raise UserError(f"{path} holds {len(repeated):,} images twice: {listing(list(repeated))}.")
    probs = check_probabilities(table, list(classes), path, table[ID])
    return probability_table(list(table[ID]), probs, classes)


def check_probabilities(
    table: pd.DataFrame, columns: list[str], path: Path, images: pd.Series
) -> NDArray[np.float64]:
    """Columns of text as numbers of shape (n_rows, n_columns).

    Raises ``UserError`` for values that are no number in 0..1; ``images`` says whose they are.
    """
    found = table[columns].apply(pd.to_numeric, errors="coerce")
    numbers: NDArray[np.float64] = found.to_numpy(dtype=np.float64)
    wrong = ~((numbers >= 0) & (numbers <= 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise UserError(
            f"{path} holds {wrong.any(axis=1).sum():,} rows whose values are not probabilities in "
            f"0..1; {columns[column]} is {table[columns[column]].iloc[row]!r} for "
            f"{images[table.index[row]]}."
        )
    return numbers


def labelled_images(manifest: pd.DataFrame, split: str, classes: tuple[str, ...]) -> pd.DataFrame:
    """The manifest's rows of the images of one split of which something is known."""
    rows = manifest[manifest["split"] == split]
    targets = encode_targets(rows["label"], classes)
    return rows.iloc[np.flatnonzero(~np.isnan(targets).all(axis=1))]


def labelled_rows(
    manifest: pd.DataFrame, split: str, table: pd.DataFrame, classes: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Targets and probabilities of the images of one split of which something is known.

    Parameters
    ----------
    manifest : as `build_manifest` gives it, with the column ``split``
    split : train, val or test
    table : a probability table, which may hold other images and other columns too
    classes : k class names, the order of the columns that are returned

    Returns
    -------
    targets of 1, 0 and NaN (unknown) and probabilities in 0..1, both of shape (n, k) and in the
    order of `labelled_images`; n is 0 where nothing is labelled

    Raises ``UserError`` where the table lacks some of these images.
    """
    rows = labelled_images(manifest, split, classes)
    targets, images = encode_targets(rows["label"], classes), rows["image"]
    places = pd.Index(table[ID]).get_indexer(pd.Index(images))
    if missing := list(images[places < 0]):
        raise UserError(
            f"The predictions lack {len(missing):,} of {len(images):,} images of the {split} "
            f"split: {listing(missing)}. Write them with: python -m xraycomp.predict --runs RUN "
            f"--split {split}"
        )
    return targets, table[list(classes)].to_numpy(np.float64)[places]
