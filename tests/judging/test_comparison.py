"""Comparing two predictions: against a naive paired bootstrap, the binomial test, planted truth."""

import json

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn import metrics as sk
from statsmodels.stats.contingency_tables import mcnemar

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled
from xraycomp.judging.comparison import compare
from xraycomp.judging.comparison_table import format_comparison
from xraycomp.judging.thresholds import Thresholds

NAN = np.nan
NAMES = ("Mass", "Effusion", "Edema")


def competition(**fields):
    fields = {"task": "multiclass", "metric": "accuracy", "classes": NAMES} | fields
    return Competition("toy", "toy", "dataset", train=Labelled("images", "labels.csv"), **fields)


def one_class(n=200, seed=0, skill=(1.0, 1.0)):
    """True labels and two tables of probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    targets, tables = np.eye(3)[labels], []
    for known in skill:
        exponents = np.exp(rng.normal(size=(n, 3)) + known * targets)
        tables.append(exponents / exponents.sum(axis=1, keepdims=True))
    return targets, tuple(tables)


def several(n=200, seed=0, unknown=0.2):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 3)) < [0.5, 0.3, 0.2]).astype(float)
    tables = tuple(1 / (1 + np.exp(-rng.normal(size=(n, 3)) - 2 * targets + 1)) for _ in range(2))
    targets[rng.random((n, 3)) < unknown] = NAN
    return targets, tables


def naive(n, resamples, figure):
    """The figure's differences, the images of each resample judged by scikit-learn."""
    rng = np.random.default_rng(0)
    chosen = [rng.integers(n, size=n) for _ in range(resamples)]
    return np.array([figure(1, rows) - figure(0, rows) for rows in chosen])


def assert_equal_to_naive(found, moved):
    low, high = np.quantile(moved, [0.025, 0.975])
    assert found["difference"]["value"] == pytest.approx(found["b"] - found["a"])
    assert found["difference"]["low"] == pytest.approx(low)
    assert found["difference"]["high"] == pytest.approx(high)
    moved = moved.round(12)
    p = 2 * (1 + min((moved <= 0).sum(), (moved >= 0).sum())) / (len(moved) + 1)
    assert found["p"] == pytest.approx(min(p, 1))


def test_of_one_class_an_image_it_equals_a_naive_paired_bootstrap():
    targets, tables = one_class(skill=(0.8, 1.2))
    labels = targets.argmax(axis=1)
    found = compare(competition(), targets, tables, ("a", "b"), "val", resamples=150)
    calls = [table.argmax(axis=1) for table in tables]
    figures = {
        "macro_auroc": lambda i, rows: sk.roc_auc_score(
            targets[rows], tables[i][rows], average="macro"
        ),
        "macro_f1": lambda i, rows: sk.f1_score(labels[rows], calls[i][rows], average="macro"),
        "accuracy": lambda i, rows: sk.accuracy_score(labels[rows], calls[i][rows]),
    }
    assert list(found["overall"]) == list(figures)
    for name, figure in figures.items():
        assert found["overall"][name]["a"] == pytest.approx(figure(0, slice(None)))
        assert found["overall"][name]["b"] == pytest.approx(figure(1, slice(None)))
        assert_equal_to_naive(found["overall"][name], naive(200, 150, figure))
    for c, name in enumerate(NAMES):
        moved = naive(
            200, 150, lambda i, rows, c=c: sk.roc_auc_score(targets[rows, c], tables[i][rows, c])
        )
        assert_equal_to_naive(found["classes"][name]["auroc"], moved)
    right = [call == labels for call in calls]
    only_a, only_b = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    test = found["mcnemar"]["overall"]
    assert (test["only_a"], test["only_b"]) == (only_a, only_b)
    # As statsmodels has it.
    exact = 2 * binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)
    assert test["p"] == pytest.approx(min(exact, 1))
    assert found["mcnemar"]["classes"] == {}
    assert json.loads(json.dumps(found)) == found


def test_of_findings_only_what_is_known_counts_and_each_has_its_thresholds():
    targets, tables = several()
    limits = [dict(zip(NAMES, row, strict=True)) for row in ([0.5, 0.6, 0.4], [0.3, 0.5, 0.7])]
    thresholds = tuple(Thresholds(values, "f1", "val") for values in limits)
    findings = competition(task="multilabel", metric="auroc")
    found = compare(
        findings, targets, tables, ("a", "b"), "val", thresholds=thresholds, resamples=60
    )
    known, true = ~np.isnan(targets), targets == 1
    calls = [table >= limit.limits for table, limit in zip(tables, thresholds, strict=True)]

    def macro(figure):
        def mean(i, rows):
            parts = [rows[known[rows, c]] for c in range(3)]
            return np.mean([figure(i, part, c) for c, part in enumerate(parts)])

        return naive(200, 60, mean)

    area = macro(lambda i, rows, c: sk.roc_auc_score(true[rows, c], tables[i][rows, c]))
    assert_equal_to_naive(found["overall"]["macro_auroc"], area)
    f1 = macro(lambda i, rows, c: sk.f1_score(true[rows, c], calls[i][rows, c]))
    assert_equal_to_naive(found["overall"]["macro_f1"], f1)
    right = [call == true for call in calls]
    accuracy = naive(200, 60, lambda i, rows: right[i][rows][known[rows]].mean())
    assert_equal_to_naive(found["overall"]["accuracy"], accuracy)
    for test, cells in [
        (found["mcnemar"]["overall"], known),
        (found["mcnemar"]["classes"]["Edema"], known & (np.arange(3) == 2)),
    ]:
        only_a = (right[0] & ~right[1])[cells].sum()
        only_b = (right[1] & ~right[0])[cells].sum()
        assert (test["only_a"], test["only_b"]) == (only_a, only_b)
        assert test["p"] == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def test_mcnemar_equals_statsmodels():
    targets, tables = one_class(skill=(0.5, 1.5))
    found = compare(competition(), targets, tables, ("a", "b"), "val", resamples=5)["mcnemar"]
    test = found["overall"]
    pairs = [[0, test["only_a"]], [test["only_b"], 0]]
    assert test["p"] == pytest.approx(mcnemar(pairs, exact=True).pvalue)


def test_the_pairing_tells_what_two_intervals_would_not():
    """Two that make nearly the same mistakes differ by little, and it shows all the same."""
    targets, (scores, _) = one_class(n=400, seed=1)
    better = 0.97 * scores + 0.03 * targets
    found = compare(competition(), targets, (scores, better), ("a", "b"), "val")
    area = found["overall"]["macro_auroc"]
    assert 0 < area["difference"]["low"] < area["difference"]["value"] < 0.05
    assert area["p"] < 0.01
    assert "b is better by" in format_comparison(found)
    turned = compare(competition(), targets, (better, scores), ("a", "b"), "val")
    assert turned["overall"]["macro_auroc"]["difference"] == {
        name: pytest.approx(-area["difference"][opposite])
        for name, opposite in [("value", "value"), ("low", "high"), ("high", "low")]
    }
    assert "a is better by" in format_comparison(turned)


def test_equal_predictions_do_not_differ():
    targets, (scores, _) = one_class()
    found = compare(competition(), targets, (scores, scores), ("a", "b"), "val", resamples=50)
    assert found["overall"]["macro_f1"]["difference"] == {"value": 0, "low": None, "high": None}
    assert {figure["p"] for figure in found["overall"].values()} == {1}
    assert found["mcnemar"]["overall"] == {"only_a": 0, "only_b": 0, "p": 1}
    text = format_comparison(found)
    assert text.count("no telling") == 7
    assert "better by" not in text


def test_luck_seldom_looks_like_a_difference():
    """Of equally good ones about one in twenty intervals leaves 0 out, on both sides alike."""
    outside = []
    for seed in range(60):
        targets, tables = one_class(n=120, seed=seed)
        found = compare(competition(), targets, tables, ("a", "b"), "val", resamples=100)
        outside.append(found["overall"]["macro_auroc"]["p"] < 0.05)
    assert sum(outside) <= 9  # 3 are expected; more than 9 in less than one of 1,000 tries


def test_a_class_without_images_is_not_defined():
    targets, tables = one_class()
    kept = targets[:, 2] == 0
    tables = tuple(table[kept] for table in tables)
    found = compare(competition(), targets[kept], tables, ("a", "b"), "val", resamples=20)
    empty = found["classes"]["Edema"]["auroc"]
    assert empty["a"] is empty["p"] is empty["difference"]["value"] is None
    assert "not defined on these images" in format_comparison(found)


def test_of_a_class_of_few_images_there_is_no_telling():
    """Resamples of two images are both, or one of them: the interval would be far too sure."""
    targets, tables = several(unknown=0)
    has = np.flatnonzero(targets[:, 2])
    targets[has[2:], 2] = 0
    findings = competition(task="multilabel", metric="auroc")
    found = compare(findings, targets, tables, ("a", "b"), "val", resamples=20)
    area = found["classes"]["Edema"]["auroc"]
    assert area["difference"]["value"] == pytest.approx(area["b"] - area["a"])
    assert area["difference"]["low"] is area["difference"]["high"] is area["p"] is None
    assert found["classes"]["Mass"]["auroc"]["p"] > 0
    assert "n/a  too few images to tell" in format_comparison(found)


def test_shapes_that_do_not_fit_are_told():
    targets, tables = one_class()
    with pytest.raises(UserError, match="one target for each probability"):
        compare(competition(), targets, (tables[0], tables[1][:5]), ("a", "b"), "val")
