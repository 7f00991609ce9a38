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
    cross_fit_limits,
    deal_folds,
)
from xraycomp.judging.comparison import COMPARED, Measured, differences, measure
from xraycomp.judging.figures import RATES
from xraycomp.judging.intervals import FloatArray, IntArray, entries, percentile, wilson
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.judging.thresholds import NO_THRESHOLD, Criterion, hard_labels


def judge_ensemble(
    competition: Competition,
    targets: FloatArray,
    members: FloatArray,
    names: Sequence[str],
    judged_on: str,
    *,
    groups: IntArray,
    method: Method = "mean",
    criterion: Criterion = "f1",
    resamples: int = 1000,
) -> tuple[dict[str, Any], FloatArray]:
    """Judge every method on the same images, each member alone, and what each adds to ``method``.

    What is learned from labels is cross-fitted, so that nothing is judged on images that it has
    learned from: weights and regressions, and the thresholds at which findings are called, those
    of each member for a vote, which calls what half of the members call.

    Parameters
    ----------
    targets : shape (n, k), one 1 a row, else 0; multilabel: any 1, 0 and NaN (unknown)
    members : probabilities of shape (m, n, k), m >= 2
    names : m names
    groups : shape (n,); images of one group (a patient, copies) stay in one fold
    criterion : by which the thresholds of findings are chosen

    Returns
    -------
    report : dict, ready for JSON
        ``{"method", "multilabel", "split": judged_on, "note", "n", "folds", "fitted": the methods
        that learn, "resamples", "methods": {method:
        figures}, "members": {name: figures | {"adds": differences}}, "best_member": {"name",
        "differences"}}``. Figures are ``{"overall": {figure: entry}, "classes": {class:
        {"false_negative_rate": entry}}}``, entries as in `metrics.judge`; differences are
        ``{figure: difference}`` as in `comparison.compare`, of the ensemble with the member minus
        without it, and of the ensemble minus the member that is best alone by macro AUROC.
    probs : what was judged of ``method``: its probabilities, cross-fitted, shape (n, k)

    Raises
    ------
    UserError
        When shapes or values do not fit.
    """
    multilabel, classes = competition.multilabel, competition.classes
    sound = [checked(targets, probs, classes, one_class=not multilabel) for probs in members]
    true, members = sound[0][0], np.stack([scores for _, scores in sound])
    fold = deal_folds(true, groups)

    def measured(probs: FloatArray, limits: FloatArray | float | None) -> Measured:
        called = hard_labels(probs, limits)
        return measure(true, probs, called, multilabel=multilabel, resamples=resamples)

    def chosen(probs: FloatArray) -> FloatArray:
        return cross_fit_limits(true, probs, classes, criterion, fold)

    own = np.stack([chosen(probs) for probs in members]) if multilabel else None

    def combined(method: Method, kept: Sequence[int]) -> FloatArray:
        some = None if own is None else own[kept]
        return combine_cross_fitted(method, true, members[kept], some, fold)

    def judged(method: Method, probs: FloatArray) -> Measured:
        if own is None:
            return measured(probs, None)
        return measured(probs, NO_THRESHOLD if method == "vote" else chosen(probs))

    every = range(len(members))
    tables = {name: combined(name, list(every)) for name in METHODS}
    methods = {name: judged(name, probs) for name, probs in tables.items()}
    alone = [measured(members[i], None if own is None else own[i]) for i in every]
    whole = methods[method]
    without = [judged(method, combined(method, [j for j in every if j != i])) for i in every]
    best = int(np.argmax(np.nan_to_num([one.value["macro_auroc"][0] for one in alone], nan=-1)))
    report = {
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
    return report, tables[method]


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
