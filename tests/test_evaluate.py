"""python -m xraycomp.evaluate as a user runs it, on tables of others and on a run."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from xraycomp import evaluate
from xraycomp.console.command import parse_flags
from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.competition_file import format_competition
from xraycomp.data.files import write_csv, write_json, write_text
from xraycomp.data.predictions import probability_table
from xraycomp.judging.metrics import judge
from xraycomp.judging.results import write_results
from xraycomp.judging.thresholds import Thresholds
from xraycomp.model.config import TrainConfig

NAMES = ("Atelectasis", "Effusion", "Hernia")


def planted(n, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 3)) < [0.4, 0.3, 0.2]).astype(float)
    return targets, 1 / (1 + np.exp(1 - rng.normal(size=targets.shape) - 1.5 * targets))


def labels_of(targets, none):
    return ["|".join(np.array(NAMES)[row == 1]) or none for row in targets]


@pytest.fixture
def tables(tmp_path):
    targets, probs = planted(80)
    ids = [f"{n:08}_000.png" for n in range(80)]
    table = pd.DataFrame(probs, columns=[f"pred_{name}" for name in NAMES])
    table.insert(0, "file", ids)
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "P.csv", index=False)
    labels = {"Image Index": ids, "Finding Labels": labels_of(targets, "No Finding")}
    pd.DataFrame(labels).to_csv(tmp_path / "L.csv", index=False)
    return targets, probs


def test_tables_of_others_are_judged_in_the_terminal(tables, tmp_path, monkeypatch, caplog):
    targets, probs = tables
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main(["--predictions", "P.csv", "--labels", "L.csv", "--no-intervals"])
    area = roc_auc_score(targets, probs, average="macro")
    assert f"macro AUROC  {area:.3f}\n" in caplog.text
    assert "judged       L.csv" in caplog.text
    assert "n/a)" not in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["L.csv", "P.csv"]


def test_tables_of_others_leave_their_results_where_they_shall(tables, tmp_path):
    targets, probs = tables
    (tmp_path / "list.txt").write_text("\n".join(f"{n:08}_000.png" for n in range(40)))
    flags = ["--predictions", "P.csv", "--labels", "L.csv", "--image-list", "list.txt"]
    flags = [str(tmp_path / flag) if "." in flag else flag for flag in flags]
    out = tmp_path / "out"
    flags += ["--prediction-id", "file", "--label-id", "Image Index"]
    metric = ["--metric", "average_precision", "--split-name", "a test"]
    evaluate.main([*flags, *metric, "--output", str(out)])
    report = json.loads((out / "metrics.json").read_text())
    assert (report["split"], report["n"], report["competition_slug"]) == ("a test", 40, "L")
    wanted = average_precision_score(targets[:40], probs[:40], average="macro")
    score = report["competition"]["score"]
    assert score["value"] == pytest.approx(wanted)
    assert score["low"] < score["value"] < score["high"]
    names = ["calibration.json", "metrics.json", "reliability.png", "roc.png"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_one_class_an_image_has_a_confusion_matrix(tmp_path, caplog):
    probs = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6], [0.5, 0.4, 0.1]])
    probability_table(list("abcd"), probs, NAMES).to_csv(tmp_path / "P.csv", index=False)
    pd.DataFrame({"id": list("dcba"), "label": [1, 2, 1, 0]}).to_csv(
        tmp_path / "L.csv", index=False
    )
    flags = ["--predictions", str(tmp_path / "P.csv"), "--labels", str(tmp_path / "L.csv")]
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main([*flags, "--output", str(tmp_path), "--metric", "accuracy"])
    report = json.loads((tmp_path / "metrics.json").read_text())
    assert report["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert report["competition"]["score"]["value"] == 0.75
    assert (tmp_path / "confusion.png").is_file()
    assert "0 Atelectasis, 1 Effusion, 2 Hernia" in caplog.text
    evaluate.main([*flags, "--task", "multilabel", "--output", str(tmp_path / "apart")])
    assert "confusion" not in json.loads((tmp_path / "apart" / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "Say what to judge: --run RUN, or --predictions"),
        (["--labels", "L.csv"], "Say what to judge"),
        (["--run", "r", "--labels", "L.csv"], "not both"),
        (["--run", "r", "--metric", "log_loss"], "--metric would do nothing beside --run"),
        (["--predictions", "P.csv", "--labels", "L.csv", "--split", "test"], "--split would do no"),
        (["--compare", "r"], "needs two runs, .*; 1 were given"),
        (["--compare", "r", "r", "--run", "r"], "--run would do nothing beside --compare"),
        (["--compare", "r", "r"], "r is not a run folder"),
        (["--compare", "P.csv", "P.csv"], "P.csv is a table. Name the table of the labels"),
        (["--compare", "r", "r", "--metric", "log_loss"], "--metric would do nothing beside runs"),
        (["--doubts", "r", "--labels", "L.csv"], "--labels would do nothing beside --doubts"),
        (["--doubts", "r", "--split", "train"], "have learned the labels of --split train"),
        (["--doubts", "r"], "r is not a run folder"),
        (["--predictions", "P.csv", "--labels", "L.csv", "--slices", "a"], "--slices would do no"),
        (["--predictions", "P.csv", "--labels", "gone.csv"], "There is no label table gone.csv"),
        (["--predictions", "P.csv", "--labels", "L.csv", "--classes", "Rib"], "no column for Rib"),
        (
            ["--predictions", "P.csv", "--labels", "L.csv", "--thresholds", "gone.json"],
            "There are no thresholds gone.json",
        ),
    ],
)
def test_mistakes_are_one_sentence(tables, refused, match, flags, said):
    match(said, refused(evaluate.main, *flags))


@pytest.fixture
def run(tmp_path):
    """What a run of three findings leaves, as far as it is judged by."""
    return write_run(tmp_path / "run")


def write_run(folder, noise=0):
    """The same images in each folder; the predictions differ by ``noise``."""
    competition = Competition(
        slug="toy",
        title="toy",
        source="dataset",
        task="multilabel",
        classes=NAMES,
        metric="auroc",
        train=Labelled("images", "labels.csv", "image", "label", "|"),
    )
    rows = []
    for seed, split in enumerate(("val", "test")):
        targets, probs = planted(60, seed)
        probs = (probs + noise * np.random.default_rng(9).random((60, 3))) / (1 + noise)
        ids = [f"{split}{n}" for n in range(60)]
        write_csv(folder / "predictions" / f"{split}.csv", probability_table(ids, probs, NAMES))
        rows.append(pd.DataFrame({"image": ids, "label": labels_of(targets, ""), "split": split}))
    write_csv(folder / "manifest.csv", pd.concat(rows).assign(path="", patient=""))
    write_text(folder / "competition.toml", format_competition(competition))
    write_json(folder / "config.json", TrainConfig().to_json())
    return folder


def test_thresholds_of_validation_are_kept_and_judge_the_test_split(run, tmp_path, caplog):
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main(["--run", str(run), "--no-intervals"])
    report = json.loads((run / "metrics.json").read_text())
    kept = json.loads((run / "thresholds.json").read_text())
    assert report["split"] == kept["split"] == "validation split, by image, 10 %, seed 0"
    names = "metrics.json, roc.png, reliability.png, thresholds.json, calibration.json, slices.json"
    assert f"Wrote {run}: {names}." in caplog.text
    assert f"Wrote {run / 'report.html'} anew." in caplog.text
    assert (run / "report.html").is_file()
    targets, probs = planted(60)
    assert report["overall"]["macro_auroc"]["value"] == pytest.approx(
        roc_auc_score(targets, probs, average="macro"), abs=1e-4
    )
    evaluate.main(["--run", str(run), "--split", "test", "--output", str(tmp_path / "t")])
    report = json.loads((tmp_path / "t" / "metrics.json").read_text())
    assert report["split"] == "test split, by image, 0 %, seed 0"
    assert report["thresholds"] == "best F1 on the validation split, by image, 10 %, seed 0"
    assert not (tmp_path / "t" / "thresholds.json").exists()
    targets, probs = planted(60, 1)
    for c, name in enumerate(NAMES):
        figures = report["classes"][name]
        assert figures["threshold"] == kept["thresholds"][name]
        called = probs[:, c] >= kept["thresholds"][name]
        assert figures["f1"]["value"] == pytest.approx(f1_score(targets[:, c], called))


def test_the_run_s_own_criterion_chooses(run):
    values = TrainConfig().to_json().items()
    chosen = {name: "youden" if value == "f1" else value for name, value in values}
    write_json(run / "config.json", chosen)
    evaluate.main(["--run", str(run), "--no-intervals"])
    assert Thresholds.read(run, NAMES).criterion == "youden"


@pytest.mark.parametrize(
    ("flags", "words", "stored"),
    [
        (["youden"], "best sensitivity + specificity", {"criterion": "youden"}),
        (["sensitivity"], "sensitivity of at least 0.95", {"sensitivity": 0.95}),
        (["sensitivity", "--sensitivity", "0.8"], "at least 0.8", {"sensitivity": 0.8}),
    ],
)
def test_thresholds_are_chosen_anew_by_another_criterion(run, tmp_path, flags, words, stored):
    evaluate.main(["--run", str(run), "--no-intervals", "--threshold-criterion", *flags])
    kept = json.loads((run / "thresholds.json").read_text())
    assert kept | stored == kept
    report = json.loads((run / "metrics.json").read_text())
    assert words in report["thresholds"]
    for name in NAMES:
        assert report["classes"][name]["sensitivity"]["value"] >= stored.get("sensitivity", 0)
    # The test split is called by them.
    evaluate.main(["--run", str(run), "--split", "test", "--output", str(tmp_path / "t")])
    report = json.loads((tmp_path / "t" / "metrics.json").read_text())
    assert words in report["thresholds"]


def test_the_run_s_own_wished_sensitivity_chooses(run):
    config = TrainConfig(threshold_criterion="sensitivity", sensitivity=0.7)
    write_json(run / "config.json", config.to_json())
    evaluate.main(["--run", str(run), "--no-intervals"])
    assert str(Thresholds.read(run, NAMES)).startswith("sensitivity of at least 0.7")


def test_tables_of_others_get_thresholds_where_they_shall(tables, tmp_path):
    flags = ["--predictions", str(tmp_path / "P.csv"), "--labels", str(tmp_path / "L.csv")]
    flags += ["--threshold-criterion", "f1", "--no-intervals", "--output", str(tmp_path / "out")]
    evaluate.main(flags)
    assert Thresholds.read(tmp_path / "out", NAMES).judged_on == "L.csv"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--threshold-criterion", "f1", "--split", "test", "--output", "o"], "is for the val"),
        (["--threshold-criterion", "f1", "--thresholds", "t.json"], "--thresholds would do noth"),
        (["--threshold-criterion", "f1", "--sensitivity", "0.9"], "--sensitivity is for --thresh"),
        (["--threshold-criterion", "sensitivity", "--sensitivity", "2"], "--sensitivity is 2"),
        (["--prior-shift", "--predictions", "P.csv"], "--prior-shift would do nothing"),
    ],
)
def test_what_a_run_is_not_judged_by_is_refused(run, refused, match, flags, said):
    match(said, refused(evaluate.main, "--run", run, *flags))


def test_one_class_an_image_has_no_thresholds_to_choose(run, refused, match):
    toml = (run / "competition.toml").read_text()
    (run / "competition.toml").write_text(toml.replace('"multilabel"', '"multiclass"'))
    manifest = pd.read_csv(run / "manifest.csv", keep_default_na=False, dtype=str)
    write_csv(run / "manifest.csv", manifest.assign(label=NAMES[0]))
    flags = ["--run", run, "--threshold-criterion", "youden"]
    match("--threshold-criterion is for findings", refused(evaluate.main, *flags))


def test_the_temperature_of_validation_is_kept_and_judges_the_test_split(run, tmp_path, caplog):
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main(["--run", str(run)])
    report = json.loads((run / "metrics.json").read_text())["calibration"]
    kept = json.loads((run / "calibration.json").read_text())
    assert kept == {key: report[key] for key in ("temperature", "fitted_on")}
    assert kept["fitted_on"] == "validation split, by image, 10 %, seed 0"
    ece = report["before"]["ece"]
    said = f"calibration  ECE {ece['value']:.3f} ({ece['low']:.3f}-{ece['high']:.3f}), calibrated "
    assert said in caplog.text
    assert f"(temperature {kept['temperature']:.2f})" in caplog.text
    evaluate.main(["--run", str(run), "--split", "test", "--output", str(tmp_path / "t")])
    test = json.loads((tmp_path / "t" / "metrics.json").read_text())["calibration"]
    assert {key: test[key] for key in kept} == kept
    assert not (tmp_path / "t" / "calibration.json").exists()
    # Another's table has another temperature.
    flags = ["--predictions", str(run / "predictions" / "test.csv"), "--no-intervals"]
    flags = ["--run", str(run), "--split", "test", *flags, "--output", str(tmp_path / "o")]
    evaluate.main(flags)
    other = json.loads((tmp_path / "o" / "calibration.json").read_text())
    assert other["fitted_on"] == "test split, by image, 0 %, seed 0"


def test_a_run_without_a_temperature_says_how_to_fit_it(run, refused, match):
    evaluate.main(["--run", str(run), "--no-intervals"])
    (run / "calibration.json").unlink()
    flags = ["--run", run, "--split", "test", "--output", "out"]
    match("no temperature .*Fit it anew with", refused(evaluate.main, *flags))


def test_another_mix_of_classes_is_shown_without_and_with_it(run, tmp_path, caplog):
    evaluate.main(["--run", str(run), "--no-intervals"])
    flags = ["--run", str(run), "--split", "test", "--output", str(tmp_path / "t")]
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main([*flags, "--prior-shift"])
    assert "Shares of the classes among the 60 images:" in caplog.text
    report = json.loads((tmp_path / "t" / "metrics.json").read_text())
    loss = report["overall"]["log_loss"]["value"]
    rows = [line for line in caplog.text.splitlines() if line.startswith("log loss")]
    assert len(rows) == 1
    assert rows[0].split()[2] == f"{loss:.3f}"


def test_another_table_does_not_take_the_place_of_the_run_s_own_results(run, refused, match):
    flags = ["--run", run, "--predictions", run / "predictions/val.csv"]
    match("--output FOLDER", refused(evaluate.main, *flags))
    assert not (run / "metrics.json").exists()


def test_a_run_without_thresholds_says_how_to_choose_them(run, refused, match):
    flags = ["--run", run, "--split", "test", "--output", "out"]
    match(r"no thresholds .*thresholds\.json\. Choose them anew", refused(evaluate.main, *flags))


def test_one_door_for_both_kinds(tmp_path):
    competition = Competition(
        "toy", "toy", "drawn", "multiclass", NAMES, "accuracy", Labelled("images", "folders")
    )
    targets, probs = np.eye(3)[[0, 1, 2, 1]], np.eye(3)[[0, 1, 1, 1]]
    seen = (targets, probs, "validation split")
    # A criterion says nothing where an image has one class: it is the most probable one.
    results = write_results(tmp_path, competition, *seen, thresholds="f1", resamples=9)
    assert results.thresholds is None
    assert results.report == judge(competition, *seen, resamples=9)
    assert results.report["note"] == "drawn phantoms, not X-rays"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(results.files)
    both = {"calibration.json", "metrics.json", "reliability.png", "roc.png"}
    assert set(results.files) == {"confusion.png", *both}
    findings = dataclasses.replace(competition, task="multilabel", metric="auroc")
    kept = write_results(tmp_path / "kept", findings, *seen, thresholds="youden", resamples=9)
    assert set(kept.files) == {"thresholds.json", *both}
    assert Thresholds.read(tmp_path / "kept", NAMES) == kept.thresholds
    assert kept.thresholds.criterion == "youden"
    options = {"thresholds": kept.thresholds, "calibration": kept.calibration}
    again = write_results(tmp_path / "again", findings, *seen, **options, resamples=9)
    assert again.thresholds is kept.thresholds
    assert again.calibration is kept.calibration
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(again.files)
    assert set(again.files) == both - {"calibration.json"}
    targets[0, 1] = np.nan
    report = judge(findings, targets, probs, "test split", resamples=9)
    assert report["thresholds"] == "0.5 for all"
    assert report["classes"]["Effusion"]["unknown"] == 1


def test_images_of_which_nothing_is_known_are_not_judged(run, tmp_path, refused, match):
    manifest = pd.read_csv(run / "manifest.csv", keep_default_na=False, dtype=str)
    manifest.loc[:9, "label"] = "?"
    write_csv(run / "manifest.csv", manifest)
    table = pd.read_csv(run / "predictions" / "val.csv")
    table.iloc[10:][::-1].to_csv(tmp_path / "P.csv", index=False)
    flags = ["--run", str(run), "--predictions", str(tmp_path / "P.csv"), "--no-intervals"]
    report = evaluate.evaluate(
        parse_flags(
            evaluate.EvaluateConfig,
            [*flags, "--output", str(tmp_path / "out")],
            prog="",
            help=evaluate.HELP,
        )
    )
    targets, probs = planted(60)
    assert report["n"] == 50
    assert report["overall"]["macro_auroc"]["value"] == pytest.approx(
        roc_auc_score(targets[10:], probs[10:], average="macro"), abs=1e-4
    )
    table.iloc[11:].to_csv(tmp_path / "P.csv", index=False)
    said = r"lack 1 of 50 images of the val split: val10\. Write them with: .* --split val"
    match(said, refused(evaluate.main, *flags, "--output", tmp_path / "out"))


def test_two_runs_are_compared_on_the_same_images(run, tmp_path, caplog):
    other = write_run(tmp_path / "other", noise=3)
    for folder in (run, other):
        evaluate.main(["--run", str(folder), "--no-intervals"])
    out = tmp_path / "out"
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main(["--compare", str(other), str(run), "--output", str(out)])
    found = json.loads((out / "comparison.json").read_text())
    assert (found["a"], found["b"], found["n"]) == (str(other), str(run), 60)
    assert found["split"] == "validation split, by image, 10 %, seed 0"
    for name, folder in (("a", other), ("b", run)):
        own = json.loads((folder / "metrics.json").read_text())
        for figure in ("macro_auroc", "macro_f1", "accuracy"):
            assert found["overall"][figure][name] == own["overall"][figure]["value"]
        assert (
            found["classes"]["Hernia"]["auroc"][name] == own["classes"]["Hernia"]["auroc"]["value"]
        )
    assert found["overall"]["macro_auroc"]["difference"]["low"] > 0
    assert "b is better by" in caplog.text


def test_runs_of_other_images_or_labels_are_not_compared(run, tmp_path, refused, match):
    other = write_run(tmp_path / "other")
    manifest = pd.read_csv(other / "manifest.csv", keep_default_na=False, dtype=str)
    labels = manifest["label"].where(manifest["image"] != "val3", "|".join(NAMES))
    write_csv(other / "manifest.csv", manifest.assign(label=labels))
    said = r"1 of 60 images have other labels in .*other than in .*run \(val3\)\. Train both"
    match(said, refused(evaluate.main, "--compare", run, other))
    write_csv(other / "manifest.csv", manifest[manifest["image"] != "val3"])
    said = r"not judged on the same images: they have 60 and 59, and 1 are in one .* only \(val3\)"
    match(said, refused(evaluate.main, "--compare", run, other))


def test_two_tables_of_predictions_are_compared_whatever_their_order(tables, tmp_path, caplog):
    targets, probs = tables
    table = pd.read_csv(tmp_path / "P.csv")
    flags = ["--labels", str(tmp_path / "L.csv"), "--output", str(tmp_path)]
    table[["file", "pred_Hernia", "pred_Effusion", "pred_Atelectasis"]].sort_values("file").to_csv(
        tmp_path / "Q.csv", index=False
    )
    both = [str(tmp_path / "P.csv"), str(tmp_path / "Q.csv")]
    evaluate.main(["--compare", *both, *flags])
    found = json.loads((tmp_path / "comparison.json").read_text())
    area = roc_auc_score(targets, probs, average="macro")
    figure = found["overall"]["macro_auroc"]
    assert figure["a"] == figure["b"] == pytest.approx(area)
    assert figure["p"] == found["mcnemar"]["overall"]["p"] == 1


def test_a_run_is_sliced_by_the_columns_of_its_manifest(run, caplog, refused, match):
    manifest = pd.read_csv(run / "manifest.csv", keep_default_na=False, dtype=str)
    view = np.array(["PA", "AP"])[np.arange(len(manifest)) % 2]
    write_csv(run / "manifest.csv", manifest.assign(view=view, sex="F"))
    measured = manifest[["image", "split"]].assign(
        width=np.where(np.arange(len(manifest)) < 30, 512, 1024), height=2000, brightness=99.5
    )
    write_csv(run / "features.csv", measured)
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main(["--run", str(run), "--slices", "view"])
    kept = json.loads((run / "thresholds.json").read_text())["thresholds"]
    found = json.loads((run / "slices.json").read_text())
    columns = {(part["column"], part["value"]): part for part in found["slices"]}
    assert set(columns) == {
        ("view", "PA"),
        ("view", "AP"),
        ("shorter side", "512"),
        ("shorter side", "1024"),
    }
    targets, probs = planted(60)
    called = probs[::2] >= list(kept.values())
    figures = columns["view", "PA"]["figures"]
    wanted = f1_score(targets[::2], called, average="macro")
    assert figures["macro_f1"]["value"] == pytest.approx(wanted)
    assert "view: PA" in caplog.text
    assert "shorter side" not in caplog.text
    match(
        "no slices by sex: .* slices by: .*view",
        refused(evaluate.main, "--run", run, "--slices", "sex"),
    )


def test_doubts_of_the_test_split_do_not_take_the_place_of_a_run_s_own(run, refused, match):
    match(
        "doubts of the test split shall go",
        refused(evaluate.main, "--doubts", run, "--split", "test"),
    )
    assert not (run / "label_doubts.csv").exists()


def test_doubts_come_from_what_each_run_held_out(tmp_path, draw, caplog, refused, match):
    folds, root = [], tmp_path / "films"
    for fold, name in enumerate(("fold0", "fold1")):
        folder = write_run(tmp_path / name)
        manifest = pd.read_csv(folder / "manifest.csv", keep_default_na=False, dtype=str)
        # What is held out by the one is learned by the other.
        manifest["split"] = np.where(manifest["split"] == ("val", "test")[fold], "val", "train")
        manifest["path"] = manifest["image"] + ".png"
        write_csv(folder / "manifest.csv", manifest)
        table = pd.read_csv(folder / "predictions" / f"{('val', 'test')[fold]}.csv")
        table.loc[7, list(NAMES)] = [0.001, 0.999, 0.001]
        write_csv(folder / "predictions" / "val.csv", table)
        settings = TrainConfig(data=root, competition="toy", folds=2, fold=fold)
        write_json(folder / "config.json", settings.to_json())
        folds.append(folder)
    wrong = pd.read_csv(folds[0] / "manifest.csv", keep_default_na=False, dtype=str)
    wrong.loc[[7, 67], "label"] = "Hernia"
    for folder in folds:
        own = pd.read_csv(folder / "manifest.csv", keep_default_na=False, dtype=str)
        write_csv(folder / "manifest.csv", own.assign(label=wrong["label"]))
    match("Say where the doubts of several runs", refused(evaluate.main, "--doubts", *folds))
    out = tmp_path / "out"
    with caplog.at_level("INFO", "xraycomp"):
        evaluate.main(["--doubts", *map(str, folds), "--output", str(out)])
    table = pd.read_csv(out / "label_doubts.csv")
    assert set(table["image"][:2]) == {"val7", "test7"}
    assert table["label"][0] == "not Effusion"
    assert {image.rstrip("0123456789") for image in table["image"]} == {"val", "test"}
    assert "listed without their films: There is nothing at" in caplog.text
    assert not (out / "label_doubts.png").exists()
    for image in wrong["image"]:
        draw(root / f"{image}.png")
    evaluate.main(["--doubts", *map(str, folds), "--output", str(out)])
    assert (out / "label_doubts.png").is_file()
    evaluate.main(["--doubts", str(folds[0])])
    alone = pd.read_csv(folds[0] / "label_doubts.csv")
    assert {image[:3] for image in alone["image"]} == {"val"}
