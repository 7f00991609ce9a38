"""Which rows of two tables, whoever made them, are about the same image."""

from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.manifest import IMAGE_SUFFIXES

_DECIMAL = r"-?\d*\.\d+([eE]-?\d+)?"


def image_key(name: str, *, folders: bool = True) -> str:
    """An image's name without the suffix of an image file, and without folders on request."""
    path = name.strip().replace("\\", "/")
    stem, dot, suffix = path.rpartition(".")
    if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES | {".dcm", ".dicom"}:
        path = stem
    return path if folders else path.rpartition("/")[2]


def match_ids(
    scores: pd.DataFrame,
    truth: pd.DataFrame,
    predictions: Path,
    labels: Path,
    prediction_id: str = "",
    label_id: str = "",
) -> tuple[pd.Series, pd.Series]:
    """The columns of both tables that name the most images alike, as keys of `image_key`.

    A column that only counts rows is taken where no other is. Raises ``UserError`` where none fits.
    """
    best: tuple[pd.Series, pd.Series] | None = None
    merit = (False, 0)
    for folders in (True, False):
        ours, theirs = (
            _keys(table, path, wanted, folders)
            for table, path, wanted in (
                (scores, predictions, prediction_id),
                (truth, labels, label_id),
            )
        )
        for one, is_counter, names in ours:
            for other, other_counter, other_names in theirs:
                shared = len(names & other_names)
                found = (not (is_counter or other_counter), shared)
                if shared and found > merit:
                    best, merit = (one, other), found
        if best is not None and merit == (True, best[0].nunique()):
            break  # every image is found with its folders
    if best is None:
        raise UserError(
            f"No column of {predictions} ({listing(list(scores.columns), 12)}) names images of "
            f"{labels} ({listing(list(truth.columns), 12)}). Check the files, or name the columns "
            "with --prediction-id and --label-id."
        )
    return best


def _keys(
    table: pd.DataFrame, path: Path, wanted: str, folders: bool
) -> list[tuple[pd.Series, bool, set[str]]]:
    """Each column that may name images: its keys, whether it only counts rows, its set of keys."""
    if wanted and wanted not in table.columns:
        raise UserError(
            f"{path} has no column {wanted} (columns: {listing(list(table.columns), 12)})."
        )
    found = []
    for name in [wanted] if wanted else table.columns:
        if not wanted and table[name].iloc[:50].str.fullmatch(_DECIMAL).all():
            continue  # probabilities, of which there may be many
        keys = table[name].map(lambda cell: image_key(cell, folders=folders))
        numbers = range(len(keys) + 1)
        counter = list(keys) in ([*map(str, numbers[:-1])], [*map(str, numbers[1:])])
        found.append((keys, counter and not wanted, set(keys) - {""}))
    return found


def listed_images(path: Path, ids: pd.Series) -> list[str]:
    """The keys of the images that a file names, one a line."""
    if not path.is_file():
        raise UserError(f"There is no list of images {path}. Check the path.")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise UserError(f"The list of images {path} is empty.")
    whole, short = ([image_key(line, folders=kept) for line in lines] for kept in (True, False))
    known = set(ids)
    return list(dict.fromkeys(max(whole, short, key=lambda keys: len(known.intersection(keys)))))
