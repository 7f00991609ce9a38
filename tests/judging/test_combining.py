"""Combining predictions: against plain arithmetic, scipy and scikit-learn, and planted truth."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from xraycomp.judging.combining import (
    FITTED,
    METHODS,
    combine_cross_fitted,
    deal_folds,
    fit_combination,
    fit_weights,
)

NAN = np.nan
# Of three members, two images and three classes.
PROBS = np.array(
    [
        [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3]],
        [[0.1, 0.8, 0.1], [0.1, 0.2, 0.7]],
        [[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]],
    ]
)


def one_class(n=600, seed=0, skill=(2.0, 2.0, 0.0), k=3):
    """Targets and m tables; a member without skill is noise."""
    rng = np.random.default_rng(seed)
    targets = np.eye(k)[rng.integers(k, size=n)]
    tables = [softmax(rng.normal(size=(n, k)) + s * targets, axis=1) for s in skill]
    return targets, np.stack(tables)


def several(n=600, seed=0, skill=(2.0, 2.0, 0.0), k=3, unknown=0.2):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < 0.3).astype(float)
    tables = [expit(rng.normal(size=(n, k)) + s * (targets - 0.5) - 0.8) for s in skill]
    targets[rng.random((n, k)) < unknown] = NAN
    return targets, np.stack(tables)


def combine(method, targets, probs, limits=None):
    return fit_combination(method, targets, probs, limits).combine(probs)


def test_mean_max_and_vote_are_what_they_are_called() -> None:
    targets = np.eye(3)[[0, 1]]
    np.testing.assert_allclose(combine("mean", targets, PROBS), PROBS.sum(axis=0) / 3)
    largest = np.array([[0.6, 0.8, 0.2], [0.4, 0.5, 0.7]])
    expected = largest / largest.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(combine("max", targets, PROBS), expected)
    votes = combine("vote", targets, PROBS)
    np.testing.assert_allclose(votes[0], [2 / 3, 1 / 3, 0])
    # One vote each: the means are 0.233, 0.333 and 0.433.
    assert votes[1].argmax() == 2
    np.testing.assert_allclose(votes[1], np.full(3, 1 / 3), atol=3e-4)


def test_findings_keep_their_own_probabilities_and_are_voted_on_at_each_members_limits() -> None:
    targets, limits = np.array([[1, 0, NAN], [0, 1, 1]]), np.array([[0.5], [0.15], [0.45]])
    limits = np.repeat(limits, 3, axis=1)[:, None]
    np.testing.assert_allclose(combine("max", targets, PROBS, limits), PROBS.max(axis=0))
    expected = np.array([[2, 1, 0], [0, 2, 1]]) / 3
    np.testing.assert_allclose(combine("vote", targets, PROBS, limits), expected)
    each = np.repeat(limits, 2, axis=1)
    each[0, 1] = 0.2  # of the second image only
    expected = np.array([[2, 1, 0], [1, 3, 2]]) / 3
    expected[1, 1] = 2 / 3
    np.testing.assert_allclose(combine("vote", targets, PROBS, each), expected)


@pytest.mark.parametrize("make", [one_class, several])
def test_rank_mean_orders_as_the_mean_of_ranks_and_keeps_the_scale(make) -> None:
    targets, probs = make(n=200)
    probs[:, 150] = probs[:, 0]  # a tie
    limits = np.full((3, 1, 3), 0.5)  # of findings, so that rows are not brought to 1
    found = combine("rank", targets, probs, limits)
    ranks = np.mean([rankdata(one, axis=0) for one in probs], axis=0)
    for c in range(3):
        # The same order, and the mean of what the members say stays.
        order = np.argsort(ranks[:, c], kind="stable")
        assert (np.diff(found[order, c]) >= -1e-12).all()
        assert found[0, c] == found[150, c]
        assert len(np.unique(found[:, c])) >= len(np.unique(ranks[:, c].round(9))) - 2
    np.testing.assert_allclose(found.mean(axis=0), probs.mean(axis=(0, 1)), rtol=1e-3)
    assert (found >= 0).all() and (found <= 1).all()


def test_rank_mean_takes_no_notice_of_how_sure_a_member_is() -> None:
    targets, probs = several(n=300, unknown=0)
    limits = np.full((3, 1, 3), 0.5)
    surer = np.stack([probs[0], expit(9 * logit(probs[1]) - 3), probs[2]])
    before, after = (combine("rank", targets, each, limits) for each in (probs, surer))
    for c in range(3):
        areas = [roc_auc_score(targets[:, c], each[:, c]) for each in (before, after)]
        assert areas[0] == pytest.approx(areas[1], abs=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", [one_class, several])
def test_every_method_gives_probabilities(make, method) -> None:
    targets, probs = make(n=100)
    limits = None if make is one_class else np.full((3, 1, 3), 0.4)
    found = combine(method, targets, probs, limits)
    assert found.shape == targets.shape
    assert (found >= 0).all() and (found <= 1 + 1e-12).all()
    if limits is None:
        np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("make", [one_class, several])
def test_noise_gets_no_weight_and_equals_share_it(make) -> None:
    targets, probs = make(n=4000)
    weights = fit_weights(targets, probs, one_class=make is one_class)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert weights[2] < 0.1
    assert weights[0] == pytest.approx(weights[1], abs=0.1)


def test_the_weights_of_two_are_those_that_a_line_search_finds() -> None:
    targets, probs = one_class(n=500, skill=(2.0, 1.0))
    found = fit_weights(targets, probs, one_class=True)
    labels = targets.argmax(axis=1)
    best = minimize_scalar(
        lambda w: log_loss(labels, w * probs[0] + (1 - w) * probs[1]), bounds=(0, 1)
    )
    assert found[0] == pytest.approx(best.x, abs=1e-3)


def test_unknown_labels_teach_nothing() -> None:
    targets, probs = several(n=400)
    # What is said of unknown labels must not matter.
    wild = np.where(np.isnan(targets), np.random.default_rng(1).random(probs.shape), probs)
    for method in ("weighted", "stack"):
        learned = [
            fit_combination(method, targets, each, np.full((3, 1, 3), 0.5)).learned
            for each in (probs, wild)
        ]
        assert learned[0] == learned[1]
    nothing = np.full((5, 3), NAN)
    np.testing.assert_allclose(fit_weights(nothing, probs[:, :5], one_class=False), np.ones(3) / 3)
    limits = np.full((3, 1, 3), 0.5)
    np.testing.assert_allclose(
        combine("stack", nothing, probs[:, :5], limits), probs[:, :5].mean(axis=0)
    )


def test_stacking_is_scikit_learns_regression_on_logits() -> None:
    targets, probs = one_class(n=300)
    features = np.concatenate(list(np.log(probs)), axis=1)
    model = LogisticRegression(max_iter=1000).fit(features, targets.argmax(axis=1))
    np.testing.assert_allclose(
        combine("stack", targets, probs), model.predict_proba(features), atol=1e-4
    )
    targets, probs = several(n=300)
    known = ~np.isnan(targets[:, 1])
    model = LogisticRegression().fit(logit(probs[:, known, 1]).T, targets[known, 1])
    expected = model.predict_proba(logit(probs[:, :, 1]).T)[:, 1]
    found = combine("stack", targets, probs, np.full((3, 1, 3), 0.5))
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-4)


@pytest.mark.parametrize("make", [one_class, several])
def test_stacking_mends_a_member_that_is_sure_of_itself_and_shifted(make) -> None:
    targets, probs = make(n=1500, skill=(1.5, 1.5), **({} if make is one_class else {"unknown": 0}))
    loud = expit(4 * logit(probs[1]) + 3) if make is several else probs[1] ** 6 * [9, 1, 1]
    loud = loud if make is several else loud / loud.sum(axis=1, keepdims=True)
    probs = np.stack([probs[0], loud])
    limits = None if make is one_class else np.full((2, 1, 3), 0.5)
    fold = deal_folds(targets, np.arange(len(targets)))
    losses = {}
    for method in ("mean", "stack"):
        found = combine_cross_fitted(method, targets, probs, limits, fold)
        losses[method] = log_loss(targets.ravel() if make is several else targets.argmax(axis=1),
                                  found.ravel() if make is several else found)  # fmt: skip
    assert losses["stack"] < losses["mean"] - 0.05


@pytest.mark.parametrize("method", FITTED)
def test_what_learns_is_not_flattered(method) -> None:
    """Of labels that nothing can tell, twenty members learn something, and cross-fitting not."""
    flattered, honest = [], []
    for seed in range(5):
        targets, probs = one_class(n=120, seed=seed, skill=(0.0,) * 20)
        fold = deal_folds(targets, np.arange(len(targets)))
        ours = combine_cross_fitted(method, targets, probs, None, fold)
        honest.append(roc_auc_score(targets, ours))
        flattered.append(roc_auc_score(targets, combine(method, targets, probs)))
    assert np.mean(flattered) > 0.6
    assert np.mean(honest) == pytest.approx(0.5, abs=0.06)


def test_a_patients_images_stay_in_one_fold() -> None:
    targets, probs = one_class(n=300)
    patients = np.repeat(np.arange(100), 3)
    fold = deal_folds(targets, patients)
    assert set(fold) == set(range(5))
    assert (fold.reshape(100, 3) == fold[::3, None]).all()
    # Another fold's images are combined by what the rest has taught.
    rest = fold != 2
    fitted = fit_combination("weighted", targets[rest], probs[:, rest], None)
    found = combine_cross_fitted("weighted", targets, probs, None, fold)
    np.testing.assert_allclose(found[~rest], fitted.combine(probs[:, ~rest]))


def test_one_image_is_no_reason_to_stumble() -> None:
    for method in METHODS:
        fold = deal_folds(np.eye(3)[:1], np.zeros(1, int))
        found = combine_cross_fitted(method, np.eye(3)[:1], PROBS[:, :1], None, fold)
        np.testing.assert_allclose(found.sum(axis=1), 1)


def test_what_all_are_sure_of_stays_a_probability() -> None:
    rng = np.random.default_rng(0)
    targets = np.eye(3)[rng.integers(3, size=300)]
    probs = np.stack([softmax(rng.normal(size=(300, 3)) + 2 * targets, axis=1) for _ in range(7)])
    for method in METHODS:
        sure = fit_combination(method, targets, probs, None).combine(np.ones((7, 5, 1)) * [1, 0, 0])
        assert (sure <= 1).all() and (sure >= 0).all()
