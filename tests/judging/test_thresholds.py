"""Thresholds against trying every one of them."""

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_curve

from xraycomp.console.errors import UserError
from xraycomp.judging.thresholds import (
    Sensitivity,
    Thresholds,
    choose_thresholds,
    hard_labels,
)

NAMES = ["Mass", "Edema", "Hernia"]
SPLIT = "validation split"


def planted(seed=0, digits=None, unknown=0.2):
    rng = np.random.default_rng(seed)
    targets = (rng.random((90, 3)) < [0.4, 0.2, 0.1]).astype(float)
    probs = 1 / (1 + np.exp(1 - rng.normal(size=targets.shape) - targets))
    targets[rng.random(targets.shape) < unknown] = np.nan
    return targets, probs if digits is None else probs.round(digits)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("seed", range(3))
def test_no_threshold_has_a_better_f1(seed, digits):
    targets, probs = planted(seed, digits)
    found = choose_thresholds(targets, probs, NAMES, SPLIT).values
    for c, name in enumerate(NAMES):
        known = ~np.isnan(targets[:, c])
        y, s = targets[known, c], probs[known, c]
        best = max(f1_score(y, s >= level) for level in np.unique(s))
        assert f1_score(y, s >= found[name]) == pytest.approx(best)


@pytest.mark.parametrize("digits", [None, 1])
def test_no_threshold_has_a_better_youden_index(digits):
    targets, probs = planted(digits=digits)
    chosen = choose_thresholds(targets, probs, NAMES, SPLIT, "youden")
    for c, name in enumerate(NAMES):
        known = ~np.isnan(targets[:, c])
        y, s = targets[known, c] == 1, probs[known, c]
        fpr, tpr, _ = roc_curve(y, s)
        called = s >= chosen.values[name]
        assert called[y].mean() - called[~y].mean() == pytest.approx((tpr - fpr).max())
    assert str(chosen) == "best sensitivity + specificity on the validation split"


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("wished", [0.05, 0.5, 0.8, 0.95, 1.0])
def test_a_wished_sensitivity_is_reached_from_the_highest_threshold_that_can(digits, wished):
    targets, probs = planted(digits=digits)
    chosen = choose_thresholds(targets, probs, NAMES, SPLIT, Sensitivity(wished))
    for c, name in enumerate(NAMES):
        known = ~np.isnan(targets[:, c])
        y, s = targets[known, c] == 1, probs[known, c]
        reaching = [level for level in np.unique(s) if (s[y] >= level).mean() >= wished - 1e-12]
        np.testing.assert_array_equal(s >= chosen.values[name], s >= max(reaching))
        assert chosen.values[name] <= max(reaching)
    assert str(chosen) == f"sensitivity of at least {wished:g} on the validation split"


def test_a_wished_sensitivity_is_not_missed_by_rounding():
    scores = np.arange(1, 21)[:, None] / 20
    targets = np.ones((21, 1))
    targets[20] = 0
    found = choose_thresholds(targets, np.r_[scores, [[0.0]]], ["a"], SPLIT, Sensitivity(0.95))
    assert found.values["a"] == pytest.approx(0.075)  # 19 of 20 from 0.1 on
    found = choose_thresholds(targets, np.r_[scores, [[0.0]]], ["a"], SPLIT, Sensitivity(0.951))
    assert found.values["a"] == pytest.approx(0.025)


@pytest.mark.parametrize("wished", [0, -0.1, 1.01, np.nan])
def test_what_is_no_share_cannot_be_wished(wished):
    with pytest.raises(UserError, match="more than 0 and at most 1"):
        Sensitivity(wished)


def test_a_threshold_lies_between_probabilities_and_is_the_highest_of_equals():
    target, score = [1, 0, 1, 0], [0.8, 0.6, 0.4, 0.2]  # F1 0.8 from 0.4 on
    found = choose_thresholds(np.c_[target], np.c_[score], ["a"], SPLIT)
    assert found.values["a"] == pytest.approx(0.3)
    assert found.fixed == ()
    target = [1, 1, 0, 0, 0, 0, 0, 1]  # Youden 2/3 from 0.7 on; from 0.1 on it is 0
    score = [0.9, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    found = choose_thresholds(np.c_[target], np.c_[score], ["a"], SPLIT, "youden")
    assert found.values["a"] == pytest.approx(0.65)
    # F1 is 2/3 from 0.8 on and from 0.2 on.
    found = choose_thresholds(np.c_[[1, 0, 0, 1]], np.c_[[0.8, 0.6, 0.4, 0.2]], ["a"], SPLIT)
    assert found.values["a"] == pytest.approx(0.7)
    # All are best called: the threshold keeps its distance from the lowest of them.
    found = choose_thresholds(np.c_[[0, 1, 1]], np.c_[[0.8, 0.6, 0.4]], ["a"], SPLIT)
    assert found.values["a"] == pytest.approx(0.2)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_equal_probabilities_are_all_called(value):
    found = choose_thresholds(np.c_[[1, 0, 1]], np.full((3, 1), value), ["a"], SPLIT)
    assert found.values["a"] <= value


def test_a_finding_of_one_kind_only_keeps_one_half_and_that_is_said():
    targets, probs = planted()
    targets[:, 1] = np.where(np.isnan(targets[:, 1]), np.nan, 0)
    targets[:, 2] = np.nan
    found = choose_thresholds(targets, probs, NAMES, SPLIT)
    assert found.fixed == ("Edema", "Hernia")
    assert (found.values["Edema"], found.values["Hernia"]) == (0.5, 0.5)
    said = "best F1 on the validation split; 0.5 for Edema, Hernia (one kind only there)"
    assert str(found) == said


def test_hard_labels_are_the_most_probable_class_or_all_from_their_thresholds_on():
    probs = np.array([[0.5, 0.2, 0.3], [0.1, 0.45, 0.45]])
    np.testing.assert_array_equal(hard_labels(probs, None), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(hard_labels(probs, 0.5), [[1, 0, 0], [0, 0, 0]])
    limits = Thresholds(dict(zip(NAMES, (0.1, 0.4, 0.4), strict=True)), "f1", SPLIT).limits
    np.testing.assert_array_equal(hard_labels(probs, limits), [[1, 0, 0], [1, 1, 1]])
    # Never found: calling all is the best that can be done.
    found = choose_thresholds(np.eye(3), np.eye(3) * [0.9, 0.9, 0], NAMES, SPLIT)
    called = [[1, 0, 1], [0, 1, 1], [0, 0, 1]]
    np.testing.assert_array_equal(hard_labels(np.eye(3) * [0.9, 0.9, 0], found.limits), called)


@pytest.mark.parametrize("criterion", ["f1", "youden", Sensitivity(0.9)])
def test_thresholds_come_back_from_their_file(tmp_path, criterion):
    chosen = choose_thresholds(*planted(), NAMES, SPLIT, criterion)
    path = tmp_path / "thresholds.json"
    chosen.write(path)
    assert Thresholds.read(path, NAMES) == Thresholds.read(tmp_path, NAMES) == chosen
    for others in (NAMES[:2], ["Mass", "Hernia", "Edema"]):
        with pytest.raises(UserError, match=f"for other classes than {', '.join(others)}"):
            Thresholds.read(path, others)
    content = json.loads(path.read_text())
    assert content["criterion"] == (criterion if isinstance(criterion, str) else "sensitivity")
    assert content.get("sensitivity") == (None if isinstance(criterion, str) else 0.9)
    assert content["split"] == SPLIT
    assert list(content["thresholds"]) == NAMES


UNKNOWN = '{"thresholds": {}, "criterion": "best", "split": "", "fixed": []}'


WISHLESS = UNKNOWN.replace("best", "sensitivity")


@pytest.mark.parametrize("text", ["{", "[]", "{}", UNKNOWN, WISHLESS])
def test_a_damaged_or_missing_file_is_one_sentence(tmp_path, text):
    path = tmp_path / "thresholds.json"
    with pytest.raises(UserError, match="There are no thresholds"):
        Thresholds.read(path, NAMES)
    path.write_text(text)
    with pytest.raises(UserError, match="is damaged"):
        Thresholds.read(path, NAMES)
