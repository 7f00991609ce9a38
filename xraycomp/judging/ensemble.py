"""What an ensemble is worth: each way of combining its members, and what each member adds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from xraycomp.data.competition import Competition
from xraycomp.judging.checks import checked
from xraycomp.judging.combining import (
    FITTED,
    FOLDS,
    METHODS,
    Method,
    combine_cross_fitted,
    deal_folds,
)
from xraycomp.judging.comparison import COMPARED, Measured, differences, measure
from xraycomp.judging.figures import RATES
from xraycomp.judging.intervals import BoolArray, FloatArray, IntArray, entries, percentile, wilson
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.judging.thresholds import NO_THRESHOLD, Criterion, choose_thresholds, hard_labels


def judge_ensemble(
    competition: Competition,
    targets: FloatArray,
    members: FloatArray,
    names: Sequence[str],
    judged_on: str,
    *,
    groups: IntArray,
    method: Method = "mean",
    limits: FloatArray | None = None,
    criterion: Criterion = "f1",
    resamples: int = 1000,
) -> dict[str, Any]:
    """Judge every method on the same images, each member alone, and what each adds to ``method``.

    What is learned from labels is cross-fitted, so that nothing is judged on images that it has
    learned from: weights and regressions, and the thresholds at which findings are called. A vote
    calls what half of the members call, each at its own limits.

    Parameters
    ----------
    targets : shape (n, k), one 1 a row, else 0; multilabel: any 1, 0 and NaN (unknown)
    members : probabilities of shape (m, n, k), m >= 2
    names : m names
    groups : shape (n,); images of one group (patient) stay in one fold
    limits : from where on each member calls each finding, shape (m, k); None where an image has one
        class
    criterion : by which the thresholds of findings are chosen

    Returns
    -------
    dict, ready for JSON
        ``{"method", "multilabel", "split": judged_on, "note", "n", "folds", "fitted": the methods
        that learn, "resamples", "methods": {method:
        figures}, "members": {name: figures | {"adds": differences}}, "best_member": {"name",
        "differences"}}``. Figures are ``{"overall": {figure: entry}, "classes": {class:
        {"false_negative_rate": entry}}}``, entries as in `metrics.judge`; differences are
        ``{figure: difference}`` as in `comparison.compare`, of the ensemble with the member minus
        without it, and of the ensemble minus the member that is best alone by macro AUROC.

    Raises
    ------
    UserError
        When shapes or values do not fit.
    """
    multilabel, classes = competition.multilabel, competition.classes
    sound = [checked(targets, probs, classes, one_class=not multilabel) for probs in members]
    true, members = sound[0][0], np.stack([scores for _, scores in sound])
    fold = deal_folds(true, groups)

    def measured(probs: FloatArray, called: BoolArray) -> Measured:
        return measure(true, probs, called, multilabel=multilabel, resamples=resamples)

    def called(probs: FloatArray) -> BoolArray:
        if not multilabel:
            return hard_labels(probs, None)
        return hard_labels(probs, _limits(true, probs, classes, criterion, fold))

    def combined(method: Method, kept: Sequence[int]) -> Measured:
        some = None if limits is None else limits[kept]
        probs = combine_cross_fitted(method, true, members[kept], some, fold)
        votes = multilabel and method == "vote"
        return measured(probs, probs >= NO_THRESHOLD if votes else called(probs))

    every = range(len(members))
    methods = {name: combined(name, list(every)) for name in METHODS}
    alone = [measured(probs, called(probs)) for probs in members]
    whole = methods[method]
    without = [combined(method, [j for j in every if j != i]) for i in every]
    best = int(np.argmax(np.nan_to_num([one.value["macro_auroc"][0] for one in alone], nan=-1)))
    return {
        "method": method,
        "split": judged_on,
        "note": PHANTOMS if competition.drawn else None,
        "n": len(true),
        "folds": FOLDS,
        "fitted": list(FITTED),
        "multilabel": multilabel,
        "resamples": resamples,
        "methods": {name: _figures(found, classes) for name, found in methods.items()},
        "members": {
            name: _figures(one, classes) | {"adds": _differences(less, whole)}
            for name, one, less in zip(names, alone, without, strict=True)
        },
        "best_member": {"name": names[best], "differences": _differences(alone[best], whole)},
    }


def _limits(
    targets: FloatArray,
    probs: FloatArray,
    classes: Sequence[str],
    criterion: Criterion,
    fold: IntArray,
) -> FloatArray:
    """The threshold of each image and finding, shape (n, k), chosen on the other folds."""
    limits = np.full(probs.shape, NO_THRESHOLD)
    for held_out in np.unique(fold):
        mine = fold == held_out
        if not mine.all():
            chosen = choose_thresholds(targets[~mine], probs[~mine], classes, "", criterion)
            limits[mine] = chosen.limits
    return limits


def _figures(found: Measured, classes: Sequence[str]) -> dict[str, Any]:
    overall = {
        name: percentile(found.value[name][0], found.draws[name][:, 0])
        for name in (*COMPARED, "macro_false_negative_rate")
    }
    missed = wilson(*RATES["false_negative_rate"](found.counts))
    return {
        "overall": entries(overall),
        "classes": {
            name: {"false_negative_rate": missed.at(c).entry()} for c, name in enumerate(classes)
        },
    }


def _differences(first: Measured, second: Measured) -> dict[str, Any]:
    return {
        name: differences(first, second, name)[0]
        for name in (*COMPARED, "macro_false_negative_rate")
    }
