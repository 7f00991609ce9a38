"""The whole job as a user does it: a competition of one's own, trained, judged, submitted.

The films are drawn, so their true classes are known, those of the test set too. The commands are
real processes where they start something new, and the commands' own functions elsewhere.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

import xraycomp
from xraycomp import evaluate, predict, submit, train
from xraycomp.console.errors import UserError
from xraycomp.judging.calibration import Calibration, fit_temperature

CLASSES = ("stripe", "disc", "blank")  # index order, not alphabetical
TOML = """
slug = "toy-films"
title = "Toy films"
source = "dataset"
task = "multiclass"
classes = ["stripe", "disc", "blank"]
normal = "blank"
metric = "macro_f1"

[train]
images = "films/train"
labels = "folders"

[test]
images = "films/test"

[patient]
pattern = '^(p[0-9]+)_'

[submission]
sample = "sample.csv"

[submission.columns]
id = "id"
target = "label_index"
name = "label_name"
"P(disc)" = "probability:disc"

[recipe]
image_size = 32
epochs = 6
batch_size = 16
lr = 0.05
"""
METRICS_COLUMNS = [
    "epoch",
    "stage",
    "seconds",
    "data_seconds",
    "images_per_second",
    "lr",
    "train_loss",
    "val_loss",
    "val_accuracy",
    "val_macro_f1",
    "val_auroc",
]
RUN_FILES = [
    "config.json",
    "environment.json",
    "manifest.csv",
    "metrics.csv",
    "train.log",
    "checkpoint.pt",
    "best.pt",
    "predictions/val.csv",
    "predictions/test.csv",
    "metrics.json",
    "roc.png",
    "reliability.png",
    "calibration.json",
    "confusion.png",
    "report.html",
    "submission.csv",
]


def draw(label, rng):
    """Noise, with a bright stripe or disc somewhere, or nothing; no two are of one size."""
    height, width = rng.integers(40, 56, 2)
    y, x = np.mgrid[:height, :width]
    film = rng.normal(90, 12, (height, width))
    top, left = rng.uniform(0.35, 0.65, 2) * (height, width)
    if CLASSES[label] == "stripe":
        film[np.abs(y - top) < 3] += 90
    if CLASSES[label] == "disc":
        film[np.hypot(y - top, x - left) < 9] += 90
    return Image.fromarray(film.clip(0, 255).astype(np.uint8))


def run_process(command, *flags, home, cwd):
    """``python -m xraycomp.<command>`` of a user without any Kaggle credentials."""
    kept = {name: value for name, value in os.environ.items() if "KAGGLE" not in name}
    kept["PYTHONPATH"] = str(Path(xraycomp.__file__).parents[1])
    kept["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # the list of fonts takes seconds to make
    return subprocess.run(
        [sys.executable, "-m", f"xraycomp.{command}", *map(str, flags)],
        cwd=cwd,
        env={**kept, "HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A user's folder: competition.toml, films.zip, and what is in truth on the test films."""
    desk = tmp_path_factory.mktemp("desk")
    (desk / "home").mkdir()
    rng = np.random.default_rng(0)
    root = desk / "unpacked" / "films"
    truth = {}
    for patient in range(75):
        label = int(rng.choice(3, p=(0.2, 0.3, 0.5))) if patient > 8 else patient % 3
        for shot in (1, 2):
            path = root / "train" / CLASSES[label] / f"p{patient}_{shot}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw(label, rng).save(path)
    (root / "test").mkdir()
    for index in range(24):
        truth[f"t{index}"] = index % 3
        draw(index % 3, rng).save(root / "test" / f"t{index}.png")
    order = [f"t{index}" for index in rng.permutation(24)]
    sample = pd.DataFrame({"id": order, "target": 0, "name": "blank", "P(disc)": 0.5})
    sample.to_csv(root.parent / "sample.csv", index=False)
    (desk / "competition.toml").write_text(TOML)
    shutil.make_archive(str(desk / "films"), "zip", root.parent)
    (desk / "truth.json").write_text(json.dumps({"order": order, "truth": truth}))
    return desk


@pytest.fixture(scope="module")
def trained(desk):
    """The finished process of ``train`` in the user's folder."""
    return run_process(
        "train",
        *("--competition", "competition.toml", "--data", "films.zip", "--name", "first"),
        *("--val-fraction", "0.2", "--device", "cpu"),
        *("--resize-size", "37"),  # enough for the recipe's images, not for the usual ones
        home=desk / "home",
        cwd=desk,
    )


@pytest.fixture
def run(desk, trained, monkeypatch):
    """The run folder, with the user's folder as the current one."""
    assert trained.returncode == 0, trained.stderr
    monkeypatch.chdir(desk)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Path("runs/first")
    torch.set_num_threads(before)


@pytest.fixture
def truth(desk):
    return json.loads((desk / "truth.json").read_text())["truth"]


def test_every_file_of_the_run_is_there_and_nothing_half_written(desk, run):
    missing = [name for name in RUN_FILES if not (run / name).is_file()]
    assert missing == []
    assert list(desk.rglob("*.tmp")) == []


def test_train_ends_by_naming_its_files_and_leaves_them_in_the_log(run, trained):
    last = trained.stdout.strip().splitlines()[-1]
    assert last.startswith("Wrote runs/first: ")
    for name in ("metrics.json", "roc.png", "confusion.png", "submission.csv", "report.html"):
        assert name in last
    assert "any browser: runs/first/report.html" in trained.stdout
    assert "Checked submission of 24 rows: submissions/first.csv" in trained.stdout
    assert last in (run / "train.log").read_text()
    assert "macro F1" in trained.stdout
    assert "phantom" not in trained.stdout


def test_the_page_has_every_part_from_what_training_leaves(run):
    page = (run / "report.html").read_text()
    assert "This command writes it" not in page
    for part in ("what", "judged-val", "training", "leaks", "slices", "shortcuts", "doubts"):
        assert f'<section id="{part}"' in page
    assert page.count("data:image/jpeg") > 20  # films and heat maps


def test_the_manifest_is_the_exact_split_by_patient(run):
    table = pd.read_csv(run / "manifest.csv", keep_default_na=False)
    assert list(table.columns) == ["image", "path", "label", "patient", "split"]
    assert table["split"].value_counts()["test"] == 24
    labelled = table[table["split"] != "test"]
    assert len(labelled) == 150
    assert (labelled["path"] == "films/train/" + labelled["image"] + ".png").all()
    assert (labelled["label"] == labelled["path"].str.split("/").str[2]).all()
    assert (labelled.groupby("patient")["split"].nunique() == 1).all()
    assert set(labelled["split"]) == {"train", "val"}
    assert 0.15 < (labelled["split"] == "val").mean() < 0.25
    for part in ("train", "val"):
        assert set(labelled["label"][labelled["split"] == part]) == set(CLASSES)


def test_the_table_of_epochs_has_the_columns_of_the_design(run):
    table = pd.read_csv(run / "metrics.csv")
    assert list(table.columns) == METRICS_COLUMNS
    assert list(table["epoch"]) == [1, 2, 3, 4, 5, 6]
    assert table.notna().all(axis=None)
    assert (table["data_seconds"] < table["seconds"]).all()
    assert table["train_loss"].iloc[-1] < table["train_loss"].iloc[0]


def test_the_recipe_was_used_and_flags_go_over_it(run):
    config = json.loads((run / "config.json").read_text())
    assert (config["epochs"], config["batch_size"], config["lr"]) == (6, 16, 0.05)
    assert (config["val_fraction"], config["resize_size"]) == (0.2, 37)


def val_of(run):
    manifest = pd.read_csv(run / "manifest.csv", keep_default_na=False)
    val = manifest[manifest["split"] == "val"]
    table = pd.read_csv(run / "predictions" / "val.csv")
    assert list(table["image"]) == list(val["image"])
    labels = np.array([CLASSES.index(label) for label in val["label"]])
    return labels, table[list(CLASSES)].to_numpy()


def test_the_run_is_looked_at_more_closely(run, trained):
    """Slices of validation, what the films' frames tell, and doubted labels with their films."""
    judged = json.loads((run / "metrics.json").read_text())
    slices = json.loads((run / "slices.json").read_text())
    shortcuts = json.loads((run / "shortcuts.json").read_text())
    assert slices["split"] == shortcuts["split"] == judged["split"]
    assert {part["column"] for part in slices["slices"]} == {"shorter side", "brightness"}
    assert sum(part["n"] for part in slices["slices"]) == 2 * judged["n"]
    assert shortcuts["judged"] == judged["n"]
    measured = pd.read_csv(run / "features.csv")
    assert len(measured) == 150
    assert shortcuts["fitted_on"] == (measured["split"] == "train").sum()
    assert "Macro AUROC of the film's frame alone: border pixels" in trained.stdout
    doubts = pd.read_csv(run / "label_doubts.csv")
    val = pd.read_csv(run / "manifest.csv").set_index("image")
    assert (val["label"][doubts["image"]].to_numpy() == doubts["label"]).all()
    assert (val["split"][doubts["image"]] == "val").all()
    assert (run / "label_doubts.png").is_file() == (len(doubts) > 0)


def test_what_can_be_learned_is_learned(run, truth):
    labels, probs = val_of(run)
    assert (probs.argmax(axis=1) == labels).mean() > 0.85
    table = pd.read_csv(run / "predictions" / "test.csv").set_index("image")
    found = table[list(CLASSES)].to_numpy().argmax(axis=1)
    assert (found == [truth[image] for image in table.index]).mean() > 0.85


def test_the_judgement_equals_scikit_learn_on_the_predictions(run):
    labels, probs = val_of(run)
    report = json.loads((run / "metrics.json").read_text())
    found = {name: entry["value"] for name, entry in report["overall"].items()}
    guess = probs.argmax(axis=1)
    assert report["n"] == len(labels)
    assert report["note"] is None
    assert report["competition"]["metric"] == "macro_f1"
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, guess))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, guess, average="macro"))
    areas = roc_auc_score(np.eye(3)[labels], probs, average="macro")
    assert found["macro_auroc"] == pytest.approx(areas, abs=1e-4)
    best = pd.read_csv(run / "metrics.csv")["val_macro_f1"].max()
    assert found["macro_f1"] == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("name", ["roc.png", "reliability.png", "confusion.png"])
def test_the_figures_open(run, name):
    with Image.open(run / name) as figure:
        figure.load()
        assert figure.format == "PNG"
        assert min(figure.size) > 300


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_prediction_table_has_a_probability_a_class(run, split):
    table = pd.read_csv(run / "predictions" / f"{split}.csv")
    assert list(table.columns) == ["image", *CLASSES]
    probs = table[list(CLASSES)].to_numpy()
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=2e-6)
    assert (probs >= 0).all()
    assert table["image"].is_unique


def test_the_submission_follows_the_sample_and_says_the_most_probable_class(desk, run):
    order = json.loads((desk / "truth.json").read_text())["order"]
    text = (run / "submission.csv").read_bytes()
    assert text == Path("submissions/first.csv").read_bytes()
    found = pd.read_csv(run / "submission.csv")
    assert list(found.columns) == ["id", "target", "name", "P(disc)"]
    assert list(found["id"]) == order
    probs = pd.read_csv(run / "predictions" / "test.csv").set_index("image").loc[order]
    best = probs[list(CLASSES)].to_numpy().argmax(axis=1)
    assert list(found["target"]) == list(best)
    assert list(found["name"]) == [CLASSES[index] for index in best]
    np.testing.assert_allclose(found["P(disc)"], probs["disc"], atol=1e-9)


@pytest.mark.parametrize("size", [[], ["--batch-size", "1"], ["--batch-size", "7"]])
def test_predict_reproduces_the_table_of_the_test_set(run, tmp_path, size):
    output = tmp_path / "again.csv"
    called = ["--called", str(tmp_path / "labels.csv")]
    predict.main(["--runs", str(run), "--split", "test", "--output", str(output), *size, *called])
    found, wanted = pd.read_csv(output), pd.read_csv(run / "predictions" / "test.csv")
    assert list(found["image"]) == list(wanted["image"])
    np.testing.assert_allclose(found[list(CLASSES)], wanted[list(CLASSES)], atol=1.1e-6)
    called = pd.read_csv(tmp_path / "labels.csv")
    assert list(called["image"]) == list(found["image"])
    assert list(called["label"]) == list(found[list(CLASSES)].idxmax(axis=1))


def test_predict_averages_runs(run, tmp_path):
    """A second run, whose last layer was turned round, does not agree with the first."""
    other = shutil.copytree(run, tmp_path / "second")
    content = torch.load(other / "best.pt", weights_only=True)
    content["model"]["body.fc.weight"] *= -0.5
    torch.save(content, other / "best.pt")
    tables = {}
    for name, runs in {"one": [run], "two": [other], "both": [run, other]}.items():
        path = tmp_path / f"{name}.csv"
        predict.main(["--runs", *map(str, runs), "--output", str(path)])
        tables[name] = pd.read_csv(path)[list(CLASSES)].to_numpy()
    both = ["--runs", str(run), str(other)]
    with pytest.raises(UserError, match="Say where the table shall go with --output"):
        predict.main(both)
    assert np.abs(tables["one"] - tables["two"]).max() > 0.1
    np.testing.assert_allclose(tables["both"], (tables["one"] + tables["two"]) / 2, atol=1.1e-6)
    table = pd.read_csv(other / "manifest.csv", keep_default_na=False)
    table.iloc[::-1].to_csv(other / "manifest.csv", index=False)
    both += ["--output", str(tmp_path / "mixed.csv")]
    with pytest.raises(UserError, match="do not hold the same test images"):
        predict.main(both)
    toml = other / "competition.toml"
    toml.write_text(
        re.sub("(?m)^classes = .*$", f"classes = {list(CLASSES[::-1])}", toml.read_text())
    )
    with pytest.raises(UserError, match="have different classes"):
        predict.main(both)
    assert not (tmp_path / "mixed.csv").exists()


def test_the_temperature_is_kept_and_is_that_of_validation(run):
    labels, probs = val_of(run)
    kept = Calibration.read(run)
    assert kept.fitted_on == json.loads((run / "metrics.json").read_text())["split"]
    found = fit_temperature(np.eye(3)[labels], probs, multilabel=False)
    assert kept.temperature == pytest.approx(found, rel=1e-3)


def test_predict_writes_calibrated_probabilities_on_request(run, tmp_path, caplog):
    """A second run with another temperature: each has its own before they are averaged."""
    other = shutil.copytree(run, tmp_path / "second")
    Calibration(3.0, "another split").write(other / "calibration.json")
    plain = pd.read_csv(run / "predictions" / "test.csv")
    temperatures = [Calibration.read(run), Calibration.read(other)]
    each = [one.apply(plain[list(CLASSES)].to_numpy(), multilabel=False) for one in temperatures]
    output = tmp_path / "calibrated.csv"
    caplog.set_level("INFO", "xraycomp")
    for runs, expected in (([run], each[0]), ([run, other], np.mean(each, axis=0))):
        flags = ["--runs", *map(str, runs), "--calibrated", "--output", str(output)]
        predict.main([*flags, "--called", str(tmp_path / "called.csv")])
        found = pd.read_csv(output)
        # A small probability of six decimals has few digits.
        np.testing.assert_allclose(found[list(CLASSES)], expected, atol=1e-3)
        assert list(pd.read_csv(tmp_path / "called.csv")["label"]) == list(
            found[list(CLASSES)].idxmax(axis=1)
        )
    assert f"{other}: temperature 3.000, fitted on the another split." in caplog.text
    before = (run / "predictions" / "test.csv").read_bytes()
    with pytest.raises(UserError, match="The run's own tables stay as it predicted"):
        predict.main(["--runs", str(run), "--calibrated"])
    assert (run / "predictions" / "test.csv").read_bytes() == before
    (other / "calibration.json").unlink()
    with pytest.raises(UserError, match="There is no temperature"):
        predict.main(["--runs", str(run), str(other), "--calibrated", "--output", str(output)])


def test_predict_corrects_for_another_mix_of_classes(run, tmp_path, truth, caplog):
    """A third of the test films are of each class; of those for training half are blank."""
    both = [run, shutil.copytree(run, tmp_path / "second")]
    output = tmp_path / "corrected.csv"
    flags = ["--output", str(output), "--prior-shift"]
    for runs in ([run], both):
        with caplog.at_level("INFO", "xraycomp"):
            predict.main(["--runs", *map(str, runs), *flags])
        found = pd.read_csv(output).set_index("image")[list(CLASSES)]
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=2e-6)
        np.testing.assert_allclose(found.mean(), 1 / 3, atol=0.1)
        called = found.to_numpy().argmax(axis=1)
        assert (called == [truth[image] for image in found.index]).mean() > 0.85
    labels, _ = val_of(run)
    share = np.bincount(labels)[2] / len(labels)
    plain = pd.read_csv(run / "predictions" / "test.csv")["blank"].mean()
    row = f"blank {share:.3f} {plain:.3f} {found['blank'].mean():.3f}"
    rows = [" ".join(line.split()) for line in caplog.text.splitlines()]
    assert sum(line.startswith(row) for line in rows) == 2
    with pytest.raises(UserError, match="--calibrated would do nothing beside --prior-shift"):
        predict.main(["--runs", str(run), "--calibrated", *flags])
    with pytest.raises(UserError, match="Say where the table shall go with --output"):
        predict.main(["--runs", str(run), "--prior-shift"])


def test_predict_takes_any_folder_of_images_and_one_image(run, desk, tmp_path, truth):
    folder = tmp_path / "new" / "ward"
    folder.mkdir(parents=True)
    for image in ("t3", "t10", "t2"):
        shutil.copy(desk / "unpacked" / "films" / "test" / f"{image}.png", folder)
    wanted = pd.read_csv(run / "predictions" / "test.csv").set_index("image")
    for path, ids in {
        folder.parent: ["ward/t2", "ward/t3", "ward/t10"],
        folder / "t3.png": ["t3"],
    }.items():
        output = tmp_path / "folder.csv"
        predict.main(["--runs", str(run), "--images", str(path), "--output", str(output)])
        found = pd.read_csv(output)
        assert list(found["image"]) == ids
        rows = wanted.loc[[name.removeprefix("ward/") for name in ids]]
        np.testing.assert_allclose(found[list(CLASSES)], rows[list(CLASSES)], atol=1.1e-6)
    assert {path.name for path in (tmp_path / "new").rglob("*.png")} == {
        "t2.png",
        "t3.png",
        "t10.png",
    }


def test_predict_in_a_process_says_what_it_wrote(run, desk):
    done = run_process(
        "predict",
        "--runs",
        run,
        "--split",
        "train",
        "--tta",
        "mirror",
        home=desk / "home",
        cwd=desk,
    )
    assert done.returncode == 0, done.stderr
    n_train = (pd.read_csv(run / "manifest.csv")["split"] == "train").sum()
    assert (
        done.stdout.splitlines()[-1] == f"Wrote runs/first/predictions/train.csv: {n_train} images."
    )
    assert len(pd.read_csv(run / "predictions" / "train.csv")) == n_train


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--split", "holdout"], "has no split 'holdout'. It has: test, train, val"),
        (["--images", "nowhere"], "There are no images at nowhere"),
        (["--runs", "nowhere"], "nowhere is not a run folder"),
        (["--batch-size", "0"], "--batch-size is 0; it must be at least 1"),
    ],
)
def test_predict_refuses_what_it_cannot_do(run, tmp_path, flags, sentence):
    output = tmp_path / "out.csv"
    runs = [] if "--runs" in flags else ["--runs", str(run)]
    with pytest.raises(UserError, match=re.escape(sentence)):
        predict.main([*runs, *flags, "--output", str(output)])
    assert not output.exists()


def test_evaluate_reproduces_the_judgement(run, tmp_path):
    evaluate.main(["--run", str(run), "--output", str(tmp_path)])
    found = json.loads((tmp_path / "metrics.json").read_text())
    wanted = json.loads((run / "metrics.json").read_text())
    assert found["confusion"] == wanted["confusion"]
    assert_close(found, wanted)
    assert (tmp_path / "roc.png").is_file()


def assert_close(found, wanted, where="report"):
    """Equal, numbers to the six digits that a table keeps."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_close(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for each, other in zip(found, wanted, strict=True):
            assert_close(each, other, where)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=1e-4), where
    else:
        assert found == wanted, where


def test_evaluate_of_another_split_needs_a_place_for_its_results(run):
    before = (run / "metrics.json").read_bytes()
    predict.main(["--runs", str(run), "--split", "train"])
    with pytest.raises(UserError, match="--output FOLDER"):
        evaluate.main(["--run", str(run), "--split", "train"])
    assert (run / "metrics.json").read_bytes() == before


def test_submit_writes_what_train_wrote_and_its_check_accepts_it(run, tmp_path):
    output = tmp_path / "again.csv"
    submit.main(["--run", str(run), "--output", str(output)])
    found, wanted = pd.read_csv(output), pd.read_csv(run / "submission.csv")
    pd.testing.assert_frame_equal(found, wanted)
    submit.main(["--run", str(run), "--check", str(output)])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda lines: lines[:-1], "lacks 1 ids"),
        (lambda lines: [*lines, lines[-1]], "holds ids twice"),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "line 2: the ids are not in"),
        (lambda lines: [lines[0].upper(), *lines[1:]], "has the header"),
        (lambda lines: [lines[0], re.sub(",[0-2],", ",7,", lines[1]), *lines[2:]], "target is '7'"),
        (lambda lines: [*lines, "t99,0,stripe,0.5"], "1 ids that are not asked for"),
        (lambda lines: [lines[0], lines[1].rpartition(",")[0] + ",nan", *lines[2:]], "'nan'"),
    ],
)
def test_submit_check_refuses_a_spoilt_file(run, tmp_path, spoil, sentence):
    path = tmp_path / "mine.csv"
    lines = spoil((run / "submission.csv").read_text().splitlines())
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=re.escape(sentence)):
        submit.main(["--run", str(run), "--check", str(path)])


def test_submit_of_a_table_that_lacks_an_image_writes_nothing(run, tmp_path):
    table = pd.read_csv(run / "predictions" / "test.csv")
    table[table["image"] != "t4"].to_csv(tmp_path / "short.csv", index=False)
    output = tmp_path / "out.csv"
    with pytest.raises(UserError, match="lack 1 of 24 test images: t4"):
        submit.main(
            [
                "--run",
                str(run),
                "--predictions",
                str(tmp_path / "short.csv"),
                "--output",
                str(output),
            ]
        )
    assert [path.name for path in tmp_path.iterdir()] == ["short.csv"]


def test_the_data_that_was_given_is_not_written_to(desk, run):
    given = {"competition.toml", "films.zip", "truth.json", "unpacked", "home"}
    assert {path.name for path in desk.iterdir()} == given | {"data", "runs", "submissions"}
    held = {path.name for path in (desk / "unpacked").rglob("*") if path.suffix != ".png"}
    assert held == {"films", "train", "test", "sample.csv", *CLASSES}


def test_with_nothing_configured_phantoms_are_drawn_and_every_report_says_so(
    tmp_path, monkeypatch, caplog
):
    for name in [name for name in os.environ if "KAGGLE" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    with caplog.at_level("INFO", "xraycomp"):
        flags = "--epochs 1 --image-size 32 --arch squeezenet1_1 --name first --device cpu"
        train.main(flags.split())
    said = "\n".join(caplog.messages).splitlines()
    assert said[0] == (
        "No competition in data/ and no Kaggle credentials: using the embedded phantom competition "
        "(drawn phantoms, not X-rays)."
    )
    assert "These results are for drawn phantoms, not X-rays." in said
    run = tmp_path / "runs" / "first"
    report = json.loads((run / "metrics.json").read_text())
    assert report["note"] == "drawn phantoms, not X-rays"
    manifest = pd.read_csv(run / "manifest.csv", keep_default_na=False)
    submission = pd.read_csv(tmp_path / "submissions" / "first.csv")
    assert len(submission) == (manifest["split"] == "test").sum() > 100
    assert not (tmp_path / "home" / ".kaggle").exists()
