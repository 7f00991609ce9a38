"""Findings from end to end: a competition of one's own with a table of several labels an image.

The films are drawn, so that what is on them is known; the commands' own functions are called.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from xraycomp import evaluate, predict
from xraycomp.console.errors import UserError
from xraycomp.data.labels import encode_targets
from xraycomp.model.checkpoint import read_checkpoint
from xraycomp.train import main

CLASSES = ("Stripe", "Disc", "Corner")
TOML = """
slug = "toy-findings"
source = "dataset"
task = "multilabel"
classes = ["Stripe", "Disc", "Corner"]
metric = "auroc"

[train]
images = "films"
labels = "labels.csv"
image_column = "Film"
label_column = "Findings"
separator = "|"
none = "Nothing"
train_list = "train_list.txt"
test_list = "test_list.txt"

[patient]
column = "Patient"

[recipe]
image_size = 32
epochs = 4
batch_size = 8
arch = "timm:test_resnet"
lr = 0.01
optimizer = "adamw"
label_smoothing = 0.0
split_by = "official"
val_fraction = 0.2
"""


def draw(present, rng):
    """Noise, with what is ``present`` of a bright stripe, a dark disc and a bright corner."""
    y, x = np.mgrid[:40, :40]
    film = rng.normal(110, 12, (40, 40))
    if present[0]:
        film[np.abs(y - rng.uniform(16, 24)) < 2.5] += 70
    if present[1]:
        film[np.hypot(y - 30, x - rng.uniform(12, 28)) < 6] -= 90
    if present[2]:
        film[(y < 12) & (x < 12)] += 90
    return Image.fromarray(film.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with a competition of 100 patients of two films each, a quarter for testing."""
    desk = tmp_path_factory.mktemp("desk")
    rng = np.random.default_rng(0)
    root = desk / "given"
    (root / "films").mkdir(parents=True)
    rows, lists = [], {"train": [], "test": []}
    for patient in range(100):
        for shot in (1, 2):
            present = rng.random(3) < (0.5, 0.35, 0.25)
            name = f"f{patient}_{shot}.png"
            draw(present, rng).save(root / "films" / name)
            text = "|".join(name for name, there in zip(CLASSES, present, strict=True) if there)
            rows.append({"Film": name, "Findings": text or "Nothing", "Patient": f"p{patient}"})
            lists["test" if patient % 4 == 0 else "train"].append(name)
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    for name, files in lists.items():
        (root / f"{name}_list.txt").write_text("\n".join(files) + "\n")
    (desk / "findings.toml").write_text(TOML)
    return desk


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def flags(desk, folder, *more):
    places = ["--competition", desk / "findings.toml", "--data", desk / "given", "--device", "cpu"]
    places += ["--data-dir", desk / "data", "--name", "one", "--runs-dir", folder / "runs"]
    places += ["--submissions-dir", folder / "submissions"]
    return [str(flag) for flag in (*places, *more)]


@pytest.fixture(scope="module")
def run(desk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    main(flags(desk, folder, "--epochs", "8"))
    return folder / "runs" / "one"


def truth_of(run, part):
    manifest = pd.read_csv(run / "manifest.csv", keep_default_na=False)
    rows = manifest[manifest["split"] == part]
    table = pd.read_csv(run / "predictions" / f"{part}.csv")
    assert list(table["image"]) == list(rows["image"])
    targets = encode_targets(list(rows["label"]), CLASSES)
    return targets, table[list(CLASSES)].to_numpy()


@pytest.mark.parametrize("part", ["val", "test"])
def test_findings_are_learned_and_judged_on_both_labelled_splits(run, part):
    targets, probs = truth_of(run, part)
    folder = run if part == "val" else run / "test"
    report = json.loads((folder / "metrics.json").read_text())
    areas = [roc_auc_score(targets[:, c], probs[:, c]) for c in range(3)]
    assert min(areas) > 0.8
    assert report["n"] == len(targets) == {"val": 30, "test": 50}[part]
    assert report["overall"]["macro_auroc"]["value"] == pytest.approx(np.mean(areas), abs=1e-4)
    assert ("official test split" in report["split"]) == (part == "test")
    assert (folder / "roc.png").is_file()
    assert not (folder / "confusion.png").exists()
    assert np.ptp(probs.sum(axis=1)) > 0.5


def test_the_thresholds_come_from_the_validation_split_alone(run):
    for folder in (run, run / "test"):
        report = json.loads((folder / "metrics.json").read_text())
        assert "validation split" in report["thresholds"]


def test_the_run_has_no_submission_since_the_competition_has_none(run):
    assert not (run / "submission.csv").exists()
    assert not (run.parents[1] / "submissions").exists()


def test_the_table_of_epochs_agrees_with_the_judgement(run):
    table = pd.read_csv(run / "metrics.csv")
    assert list(table["epoch"]) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert set(table["stage"]) == {1}
    best = read_checkpoint(run / "best.pt")
    report = json.loads((run / "metrics.json").read_text())
    row = table[table["epoch"] == best["epoch"]].iloc[0]
    assert report["overall"]["macro_auroc"]["value"] == pytest.approx(row["val_auroc"], abs=1e-4)
    assert report["overall"]["log_loss"]["value"] == pytest.approx(row["val_loss"], abs=1e-4)


def labels_from(table, limits):
    """What films are called whose findings' probabilities are at or above these limits."""
    above = table[list(CLASSES)].to_numpy() >= [limits[name] for name in CLASSES]
    return ["|".join(np.array(CLASSES)[row]) for row in above]


def test_predict_and_evaluate_do_what_train_did(run, tmp_path):
    output = tmp_path / "again.csv"
    called = tmp_path / "called.csv"
    both = ["--output", str(output), "--called", str(called)]
    predict.main(["--runs", str(run), "--split", "test", *both])
    found, wanted = pd.read_csv(output), pd.read_csv(run / "predictions" / "test.csv")
    assert list(found["image"]) == list(wanted["image"])
    np.testing.assert_allclose(found[list(CLASSES)], wanted[list(CLASSES)], atol=1.1e-6)
    content = json.loads((run / "thresholds.json").read_text())
    labels = pd.read_csv(called, keep_default_na=False)
    assert list(labels["image"]) == list(found["image"])
    assert list(labels["label"]) == labels_from(found, content["thresholds"])
    # Of several runs, the thresholds have to be chosen for their mean.
    several = ["--runs", str(run), str(run), *both]
    with pytest.raises(UserError, match="thresholds of one run do not fit the mean"):
        predict.main(several)
    content["thresholds"] = dict(zip(CLASSES, (0.1, 0.9, 0.4), strict=True))
    (tmp_path / "other.json").write_text(json.dumps(content))
    predict.main([*several, "--thresholds", str(tmp_path / "other.json")])
    labels = pd.read_csv(called, keep_default_na=False)
    assert list(labels["label"]) == labels_from(pd.read_csv(output), content["thresholds"])
    evaluate.main(["--run", str(run), "--output", str(tmp_path / "judged")])
    found, wanted = (
        json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "judged", run)
    )
    assert found["overall"]["macro_auroc"]["value"] == pytest.approx(
        wanted["overall"]["macro_auroc"]["value"], abs=1e-4
    )


@pytest.mark.parametrize("flag", ["--calibrated", "--prior-shift"])
def test_what_findings_are_called_stays_where_their_probabilities_change(run, tmp_path, flag):
    tables = {}
    for name, flags in {"plain": [], "changed": [flag]}.items():
        output, called = tmp_path / f"{name}.csv", tmp_path / f"{name}-called.csv"
        places = ["--output", str(output), "--called", str(called)]
        predict.main(["--runs", str(run), "--split", "test", *flags, *places])
        tables[name] = pd.read_csv(output)[list(CLASSES)].to_numpy(), called.read_text()
    assert tables["plain"][1] == tables["changed"][1]
    assert np.abs(tables["plain"][0] - tables["changed"][0]).max() > 0.001
    for c in range(3):  # the ranking stays
        order = np.argsort(tables["plain"][0][:, c])
        assert (np.diff(tables["changed"][0][order, c]) >= -1e-6).all()


def test_the_temperature_of_validation_is_used_on_the_test_split(run):
    val, test = (
        json.loads((folder / "metrics.json").read_text())["calibration"]
        for folder in (run, run / "test")
    )
    kept = json.loads((run / "calibration.json").read_text())
    for report in (val, test):
        assert {key: report[key] for key in kept} == kept
    assert "validation split" in kept["fitted_on"]
    assert not (run / "test" / "calibration.json").exists()
    assert (run / "test" / "reliability.png").is_file()


STAGED = ["--stages", "head:0.01:1 layer4:0.003:2 all:0.001:1", "--loss", "weighted_bce"]
TIMES = ["seconds", "data_seconds", "images_per_second"]


def test_a_head_on_codes_is_for_findings_too(desk, tmp_path):
    main(flags(desk, tmp_path, "--epochs", "1", "--codes-epochs", "1", "--tta", "mirror"))
    run = tmp_path / "runs" / "one"
    # Knowing nothing costs log 2 where each finding is for itself, and log 3 where one is it.
    assert pd.read_csv(run / "head" / "metrics.csv")["val_loss"].min() < (np.log(2) + np.log(3)) / 2
    # Its tables are averaged over mirror images, as predict does it on request.
    wanted = pd.read_csv(run / "predictions" / "test.csv")[list(CLASSES)]
    for more, same in ([], False), (["--tta", "mirror"], True):
        predict.main(["--runs", str(run), "--output", str(tmp_path / "again.csv"), *more])
        found = pd.read_csv(tmp_path / "again.csv")[list(CLASSES)]
        assert np.allclose(found, wanted, atol=1.1e-6) == same


def test_a_run_in_stages_goes_on_where_a_time_limit_stopped_it(desk, tmp_path):
    main(flags(desk, tmp_path / "whole", *STAGED, "--ema-decay", "0.9"))
    whole = tmp_path / "whole" / "runs" / "one"
    main(flags(desk, tmp_path / "cut", *STAGED, "--ema-decay", "0.9", "--time-limit", "0.0001"))
    cut = tmp_path / "cut" / "runs" / "one"
    assert read_checkpoint(cut / "checkpoint.pt")["progress"]["step"] == 1
    main(["--resume", str(cut)])
    for name in ("checkpoint.pt", "best.pt"):
        found, wanted = (read_checkpoint(run / name)["model"] for run in (cut, whole))
        for key, value in wanted.items():
            assert torch.equal(found[key], value), key
    tables = [pd.read_csv(run / "metrics.csv").drop(columns=TIMES) for run in (cut, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert list(tables[0]["stage"]) == [1, 2, 2, 3]
    for name in ("predictions/test.csv", "metrics.json", "test/metrics.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--loss", "cross_entropy"], "--loss cross_entropy does not fit this competition"),
        (["--class-weights"], "Use --loss weighted_bce"),
        (["--stages", "layer9:0.1:1"], "the network has no layer layer9"),
        (["--stages", "head:0.1"], "'head:0.1' is no stage"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run_is_made(desk, tmp_path, more, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        main(flags(desk, tmp_path, *more))
    assert not list((tmp_path / "runs").glob("*/*"))
