"""Judge predictions: the report of some images, and the three scores of an epoch.

Every class is judged against the rest, on the images of which it is known whether they have it.
Where an image has one class it is called the most probable one; where it may have several, none or
unknown ones (multilabel), each is called from its threshold on, and a class that all images have,
or none, is not judged: its figures are NaN (None in JSON) and are left out of means, never 0.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xraycomp.data.competition import Competition
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.checks import checked
from xraycomp.judging.figures import (
    RATES,
    Counts,
    average_precision,
    averaged,
    binary_log_losses,
    class_mean,
    f1,
    log_losses,
)
from xraycomp.judging.intervals import (
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
from xraycomp.judging.reliability import judge_calibration
from xraycomp.judging.resampling import resample
from xraycomp.judging.thresholds import NO_THRESHOLD, Thresholds, hard_labels

PHANTOMS = "drawn phantoms, not X-rays"
RANKINGS = ("auroc", "average_precision")


def epoch_scores(
    targets: ArrayLike, probs: ArrayLike, *, multilabel: bool = False
) -> dict[str, float]:
    """Give the three columns of metrics.csv for one epoch, quickly: no resampling.

    Parameters
    ----------
    targets : array of shape (n, k) with one 1 a row, else 0; multilabel: any 1, 0, NaN (unknown)
    probs : float array of shape (n, k) in [0, 1]; rows sum to 1 unless multilabel

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
    true, scores = checked(targets, probs, one_class=not multilabel)
    called = hard_labels(scores, NO_THRESHOLD if multilabel else None)
    return {
        "val_accuracy": float(_accuracy(true, called, multilabel).value),
        "val_macro_f1": float(class_mean(f1(_judged(Counts.of(true, called), multilabel)))),
        "val_auroc": float(class_mean(delong(true, scores).value)),
    }


def judge(
    competition: Competition,
    targets: ArrayLike,
    probs: ArrayLike,
    judged_on: str,
    *,
    thresholds: Thresholds | None = None,
    calibration: Calibration | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Judge predictions as the competition asks for: every figure with its 95 % interval.

    Parameters
    ----------
    targets : array of shape (n, k), n >= 1, with one 1 a row, else 0; multilabel: any 1, 0 and
        NaN (unknown)
    probs : float array of shape (n, k) in [0, 1]; rows sum to 1 unless multilabel
    judged_on : says which images these are, and every result bears it
    thresholds : where findings are called (multilabel); 0.5 without
    calibration : the temperature whose effect is shown; fitted, and cross-fitted, without. Other
        figures are of the probabilities as they are given
    resamples : bootstrap resamples of whole images, always the same ones; without any, only the
        intervals that have a formula are given

    Returns
    -------
    dict, ready for JSON
        ``{"competition_slug": str, "split": judged_on, "note": str | None, "n": int, "resamples":
        int, "overall": {figure: entry}, "classes": {class: {"support": int, figure: entry}},
        "competition": {"metric": str, "score" or "public" and "private": entry}}``, where an entry
        is ``{"value", "low", "high"}`` of floats, None where not defined. One class an image also
        has ``"confusion": [[int]]`` (rows = truth), and all have ``"calibration"``, as
        `judge_calibration` gives it; multilabel ``"thresholds"`` in words, and of
        each class how many images are ``negatives`` and ``unknown``, and its ``threshold``.

        Overall, ``macro_...`` are plain means over classes, ``weighted_...`` weighted by support;
        ``accuracy`` and ``log_loss`` are means over images, in multilabel over known labels
        (binary cross-entropy). ``called_normal`` is the share of sick images called the healthy
        class. Intervals: Wilson for rates, DeLong for the AUROC of a class, 1.96 standard errors
        for log loss and multilabel accuracy, percentile bootstrap for the rest.

        The score ``auroc`` or ``average_precision`` is that of the positive class (without one the
        last) where there are two, one an image; else the mean of all classes.
        ``hard_label_auroc`` is the ROC AUC of the predicted labels, as acse4-ml-2020 scores: its
        public board takes the positive class against the rest, its private board the mean of all.

    Raises
    ------
    UserError
        When shapes, values or names do not fit.
    """
    names, multilabel = competition.classes, competition.multilabel
    true, scores = checked(targets, probs, names, one_class=not multilabel)
    limits = (thresholds.limits if thresholds else NO_THRESHOLD) if multilabel else None
    called = hard_labels(scores, limits)
    found = Counts.of(true, called)
    drawn = resample(true, called, scores, resamples, np.random.default_rng(0))
    counts, redrawn = _judged(found, multilabel), _judged(drawn.counts, multilabel)
    areas = delong(true, scores)
    value = averaged(counts, areas.value, average_precision(true, scores))
    resampled = averaged(redrawn, drawn.auroc, drawn.average_precision)

    classes = {name: wilson(*rate(counts)) for name, rate in RATES.items()} | {"auroc": areas}
    for name in ("f1", "average_precision"):
        classes[name] = percentile(value[name], resampled[name])
    overall = {
        "accuracy": _accuracy(true, called, multilabel),
        "log_loss": mean_interval((binary_log_losses if multilabel else log_losses)(true, scores)),
    }
    for name, draws in resampled.items():
        overall[f"macro_{name}"] = percentile(class_mean(value[name]), class_mean(draws))
        overall[f"weighted_{name}"] = percentile(
            class_mean(value[name], counts.support), class_mean(draws, redrawn.support)
        )

    said: dict[str, Any] = {}
    counted: dict[str, NDArray[Any]] = {"support": found.support}
    if limits is None:
        confusion = (true.T @ called).astype(np.int64)
        said["confusion"] = confusion.tolist()
        normal = names.index(competition.normal) if competition.normal else None
        classes["called_normal"], overall["called_normal"] = _called_normal(confusion, normal)
    else:
        said["thresholds"] = str(thresholds) if thresholds else f"{NO_THRESHOLD} for all"
        counted["negatives"], counted["unknown"] = found.negatives, np.isnan(true).sum(axis=0)
        counted["threshold"] = np.broadcast_to(limits, len(names))
    return {
        "competition_slug": competition.slug,
        "split": judged_on,
        "note": PHANTOMS if competition.drawn else None,
        "n": len(true),
        "resamples": resamples,
        **said,
        "overall": entries(overall),
        "classes": {
            name: {key: column[c].item() for key, column in counted.items()}
            | entries({figure: estimate.at(c) for figure, estimate in classes.items()})
            for c, name in enumerate(names)
        },
        "competition": {"metric": competition.metric}
        | entries(_score(competition, classes, overall, value, resampled)),
        "calibration": judge_calibration(
            true, scores, judged_on, calibration, multilabel=multilabel, resamples=resamples
        ),
    }


def _judged(counts: Counts, multilabel: bool) -> Counts:
    """Of one class an image all classes are judged, as scikit-learn does: one without images has a
    specificity, and an F1 of 0 where it is called."""
    return counts.of_both_kinds() if multilabel else counts


def _accuracy(true: FloatArray, called: BoolArray, multilabel: bool) -> Estimate:
    """Share of images called what they are; multilabel: of known labels."""
    if multilabel:
        return mean_interval(np.where(np.isnan(true), np.nan, true == called))
    return wilson((true * called).sum(), len(true))


def _called_normal(confusion: IntArray, normal: int | None) -> tuple[Estimate, Estimate]:
    """Share of images predicted as the healthy class: of each sick class, and of all sick ones."""
    called, support = np.zeros(len(confusion)), np.zeros(len(confusion))
    if normal is not None:
        sick = np.arange(len(confusion)) != normal
        called[sick], support[sick] = confusion[sick, normal], confusion[sick].sum(axis=1)
    return wilson(called, support), wilson(called.sum(), support.sum())


def _score(
    competition: Competition,
    classes: dict[str, Estimate],
    overall: dict[str, Estimate],
    value: dict[str, FloatArray],
    resampled: dict[str, FloatArray],
) -> dict[str, Estimate]:
    """The competition's own metric, in both forms where it has two."""
    metric, names = competition.metric, competition.classes
    positive = names.index(competition.positive) if competition.positive else -1
    if metric == "hard_label_auroc":
        # The curve of labels has one corner, so the area is the mean of what holds there.
        area, areas = ((f["sensitivity"] + f["specificity"]) / 2 for f in (value, resampled))
        return {
            "public": percentile(area[positive], areas[:, positive]),
            "private": percentile(class_mean(area), class_mean(areas)),
        }
    if metric in RANKINGS and len(names) == 2 and not competition.multilabel:
        return {"score": classes[metric].at(positive)}
    return {"score": overall[metric if metric in overall else f"macro_{metric}"]}
