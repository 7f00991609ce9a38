"""Temperatures and calibration figures against scikit-learn and against writing them out."""

import json

import numpy as np
import pytest
from scipy.special import expit, logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss

from xraycomp.console.errors import UserError
from xraycomp.judging.calibration import (
    BOUNDS,
    CLOSEST,
    Calibration,
    cross_fitted,
    fit_temperature,
)
from xraycomp.judging.reliability import calibration_figures, judge_calibration, reliability

SPLIT = "validation split"


def one_class(n=400, k=3, sharper=1.0, seed=0):
    """Labels drawn from known probabilities, and these with their logits multiplied."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 1.5
    below = softmax(logits, axis=1).cumsum(axis=1)
    labels = (below < rng.random((n, 1))).sum(axis=1).clip(0, k - 1)
    return np.eye(k)[labels], softmax(sharper * logits, axis=1)


def findings(n=400, k=3, sharper=1.0, seed=0, unknown=0.2):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k)) * 1.5 - 1
    targets = (rng.random((n, k)) < expit(logits)).astype(float)
    targets[rng.random((n, k)) < unknown] = np.nan
    return targets, expit(sharper * logits)


KINDS = pytest.mark.parametrize(("draw", "multilabel"), [(one_class, False), (findings, True)])


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose input are its logits."""

    def __init__(self, classes):
        self.classes = classes
        self.classes_ = np.arange(classes)

    def fit(self, logits, labels):
        return self

    def decision_function(self, logits):
        return logits if self.classes > 2 else logits[:, 0]

    def predict(self, logits):
        return logits.argmax(axis=1)


@pytest.mark.parametrize("sharper", [0.4, 1.0, 2.5])
def test_the_temperature_of_a_softmax_is_scikit_learn_s(sharper):
    targets, probs = one_class(sharper=sharper)
    probs = np.clip(probs, CLOSEST, 1)
    reference = CalibratedClassifierCV(FrozenEstimator(Given(3)), method="temperature")
    reference.fit(np.log(probs), targets.argmax(axis=1))
    wanted = reference.predict_proba(np.log(probs))
    found = fit_temperature(targets, probs, multilabel=False)
    scaled = Calibration(found, SPLIT).apply(probs, multilabel=False)
    np.testing.assert_allclose(scaled, wanted, atol=1e-4)
    assert found == pytest.approx(sharper, rel=0.2)


@pytest.mark.parametrize("sharper", [0.4, 1.0, 2.5])
def test_the_temperature_of_findings_is_scikit_learn_s_of_all_known_labels(sharper):
    targets, probs = findings(sharper=sharper)
    probs = np.clip(probs, CLOSEST, 1 - CLOSEST)
    known = ~np.isnan(targets)
    y, z = targets[known].astype(int), logit(probs[known])[:, None]
    reference = CalibratedClassifierCV(FrozenEstimator(Given(2)), method="temperature")
    wanted = reference.fit(z, y).predict_proba(z)[:, 1]
    found = fit_temperature(targets, probs, multilabel=True)
    scaled = Calibration(found, SPLIT).apply(probs, multilabel=True)
    np.testing.assert_allclose(scaled[known], wanted, atol=1e-4)
    assert found == pytest.approx(sharper, rel=0.2)


@KINDS
def test_no_temperature_has_a_smaller_log_loss(draw, multilabel):
    targets, probs = draw(sharper=1.7)
    found = fit_temperature(targets, probs, multilabel=multilabel)

    def loss(temperature):
        scaled = Calibration(temperature, SPLIT).apply(probs, multilabel=multilabel)
        known = ~np.isnan(targets)
        if multilabel:
            return log_loss(targets[known], scaled[known])
        return log_loss(targets.argmax(axis=1), scaled)

    tried = [loss(temperature) for temperature in np.geomspace(*BOUNDS, 200)]
    assert loss(found) <= min(tried) + 1e-12


@KINDS
def test_a_temperature_keeps_sums_and_order_and_never_says_never(draw, multilabel):
    _, probs = draw(n=50)
    probs[0] = np.eye(3)[0]  # as rounding leaves it
    for temperature in (0.1, 0.7, 1, 3, 10):
        scaled = Calibration(temperature, SPLIT).apply(probs, multilabel=multilabel)
        assert np.isfinite(scaled).all()
        assert ((scaled > 0) | (temperature < 1)).all()
        rows, others = (probs, scaled) if not multilabel else (probs.T, scaled.T)
        for row, other in zip(rows, others, strict=True):
            assert (np.diff(other[np.argsort(row)]) >= 0).all()
        if not multilabel:
            np.testing.assert_allclose(scaled.sum(axis=1), 1)
    same = Calibration(1.0, SPLIT).apply(probs, multilabel=multilabel)
    np.testing.assert_allclose(same, probs, atol=3 * CLOSEST)


@KINDS
def test_where_nothing_is_wrong_the_temperature_stays_within_bounds_and_that_is_said(
    draw, multilabel
):
    targets, probs = draw(unknown=0) if multilabel else draw()
    right = 0.3 * probs + 0.7 * targets if not multilabel else np.where(targets == 1, 0.7, 0.2)
    found = Calibration(fit_temperature(targets, right, multilabel=multilabel), SPLIT)
    assert found.temperature == BOUNDS[0]
    assert "that is as far as is tried" in str(found)
    report = judge_calibration(targets, right, SPLIT, None, multilabel=multilabel, resamples=0)
    assert report["temperature"] == BOUNDS[0]
    wrong = fit_temperature(1 - targets, right, multilabel=True)
    assert wrong == BOUNDS[1]


@pytest.mark.parametrize(
    ("targets", "probs", "multilabel", "expected"),
    [
        ([[1, 0]], [[0.8, 0.2]], False, BOUNDS[0]),
        ([[1, 0]], [[0.2, 0.8]], False, BOUNDS[1]),
        ([[1, 0]], [[0.5, 0.5]], False, 1.0),  # no temperature moves it
        ([[1.0, np.nan]], [[1.0, 0.0]], True, BOUNDS[0]),
        ([[np.nan, np.nan]], [[0.3, 0.4]], True, 1.0),  # nothing is known
        ([[0.0, 0.0]] * 3, [[0.5, 0.5]] * 3, True, 1.0),
    ],
)
def test_single_images_and_none(targets, probs, multilabel, expected):
    targets, probs = np.array(targets, float), np.array(probs)
    assert fit_temperature(targets, probs, multilabel=multilabel) == pytest.approx(expected)
    report = judge_calibration(targets, probs, SPLIT, None, multilabel=multilabel, resamples=20)
    json.dumps(report, allow_nan=False)
    assert report["temperature"] == pytest.approx(expected)
    if len(targets) == 1:  # the other folds hold nothing to learn from
        scored = report["after"]["log_loss"]["value"]
        before = report["before"]["log_loss"]["value"]
        assert scored == (before if before is None else pytest.approx(before, abs=1e-5))


@KINDS
def test_each_fold_has_the_temperature_of_the_others(draw, multilabel):
    targets, probs = draw(n=53, sharper=2)
    found = cross_fitted(targets, probs, multilabel=multilabel)
    left = np.ones(len(probs), bool)
    fold = np.random.default_rng(0).permutation(53) % 5
    for held_out in range(5):
        mine = fold == held_out
        learned = fit_temperature(targets[~mine], probs[~mine], multilabel=multilabel)
        expected = Calibration(learned, "").apply(probs[mine], multilabel=multilabel)
        np.testing.assert_array_equal(found[mine], expected)
        left &= ~mine
    assert not left.any()


def ece_by_hand(confidence, right, bins=15):
    """Guo et al. 2017, equation 3, in loops."""
    error = 0.0
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (b == 0 and c == 0)]
        if inside:
            claimed = sum(confidence[i] for i in inside) / len(inside)
            true = sum(right[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(true - claimed)
    return error


def claims(targets, probs, multilabel):
    if multilabel:
        known = ~np.isnan(targets)
        return probs[known], targets[known]
    called = probs.argmax(axis=1)
    return probs.max(axis=1), targets[np.arange(len(targets)), called]


@KINDS
@pytest.mark.parametrize("digits", [None, 1])
def test_figures_equal_scikit_learn_and_the_definition(draw, multilabel, digits):
    targets, probs = draw(sharper=1.5)
    if digits is not None and multilabel:
        probs = probs.round(digits)  # on the edges of bins, 0 and 1 among them
    found = calibration_figures(targets, probs, multilabel, 200)
    confidence, right = claims(targets, probs, multilabel)
    assert found["ece"].value == pytest.approx(ece_by_hand(confidence, right))
    if multilabel:
        brier = brier_score_loss(right, confidence)
        expected = log_loss(right, confidence)
    else:
        brier = brier_score_loss(targets.argmax(axis=1), probs)
        expected = log_loss(targets.argmax(axis=1), probs)
    assert found["brier"].value == pytest.approx(brier)
    assert found["log_loss"].value == pytest.approx(expected)
    for estimate in found.values():
        assert 0 <= estimate.low <= estimate.value <= estimate.high


def test_the_brier_score_of_two_classes_is_scikit_learn_s():
    targets, probs = one_class(k=2)
    found = calibration_figures(targets, probs, False, 0)
    assert found["brier"].value == pytest.approx(brier_score_loss(targets[:, 1], probs[:, 1]))


@KINDS
def test_the_bins_equal_scikit_learn_s_curve(draw, multilabel):
    targets, probs = draw()
    bins = reliability(targets, probs, multilabel)
    confidence, right = claims(targets, probs, multilabel)
    true, claimed = calibration_curve(right, confidence, n_bins=15)
    np.testing.assert_allclose([b["share"]["value"] for b in bins], true)
    np.testing.assert_allclose([b["confidence"] for b in bins], claimed)
    assert sum(b["n"] for b in bins) == len(right)
    for b in bins:
        assert b["low"] < b["confidence"] <= b["high"]
        assert b["share"]["low"] < b["share"]["high"]


@KINDS
def test_the_resampled_error_is_that_of_the_drawn_images(draw, multilabel):
    targets, probs = draw(n=60, sharper=2)
    seen, rng = [], np.random.default_rng(0)
    for _ in range(200):
        chosen = rng.integers(60, size=60)
        seen.append(ece_by_hand(*claims(targets[chosen], probs[chosen], multilabel)))
    found = calibration_figures(targets, probs, multilabel, 200)["ece"]
    low, high = np.quantile(seen, [0.025, 0.975])
    value = float(found.value)
    assert found.high == pytest.approx(max(value, 2 * value - low))
    assert found.low in (0, pytest.approx(max(0, min(value, 2 * value - high))))


@KINDS
@pytest.mark.parametrize(("sharper", "most"), [(1.0, 0.0), (2.0, 1.0)])
def test_the_interval_of_the_error_holds_0_of_calibrated_probabilities_alone(
    draw, multilabel, sharper, most
):
    lows = [
        float(
            calibration_figures(*draw(n=300, sharper=sharper, seed=s), multilabel, 100)["ece"].low
        )
        for s in range(20)
    ]
    above = np.mean(np.array(lows) > 0)
    assert abs(above - most) <= 0.2


@KINDS
def test_the_report_says_what_changes(draw, multilabel):
    targets, probs = draw(n=2000, sharper=2.0)
    report = judge_calibration(targets, probs, SPLIT, None, multilabel=multilabel, resamples=100)
    assert set(report) == {"temperature", "fitted_on", "before", "after", "reliability"}
    assert report["fitted_on"] == SPLIT
    assert report["temperature"] == pytest.approx(2, rel=0.15)
    for figure in ("ece", "brier", "log_loss"):
        before, after = (report[side][figure] for side in ("before", "after"))
        assert after["value"] < before["value"]
        assert after["low"] <= after["value"] <= after["high"]
    assert set(report["reliability"]) == {"before", "after"}
    json.dumps(report, allow_nan=False)
    # One that was given is used as it is.
    given = Calibration(2.0, "another split")
    report = judge_calibration(targets, probs, SPLIT, given, multilabel=multilabel, resamples=0)
    assert (report["temperature"], report["fitted_on"]) == (2.0, "another split")
    scaled = given.apply(probs, multilabel=multilabel)
    wanted = calibration_figures(targets, scaled, multilabel, 0)
    assert report["after"] == {name: entry.entry() for name, entry in wanted.items()}


def test_a_temperature_comes_back_from_its_file(tmp_path):
    found = Calibration(1.234, SPLIT)
    found.write(tmp_path / "calibration.json")
    assert Calibration.read(tmp_path) == Calibration.read(tmp_path / "calibration.json") == found
    assert str(found) == "temperature 1.234, fitted on the validation split"
    content = json.loads((tmp_path / "calibration.json").read_text())
    assert content == {"temperature": 1.234, "fitted_on": SPLIT}


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "{}", '{"temperature": 0, "fitted_on": ""}', '{"temperature": "x"}', "null"],
)
def test_a_damaged_or_missing_file_is_one_sentence(tmp_path, text):
    with pytest.raises(UserError, match="There is no temperature"):
        Calibration.read(tmp_path)
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        Calibration.read(path)
