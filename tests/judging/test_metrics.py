"""Every figure against scikit-learn; what is not defined; the report and its table."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from xraycomp.console.errors import UserError
from xraycomp.data.competition import METRICS
from xraycomp.judging.figures import average_precision, class_mean
from xraycomp.judging.intervals import delong
from xraycomp.judging.metrics import epoch_scores
from xraycomp.judging.table import format_table

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


@pytest.mark.parametrize("digits", [None, 1])
def test_auroc_and_average_precision_equal_scikit_learn(digits):
    rng = np.random.default_rng(1)
    targets = rng.random((300, 5)) < [0.5, 0.3, 0.1, 0.05, 0.9]
    scores = rng.random((300, 5)) + 0.3 * targets
    scores = scores if digits is None else scores.round(digits)
    np.testing.assert_allclose(
        delong(targets, scores).value, sk.roc_auc_score(targets, scores, average=None)
    )
    np.testing.assert_allclose(
        average_precision(targets, scores),
        sk.average_precision_score(targets, scores, average=None),
    )


def test_ranking_figures_of_one_class_perfect_and_constant_columns():
    target = np.arange(8) < 3
    targets = np.stack([target, target, target, target | True, target & False], axis=1)
    scores = np.stack([target, ~target, target * 0, target, target], axis=1).astype(float)
    np.testing.assert_array_equal(delong(targets, scores).value, [1, 0, 0.5, np.nan, np.nan])
    found = average_precision(targets, scores)
    np.testing.assert_array_equal(np.isnan(found), [0, 0, 0, 1, 1])
    np.testing.assert_allclose(found[:3], [1, 3 / 8, 3 / 8])


def test_class_mean_leaves_out_nan():
    values = np.array([[0.5, np.nan, 1.0], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(class_mean(values), [0.75, np.nan])
    np.testing.assert_array_equal(class_mean(values, [3, 9, 1]), [0.625, np.nan])


def competition_score(metric, labels, probs, positive):
    """By scikit-learn: the score, or the public and the private form."""
    k, predicted = probs.shape[1], probs.argmax(axis=1)
    one_hot, hard = np.eye(k)[labels], np.eye(k)[predicted]
    average = "macro" if k > 2 else None
    if metric in ("auroc", "average_precision"):
        area = {"auroc": sk.roc_auc_score, "average_precision": sk.average_precision_score}[metric]
        value = area(one_hot, probs, average=average)
        return {"score": value[positive] if k == 2 else value}
    if metric == "hard_label_auroc":
        areas = sk.roc_auc_score(one_hot, hard, average=None)
        return {"public": areas[positive], "private": areas.mean()}
    return {
        "accuracy": lambda: {"score": sk.accuracy_score(labels, predicted)},
        "macro_f1": lambda: {"score": sk.f1_score(labels, predicted, average="macro")},
        "log_loss": lambda: {"score": sk.log_loss(labels, probs)},
    }[metric]()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("names", [["well", "sick"], CLASSES])
@pytest.mark.parametrize("digits", [None, 0])
def test_competition_scores_equal_scikit_learn_and_have_intervals(judged, metric, names, digits):
    labels, probs = predictions(200, len(names), digits=digits)
    targets = np.eye(len(names))[labels]
    found = judged(targets, probs, names, metric=metric, positive=names[0], resamples=100)
    competition = found["competition"]
    assert competition.pop("metric") == metric
    expected = competition_score(metric, labels, probs, 0)
    assert {form: entry["value"] for form, entry in competition.items()} == {
        form: pytest.approx(value) for form, value in expected.items()
    }
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in competition.values())


@pytest.mark.parametrize("positive", ["sick", "well", ""])
def test_binary_auroc_is_that_of_the_score(judged, positive):
    labels, probs = predictions(150, 2)
    report = judged(
        np.eye(2)[labels], probs, ["well", "sick"], task="binary", metric="auroc", positive=positive
    )
    expected = sk.roc_auc_score(labels, probs[:, 1])
    assert report["competition"]["score"]["value"] == pytest.approx(expected)


def test_without_a_positive_class_it_is_the_last(judged):
    labels, probs = predictions(150, 2)
    report = judged(np.eye(2)[labels], probs, ["well", "sick"], metric="average_precision")
    expected = sk.average_precision_score(labels, probs[:, 1])
    assert report["competition"]["score"]["value"] == pytest.approx(expected)
    assert sk.average_precision_score(1 - labels, probs[:, 0]) != pytest.approx(expected)


def test_log_loss_of_a_certain_mistake_is_finite(judged):
    labels, probs = np.array([0, 1, 1]), np.array([[0.0, 1.0], [0.0, 1.0], [0.25, 0.75]])
    found = judged(np.eye(2)[labels], probs, ["a", "b"])["overall"]["log_loss"]
    assert found["value"] == pytest.approx(sk.log_loss(labels, probs))


def test_log_loss_is_that_of_rows_scaled_to_sum_to_one(judged):
    labels, probs = predictions(50, 3)
    rough = probs * np.linspace(0.991, 1.009, 50)[:, None]
    rough[rough > 1] = 1
    found = judged(np.eye(3)[labels], rough, ["a", "b", "c"])["overall"]["log_loss"]
    scaled = rough / rough.sum(axis=1, keepdims=True)
    assert found["value"] == pytest.approx(sk.log_loss(labels, scaled), rel=1e-9)


def test_epoch_scores():
    labels, probs = predictions(120, 3)
    predicted = probs.argmax(axis=1)
    assert epoch_scores(np.eye(3)[labels], probs.astype(np.float32)) == {
        "val_accuracy": pytest.approx(sk.accuracy_score(labels, predicted)),
        "val_macro_f1": pytest.approx(sk.f1_score(labels, predicted, average="macro")),
        "val_auroc": pytest.approx(sk.roc_auc_score(labels, probs, multi_class="ovr")),
    }
    assert np.isnan(epoch_scores([[1, 0], [1, 0]], [[0.9, 0.1], [0.8, 0.2]])["val_auroc"])


def test_class_figures_equal_scikit_learn(judged):
    labels, probs = predictions(400, 4)
    predicted, n = probs.argmax(axis=1), 400
    report = judged(np.eye(probs.shape[1])[labels], probs, CLASSES, normal="normal")
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


def test_overall_figures_equal_scikit_learn(judged):
    labels, probs = predictions(400, 4)
    predicted, targets = probs.argmax(axis=1), np.eye(4)[labels]
    overall = judged(
        np.eye(probs.shape[1])[labels], probs, CLASSES, normal="normal", resamples=200
    )["overall"]
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


def test_the_report_is_json_and_repeatable(judged):
    labels, probs = predictions(60, 4)
    report = judged(np.eye(probs.shape[1])[labels], probs, CLASSES)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert judged(np.eye(probs.shape[1])[labels], probs, CLASSES) == report


def test_a_class_without_images_is_left_out_and_shown_as_not_available(judged):
    labels, probs = predictions(90, 4)
    labels[labels == 1] = 0
    probs[:, 1] = 0
    probs /= probs.sum(axis=1, keepdims=True)
    report = judged(np.eye(probs.shape[1])[labels], probs, CLASSES, normal="normal")
    absent = report["classes"]["lung_opacity"]
    assert absent["support"] == 0
    for figure in ("sensitivity", "precision", "f1", "auroc", "average_precision", "called_normal"):
        assert absent[figure] == {"value": None, "low": None, "high": None}
    f1 = sk.f1_score(labels, probs.argmax(axis=1), average="macro")
    assert report["overall"]["macro_f1"]["value"] == pytest.approx(f1)
    row = next(line for line in format_table(report).splitlines() if line.startswith("lung_opac"))
    assert row.split()[:4] == ["lung_opacity", "0", "n/a", "1.000"]


def test_a_perfect_model_is_not_reported_as_certain(judged):
    labels = np.arange(12) % 3
    report = judged(np.eye(3)[labels], np.eye(3)[labels], list("abc"))
    assert report["overall"]["accuracy"]["low"] < 0.8
    assert report["classes"]["a"]["auroc"]["low"] < 0.7
    assert report["overall"]["macro_f1"] == {"value": 1.0, "low": None, "high": None}
    assert "macro F1     1.000 (n/a)" in format_table(report)


def test_constant_probabilities_and_one_image(judged):
    report = judged(np.eye(3)[[0, 1, 1, 2]], np.full((4, 3), 1 / 3), list("abc"), resamples=20)
    assert report["overall"]["accuracy"]["value"] == 0.25
    assert report["overall"]["macro_auroc"]["value"] == 0.5
    report = judged([[0, 1]], [[0.4, 0.6]], ["a", "b"], resamples=20)
    assert report["overall"]["macro_auroc"]["value"] is None
    assert "macro AUROC  n/a" in format_table(report)


def test_the_table_shows_the_report(judged):
    labels, probs = predictions(2021, 4)
    report = judged(
        np.eye(probs.shape[1])[labels],
        probs,
        CLASSES,
        normal="normal",
        metric="hard_label_auroc",
        positive="covid",
    )
    table = format_table(report)
    lines = table.splitlines()
    assert max(map(len, lines)) <= 110
    assert table.isascii()
    assert lines[0].split() == ["images", "2,021"]
    accuracy = report["overall"]["accuracy"]
    expected = "accuracy     {value:.3f} ({low:.3f}-{high:.3f})".format(**accuracy)
    assert lines[1:3] == ["judged       a split", expected]
    assert sum("hard_label_auroc, p" in line for line in lines) == 2
    covid = report["classes"]["covid"]
    row = next(line for line in lines if line.startswith("covid "))
    assert row.split()[1:3] == [str(covid["support"]), f"{covid['sensitivity']['value']:.3f}"]
    shown = [covid[name]["value"] for name in (
        "false_positive_rate", "false_negative_rate", "called_normal"
    )]  # fmt: skip
    assert row.split()[-3:] == [f"{value:.3f}" for value in shown]
    header = next(line for line in lines if line.startswith("class "))
    assert header.split()[-4:] == ["FPR", "FNR", "as", "normal"]
    assert next(line for line in lines if line.startswith("normal ")).endswith("n/a")
    matrix = [line.split()[1:] for line in lines[-4:]]
    assert matrix == [[f"{count:,}" for count in row] for row in report["confusion"]]
    assert format_table(json.loads(json.dumps(report))) == table


def test_the_table_of_fourteen_findings_fits(judged):
    labels, probs = predictions(30_000, 14)
    table = format_table(judged(np.eye(probs.shape[1])[labels], probs, NIH_CLASSES, resamples=5))
    assert max(map(len, table.splitlines())) <= 110
    assert "as normal" not in table
    assert "12 Pleural_Thickening" in table


def test_long_class_names_are_cut(judged):
    labels, probs = predictions(40, 2)
    assert "x" * 21 + "..." in format_table(
        judged(np.eye(probs.shape[1])[labels], probs, ["x" * 60, "y"], resamples=5)
    )


GOOD = np.array([[0.6, 0.4], [0.1, 0.9]])
EYE = np.eye(2)


@pytest.mark.parametrize(
    ("targets", "probs", "names", "words"),
    [
        (np.eye(2)[[0, 1, 1]], GOOD, "ab", "one target for each probability"),
        ([0, 1], GOOD, "ab", "one target for each probability"),
        (EYE, GOOD[0], "ab", "one row an image"),
        ([], np.empty((0, 2)), "ab", "at least 1 image"),
        (EYE[:, :1], GOOD[:, :1], "a", "2 classes"),
        ([[2, 0], [0, 1]], GOOD, "ab", "something else than 1, 0 and NaN"),
        ([[1, 0], [1, 1]], GOOD, "ab", "no class, or several, in 1 of 2 rows, first in row 1"),
        ([[1, 0], [0, np.nan]], GOOD, "ab", "no class, or several, in 1 of 2 rows"),
        (EYE, [["x", "y"], ["z", "w"]], "ab", "not a table of numbers"),
        (EYE, [[0.5, 0.5], [np.nan, 1]], "ab", "missing or infinite number in 1 of 2"),
        (EYE, [[1.2, -0.2], [0, 1]], "ab", "outside 0 to 1 in 1 of 2 rows, first in row 0"),
        (EYE, [[0.5, 0.5], [0.7, 0.7]], "ab", "not 1 in 1 of 2 rows, first in row 1"),
        (EYE, GOOD, "abc", "2 columns"),
        (EYE, GOOD, "aa", "one different name"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_plain_sentence(judged, targets, probs, names, words):
    with pytest.raises(UserError) as caught:
        judged(targets, probs, list(names))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_float16_probabilities_are_taken(judged):
    labels, probs = predictions(50, 4)
    assert (
        0
        < judged(np.eye(probs.shape[1])[labels], probs.astype(np.float16), CLASSES, resamples=5)[
            "overall"
        ]["accuracy"]["value"]
        < 1
    )
