"""Labels that a model which has not learned them contradicts: perhaps it is the label that errs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from xraycomp.console.errors import UserError, listing
from xraycomp.data.decode import load_gray
from xraycomp.data.files import write_csv
from xraycomp.judging.checks import checked
from xraycomp.judging.contact_sheet import ON_SHEET, plot_doubts
from xraycomp.judging.intervals import FloatArray, IntArray, delong, ratio

DOUBTS = "label_doubts.csv"
SHEET = "label_doubts.png"
FILM_SIZE = 384

MOST = 500
"""More than anyone will look through; a weak model contradicts a third of all labels."""

NOT = "not "


def doubt_labels(
    images: Sequence[str],
    targets: ArrayLike,
    probs: ArrayLike,
    class_names: Sequence[str],
    *,
    one_class: bool,
) -> pd.DataFrame:
    """The labels that held-out predictions contradict, the most contradicted first.

    Confident learning (Northcutt, Jiang and Chuang 2021, JAIR 70:1373): the probability of a class
    is measured from the mean of those that images labelled so get, so that a class that the model
    is never sure of does not fill the list. A label is doubted where another class then has more
    than its own, and ranked by how much (the normalised margin). In multilabel each finding is a
    pair of classes, the finding and its absence, on the images of which it is known.

    A class is only suggested where the model tells it from the others at all: the interval of its
    AUROC lies above 0.5. At most `MOST` labels are listed.

    Parameters
    ----------
    images : n ids
    targets : array of shape (n, k) of 1, 0 and NaN (unknown); ``one_class``: one 1 a row, else 0
    probs : float array of shape (n, k) in [0, 1], of a model that has not learned these images
    class_names : k different names
    one_class : whether each image has just one class

    Returns
    -------
    table with the columns ``image``, ``label``, ``label_prob``, ``suggested`` and
    ``suggested_prob``; of a finding these are ``name`` and ``not name``

    Raises
    ------
    UserError
        When shapes, values or names do not fit.
    """
    true, scores = checked(targets, probs, class_names, one_class=one_class)
    parts = []
    if one_class:
        parts.append(_doubt(np.arange(len(true)), true, scores, list(class_names)))
    else:
        for name, target, score in zip(class_names, true.T, scores.T, strict=True):
            rows = np.flatnonzero(~np.isnan(target))
            either = np.stack([1 - target[rows], target[rows]], axis=1)
            pair = np.stack([1 - score[rows], score[rows]], axis=1)
            parts.append(_doubt(rows, either, pair, [NOT + name, name]))
    table = pd.concat(parts).sort_values("margin", kind="stable", ignore_index=True)
    table.insert(0, "image", [images[row] for row in table.pop("row")])
    return table.drop(columns="margin")[:MOST]


def _doubt(rows: IntArray, true: FloatArray, probs: FloatArray, names: list[str]) -> pd.DataFrame:
    """The doubted of m images with one of k classes each; ``rows`` (m,) says which they are."""
    means = ratio((true * probs).sum(axis=0), true.sum(axis=0))
    beyond = probs - np.nan_to_num(means)
    label, at = true.argmax(axis=1), np.arange(len(rows))
    told = delong(true, probs).low > 0.5  # NaN, of a class that no image has, is not
    others = np.where((true == 1) | ~told, -np.inf, beyond)
    other = others.argmax(axis=1)
    margin = beyond[at, label] - others[at, other]
    found = np.flatnonzero(margin < 0)
    return pd.DataFrame(
        {
            "row": rows[found],
            "label": [names[c] for c in label[found]],
            "label_prob": probs[found, label[found]],
            "suggested": [names[c] for c in other[found]],
            "suggested_prob": probs[found, other[found]],
            "margin": margin[found],
        }
    )


def pool_held_out(
    parts: Sequence[tuple[Sequence[str], NDArray[np.floating], NDArray[np.floating]]],
) -> tuple[list[str], FloatArray, FloatArray]:
    """Join what several runs predict of the images that each of them held out.

    An image that several held out gets the mean of their probabilities.

    Parameters
    ----------
    parts : of each run its images, their targets and probabilities of shape (n, k)

    Returns
    -------
    images, targets and probabilities of all, each image once

    Raises ``UserError`` where runs have different labels of an image.
    """
    targets, probs = (
        pd.concat([pd.DataFrame(part[i], index=list(part[0])) for part in parts]) for i in (1, 2)
    )
    labels = targets.fillna(-1).groupby(level=0, sort=False)
    differ = (labels.nunique() > 1).any(axis=1)
    if differ.any():
        raise UserError(
            f"{differ.sum():,} images have other labels in one run than in another "
            f"({listing(list(differ.index[differ]))}). Give runs on the same label table."
        )
    first, mean = labels.first().replace(-1, np.nan), probs.groupby(level=0, sort=False).mean()
    return list(first.index), first.to_numpy(np.float64), mean.to_numpy(np.float64)


def write_doubts(
    folder: Path,
    doubts: pd.DataFrame,
    paths: Mapping[str, Path] | None,
    title: str,
    note: str | None = None,
) -> list[str]:
    """Write ``label_doubts.csv``, and ``label_doubts.png`` with the films of the first.

    Parameters
    ----------
    doubts : as `doubt_labels` gives it
    paths : image -> its file; None: there are no files here, and no sheet
    title, note : as in `plot_doubts`

    Returns the names of the files that were written.
    """
    write_csv(folder / DOUBTS, doubts)
    if paths is None or doubts.empty:
        (folder / SHEET).unlink(missing_ok=True)  # that of earlier doubts
        return [DOUBTS]
    films = [load_gray(paths[image]) for image in doubts["image"][:ON_SHEET]]
    for film in films:
        film.thumbnail((FILM_SIZE, FILM_SIZE))
    plot_doubts(folder / SHEET, doubts, films, title, note)
    return [DOUBTS, SHEET]


def format_doubts(doubts: pd.DataFrame, shown: int = 10) -> str:
    """The first of the table as text for the terminal; no newline at the end."""
    if doubts.empty:
        return "No label is contradicted by predictions that have not learned it."
    lines = [
        f"{row.image}: labelled {row.label} ({row.label_prob:.3f}), predicted {row.suggested} "
        f"({row.suggested_prob:.3f})"
        for row in doubts[:shown].itertuples()
    ]
    number = f"{MOST:,} or more" if len(doubts) == MOST else f"{len(doubts):,}"
    head = f"{number} labels are contradicted by predictions that have not learned them"
    most = f"; the {len(lines)} most so" if len(doubts) > len(lines) else ""
    return "\n".join([f"{head}{most} (in brackets the probability):", *lines])
