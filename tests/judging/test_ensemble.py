"""What an ensemble is worth: against compare(), scikit-learn and planted members."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.metrics import recall_score, roc_auc_score

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled
from xraycomp.judging.combining import METHODS, deal_folds
from xraycomp.judging.comparison import compare
from xraycomp.judging.ensemble import judge_ensemble
from xraycomp.judging.ensemble_table import format_ensemble
from xraycomp.judging.thresholds import choose_thresholds

NAN = np.nan
CLASSES = ("Mass", "Effusion", "Edema")


def judged(targets, probs, names, *, classes=CLASSES, **options):
    one_class = (targets.sum(axis=1) == 1).all()
    competition = Competition(
        "toy", "toy", "dataset", "multiclass" if one_class else "multilabel", classes, "auroc",
        Labelled("images", "labels.csv"),
    )  # fmt: skip
    options = {"groups": np.arange(len(targets)), "resamples": 200} | options
    report, _ = judge_ensemble(competition, targets, probs, names, "validation split", **options)
    return report


def one_class(n=400, seed=0, skill=(2.0, 2.0, 0.0)):
    rng = np.random.default_rng(seed)
    targets = np.eye(3)[rng.choice(3, n, p=[0.5, 0.3, 0.2])]
    tables = [softmax(rng.normal(size=(n, 3)) + s * targets, axis=1) for s in skill]
    return targets, np.stack(tables)


def several(n=400, seed=0, skill=(2.0, 2.0, 0.0), unknown=0.2):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 3)) < [0.5, 0.3, 0.2]).astype(float)
    tables = [expit(rng.normal(size=(n, 3)) + s * (targets - 0.5)) for s in skill]
    targets[rng.random((n, 3)) < unknown] = NAN
    return targets, np.stack(tables)


def test_figures_of_every_method_are_scikit_learns() -> None:
    targets, probs = one_class()
    found = judged(targets, probs, ["a", "b", "c"])
    assert list(found["methods"]) == list(METHODS)
    mean = probs.mean(axis=0)
    overall = found["methods"]["mean"]["overall"]
    assert overall["macro_auroc"]["value"] == pytest.approx(roc_auc_score(targets, mean))
    recall = recall_score(targets.argmax(axis=1), mean.argmax(axis=1), average=None)
    missed = overall["macro_false_negative_rate"]
    assert missed["value"] == pytest.approx(1 - recall.mean())
    assert missed["low"] < missed["value"] < missed["high"]
    by_class = found["methods"]["mean"]["classes"]
    assert by_class["Edema"]["false_negative_rate"]["value"] == pytest.approx(1 - recall[2])
    json.dumps(found, allow_nan=False)


def test_what_a_member_adds_is_the_paired_comparison_without_and_with_it() -> None:
    targets, probs = one_class()
    names = ("a", "b", "c")
    found = judged(targets, probs, names)
    competition = Competition(
        "toy", "toy", "dataset", "multiclass", CLASSES, "auroc", Labelled("images", "labels.csv")
    )
    pair = (probs[:2].mean(axis=0), probs.mean(axis=0))
    expected = compare(competition, targets, pair, ("2", "3"), "val", resamples=200)["overall"]
    adds = found["members"]["c"]["adds"]
    assert {name: adds[name] for name in expected} == expected
    best = found["best_member"]
    assert best["name"] == names[int(np.argmax([roc_auc_score(targets, p) for p in probs]))]
    against = (probs[names.index(best["name"])], probs.mean(axis=0))
    expected = compare(competition, targets, against, ("1", "3"), "val", resamples=200)["overall"]
    assert best["differences"]["macro_auroc"] == expected["macro_auroc"]


@pytest.mark.parametrize("make", [one_class, several])
@pytest.mark.parametrize("method", ["mean", "weighted", "stack"])
def test_a_good_member_is_seen_to_help_and_a_useless_one_not(make, method) -> None:
    targets, probs = make(n=800)
    # The last is noise, which does harm to a mean.
    probs = probs[:2] if method == "mean" else probs
    names = ["first", "good", "useless"][: len(probs)]
    found = judged(targets, probs, names, method=method)
    good = found["members"]["good"]["adds"]["macro_auroc"]["difference"]
    assert good["low"] > 0
    if method == "stack":
        useless = found["members"]["useless"]["adds"]["macro_auroc"]["difference"]
        assert useless["low"] <= 0
        assert abs(useless["high"]) < 0.01 < good["low"]
    if method == "weighted":  # it has no weight, on no fold
        useless = found["members"]["useless"]["adds"]["macro_auroc"]["difference"]
        assert useless == {"value": 0, "low": None, "high": None}


def test_findings_are_called_at_thresholds_of_the_other_folds() -> None:
    targets, probs = several(unknown=0.2)
    patients = np.repeat(np.arange(200), 2)
    found = judged(targets, probs, ["a", "b", "c"], groups=patients)
    fold, mean = deal_folds(targets, patients), probs.mean(axis=0)

    def called(table):
        called = np.zeros(targets.shape, bool)
        for held_out in range(5):
            mine = fold == held_out
            chosen = choose_thresholds(targets[~mine], table[~mine], CLASSES, "rest")
            called[mine] = table[mine] >= chosen.limits
        return called

    votes = np.sum([called(table) for table in probs], axis=0) >= 1.5
    for method, calls in {"mean": called(mean), "vote": votes}.items():
        missed = [1 - calls[targets[:, c] == 1, c].mean() for c in range(3)]
        by_class = found["methods"][method]["classes"].values()
        assert [one["false_negative_rate"]["value"] for one in by_class] == pytest.approx(missed)


def test_a_vote_of_noise_on_rare_findings_is_no_better_than_its_mean() -> None:
    """With thresholds chosen on the images it is judged on, its F1 is twice that of the others."""
    scores = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        targets, probs = (rng.random((300, 2)) < 0.04).astype(float), rng.random((3, 300, 2))
        found = judged(targets, probs, ["a", "b", "c"], classes=("Mass", "Edema"), resamples=10)
        scores.append(
            [found["methods"][name]["overall"]["macro_f1"]["value"] for name in ("vote", "mean")]
        )
    vote, mean = np.mean(scores, axis=0)
    assert vote < mean + 0.03


def test_the_terminal_shows_methods_misses_and_members() -> None:
    targets, probs = several()
    found = judged(targets, probs, ["a", "b", "c"], method="stack")
    shown = format_ensemble(found)
    assert max(map(len, shown.splitlines())) <= 120
    for text in ("weighted *", "stack *", "macro FNR", "Effusion", "adds: the ensemble (stack)"):
        assert text in shown
    assert "accuracy" not in shown
    assert "stack minus the best member alone" in shown
    one = format_ensemble(judged(*one_class(), ["a", "b", "c"]))
    assert "accuracy" in one and "thresholds" not in one


def test_a_class_that_no_image_has_is_no_number() -> None:
    targets, probs = several(unknown=0)
    targets[:, 2] = 0
    found = judged(targets, probs, ["a", "b", "c"], method="stack")
    assert found["methods"]["mean"]["classes"]["Edema"]["false_negative_rate"]["value"] is None
    assert found["methods"]["stack"]["overall"]["macro_auroc"]["value"] > 0.7
    targets[:] = 0
    found = judged(targets, probs, ["a", "b", "c"])
    assert "n/a" in format_ensemble(found)


def test_tables_that_do_not_fit_are_refused() -> None:
    targets, probs = one_class()
    with pytest.raises(UserError, match="a sum that is not 1"):
        judged(targets, np.stack([probs[0], probs[1] / 2]), ["a", "b"])
