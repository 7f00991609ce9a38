"""What labels, probabilities and class names must be before anything is computed from them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from xraycomp.console.errors import UserError
from xraycomp.report.intervals import FloatArray, IntArray

ROW_SUM_TOLERANCE = 0.01
"""Wide enough for float16 and for tables of rounded digits, too narrow for logits."""


def checked(labels: ArrayLike, probs: ArrayLike) -> tuple[IntArray, FloatArray]:
    """Give labels and probabilities as arrays of known type and sound values.

    Parameters
    ----------
    labels : int array of shape (n,), n >= 1, values in [0, k)
    probs : float array of shape (n, k), k >= 2, finite, in [0, 1], rows sum to 1

    Returns
    -------
    int64 array of shape (n,) and float64 array of shape (n, k)

    Raises
    ------
    UserError
        When anything of that is not so.
    """
    true, scores = np.asarray(labels), _table(probs, 2)
    if true.shape != scores.shape[:1]:
        raise UserError(
            f"The labels have the shape {true.shape} and there are {len(scores):,} rows of "
            "probabilities; give one label a row."
        )
    if true.dtype.kind not in "iu":
        raise UserError("The labels are not whole numbers; give the index of each true class.")
    if true.min() < 0 or true.max() >= scores.shape[1]:
        worst = int(true.min() if true.min() < 0 else true.max())
        raise UserError(
            f"The labels hold {worst}, outside 0 to {scores.shape[1] - 1}; are there as many "
            "columns of probabilities as classes, in the right order?"
        )
    _refuse_rows(
        {
            "a missing or infinite number": ~np.isfinite(scores).all(axis=1),
            "a negative number": (scores < 0).any(axis=1),
            "a sum that is not 1": np.abs(scores.sum(axis=1) - 1) > ROW_SUM_TOLERANCE,
        }
    )
    return true.astype(np.int64), scores


def checked_findings(targets: ArrayLike, probs: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """As `checked`, where an image may have several of the classes, or none.

    Parameters
    ----------
    targets : array of shape (n, k), n >= 1, of 1, 0 and NaN (unknown)
    probs : float array of shape (n, k), k >= 1, finite, in [0, 1]

    Returns
    -------
    two float64 arrays of shape (n, k)

    Raises
    ------
    UserError
        When anything of that is not so.
    """
    scores = _table(probs, 1)
    true = np.asarray(targets, np.float64)
    if true.shape != scores.shape:
        raise UserError(
            f"The targets have the shape {true.shape} and the probabilities {scores.shape}; give "
            "one target for each probability."
        )
    if not (np.isnan(true) | (true == 0) | (true == 1)).all():
        raise UserError("The targets hold something else than 1, 0 and NaN (unknown).")
    _refuse_rows(
        {
            "a missing or infinite number": ~np.isfinite(scores).all(axis=1),
            "a number outside 0 to 1": ((scores < 0) | (scores > 1)).any(axis=1),
        }
    )
    return true, scores


def class_indices(targets: ArrayLike) -> IntArray:
    """The class of each image, shape (n,), from targets of shape (n, k) with one 1 a row.

    Raises ``UserError`` for a row with none or several.
    """
    true = np.asarray(targets, np.float64)
    if true.ndim != 2:
        raise UserError(f"The targets have the shape {true.shape}; give a row an image.")
    wrong = ~(((true == 0) | (true == 1)).all(axis=1) & (true.sum(axis=1) == 1))
    if wrong.any():
        raise UserError(
            f"The targets name no class, or several, in {wrong.sum():,} of {len(true):,} rows, "
            f"first in row {wrong.argmax()} (counted from 0)."
        )
    labels: IntArray = true.argmax(axis=1).astype(np.int64)
    return labels


def _table(probs: ArrayLike, fewest: int) -> FloatArray:
    try:
        scores = np.asarray(probs, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError("The probabilities are not a table of numbers.") from error
    if scores.ndim != 2 or scores.shape[0] < 1 or scores.shape[1] < fewest:
        raise UserError(
            f"The probabilities have the shape {scores.shape}; they need one row an image and one "
            f"column a class, with at least 1 image and {fewest} classes."
        )
    return scores


def _refuse_rows(problems: Mapping[str, ArrayLike]) -> None:
    for problem, rows in problems.items():
        bad = np.asarray(rows)
        if bad.any():
            raise UserError(
                f"The probabilities have {problem} in {bad.sum():,} of {len(bad):,} rows, first "
                f"in row {bad.argmax()} (counted from 0)."
            )


def check_metric(name: str, names: Sequence[str], positive: str | None) -> None:
    """Refuse a metric that is none of ``names``, or lacks its positive class."""
    if name not in names:
        raise UserError(f"There is no metric {name!r}; use one of {', '.join(names)}.")
    if name == "hard_label_auroc" and positive is None:
        raise UserError("The metric hard_label_auroc needs the name of the positive class.")


def check_resamples(resamples: int) -> None:
    """Refuse a negative number of bootstrap resamples."""
    if resamples < 0:
        raise UserError(f"There cannot be {resamples} bootstrap resamples; give 0 or more.")


def check_names(probs: FloatArray, class_names: Sequence[str], **roles: str | None) -> None:
    """Refuse class names that do not fit the columns, and roles that name no class.

    Parameters
    ----------
    probs : float array of shape (n, k)
    class_names : k different names, in index order
    roles : a class name or None for each role, such as ``positive="covid"``

    Raises
    ------
    UserError
    """
    names = list(class_names)
    if len(names) != probs.shape[1] or len(set(names)) != len(names):
        raise UserError(
            f"There are {probs.shape[1]} columns of probabilities and the class names are "
            f"{', '.join(names)}; give one different name a column."
        )
    for role, name in roles.items():
        if name is not None and name not in names:
            raise UserError(f"The {role} class {name!r} is not one of {', '.join(names)}.")
