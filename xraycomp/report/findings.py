"""Judge predictions of many findings, of which an image may have several, none, or unknown ones.

Each finding is judged on the images of which it is known whether they have it. A finding without
both images that have it and images that have it not cannot be judged: all its figures are NaN (None
in JSON) and are left out of means, never 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from xraycomp.report.checks import (
    check_metric,
    check_names,
    check_resamples,
    checked_findings,
)
from xraycomp.report.figures import (
    RATES,
    Counts,
    auroc,
    average_precision,
    averaged,
    binary_log_losses,
    class_mean,
    class_means,
    f1,
)
from xraycomp.report.intervals import (
    BoolArray,
    Estimate,
    FloatArray,
    IntArray,
    delong,
    entries,
    mean_interval,
    percentile,
    ratio,
    wilson,
)
from xraycomp.report.resampling import resample_cells, resample_rankings

FINDING_METRICS = ("accuracy", "macro_f1", "auroc", "average_precision", "log_loss")
"""Names that a competition of many findings may give its metric: means over findings, but accuracy
and log loss are means over known labels."""

NO_THRESHOLD = 0.5
"""At which a finding is called where nothing says better."""

_CELLS = ("tn", "fp", "fn", "tp")  # an image's cell is 2 * target + called


def finding_scores(targets: ArrayLike, probs: ArrayLike) -> dict[str, float]:
    """Give the three columns of metrics.csv for one epoch; see `metrics.epoch_scores`."""
    true, scores = checked_findings(targets, probs)
    counts = _counts(_cell_counts(_cells(true, scores >= NO_THRESHOLD)))
    judged = _judged(counts)
    right, known = (counts.tp + counts.tn).sum(), (counts.support + counts.fp + counts.tn).sum()
    return {
        "val_accuracy": float(ratio(right, known)),
        "val_macro_f1": float(class_mean(np.where(judged, f1(counts), np.nan))),
        "val_auroc": float(class_mean(auroc(true, scores))),
    }


def evaluate_findings(
    targets: ArrayLike,
    probs: ArrayLike,
    class_names: Sequence[str],
    *,
    thresholds: Mapping[str, float] | None = None,
    metric: str = "auroc",
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge predictions of many findings: every figure with its 95 % interval, ready for JSON.

    Parameters
    ----------
    targets : array of shape (n, k), n >= 1, k >= 1, of 1, 0 and NaN (unknown)
    probs : float array of shape (n, k) in [0, 1]
    class_names : k different names, in the order of the columns
    thresholds : finding -> probability from which on it is called; 0.5 where not given
    metric : one of `FINDING_METRICS`
    resamples : int
        Bootstrap resamples of whole images; without any, only the intervals that have a formula
        are given.
    seed : int
        Of the bootstrap: the same seed gives the same report.

    Returns
    -------
    dict
        As `metrics.evaluate` gives it, without a confusion matrix. Of each finding ``support``
        counts the images that have it, ``negatives`` and ``unknown`` the others, and ``threshold``
        is where it is called. Overall, ``accuracy`` and ``log_loss`` (binary cross-entropy) are
        means over known labels; ``macro_...`` are plain means over findings, ``weighted_...``
        weighted by how many images have the finding. Intervals: Wilson for the rates and DeLong
        for the AUROC of a finding, 1.96 standard errors (images being independent, their labels
        not) for accuracy and log loss, percentile bootstrap over images for the rest.

    Raises
    ------
    UserError
        When shapes, values or names do not fit.
    """
    true, scores = checked_findings(targets, probs)
    check_names(scores, class_names)
    check_metric(metric, FINDING_METRICS, None)
    check_resamples(resamples)
    given = thresholds or {}
    limits = np.array([given.get(name, NO_THRESHOLD) for name in class_names])
    cells = _cells(true, scores >= limits)
    counts = _counts(_cell_counts(cells))
    # Two generators of one seed: counts and rankings are those of the same resampled images.
    redrawn = _counts(resample_cells(cells, 4, resamples, np.random.default_rng(seed)))
    rankings = resample_rankings(true, scores, resamples, np.random.default_rng(seed))
    areas, precision = delong(true, scores), average_precision(true, scores)

    judged = _judged(counts)
    value, drawn = _only(judged, averaged(counts)), _only(_judged(redrawn), averaged(redrawn))
    classes = {name: _blanked(judged, wilson(*rate(counts))) for name, rate in RATES.items()}
    classes["f1"] = percentile(value["f1"], drawn["f1"])
    classes["auroc"] = areas
    classes["average_precision"] = percentile(precision, rankings.average_precision)

    known = ~np.isnan(true)
    overall = {
        "accuracy": _label_mean(np.isin(cells, (0, 3)).astype(float), known),
        "log_loss": _label_mean(binary_log_losses(true, scores), known),
    }
    value |= {"auroc": areas.value, "average_precision": precision}
    drawn |= {"auroc": rankings.auroc, "average_precision": rankings.average_precision}
    for name in value:
        overall |= class_means(name, value[name], counts.support, drawn[name], rankings.support)

    score = overall[metric if metric in overall else f"macro_{metric}"]
    return {
        "n": len(true),
        "resamples": resamples,
        "overall": entries(overall),
        "classes": {
            name: {
                "support": int(counts.support[c]),
                "negatives": int(counts.fp[c] + counts.tn[c]),
                "unknown": int((~known[:, c]).sum()),
                "threshold": float(limits[c]),
                **entries({figure: estimate.at(c) for figure, estimate in classes.items()}),
            }
            for c, name in enumerate(class_names)
        },
        "competition": {"metric": metric} | entries({"score": score}),
    }


def _cells(targets: FloatArray, called: BoolArray) -> IntArray:
    """Which of `_CELLS` each label falls in, -1 where it is not known; shape (n, k)."""
    cells = np.where(np.isnan(targets), -1, 2 * np.nan_to_num(targets) + called)
    return cells.astype(np.int64)


def _cell_counts(cells: IntArray) -> IntArray:
    counts: IntArray = (cells[:, :, None] == np.arange(len(_CELLS))).sum(axis=0)
    return counts


def _counts(cells: IntArray) -> Counts:
    """From counts of shape (..., k, 4)."""
    return Counts(**{name: cells[..., place] for place, name in enumerate(_CELLS)})


def _judged(counts: Counts) -> BoolArray:
    """Which findings some images have and others have not."""
    judged: BoolArray = (counts.support > 0) & (counts.fp + counts.tn > 0)
    return judged


def _only(judged: BoolArray, figures: dict[str, FloatArray]) -> dict[str, FloatArray]:
    return {name: np.where(judged, figure, np.nan) for name, figure in figures.items()}


def _blanked(judged: BoolArray, estimate: Estimate) -> Estimate:
    parts = (estimate.value, estimate.low, estimate.high)
    return Estimate(*(np.where(judged, part, np.nan) for part in parts))


def _label_mean(values: FloatArray, known: BoolArray) -> Estimate:
    """Mean over known labels, with the interval of a ratio of sums over independent images.

    Linearised: an image moves the mean by what its labels differ from it (Cochran 1977, §2.11).
    """
    labels = known.sum(axis=1)
    mean = ratio((values * known).sum(), labels.sum())
    moved = mean + ratio((values * known).sum(axis=1) - mean * labels, labels.mean())
    return mean_interval(moved)
