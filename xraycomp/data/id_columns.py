"""Which columns of two tables, whoever made them, name the same images."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.files import check_columns, read_table
from xraycomp.data.image_ids import image_key

_DECIMAL = r"-?\d*\.\d+([eE]-?\d+)?"


@dataclass(frozen=True)
class Table:
    """A table with one row an image."""

    path: Path
    rows: pd.DataFrame
    keys: pd.Series
    """The `image_key` of each row, called as the column that names the image."""


def read_tables(
    predictions: Path, labels: Path, prediction_id: str = "", label_id: str = ""
) -> tuple[Table, Table]:
    """Read both tables; images are named by the given columns, or by those that fit best.

    Names fit with their folders, or else without; a column that only counts rows is taken where
    no other fits. Raises ``UserError`` where none does, and for images that are named twice.
    """
    scores, truth = _read(predictions, "prediction"), _read(labels, "label")
    best, merit = None, (False, 0)
    for folders in (True, False):
        ours = _id_columns(scores, predictions, prediction_id, folders)
        theirs = _id_columns(truth, labels, label_id, folders)
        for one, other in product(ours, theirs):
            shared = len(one.names & other.names)
            found = (not (one.counts_rows or other.counts_rows), shared)
            if shared and found > merit:
                best, merit = (one.keys, other.keys), found
    if best is None:
        raise UserError(
            f"No column of {predictions} ({listing(list(scores.columns), 12)}) names images of "
            f"{labels} ({listing(list(truth.columns), 12)}). Check the files, or name the columns "
            "with --prediction-id and --label-id."
        )
    for path, keys in zip((predictions, labels), best, strict=True):
        if len(repeated := keys[keys.duplicated()]):
            raise UserError(
                f"{path} holds {len(repeated):,} images twice in the column {keys.name}: "
                f"{listing(list(repeated))}. Leave one row an image."
            )
    return Table(predictions, scores, best[0]), Table(labels, truth, best[1])


def _read(path: Path, kind: str) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"There is no {kind} table {path}. Check the path.")
    table = read_table(path)
    if table.empty:
        raise UserError(f"The {kind} table {path} has no rows.")
    return table


@dataclass(frozen=True)
class _IdColumn:
    """A column that may name images."""

    keys: pd.Series
    names: set[str]
    counts_rows: bool


def _id_columns(table: pd.DataFrame, path: Path, wanted: str, folders: bool) -> list[_IdColumn]:
    """The column that is ``wanted``, or all but those of probabilities, of which there are many."""
    if wanted:
        check_columns(table, path, [wanted])
    found = []
    for name in [wanted] if wanted else table.columns:
        if wanted or not table[name].iloc[:50].str.fullmatch(_DECIMAL).all():
            known = {cell: image_key(cell, folders=folders) for cell in table[name].unique()}
            keys = table[name].map(known)
            counts = list(keys[:2]) in (["0", "1"], ["1", "2"]) and keys.is_unique
            found.append(_IdColumn(keys, set(known.values()) - {""}, counts))
    return found


def listed_images(path: Path, keys: pd.Series) -> list[str]:
    """The keys of the images that a file names, one a line, with folders if ``keys`` have them."""
    if not path.is_file():
        raise UserError(f"There is no list of images {path}. Check the path.")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"The list of images {path} is empty.")
    whole, short = ([image_key(line, folders=kept) for line in lines] for kept in (True, False))
    known = set(keys)
    return list(dict.fromkeys(max(whole, short, key=lambda found: len(known.intersection(found)))))
