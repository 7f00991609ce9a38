"""What the cells of a label table say: names of classes in one column, or a flag a class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import Labelled
from xraycomp.data.labels import UNKNOWN

FLAGS = {
    **dict.fromkeys(("1", "1.0"), 1.0),
    **dict.fromkeys(("0", "0.0"), 0.0),
    **dict.fromkeys(("", "-1", "-1.0", "nan", "NaN"), np.nan),
}
"""What a class's column holds for an image -> its target, NaN for unknown."""


def label_columns(train: Labelled, classes: Sequence[str]) -> list[str]:
    """The label column, or the column of each class in index order."""
    if train.label_column:
        return [train.label_column]
    called = {name: column for column, name in train.names.items()}
    return [called.get(name, name) for name in classes]


def read_targets(
    table: pd.DataFrame, path: Path, train: Labelled, classes: Sequence[str], *, multilabel: bool
) -> NDArray[np.float32]:
    """What the table says of each row's image, in the columns that ``train`` names.

    Returns 1, 0, or NaN for unknown, of shape (n_rows, n_classes). Unless ``multilabel``, each row
    has one class, or none where other labels are ignored.

    Raises ``UserError`` that names the line of ``path`` where a label cannot be read.
    """
    read = _read_names if train.label_column else _read_flags
    columns = label_columns(train, classes)
    targets = []
    kinds = table.drop_duplicates(columns)  # a large table has few different rows
    images = kinds[train.image_column]
    rows = kinds[columns].itertuples(index=False, name=None)
    for line, image, cells in zip(kinds.index + 2, images, rows, strict=True):
        try:
            target = read(cells, train, classes)
            if not multilabel:
                _check_one_class(target, train)
        except ValueError as error:
            label = ",".join(cells)
            raise UserError(
                f"{path}, line {line}: the label {label!r} of {image} {error}."
            ) from None
        targets.append(target)
    which = table.groupby(columns, sort=False).ngroup()
    found: NDArray[np.float32] = np.array(targets, dtype=np.float32)
    return found.reshape(-1, len(classes))[which]


def _read_names(cells: tuple[str, ...], train: Labelled, classes: Sequence[str]) -> list[float]:
    """The targets by the names in one cell; ``ValueError`` says what is wrong."""
    parts = split_names(cells[0], train.separator)
    if parts == [UNKNOWN]:
        return [np.nan] * len(classes)
    found = {}
    for part in parts:
        name = part.removeprefix(UNKNOWN)
        found[train.names.get(name, name)] = 1.0 if part == name else np.nan
    # The text for none can be a class too: an option of a run makes it one.
    if found.keys() - {*classes, "", train.none} and train.others != "ignore":
        raise ValueError(f"is not one of the classes ({listing(classes, 20)})")
    return [found.get(name, 0.0) for name in classes]


def split_names(cell: str, separator: str) -> list[str]:
    """The names in one cell, a mark before those that are unknown."""
    return [part.strip() for part in (cell.split(separator) if separator else [cell])]


def _read_flags(cells: tuple[str, ...], train: Labelled, classes: Sequence[str]) -> list[float]:
    """The targets by one cell a class; ``ValueError`` says what is wrong."""
    try:
        return [FLAGS[cell.strip()] for cell in cells]
    except KeyError:
        raise ValueError("holds a value that is not 1, 0, -1 or nothing") from None


def _check_one_class(target: list[float], train: Labelled) -> None:
    if np.isnan(target).any():
        raise ValueError("is unknown, where an image must have one class")
    if sum(target) != 1 and not (sum(target) == 0 and train.others == "ignore"):
        raise ValueError(f"names {sum(target):.0f} classes, where an image must have one")
