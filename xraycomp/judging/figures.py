"""The figures themselves: counts, rates, average precision, log loss, means.

Classes are judged one against the rest. What is not defined (a class without images, a class never
predicted) is NaN and is left out of means, as ``zero_division=np.nan`` does in scikit-learn.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import average_precision_score

from xraycomp.judging.intervals import BoolArray, FloatArray, IntArray, known_rows, ratio


def outcomes(targets: FloatArray, called: BoolArray) -> tuple[BoolArray, ...]:
    """Which labels are true and false positives, false and true negatives; unknown ones neither.

    Parameters
    ----------
    targets : float array of shape (n, k) of 1, 0 and NaN (unknown)
    called : bool array of that shape

    Returns
    -------
    four bool arrays of that shape, in the order of `Counts`
    """
    has, lacks = targets == 1, targets == 0
    return has & called, lacks & called, has & ~called, lacks & ~called


@dataclass(frozen=True)
class Counts:
    """How many images of each class against the rest are which: arrays of shape (..., k)."""

    tp: IntArray
    fp: IntArray
    fn: IntArray
    tn: IntArray

    @classmethod
    def of(cls, targets: FloatArray, called: BoolArray) -> "Counts":
        """Count the `outcomes` of each class: arrays of shape (k,)."""
        return cls(*(outcome.sum(axis=0) for outcome in outcomes(targets, called)))

    @property
    def support(self) -> IntArray:
        """How many images have each class."""
        return self.tp + self.fn

    @property
    def negatives(self) -> IntArray:
        """How many images are known not to have it."""
        return self.fp + self.tn

    def of_both_kinds(self) -> "Counts":
        """No images where none, or all, have the class: then no figure of it is defined."""
        both = (self.support > 0) & (self.negatives > 0)
        return Counts(*(np.where(both, part, 0) for part in vars(self).values()))


RATES: dict[str, Callable[[Counts], tuple[IntArray, IntArray]]] = {
    "accuracy": lambda c: (c.tp + c.tn, c.tp + c.tn + c.fp + c.fn),
    "sensitivity": lambda c: (c.tp, c.tp + c.fn),
    "specificity": lambda c: (c.tn, c.tn + c.fp),
    "precision": lambda c: (c.tp, c.tp + c.fp),
    "negative_predictive_value": lambda c: (c.tn, c.tn + c.fn),
    "false_positive_rate": lambda c: (c.fp, c.fp + c.tn),
    "false_negative_rate": lambda c: (c.fn, c.fn + c.tp),
}
"""Rates as (images that count, out of images): what Wilson's interval needs."""


def f1(counts: Counts) -> FloatArray:
    """Harmonic mean of precision and sensitivity, shape (..., k); no share of images."""
    return ratio(2 * counts.tp, 2 * counts.tp + counts.fp + counts.fn)


def averaged(
    counts: Counts, auroc: FloatArray, average_precision: FloatArray
) -> dict[str, FloatArray]:
    """Figures whose means over classes are reported, each of shape (..., k)."""
    rates = ("sensitivity", "specificity", "precision")
    return {name: ratio(*RATES[name](counts)) for name in rates} | {
        "f1": f1(counts),
        "auroc": auroc,
        "average_precision": average_precision,
    }


def class_mean(values: FloatArray, weights: ArrayLike = 1) -> FloatArray:
    """Mean over the last axis (classes), leaving out NaN; NaN where nothing is left.

    Parameters
    ----------
    values : float array of shape (..., k)
    weights : array broadcast to that shape, not negative
    """
    defined = ~np.isnan(values)
    kept = np.where(defined, weights, 0)
    return ratio((np.where(defined, values, 0) * kept).sum(axis=-1), kept.sum(axis=-1))


def average_precision(targets: FloatArray, scores: FloatArray) -> FloatArray:
    """Average precision of each column as scikit-learn defines it: by steps, not interpolated.

    Parameters, shapes and NaN as in `intervals.delong`.
    """
    result = np.full(targets.shape[1], np.nan)
    for c, (target, score, _) in enumerate(known_rows(targets, scores)):
        if target.any() and not target.all():
            result[c] = average_precision_score(target, score)
    return result


def log_losses(targets: FloatArray, probs: FloatArray) -> FloatArray:
    """Negative log of the probability given to the true class, shape (n, 1).

    Rows are scaled to sum to 1. Clipped at the machine epsilon, as scikit-learn does, so that one
    certain mistake costs 36 and not infinity.
    """
    true = (targets * probs).sum(axis=1, keepdims=True) / probs.sum(axis=1, keepdims=True)
    losses: FloatArray = -np.log(np.maximum(true, np.finfo(np.float64).eps))
    return losses


def binary_log_losses(targets: FloatArray, probs: FloatArray) -> FloatArray:
    """Binary cross-entropy of each label, shape (n, k); NaN where the target is.

    Clipped at the machine epsilon, as in `log_losses`.
    """
    true = np.where(targets > 0.5, probs, 1 - probs)
    losses: FloatArray = -np.log(np.maximum(true, np.finfo(np.float64).eps))
    return np.where(np.isnan(targets), np.nan, losses)
