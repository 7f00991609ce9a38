"""Several predictions of the same images made into one: the mean, and what may be better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

from xraycomp.data.split import assign_folds
from xraycomp.judging.calibration import CLOSEST, to_logits
from xraycomp.judging.intervals import FloatArray, IntArray
from xraycomp.judging.thresholds import (
    NO_THRESHOLD,
    Criterion,
    choose_thresholds,
    hard_labels,
)

Method = Literal["mean", "weighted", "rank", "vote", "max", "stack"]
METHODS: tuple[Method, ...] = get_args(Method)
FITTED: tuple[Method, ...] = ("weighted", "stack")
"""Those that learn from labels, and look too good on the images that they learned from."""

FOLDS = 5


@dataclass(frozen=True)
class Combination:
    """A way of making one prediction of m, once it has learned what it needs."""

    combine: Callable[[FloatArray], FloatArray]
    """From probabilities of shape (m, n, k) to those of shape (n, k), of any images."""
    learned: dict[str, Any]
    """What it learned, ready for JSON: weights of the members, or coefficients."""


def fit_combination(
    method: Method, targets: FloatArray, members: FloatArray, limits: FloatArray | None
) -> Combination:
    """Learn on labelled images how m predictions are best combined, where the method learns at all.

    ``mean``, and ``weighted`` as `fit_weights` has it; ``max``, the largest probability of each
    class; ``rank`` as in `rank_mean`; ``vote``, the share of members that call a class; ``stack``,
    a logistic regression (scikit-learn's, C = 1) on the members' logits (Wolpert 1992): of all
    classes where an image has one, else one a finding, of that finding's logits. Where an image has
    one class, rows add up to 1.

    Parameters
    ----------
    targets : shape (n, k); one 1 a row, else 0; findings: any 1, 0 and NaN (unknown: left out)
    members : probabilities in 0..1 of shape (m, n, k)
    limits : from where on each member calls each finding, shape (m, 1, k), or (m, n, k) for each
        image; None where an image has one class
    """
    one_class = limits is None
    if method == "weighted":
        weights = fit_weights(targets, members, one_class=one_class)
        found = {"weights": weights.tolist()}
        # Rounding can leave the sum of certain ones above 1.
        return Combination(lambda probs: np.minimum(np.tensordot(weights, probs, 1), 1), found)
    if method == "stack":
        return _stack_classes(targets, members) if one_class else _stack_findings(targets, members)
    plain: dict[Method, Callable[[FloatArray], FloatArray]] = {
        "mean": lambda probs: probs.mean(axis=0),
        "rank": lambda probs: _whole(rank_mean(probs), one_class),
        "vote": lambda probs: _vote_classes(probs) if limits is None else vote(probs, limits),
        "max": lambda probs: _whole(probs.max(axis=0), one_class),
    }
    return Combination(plain[method], {})


def combine_cross_fitted(
    method: Method,
    targets: FloatArray,
    members: FloatArray,
    limits: FloatArray | None,
    fold: IntArray,
) -> FloatArray:
    """The combined probabilities (n, k), each fold's by what was learned on the others alone.

    ``fold`` has the shape (n,); the rest is as in `fit_combination`. What learns nothing is as
    without folds; for a vote on findings ``limits`` are those of `cross_fit_limits`, else the vote
    has learned from the images that it is judged on.
    """
    if method not in FITTED:
        return fit_combination(method, targets, members, limits).combine(members)
    probs = np.empty(members.shape[1:])
    for held_out in np.unique(fold):
        mine = fold == held_out
        fitted = fit_combination(method, targets[~mine], members[:, ~mine], limits)
        probs[mine] = fitted.combine(members[:, mine])
    return probs


def cross_fit_limits(
    targets: FloatArray,
    probs: FloatArray,
    classes: Sequence[str],
    criterion: Criterion,
    fold: IntArray,
) -> FloatArray:
    """From where on each finding is called in each image, shape (n, k), chosen on the other folds.

    ``probs`` has the shape (n, k), ``fold`` (n,); the rest is as in `choose_thresholds`.
    """
    limits = np.full(probs.shape, NO_THRESHOLD)
    for held_out in np.unique(fold):
        mine = fold == held_out
        if not mine.all():
            chosen = choose_thresholds(targets[~mine], probs[~mine], classes, "", criterion)
            limits[mine] = chosen.limits
    return limits


def deal_folds(targets: FloatArray, groups: IntArray) -> IntArray:
    """The fold, 0 to 4, of each of n images: every class alike, no group (patient) in two.

    ``targets`` has the shape (n, k), ``groups`` (n,).
    """
    return assign_folds(targets.astype(np.float32), groups, [1 / FOLDS] * FOLDS, seed=0)


def fit_weights(targets: FloatArray, members: FloatArray, *, one_class: bool) -> FloatArray:
    """The weights, none negative, adding up to 1, whose mean has the smallest log loss; shape (m,).

    Log loss is convex in them, so there is no other optimum to be caught in. Equal ones where
    nothing is known. Parameters as in `fit_combination`.
    """
    # What each member gave to what turned out to be so: one column a known label.
    if one_class:
        given = members[:, targets == 1]
    else:
        known = ~np.isnan(targets)
        given = np.where(targets[known] > 0.5, members[:, known], 1 - members[:, known])
    start = np.full(len(members), 1 / len(members))
    if not given.size:
        return start
    given = np.maximum(given, CLOSEST)

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        mixed = np.maximum(weights @ given, CLOSEST)
        return -float(np.log(mixed).mean()), -(given / mixed).mean(axis=1)

    whole = {"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like}
    bounds = [(0.0, 1.0)] * len(members)
    options = {"ftol": 1e-10, "maxiter": 500}
    found = minimize(
        loss, start, jac=True, method="SLSQP", bounds=bounds, constraints=whole, options=options
    )
    kept = np.where(found.x > 1e-6, found.x, 0.0)
    weights: FloatArray = kept / kept.sum()
    return weights


def rank_mean(members: FloatArray) -> FloatArray:
    """Images put in order, class by class, by the mean of their ranks; float array of shape (n, k).

    The image in the r-th place gets the r-th of the means of the probabilities: bare ranks would
    call a rare class as often as a frequent one, and as often in every table. Ties share their
    place. Members count alike however sure of themselves they are. ``members`` as in
    `fit_combination`.
    """
    order = rankdata(rankdata(members, axis=1).sum(axis=0), axis=0)
    means = np.sort(members.mean(axis=0), axis=0)
    places = np.arange(1, len(means) + 1)
    columns = zip(order.T, means.T, strict=True)
    return np.column_stack([np.interp(place, places, mean) for place, mean in columns])


def vote(members: FloatArray, limits: FloatArray) -> FloatArray:
    """The share of members that call each finding, shape (n, k); parameters as in
    `fit_combination`."""
    shares: FloatArray = (members >= limits).mean(axis=0)
    return shares


def _vote_classes(members: FloatArray) -> FloatArray:
    """The share of members that find each class the most probable, shape (n, k).

    A tie is broken by the mean: a thousandth of a vote more for the likeliest of the tied classes.
    """
    votes = np.mean([hard_labels(probs, None) for probs in members], axis=0)
    first = votes > votes.max(axis=1, keepdims=True) - 1e-9
    tied = first.sum(axis=1) > 1
    likeliest = np.where(first, members.mean(axis=0), -1).argmax(axis=1)
    votes[tied, likeliest[tied]] += 1e-3 / len(members)
    return _whole(votes, True)


def _whole(probs: FloatArray, one_class: bool) -> FloatArray:
    """Rows that add up to 1 where an image has one class."""
    if not one_class:
        return probs
    sums = probs.sum(axis=1, keepdims=True)
    return np.where(sums > 0, probs / np.where(sums > 0, sums, 1), 1 / probs.shape[1])


def _stack_classes(targets: FloatArray, members: FloatArray) -> Combination:
    def features(probs: FloatArray) -> FloatArray:
        return np.concatenate([to_logits(one, multilabel=False) for one in probs], axis=1)

    model = _regression(features(members), targets.argmax(axis=1))
    if model is None:
        return Combination(lambda probs: probs.mean(axis=0), {"coefficients": None})

    def combine(probs: FloatArray) -> FloatArray:
        stacked = np.zeros(probs.shape[1:])
        stacked[:, model.classes_] = model.predict_proba(features(probs))
        return stacked

    return Combination(combine, {"coefficients": _coefficients(model)})


def _stack_findings(targets: FloatArray, members: FloatArray) -> Combination:
    models = []
    for c, target in enumerate(targets.T):
        known = ~np.isnan(target)
        logits = to_logits(members[:, known, c], multilabel=True).T
        models.append(_regression(logits, target[known].astype(int)))

    def combine(probs: FloatArray) -> FloatArray:
        stacked: FloatArray = probs.mean(axis=0)
        for c, model in enumerate(models):
            if model is not None:
                logits = to_logits(probs[:, :, c], multilabel=True).T
                stacked[:, c] = model.predict_proba(logits)[:, 1]
        return stacked

    found = [model and _coefficients(model) for model in models]
    return Combination(combine, {"coefficients": found})


def _regression(features: FloatArray, labels: NDArray[np.intp]) -> Any:
    """The fitted regression; None where all labels are the same: there is nothing to learn."""
    if len(np.unique(labels)) < 2:
        return None
    return LogisticRegression(max_iter=1000).fit(features, labels)


def _coefficients(model: Any) -> dict[str, Any]:
    return {"weights": model.coef_.tolist(), "intercepts": model.intercept_.tolist()}
