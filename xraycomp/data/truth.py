"""Label tables that this kit did not make: which column says what, and for which classes."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError
from xraycomp.data.labels import UNKNOWN, encode_targets

LABEL_COLUMNS = ("label", "labels", "target", "class", "class_id", "diagnosis", "finding", "y")
"""Usual names of a column that holds the index of each image's class."""

SUM_TOLERANCE = 0.01
"""How far from 1 the probabilities of one image may add up, being rounded."""

_FLAGS = {"0", "1", "0.0", "1.0"}
_UNKNOWN_FLAGS = {"", "-1", "-1.0", "nan", "NaN"}


@dataclass(frozen=True)
class Affix:
    """What stands before and after a class's name in the column of its probability."""

    prefix: str
    suffix: str

    @classmethod
    def of(cls, pattern: str) -> "Affix":
        """Read it from a pattern such as ``pred_{}``."""
        if pattern.count("{}") != 1:
            raise UserError(f"--columns is {pattern!r}; it must hold {{}} once, as in pred_{{}}.")
        prefix, suffix = pattern.split("{}")
        return cls(plain(prefix), plain(suffix))

    def columns(self, names: Iterable[str], columns: Iterable[str]) -> dict[str, str]:
        """Class name -> column, for those of ``names`` that have one."""
        by_name = {plain(column): column for column in reversed(list(columns))}
        keys = {name: f"{self.prefix}{plain(name)}{self.suffix}" for name in names}
        return {name: by_name[key] for name, key in keys.items() if key in by_name}


def plain(name: str) -> str:
    """A name without what tables spell differently: ``Pleural Thickening``, ``pleural-thickening``.

    >>> plain("Pleural-Thickening")
    'pleural_thickening'
    """
    return re.sub(r"[\W_]+", "_", name.casefold())


def affixes(names: Iterable[str], columns: Iterable[str]) -> Counter[Affix]:
    """How many of ``names`` each affix finds in ``columns``."""
    found: Counter[Affix] = Counter()
    keys = {plain(column) for column in columns}
    for name in {plain(name) for name in names} - {"", "_"}:
        pattern = re.compile(rf"(?:^|(?<=_)){re.escape(name)}(?=_|$)")
        for key in keys:
            for place in pattern.finditer(key):
                found[Affix(key[: place.start()], key[place.end() :])] += 1
    return found


def is_flags(column: pd.Series) -> bool:
    """Whether a column says 0 or 1 (or that it is not known) for each image."""
    values = set(column.unique())
    return values <= _FLAGS | _UNKNOWN_FLAGS and bool(values & _FLAGS)


def flag_targets(table: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.float32]:
    """Columns of 0, 1 and nothing or -1 (unknown) as targets of shape (n_images, n_classes)."""
    values = table[list(columns)].replace(dict.fromkeys(_UNKNOWN_FLAGS, "nan"))
    targets: NDArray[np.float32] = values.to_numpy(dtype=np.float32)
    return targets


def names_in(column: pd.Series, separator: str) -> list[str]:
    """The different names in a column's cells, in the order of the alphabet."""
    cells = pd.Series(column.unique(), dtype=object)
    names = {name.strip().removeprefix(UNKNOWN) for cell in cells for name in cell.split(separator)}
    return sorted(names - {""})


def is_several(column: pd.Series, separator: str, none: str) -> bool:
    """Whether cells of a column of names may name several classes, or none."""
    return bool(column.str.contains(separator, regex=False).any() or (column == none).any())


def name_targets(
    column: pd.Series, classes: Sequence[str], separator: str, none: str, several: bool
) -> NDArray[np.float32]:
    """A column of class names as targets of shape (n_images, n_classes).

    Names that are none of ``classes`` say nothing about these. Raises ``UserError`` for empty cells
    unless cells may name ``several`` classes, or none.
    """
    empty = column.str.strip() == ""
    if empty.any() and not several:
        raise UserError(
            f"{int(empty.sum()):,} images have no label in the column {column.name}. Take them out "
            f"of the table, or write {none!r} for images with none of the classes."
        )
    known = {*classes, *(UNKNOWN + name for name in classes), UNKNOWN}
    cells = {
        cell: "|".join(name for name in map(str.strip, cell.split(separator)) if name in known)
        for cell in column.unique()
    }
    return encode_targets(list(column.map(cells)), classes)


def index_targets(column: pd.Series, n_classes: int) -> NDArray[np.float32]:
    """A column of class indices as targets of shape (n_images, n_classes)."""
    indices = pd.to_numeric(column).to_numpy(dtype=np.int64)
    if (outside := (indices < 0) | (indices >= n_classes)).any():
        raise UserError(
            f"The column {column.name} holds the class index {indices[outside][0]}, but there are "
            f"{n_classes} columns of probabilities (0 to {n_classes - 1})."
        )
    targets: NDArray[np.float32] = np.eye(n_classes, dtype=np.float32)[indices]
    return targets


def is_indices(column: pd.Series) -> bool:
    """Whether a column holds whole numbers only."""
    return bool(column.str.fullmatch(r"\d{1,4}").all())


def count_fits(names: Iterable[str], columns: Iterable[str], affix: Affix | None) -> int:
    """How many of ``names`` have a column, with that affix or with the best one."""
    if affix:
        return len(affix.columns(names, columns))
    return max(affixes(names, columns).values(), default=0)


def label_column(
    table: pd.DataFrame, columns: Iterable[str], separator: str, affix: Affix | None
) -> str | None:
    """The column of ``table`` whose names fit ``columns`` best; None where none does."""
    best, merit = None, (0, 0)
    for name in table.columns:
        names = names_in(table[name], separator)
        found = (count_fits(names, columns, affix), -len(names))
        if found[0] and found > merit:
            best, merit = name, found
    return best


def index_column(table: pd.DataFrame) -> str | None:
    """The column of ``table`` with a usual name that holds class indices, if there is one."""
    usual = [name for name in table.columns if plain(name) in LABEL_COLUMNS]
    return next((name for name in usual if is_indices(table[name])), None)


def unit_columns(scores: pd.DataFrame) -> list[str]:
    """The columns that hold numbers in 0..1 only."""
    numbers = scores.apply(pd.to_numeric, errors="coerce")
    inside = ((numbers >= 0) & (numbers <= 1)).all()
    return [name for name in scores.columns if inside[name]]


def sum_to_one(scores: pd.DataFrame, columns: Sequence[str]) -> bool:
    """Whether these columns, of numbers, add up to 1 in every row."""
    sums = scores[list(columns)].apply(pd.to_numeric, errors="coerce").sum(axis=1)
    return bool(((sums - 1).abs() < SUM_TOLERANCE).all())
