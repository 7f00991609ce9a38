"""Two predictions of the same images: is one better, or is it the luck of these images?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import Competition
from xraycomp.judging.checks import checked
from xraycomp.judging.figures import RATES, Counts, class_mean, f1
from xraycomp.judging.intervals import BoolArray, FloatArray, delong, percentile, ratio
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.judging.resampling import resample
from xraycomp.judging.thresholds import NO_THRESHOLD, Thresholds, hard_labels

COMPARISON = "comparison.json"

FEWEST = 10
"""Resamples of fewer images of a class, or without it, are too much alike to tell anything."""

COMPARED = ("macro_auroc", "macro_f1", "accuracy")
"""The figures of all classes by which two are compared."""

Figures = dict[str, FloatArray]


@dataclass(frozen=True)
class Measured:
    """The figures of one prediction: `COMPARED`, ``macro_false_negative_rate``, ``auroc``."""

    counts: Counts
    """Of each class, shape (k,)."""
    value: Figures
    """Of the images; shape (k,) for ``auroc``, (1,) for those of all classes."""
    draws: Figures
    """Of each resample of the images: (resamples, k) or (resamples, 1). Those of the same images
    are always the same, so that two that are measured are paired."""


def compare(
    competition: Competition,
    targets: ArrayLike,
    probs: tuple[ArrayLike, ArrayLike],
    names: tuple[str, str],
    judged_on: str,
    *,
    thresholds: tuple[Thresholds | None, Thresholds | None] = (None, None),
    resamples: int = 1000,
) -> dict[str, Any]:
    """Judge two predictions of the same images by their difference, the second minus the first.

    Intervals and p are of a paired bootstrap: both are judged on the same resamples of whole
    images. The interval is the percentile one; p is twice the share of resamples on the far side of
    0, counting one more (Davison and Hinkley 1997, §4.2), so never below 2 / (resamples + 1).
    Neither is given for a class that fewer than `FEWEST` images have, or have not. McNemar's test
    is the exact binomial one on what just one of the two calls right.

    Parameters
    ----------
    targets : array of shape (n, k), n >= 1, with one 1 a row, else 0; multilabel: any 1, 0 and
        NaN (unknown)
    probs : two float arrays of shape (n, k) in [0, 1]; rows sum to 1 unless multilabel
    names : what to call the two
    judged_on : says which images these are
    thresholds : from where on each calls findings (multilabel); 0.5 without
    resamples : how many, at least 1

    Returns
    -------
    dict, ready for JSON
        ``{"a": str, "b": str, "split": judged_on, "note": str | None, "n": int, "resamples": int,
        "overall": {"macro_auroc", "macro_f1" and "accuracy": figure}, "classes": {class: {"auroc":
        figure}}, "mcnemar": {"overall": test, "classes": {class: test}}}``. A figure is ``{"a",
        "b", "difference": {"value", "low", "high"}, "p"}``, None where not defined; a test is
        ``{"only_a", "only_b", "p"}``, the number of images that only one calls right. In multilabel
        the overall test and the accuracy count all known labels, and only there are tests of
        classes; the overall test takes the labels of one image for independent, so that its p is
        rather too small.

    Raises
    ------
    UserError
        When shapes or values do not fit.
    """
    multilabel, classes = competition.multilabel, competition.classes
    measured, right = [], []
    for scores, threshold in zip(probs, thresholds, strict=True):
        true, sound = checked(targets, scores, classes, one_class=not multilabel)
        limits = (threshold.limits if threshold else NO_THRESHOLD) if multilabel else None
        called = hard_labels(sound, limits)
        measured.append(measure(true, sound, called, multilabel=multilabel, resamples=resamples))
        right.append(called == (true == 1))
    known = ~np.isnan(true)
    first, second = measured
    by_class, found = differences(first, second, "auroc"), second.counts
    for area, fewer in zip(by_class, np.minimum(found.support, found.negatives), strict=True):
        if fewer < FEWEST:
            area["difference"] |= {"low": None, "high": None}
            area["p"] = None
    if multilabel:
        tests = [_mcnemar(*(r[known[:, c], c] for r in right)) for c in range(len(classes))]
        overall = _mcnemar(*(r[known] for r in right))
    else:
        tests, overall = [], _mcnemar(*(r.all(axis=1) for r in right))
    return {
        "a": names[0],
        "b": names[1],
        "split": judged_on,
        "note": PHANTOMS if competition.drawn else None,
        "n": len(known),
        "resamples": resamples,
        "overall": {name: differences(first, second, name)[0] for name in COMPARED},
        "classes": {name: {"auroc": area} for name, area in zip(classes, by_class, strict=True)},
        "mcnemar": {
            "overall": overall,
            "classes": dict(zip(classes, tests, strict=True)) if tests else {},
        },
    }


def same_images(
    names: tuple[str, str],
    images: tuple[Sequence[str], Sequence[str]],
    targets: tuple[NDArray[np.floating], NDArray[np.floating]],
) -> NDArray[np.intp]:
    """Where the second of two has each image of the first; int array of shape (n,).

    Parameters
    ----------
    names : what to call the two
    images : the ids of each one's images
    targets : of those, shape (n, k)

    Raises
    ------
    UserError
        When not all images are in both, or some have other labels in one.
    """
    both = f"{names[0]} and {names[1]}"
    if apart := sorted(set(images[0]) ^ set(images[1])):
        raise UserError(
            f"{both} are not judged on the same images: they have {len(images[0]):,} and "
            f"{len(images[1]):,}, and {len(apart):,} are in one of them only ({listing(apart)}). "
            "Compare them on a split that they share, such as --split test, or train both with "
            "the same --seed, --val-fraction, --folds and --fold."
        )
    places = pd.Index(images[1]).get_indexer(pd.Index(images[0]))
    first, second = targets[0], targets[1][places]
    differ = ((first != second) & ~(np.isnan(first) & np.isnan(second))).any(axis=1)
    if differ.any():
        wrong = [images[0][row] for row in np.flatnonzero(differ).tolist()]
        raise UserError(
            f"{differ.sum():,} of {len(differ):,} images have other labels in {names[1]} than in "
            f"{names[0]} ({listing(wrong)}). Train both on the same label table, or judge both "
            "prediction tables by one with --labels."
        )
    return places


def measure(
    targets: FloatArray,
    probs: FloatArray,
    called: BoolArray,
    *,
    multilabel: bool,
    resamples: int = 1000,
) -> Measured:
    """The figures of one prediction of n images, and those of resamples of whole images.

    Parameters
    ----------
    targets, probs : float arrays of shape (n, k), as `checked` gives them
    called : bool array of that shape, what each image is called
    """
    # The same seed and number of images draw the same resamples.
    drawn = resample(targets, called, probs, resamples, np.random.default_rng(0))
    counts, areas = Counts.of(targets, called), delong(targets, probs).value
    return Measured(
        counts, _figures(counts, areas, multilabel), _figures(drawn.counts, drawn.auroc, multilabel)
    )


def _figures(counts: Counts, auroc: FloatArray, multilabel: bool) -> Figures:
    """Each figure of (..., k) counts and areas, in the last axis one a class or one of all."""
    judged = counts.of_both_kinds() if multilabel else counts
    right = counts.tp + counts.tn if multilabel else counts.tp
    labels = right + counts.fp + counts.fn if multilabel else counts.support
    missed = ratio(*RATES["false_negative_rate"](judged))
    return {
        "macro_auroc": class_mean(auroc)[..., None],
        "macro_f1": class_mean(f1(judged))[..., None],
        "accuracy": ratio(right.sum(axis=-1), labels.sum(axis=-1))[..., None],
        "macro_false_negative_rate": class_mean(missed)[..., None],
        "auroc": auroc,
    }


def differences(first: Measured, second: Measured, name: str) -> list[dict[str, Any]]:
    """The JSON-ready differences of one kind of figures, the second minus the first, as `compare`
    describes them: one a class, or one alone."""
    moved = second.draws[name] - first.draws[name]
    moved[np.abs(moved) < 1e-12] = 0  # the two add up in another order
    a, b = first.value[name], second.value[name]
    found = percentile(b - a, moved)
    known = (~np.isnan(moved)).sum(axis=0)
    fewer = np.minimum((moved <= 0).sum(axis=0), (moved >= 0).sum(axis=0))
    p = np.where(known > 0, np.minimum(2 * (fewer + 1) / (known + 1), 1), np.nan)
    return [
        {
            "a": _number(a[c]),
            "b": _number(b[c]),
            "difference": found.at(c).entry(),
            "p": _number(p[c]),
        }
        for c in range(len(a))
    ]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mcnemar(right_a: BoolArray, right_b: BoolArray) -> dict[str, Any]:
    """McNemar's exact test (McNemar 1947) of two bool arrays of shape (m,): who was right where."""
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    pairs = only_a + only_b
    p = float(binomtest(only_a, pairs).pvalue) if pairs else 1.0
    return {"only_a": only_a, "only_b": only_b, "p": p}
