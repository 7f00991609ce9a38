"""Every figure against scikit-learn; what is not defined; the report and its table."""

import json
import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from xraycomp.console.errors import UserError
from xraycomp.report.figures import class_mean
from xraycomp.report.metrics import (
    METRICS,
    auroc,
    average_precision,
    competition_score,
    epoch_scores,
    evaluate,
    format_table,
)

CLASSES = ["covid", "lung_opacity", "pneumonia", "normal"]
NIH = """
Atelectasis Cardiomegaly Effusion Infiltration Mass Nodule Pneumonia Pneumothorax
Consolidation Edema Emphysema Fibrosis Pleural_Thickening Hernia
"""
NIH_CLASSES = NIH.split()


def predictions(n, k, seed=0, digits=None):
    """Labels of unequal classes, all present, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate(
        [np.arange(k), rng.choice(k, n - k, p=np.arange(1, k + 1) / (k * (k + 1) / 2))]
    )
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.5
    if digits is not None:
        logits = logits.round(digits)
    probs = np.exp(logits)
    return labels, probs / probs.sum(axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("digits", [None, 1])
def test_auroc_and_average_precision_equal_scikit_learn(digits):
    rng = np.random.default_rng(1)
    targets = rng.random((300, 5)) < [0.5, 0.3, 0.1, 0.05, 0.9]
    scores = rng.random((300, 5)) + 0.3 * targets
    scores = scores if digits is None else scores.round(digits)
    np.testing.assert_allclose(
        auroc(targets, scores), sk.roc_auc_score(targets, scores, average=None)
    )
    np.testing.assert_allclose(
        average_precision(targets, scores),
        sk.average_precision_score(targets, scores, average=None),
    )


def test_ranking_figures_of_one_class_perfect_and_constant_columns():
    target = np.arange(8) < 3
    targets = np.stack([target, target, target, target | True, target & False], axis=1)
    scores = np.stack([target, ~target, target * 0, target, target], axis=1).astype(float)
    np.testing.assert_array_equal(auroc(targets, scores), [1, 0, 0.5, np.nan, np.nan])
    found = average_precision(targets, scores)
    np.testing.assert_array_equal(np.isnan(found), [0, 0, 0, 1, 1])
    np.testing.assert_allclose(found[:3], [1, 3 / 8, 3 / 8])


def test_class_mean_leaves_out_nan():
    values = np.array([[0.5, np.nan, 1.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(class_mean(values), [0.75, np.nan])
    np.testing.assert_array_equal(class_mean(values, [3, 9, 1]), [0.625, np.nan])


@pytest.mark.parametrize("digits", [None, 0])
def test_competition_scores_equal_scikit_learn(digits):
    labels, probs = predictions(200, 4, digits=digits)
    predicted = probs.argmax(axis=1)

    def score(name):
        return competition_score(name, labels, probs, CLASSES, "covid")

    assert score("accuracy") == {"score": pytest.approx(sk.accuracy_score(labels, predicted))}
    f1 = sk.f1_score(labels, predicted, average="macro")
    assert score("macro_f1") == {"score": pytest.approx(f1)}
    area = sk.roc_auc_score(labels, probs, multi_class="ovr", average="macro")
    assert score("auroc") == {"score": pytest.approx(area)}
    precision = sk.average_precision_score(np.eye(4)[labels], probs)
    assert score("average_precision") == {"score": pytest.approx(precision)}
    assert score("log_loss") == {"score": pytest.approx(sk.log_loss(labels, probs))}
    hard = [sk.roc_auc_score(labels == c, predicted == c) for c in range(4)]
    assert score("hard_label_auroc") == {
        "public": pytest.approx(hard[0]),
        "private": pytest.approx(np.mean(hard)),
    }


@pytest.mark.parametrize("positive", ["sick", "well", None])
def test_binary_auroc_is_that_of_the_score(positive):
    labels, probs = predictions(150, 2)
    expected = {"score": pytest.approx(sk.roc_auc_score(labels, probs[:, 1]))}
    assert competition_score("auroc", labels, probs, ["well", "sick"], positive) == expected


def test_log_loss_of_a_certain_mistake_is_finite():
    labels, probs = np.array([0, 1, 1]), np.array([[0.0, 1.0], [0.0, 1.0], [0.25, 0.75]])
    found = competition_score("log_loss", labels, probs, ["a", "b"])["score"]
    assert found == pytest.approx(sk.log_loss(labels, probs))


def test_epoch_scores():
    labels, probs = predictions(120, 3)
    predicted = probs.argmax(axis=1)
    assert epoch_scores(np.eye(3)[labels], probs.astype(np.float32)) == {
        "val_accuracy": pytest.approx(sk.accuracy_score(labels, predicted)),
        "val_macro_f1": pytest.approx(sk.f1_score(labels, predicted, average="macro")),
        "val_auroc": pytest.approx(sk.roc_auc_score(labels, probs, multi_class="ovr")),
    }
    assert np.isnan(epoch_scores([[1, 0], [1, 0]], [[0.9, 0.1], [0.8, 0.2]])["val_auroc"])


def test_class_figures_equal_scikit_learn():
    labels, probs = predictions(400, 4)
    predicted, n = probs.argmax(axis=1), 400
    report = evaluate(labels, probs, CLASSES, normal="normal", resamples=50)
    confusion = sk.confusion_matrix(labels, predicted)
    assert report["n"] == n
    assert report["confusion"] == confusion.tolist()
    for c, name in enumerate(CLASSES):
        y, p = labels == c, predicted == c
        expected = {
            "accuracy": sk.accuracy_score(y, p),
            "sensitivity": sk.recall_score(y, p),
            "specificity": sk.recall_score(~y, ~p),
            "precision": sk.precision_score(y, p),
            "negative_predictive_value": sk.precision_score(~y, ~p),
            "false_positive_rate": (~y & p).sum() / (~y).sum(),
            "false_negative_rate": (y & ~p).sum() / y.sum(),
            "f1": sk.f1_score(y, p),
            "auroc": sk.roc_auc_score(y, probs[:, c]),
            "average_precision": sk.average_precision_score(y, probs[:, c]),
            "called_normal": None if name == "normal" else (predicted[y] == 3).mean(),
        }
        found = dict(report["classes"][name])
        assert found.pop("support") == y.sum()
        assert {figure: entry["value"] for figure, entry in found.items()} == {
            figure: value if value is None else pytest.approx(value)
            for figure, value in expected.items()
        }
        for entry in found.values():
            assert (
                entry["value"] is None or 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
            )


def test_overall_figures_equal_scikit_learn():
    labels, probs = predictions(400, 4)
    predicted, targets = probs.argmax(axis=1), np.eye(4)[labels]
    overall = evaluate(labels, probs, CLASSES, normal="normal", resamples=200)["overall"]
    specificity = [sk.recall_score(labels != c, predicted != c) for c in range(4)]
    expected = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "log_loss": sk.log_loss(labels, probs),
        "called_normal": (predicted[labels != 3] == 3).mean(),
        "macro_specificity": np.mean(specificity),
        "weighted_specificity": np.average(specificity, weights=targets.sum(axis=0)),
    }
    for mean in ("macro", "weighted"):
        expected |= {
            f"{mean}_sensitivity": sk.recall_score(labels, predicted, average=mean),
            f"{mean}_precision": sk.precision_score(labels, predicted, average=mean),
            f"{mean}_f1": sk.f1_score(labels, predicted, average=mean),
            f"{mean}_auroc": sk.roc_auc_score(targets, probs, average=mean),
            f"{mean}_average_precision": sk.average_precision_score(targets, probs, average=mean),
        }
    values = {figure: entry["value"] for figure, entry in overall.items()}
    assert values == {figure: pytest.approx(value) for figure, value in expected.items()}
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in overall.values())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("names", [["well", "sick"], CLASSES])
def test_the_report_holds_the_competition_score_with_an_interval(metric, names):
    labels, probs = predictions(150, len(names))
    found = evaluate(labels, probs, names, metric=metric, positive=names[0], resamples=100)
    competition = found["competition"]
    assert competition.pop("metric") == metric
    expected = competition_score(metric, labels, probs, names, names[0])
    assert {form: entry["value"] for form, entry in competition.items()} == {
        form: pytest.approx(value) for form, value in expected.items()
    }
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in competition.values())


def test_the_report_is_json_and_repeatable():
    labels, probs = predictions(60, 4)
    report = evaluate(labels, probs, CLASSES, resamples=50, seed=3)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert evaluate(labels, probs, CLASSES, resamples=50, seed=3) == report
    assert evaluate(labels, probs, CLASSES, resamples=50, seed=4) != report


def test_a_class_without_images_is_left_out_and_shown_as_not_available():
    labels, probs = predictions(90, 4)
    labels[labels == 1] = 0
    probs[:, 1] = 0
    probs /= probs.sum(axis=1, keepdims=True)
    report = evaluate(labels, probs, CLASSES, normal="normal", resamples=50)
    absent = report["classes"]["lung_opacity"]
    assert absent["support"] == 0
    for figure in ("sensitivity", "precision", "f1", "auroc", "average_precision", "called_normal"):
        assert absent[figure] == {"value": None, "low": None, "high": None}
    f1 = sk.f1_score(labels, probs.argmax(axis=1), average="macro")
    assert report["overall"]["macro_f1"]["value"] == pytest.approx(f1)
    row = next(line for line in format_table(report).splitlines() if line.startswith("lung_opac"))
    assert row.split()[:4] == ["lung_opacity", "0", "n/a", "1.000"]


def test_a_perfect_model_is_not_reported_as_certain():
    labels = np.arange(12) % 3
    report = evaluate(labels, np.eye(3)[labels], list("abc"), resamples=50)
    assert report["overall"]["accuracy"]["low"] < 0.8
    assert report["classes"]["a"]["auroc"]["low"] < 0.7
    assert report["overall"]["macro_f1"] == {"value": 1.0, "low": None, "high": None}
    assert "macro F1     1.000 (n/a)" in format_table(report)


def test_constant_probabilities_and_one_image():
    report = evaluate([0, 1, 1, 2], np.full((4, 3), 1 / 3), list("abc"), resamples=20)
    assert report["overall"]["accuracy"]["value"] == 0.25
    assert report["overall"]["macro_auroc"]["value"] == 0.5
    report = evaluate([1], [[0.4, 0.6]], ["a", "b"], resamples=20)
    assert report["overall"]["macro_auroc"]["value"] is None
    assert "macro AUROC  n/a" in format_table(report)


def test_the_table_shows_the_report():
    labels, probs = predictions(2021, 4)
    report = evaluate(
        labels, probs, CLASSES, normal="normal", metric="hard_label_auroc", positive="covid"
    )
    table = format_table(report)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 110
    assert table.isascii()
    assert lines[0].split() == ["images", "2,021"]
    accuracy = report["overall"]["accuracy"]
    expected = "accuracy     {value:.3f} ({low:.3f}-{high:.3f})".format(**accuracy)
    assert lines[1] == expected
    assert sum("hard_label_auroc, p" in line for line in lines) == 2
    covid = report["classes"]["covid"]
    row = next(line for line in lines if line.startswith("covid "))
    assert row.split()[1:3] == [str(covid["support"]), f"{covid['sensitivity']['value']:.3f}"]
    assert row.split()[-1] == f"{covid['called_normal']['value']:.3f}"
    assert next(line for line in lines if line.startswith("normal ")).endswith("n/a")
    matrix = [line.split()[1:] for line in lines[-4:]]
    assert matrix == [[f"{count:,}" for count in row] for row in report["confusion"]]
    assert format_table(json.loads(json.dumps(report))) == table


def test_the_table_of_fourteen_findings_fits():
    labels, probs = predictions(30_000, 14)
    table = format_table(evaluate(labels, probs, NIH_CLASSES, resamples=5))
    assert max(map(len, table.splitlines())) <= 110
    assert "as normal" not in table
    assert "12 Pleural_Thickening" in table


def test_long_class_names_are_cut():
    labels, probs = predictions(40, 2)
    assert "x" * 21 + "..." in format_table(evaluate(labels, probs, ["x" * 60, "y"], resamples=5))


GOOD = np.array([[0.6, 0.4], [0.1, 0.9]])


@pytest.mark.parametrize(
    ("labels", "probs", "names", "options", "words"),
    [
        ([0, 1, 1], GOOD, "ab", {}, "one label a row"),
        ([[0], [1]], GOOD, "ab", {}, "one label a row"),
        ([0, 1], GOOD[0], "ab", {}, "one row an image"),
        ([], np.empty((0, 2)), "ab", {}, "at least 1 image"),
        ([0, 0], GOOD[:, :1], "a", {}, "2 classes"),
        ([0.0, 1.0], GOOD, "ab", {}, "whole numbers"),
        ([0, 2], GOOD, "ab", {}, "hold 2, outside 0 to 1"),
        ([0, -1], GOOD, "ab", {}, "hold -1"),
        ([0, 1], [["x", "y"], ["z", "w"]], "ab", {}, "not a table of numbers"),
        ([0, 1], [[0.5, 0.5], [np.nan, 1]], "ab", {}, "missing or infinite number in 1 of 2"),
        ([0, 1], [[1.2, -0.2], [0, 1]], "ab", {}, "negative number in 1 of 2 rows, first in row 0"),
        ([0, 1], [[0.5, 0.5], [0.7, 0.7]], "ab", {}, "not 1 in 1 of 2 rows, first in row 1"),
        ([0, 1], GOOD, "abc", {}, "2 columns"),
        ([0, 1], GOOD, "aa", {}, "one different name"),
        ([0, 1], GOOD, "ab", {"normal": "c"}, "normal class 'c' is not one of a, b"),
        ([0, 1], GOOD, "ab", {"positive": "c"}, "positive class 'c'"),
        ([0, 1], GOOD, "ab", {"metric": "auc"}, "no metric 'auc'; use one of accuracy, "),
        ([0, 1], GOOD, "ab", {"metric": "hard_label_auroc"}, "needs the name of the positive"),
        ([0, 1], GOOD, "ab", {"resamples": -1}, "cannot be -1 bootstrap"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_plain_sentence(labels, probs, names, options, words):
    with pytest.raises(UserError) as caught:
        evaluate(labels, probs, list(names), **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float16_probabilities_are_taken():
    labels, probs = predictions(50, 4)
    assert (
        0
        < evaluate(labels, probs.astype(np.float16), CLASSES, resamples=5)["overall"]["accuracy"][
            "value"
        ]
        < 1
    )
