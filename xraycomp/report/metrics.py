"""Judge predictions: the report of a run, the competition's own score, the scores of an epoch.

The door to this part: what the commands need can be imported from here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix

from xraycomp.report.checks import (
    check_metric,
    check_names,
    check_resamples,
    checked,
    class_indices,
)
from xraycomp.report.figures import (
    RATES,
    Counts,
    auroc,
    average_precision,
    averaged,
    class_mean,
    class_means,
    f1,
    hard_label_auroc,
    log_losses,
)
from xraycomp.report.findings import FINDING_METRICS, evaluate_findings, finding_scores
from xraycomp.report.intervals import (
    BoolArray,
    Estimate,
    FloatArray,
    IntArray,
    delong,
    entries,
    mean_interval,
    percentile,
    wilson,
)
from xraycomp.report.resampling import resample_confusion, resample_rankings
from xraycomp.report.table import format_table

__all__ = [
    "METRICS",
    "auroc",
    "average_precision",
    "competition_score",
    "epoch_scores",
    "evaluate",
    "evaluate_findings",
    "format_table",
]

METRICS = (*FINDING_METRICS, "hard_label_auroc")
"""Names that a competition may give its metric; the last one only where an image has one class."""

RANKINGS = {"auroc": auroc, "average_precision": average_precision}


def competition_score(
    name: str,
    labels: ArrayLike,
    probs: ArrayLike,
    class_names: Sequence[str],
    positive: str | None = None,
) -> dict[str, float]:
    """Score predictions by a competition's own metric.

    Parameters
    ----------
    name : one of `METRICS`
        ``auroc``, ``average_precision``: with two classes by the score of ``positive`` (without it
        the second class), with more the mean of every class against the rest.
        ``hard_label_auroc``: the ROC AUC of the predicted labels, as acse4-ml-2020 scores. Its
        public board takes ``positive`` against the rest, its private board the mean of all classes.
    labels, probs, class_names : as in `evaluate`
    positive : class name, required by ``hard_label_auroc``

    Returns
    -------
    dict
        ``{"public": ..., "private": ...}`` for ``hard_label_auroc``, else ``{"score": ...}``;
        NaN where not defined.

    Raises
    ------
    UserError
        As `evaluate` does.
    """
    true, scores = checked(labels, probs)
    check_names(scores, class_names, positive=positive)
    check_metric(name, METRICS, positive)
    chosen = _chosen(class_names, positive)
    if name == "log_loss":
        return {"score": float(log_losses(true, scores).mean())}
    if name in RANKINGS:
        areas = RANKINGS[name](_one_hot(true, scores), scores)
        return {"score": float(areas[chosen] if len(areas) == 2 else class_mean(areas))}
    confusion = _confusion(true, scores)
    if name == "accuracy":
        return {"score": float(np.trace(confusion) / len(true))}
    if name == "macro_f1":
        return {"score": float(class_mean(f1(Counts.of(confusion))))}
    areas = hard_label_auroc(Counts.of(confusion))
    return {"public": float(areas[chosen]), "private": float(class_mean(areas))}


def epoch_scores(
    targets: ArrayLike, probs: ArrayLike, *, multilabel: bool = False
) -> dict[str, float]:
    """Give the three columns of metrics.csv for one epoch, quickly: no intervals.

    Parameters
    ----------
    targets : float array of shape (n, k) of 1 and 0; multilabel: NaN where unknown
    probs : float array of shape (n, k); rows sum to 1 unless multilabel

    Returns
    -------
    dict with ``val_accuracy``, ``val_macro_f1`` and ``val_auroc`` (mean of every class against the
    rest), each in [0, 1] or NaN; multilabel: the first two at the threshold 0.5, accuracy over
    known labels

    Raises
    ------
    UserError
        When shapes or values do not fit.
    """
    if multilabel:
        return finding_scores(targets, probs)
    true, scores = checked(class_indices(targets), probs)
    confusion = _confusion(true, scores)
    return {
        "val_accuracy": float(np.trace(confusion) / len(true)),
        "val_macro_f1": float(class_mean(f1(Counts.of(confusion)))),
        "val_auroc": float(class_mean(auroc(_one_hot(true, scores), scores))),
    }


def evaluate(
    labels: ArrayLike,
    probs: ArrayLike,
    class_names: Sequence[str],
    *,
    normal: str | None = None,
    metric: str = "accuracy",
    positive: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge predictions: every figure with its 95 % interval, ready for JSON.

    Parameters
    ----------
    labels : int array of shape (n,), n >= 1
        True class of each image, in [0, k).
    probs : float array of shape (n, k), k >= 2
        In [0, 1], rows sum to 1.
    class_names : k different names, in index order
    normal : str, optional
        The healthy class, for the rate of sick images called normal.
    metric, positive : as in `competition_score`
    resamples : int
        Bootstrap resamples; without any, only the intervals that have a formula are given.
    seed : int
        Of the bootstrap: the same seed gives the same report.

    Returns
    -------
    dict
        ``{"n": int, "resamples": int, "overall": {figure: entry}, "classes": {class: {"support":
        int, figure: entry}}, "confusion": [[int]] (rows = truth), "competition": {"metric": str,
        "score" or "public" and "private": entry}}``, where an entry is ``{"value", "low", "high"}``
        of floats, None where not defined. Intervals: Wilson for rates, DeLong for the AUROC of a
        class, 1.96 standard errors for the log loss, percentile bootstrap over images for the
        rest.

    Raises
    ------
    UserError
        When shapes, values or names do not fit.
    """
    true, scores = checked(labels, probs)
    check_names(scores, class_names, positive=positive, normal=normal)
    check_metric(metric, METRICS, positive)
    check_resamples(resamples)
    rng = np.random.default_rng(seed)
    targets, confusion = _one_hot(true, scores), _confusion(true, scores)
    counts = Counts.of(confusion)
    redrawn = Counts.of(resample_confusion(confusion, resamples, rng))
    rankings = resample_rankings(targets, scores, resamples, rng)
    areas, precision = delong(targets, scores), average_precision(targets, scores)

    classes = {name: wilson(*rate(counts)) for name, rate in RATES.items()}
    classes["f1"] = percentile(f1(counts), f1(redrawn))
    classes["auroc"] = areas
    classes["average_precision"] = percentile(precision, rankings.average_precision)
    classes["called_normal"], sick_called_normal = _called_normal(confusion, class_names, normal)

    overall = {
        "accuracy": wilson(np.trace(confusion), len(true)),
        "called_normal": sick_called_normal,
        "log_loss": mean_interval(log_losses(true, scores)),
    }
    # The matrices and the rankings are redrawn apart: each goes with the supports of its own draws.
    drawn = averaged(redrawn)
    for name, value in averaged(counts).items():
        overall |= class_means(name, value, counts.support, drawn[name], redrawn.support)
    for name, value, resampled in (
        ("auroc", areas.value, rankings.auroc),
        ("average_precision", precision, rankings.average_precision),
    ):
        overall |= class_means(name, value, counts.support, resampled, rankings.support)

    chosen = _chosen(class_names, positive)
    if metric == "hard_label_auroc":
        competition = _hard_label_forms(counts, redrawn, chosen)
    elif metric in RANKINGS:
        binary = len(class_names) == 2
        mean = overall[f"macro_{metric}"]
        competition = {"score": classes[metric].at(chosen) if binary else mean}
    else:
        competition = {"score": overall[metric]}
    return {
        "n": len(true),
        "resamples": resamples,
        "overall": entries(overall),
        "classes": {
            name: {"support": int(counts.support[c])}
            | entries({figure: estimate.at(c) for figure, estimate in classes.items()})
            for c, name in enumerate(class_names)
        },
        "confusion": confusion.tolist(),
        "competition": {"metric": metric} | entries(competition),
    }


def _hard_label_forms(counts: Counts, redrawn: Counts, positive: int) -> dict[str, Estimate]:
    value, resampled = hard_label_auroc(counts), hard_label_auroc(redrawn)
    return {
        "public": percentile(value[positive], resampled[:, positive]),
        "private": percentile(class_mean(value), class_mean(resampled)),
    }


def _one_hot(labels: IntArray, probs: FloatArray) -> BoolArray:
    targets: BoolArray = labels[:, None] == np.arange(probs.shape[1])
    return targets


def _confusion(labels: IntArray, probs: FloatArray) -> IntArray:
    """Rows = truth, columns = most probable class (the first of equals)."""
    classes = np.arange(probs.shape[1])
    matrix: IntArray = confusion_matrix(labels, probs.argmax(axis=1), labels=classes)
    return matrix


def _chosen(class_names: Sequence[str], positive: str | None) -> int:
    """Index of the positive class, the last class where none is named."""
    return len(class_names) - 1 if positive is None else list(class_names).index(positive)


def _called_normal(
    confusion: IntArray, class_names: Sequence[str], normal: str | None
) -> tuple[Estimate, Estimate]:
    """Share of images predicted as the healthy class: of each sick class, and of all sick ones."""
    called, support = np.zeros(len(confusion)), np.zeros(len(confusion))
    if normal is not None:
        healthy = list(class_names).index(normal)
        sick = np.arange(len(confusion)) != healthy
        called[sick], support[sick] = confusion[sick, healthy], confusion[sick].sum(axis=1)
    return wilson(called, support), wilson(called.sum(), support.sum())
