"""What targets, probabilities and class names must be before anything is computed from them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from xraycomp.console.errors import UserError
from xraycomp.data.predictions import SUM_TOLERANCE
from xraycomp.judging.intervals import BoolArray, FloatArray


def checked(
    targets: ArrayLike,
    probs: ArrayLike,
    class_names: Sequence[str] | None = None,
    *,
    one_class: bool = False,
) -> tuple[FloatArray, FloatArray]:
    """Give targets and probabilities as arrays of known type and sound values.

    Parameters
    ----------
    targets : array of shape (n, k), n >= 1, k >= 1, of 1, 0 and NaN (unknown)
    probs : float array of shape (n, k), finite, in [0, 1]
    class_names : k different names, in the order of the columns
    one_class : whether each image has just one class: one 1 a row of targets and no NaN, rows of
        probabilities that sum to 1, and k >= 2

    Returns
    -------
    two float64 arrays of shape (n, k)

    Raises
    ------
    UserError
        When anything of that is not so.
    """
    try:
        scores = np.asarray(probs, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError("The probabilities are not a table of numbers.") from error
    fewest = 2 if one_class else 1
    if scores.ndim != 2 or scores.shape[0] < 1 or scores.shape[1] < fewest:
        raise UserError(
            f"The probabilities have the shape {scores.shape}; they need one row an image and one "
            f"column a class, with at least 1 image and {fewest} classes."
        )
    _refuse_rows("probabilities", "a missing or infinite number", ~np.isfinite(scores))
    _refuse_rows("probabilities", "a number outside 0 to 1", (scores < 0) | (scores > 1))
    true = np.asarray(targets, np.float64)
    if true.shape != scores.shape:
        raise UserError(
            f"The targets have the shape {true.shape} and the probabilities {scores.shape}; give "
            "one target for each probability."
        )
    odd = ~(np.isnan(true) | (true == 0) | (true == 1))
    _refuse_rows("targets", "something else than 1, 0 and NaN (unknown)", odd)
    if one_class:
        several = true.sum(axis=1, keepdims=True) != 1  # NaN is not 1
        _refuse_rows("targets", "no class, or several,", several)
        wrong = np.abs(scores.sum(axis=1, keepdims=True) - 1) > SUM_TOLERANCE
        _refuse_rows("probabilities", "a sum that is not 1", wrong)
    if class_names is not None:
        names = list(class_names)
        if len(names) != scores.shape[1] or len(set(names)) != len(names):
            raise UserError(
                f"There are {scores.shape[1]} columns of probabilities and the class names are "
                f"{', '.join(names)}; give one different name a column."
            )
    return true, scores


def _refuse_rows(table: str, problem: str, cells: BoolArray) -> None:
    bad = np.flatnonzero(cells.any(axis=1))
    if len(bad):
        raise UserError(
            f"The {table} have {problem} in {len(bad):,} of {len(cells):,} rows, first in row "
            f"{bad[0]} (counted from 0)."
        )
