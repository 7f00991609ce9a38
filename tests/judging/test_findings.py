"""Many findings an image: every figure against scikit-learn on the known labels of each alone."""

import json

import numpy as np
import pytest
from sklearn import metrics as sk

from xraycomp.console.errors import UserError
from xraycomp.judging.intervals import delong
from xraycomp.judging.metrics import epoch_scores
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Thresholds

NAN = np.nan
NAMES = ["Mass", "Effusion", "Edema", "Fibrosis"]


def planted(n=400, k=4, seed=0, unknown=0.2, digits=None):
    """Findings of falling prevalence, some unknown, and probabilities that know of them."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < np.linspace(0.4, 0.1, k)).astype(float)
    probs = 1 / (1 + np.exp(1 - rng.normal(size=(n, k)) - 1.5 * targets))
    targets[rng.random((n, k)) < unknown] = NAN
    return targets, probs if digits is None else probs.round(digits)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("unknown", [0, 0.3])
def test_each_finding_equals_scikit_learn_on_its_known_images(findings, unknown, digits):
    targets, probs = planted(unknown=unknown, digits=digits)
    limits = dict(zip(NAMES, [0.5, 0.4, 0.3, 0.6], strict=True))
    thresholds = Thresholds(limits, "f1", "another split")
    report = findings(targets, probs, NAMES, thresholds=thresholds)
    assert report["thresholds"] == "best F1 on the another split"
    assert report["n"] == 400
    assert "confusion" not in report
    for c, name in enumerate(NAMES):
        known = ~np.isnan(targets[:, c])
        y, s = targets[known, c] == 1, probs[known, c]
        p = s >= limits[name]
        expected = {
            "accuracy": sk.accuracy_score(y, p),
            "sensitivity": sk.recall_score(y, p),
            "specificity": sk.recall_score(~y, ~p),
            "precision": sk.precision_score(y, p),
            "negative_predictive_value": sk.precision_score(~y, ~p),
            "false_positive_rate": (~y & p).sum() / (~y).sum(),
            "false_negative_rate": (y & ~p).sum() / y.sum(),
            "f1": sk.f1_score(y, p),
            "auroc": sk.roc_auc_score(y, s),
            "average_precision": sk.average_precision_score(y, s),
        }
        found = dict(report["classes"][name])
        assert found.pop("support") == y.sum()
        assert found.pop("negatives") == (~y).sum()
        assert found.pop("unknown") == 400 - known.sum()
        assert found.pop("threshold") == limits[name]
        assert {figure: entry["value"] for figure, entry in found.items()} == {
            figure: pytest.approx(value) for figure, value in expected.items()
        }
        for entry in found.values():
            assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1
        alone = delong(y[:, None], s[:, None])
        assert found["auroc"]["low"] == pytest.approx(float(alone.low[0]))


def test_overall_figures_equal_scikit_learn(findings):
    targets, probs = planted(unknown=0)
    called = probs >= 0.5
    overall = findings(targets, probs, NAMES, resamples=200)["overall"]
    losses = [sk.log_loss(targets[:, c], probs[:, c]) for c in range(4)]
    specificity = [sk.recall_score(targets[:, c] == 0, ~called[:, c]) for c in range(4)]
    expected = {
        "accuracy": (called == targets).mean(),
        "log_loss": np.mean(losses),
        "macro_specificity": np.mean(specificity),
        "weighted_specificity": np.average(specificity, weights=targets.sum(axis=0)),
    }
    for mean in ("macro", "weighted"):
        expected |= {
            f"{mean}_sensitivity": sk.recall_score(targets, called, average=mean),
            f"{mean}_precision": sk.precision_score(targets, called, average=mean),
            f"{mean}_f1": sk.f1_score(targets, called, average=mean),
            f"{mean}_auroc": sk.roc_auc_score(targets, probs, average=mean),
            f"{mean}_average_precision": sk.average_precision_score(targets, probs, average=mean),
        }
    values = {figure: entry["value"] for figure, entry in overall.items()}
    assert values == {figure: pytest.approx(value) for figure, value in expected.items()}
    assert all(entry["low"] < entry["value"] < entry["high"] for entry in overall.values())


def test_means_over_known_labels(findings):
    targets, probs = planted(unknown=0.3)
    known = ~np.isnan(targets)
    overall = findings(targets, probs, NAMES, resamples=0)["overall"]
    y, p = targets[known], probs[known]
    assert overall["accuracy"]["value"] == pytest.approx(((p >= 0.5) == y).mean())
    assert overall["log_loss"]["value"] == pytest.approx(sk.log_loss(y, p))
    assert overall["accuracy"]["low"] < overall["accuracy"]["value"] < overall["accuracy"]["high"]
    areas = [sk.roc_auc_score(targets[known[:, c], c], probs[known[:, c], c]) for c in range(4)]
    assert overall["macro_auroc"] == {"value": pytest.approx(np.mean(areas)), "low": None} | {
        "high": None
    }


def test_the_interval_of_accuracy_allows_for_labels_that_go_together(findings):
    """Four equal columns tell no more than one."""
    targets, probs = planted(k=1, unknown=0)
    one = findings(targets, probs, ["a"], resamples=0)["overall"]
    four = findings(np.tile(targets, 4), np.tile(probs, 4), NAMES, resamples=0)["overall"]
    for figure in ("accuracy", "log_loss"):
        assert four[figure] == {key: pytest.approx(x) for key, x in one[figure].items()}


@pytest.mark.parametrize("value", [0.0, 1.0, NAN])
def test_a_finding_of_one_kind_only_is_none_and_left_out(findings, value):
    targets, probs = planted(unknown=0.1)
    alone = findings(targets[:, :3], probs[:, :3], NAMES[:3], resamples=30)
    targets[:, 3] = np.where(np.isnan(targets[:, 3]), NAN, value)
    report = findings(targets, probs, NAMES, resamples=30)
    figures = {k: v for k, v in report["classes"]["Fibrosis"].items() if isinstance(v, dict)}
    assert set(map(str, figures.values())) == {str({"value": None, "low": None, "high": None})}
    known = int((~np.isnan(targets[:, 3])).sum())
    counted = {k: report["classes"]["Fibrosis"][k] for k in ("support", "negatives", "unknown")}
    assert counted == {
        "support": known if value == 1 else 0,
        "negatives": known if value == 0 else 0,
        "unknown": 400 - known,
    }
    for mean in ("macro", "weighted"):
        for figure in ("auroc", "average_precision", "f1", "precision"):
            name = f"{mean}_{figure}"
            assert report["overall"][name] == {
                key: pytest.approx(x) for key, x in alone["overall"][name].items()
            }
    json.dumps(report, allow_nan=False)


def test_nothing_known_at_all(findings):
    report = findings(np.full((3, 2), NAN), np.full((3, 2), 0.5), ["a", "b"], resamples=5)
    assert {entry["value"] for entry in report["overall"].values()} == {None}
    epoch = epoch_scores(np.full((3, 2), NAN), np.zeros((3, 2)), multilabel=True)
    assert all(np.isnan(x) for x in epoch.values())


def test_bootstrap_intervals_hold_a_planted_area(findings):
    """Normal scores 1.5 apart: the true mean area is known."""
    rng = np.random.default_rng(1)
    targets = (rng.random((3000, 3)) < 0.3).astype(float)
    scores = rng.normal(size=targets.shape) + 1.5 * targets
    report = findings(targets, 1 / (1 + np.exp(-scores)), NAMES[:3], resamples=300)
    found = report["overall"]["macro_auroc"]
    assert found["low"] < 0.8556 < found["high"]
    assert found["high"] - found["low"] < 0.03


@pytest.mark.parametrize(
    "metric", ["accuracy", "macro_f1", "auroc", "average_precision", "log_loss"]
)
def test_the_report_holds_the_competition_score(findings, metric):
    targets, probs = planted()
    report = findings(targets, probs, NAMES, metric=metric, resamples=20)
    overall = report["overall"]
    name = metric if metric in overall else f"macro_{metric}"
    assert report["competition"] == {"metric": metric, "score": overall[name]}


def test_two_findings_are_scored_by_their_mean_and_not_as_two_classes(findings):
    targets, probs = planted(k=2)
    report = findings(targets, probs, NAMES[:2], resamples=20)
    areas = [report["classes"][name]["auroc"]["value"] for name in NAMES[:2]]
    assert areas[0] != areas[1]
    assert report["competition"]["score"]["value"] == pytest.approx(np.mean(areas))


def test_epoch_scores_are_those_of_the_report_at_one_half(findings):
    targets, probs = planted(unknown=0.2)
    targets[:, 1] = 0  # and some are called all the same
    overall = findings(targets, probs, NAMES, resamples=0)["overall"]
    wanted = {f"val_{name}": overall[name]["value"] for name in ("accuracy", "macro_f1")}
    wanted["val_auroc"] = overall["macro_auroc"]["value"]
    found = epoch_scores(targets.astype(np.float32), probs.astype(np.float32), multilabel=True)
    assert found == {name: pytest.approx(value, abs=1e-6) for name, value in wanted.items()}


NIH = [
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
]


def test_the_table_of_fourteen_findings_fits_and_says_what_is_not_defined(findings):
    targets, probs = planted(n=11_212, k=14, unknown=0.1)
    targets[:, 13] = 0
    report = findings(targets, probs, NIH, resamples=5)
    for row in report["classes"].values():
        row["negatives"] *= 10
    table = format_table(json.loads(json.dumps(report)))
    lines = table.splitlines()
    assert max(map(len, lines)) <= 110
    assert table.isascii()
    assert lines[1:3] == ["judged       a split", "thresholds   0.5 for all"]
    hernia = next(line for line in lines if line.startswith("Hernia")).split()
    assert hernia[1] == "0"
    assert hernia[4:] == ["0.500", *["n/a"] * 6]
    edema = report["classes"]["Edema"]
    row = next(line for line in lines if line.startswith("Edema")).split()
    assert row[1:4] == [f"{edema[key]:,}" for key in ("support", "negatives", "unknown")]
    assert row[8] == f"{edema['f1']['value']:.3f}"
    assert "(n/a)" not in format_table(findings(targets, probs, NIH, resamples=0))


GOOD = [[0.6, 0.4], [0.1, 0.9]]


@pytest.mark.parametrize(
    ("targets", "probs", "words"),
    [
        ([[1, 0]], GOOD, "one target for each probability"),
        ([[1, 0], [2, 0]], GOOD, "something else than 1, 0 and NaN"),
        ([[1, 0], [0, 0]], [[1.2, 0], [0, 1]], "outside 0 to 1 in 1 of 2 rows, first in row 0"),
        ([[1, 0], [0, 0]], [[NAN, 0], [0, 1]], "missing or infinite number in 1 of 2"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_plain_sentence(findings, targets, probs, words):
    with pytest.raises(UserError) as caught:
        findings(targets, probs, ["a", "b"])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_targets_of_one_class_an_image_must_name_it():
    with pytest.raises(UserError, match="no class, or several, in 1 of 2 rows, first in row 1"):
        epoch_scores([[1, 0], [NAN, NAN]], GOOD)
