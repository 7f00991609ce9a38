"""All folds as one run: out-of-fold, gone on with after any stop, and merged from single folds.

Films are drawn; two of each patient, and one is a copy of another patient's.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score

import xraycomp
from xraycomp import evaluate, explain, merge, predict, report, train
from xraycomp.console.errors import UserError
from xraycomp.data.heat import HeatMaps
from xraycomp.job.held_out import draw_held_out, load_networks
from xraycomp.job.images import open_images
from xraycomp.model.checkpoint import load_best, read_checkpoint
from xraycomp.model.heatmaps import map_pairs
from xraycomp.model.run import RunFolder

CLASSES = ("stripe", "disc", "blank")
TOML = """
slug = "toy"
source = "dataset"
task = "multiclass"
classes = ["stripe", "disc", "blank"]
normal = "blank"
metric = "macro_f1"
[train]
images = "train"
labels = "folders"
[test]
images = "test"
[patient]
pattern = '^(p[0-9]+)_'
[submission.columns]
id = "id"
target = "label_index"
"""
BASE = "--arch mobilenet_v3_small --image-size 32 --epochs 2 --batch-size 4 --device cpu"
FLAGS = BASE.split()
TIMES = ["seconds", "data_seconds", "images_per_second"]
JUDGED = [
    *("predictions/val.csv", "predictions/test.csv", "submission.csv", "metrics.json"),
    *("manifest.csv", "duplicates.csv", "calibration.json", "slices.json", "shortcuts.json"),
    *("label_doubts.csv", "explain/val/maps.csv"),
]
SECOND_FOLD = re.compile(r"Fold 1 of 3.*Epoch 2/2: +[1-9]", re.DOTALL)
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(xraycomp.__file__).parents[1]),
}
STARTS_WITHIN = 200  # seconds until a process must have got somewhere; not a measure of speed


def draw(kind, rng):
    y, x = np.mgrid[:36, :36]
    film = rng.normal(90, 12, (36, 36))
    top, left = rng.uniform(10, 26, 2)
    if CLASSES[kind] == "stripe":
        film[np.abs(y - top) < 3] += 90
    if CLASSES[kind] == "disc":
        film[np.hypot(y - top, x - left) < 7] += 90
    return Image.fromarray(film.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """72 films of 36 patients, the first of which is a copy of the last, and 6 test films."""
    root, rng = tmp_path_factory.mktemp("data") / "toy", np.random.default_rng(0)
    for n in range(78):
        folder = root / (f"train/{CLASSES[n % 3]}" if n < 72 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        name = f"p{n // 6 * 3 + n % 3}_{n}.png" if n < 72 else f"test_{n}.png"
        draw(n % 3, rng).save(folder / name)
    shutil.copyfile(root / "train/stripe/p0_0.png", root / "train/stripe/p33_69.png")
    (root.parent / "toy.toml").write_text(TOML)
    return root


def flags_of(data, folder, *flags, name="one"):
    places = ["--data", data, "--competition", data.parent / "toy.toml"]
    places += ["--data-dir", data.parent / "data", "--runs-dir", folder / "runs"]
    places += ["--submissions-dir", folder / "submissions", "--name", name]
    return [str(flag) for flag in (*FLAGS, *places, *flags)]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The run of three folds, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    train.main(flags_of(data, folder, "--folds", "3"))
    return RunFolder(folder / "runs" / "one")


@pytest.fixture(scope="module")
def singles(data, tmp_path_factory):
    """The same folds, each a run of its own."""
    folder = tmp_path_factory.mktemp("singles")
    for number in range(3):
        own = flags_of(data, folder, "--folds", "3", "--fold", str(number), name=f"k-v{number}")
        train.main(own)
    return [RunFolder(folder / "runs" / f"k-v{number}") for number in range(3)]


def assert_same_weights(found, wanted):
    for name in ("checkpoint.pt", "best.pt"):
        one, two = read_checkpoint(found.path / name), read_checkpoint(wanted.path / name)
        assert one["epoch"] == two["epoch"]
        for key, tensor in two["model"].items():
            assert torch.equal(one["model"][key], tensor), (name, key)


def assert_same_whole(found, wanted):
    for number, fold in wanted.folds().items():
        assert_same_weights(found.folds()[number], fold)
    for name in JUDGED:
        assert (found.path / name).read_bytes() == (wanted.path / name).read_bytes(), name
    courses = [run.epochs().drop(columns=TIMES) for run in (found, wanted)]
    pd.testing.assert_frame_equal(*courses)
    assert found.finished


def test_every_labelled_image_is_predicted_once_by_a_fold_that_has_not_learned_it(whole):
    manifest, table = whole.manifest(), whole.predictions("val")
    labelled = manifest[manifest["label"] != "?"]
    assert list(table["image"]) == list(labelled["image"])
    assert set(labelled["split"]) == {"val"}
    assert sorted(labelled["fold"].unique()) == ["0", "1", "2"]
    folds = whole.folds()
    assert [fold.name for fold in folds.values()] == [f"one-fold{n}" for n in range(3)]
    for number, fold in folds.items():
        own = fold.manifest()
        held = own["split"] == "val"
        assert list(own["image"][held]) == list(manifest["image"][manifest["fold"] == str(number)])
        learned = own[own["split"] == "train"]
        assert not set(learned["patient"]) & set(own["patient"][held])
        assert not set(own["image"][held]) & set(learned["image"])
        assert len(learned) + held.sum() == 72
    # The copies, of different patients, are in one fold.
    copies = whole.duplicates()
    assert len(copies) >= 1
    assert (copies["split_a"] == copies["split_b"]).all()
    assert copies["split_a"].str.match("fold [012]$").all()
    pair = manifest[manifest["image"].isin(["stripe/p0_0", "stripe/p33_69"])]
    assert pair["fold"].nunique() == 1


def test_the_rows_are_what_the_folds_weights_predict(whole, tmp_path):
    table = whole.predictions("val").set_index("image")
    tests = []
    for fold in whole.folds().values():
        for split in ("val", "test"):
            out = tmp_path / f"{fold.name}-{split}.csv"
            flags = ["--runs", fold.path, "--split", split, "--output", out, "--device", "cpu"]
            predict.main([str(flag) for flag in flags])
            own = pd.read_csv(out, index_col="image")
            if split == "val":
                assert np.allclose(table.loc[own.index], own, atol=2e-6)
            else:
                tests.append(own)
    mean = np.mean([own.to_numpy() for own in tests], axis=0)
    assert np.allclose(whole.predictions("test").set_index("image"), mean, atol=2e-6)


@pytest.mark.parametrize("split", ["val", "test"])
def test_predict_of_the_whole_gives_its_tables_again(whole, tmp_path, split):
    out = tmp_path / "out.csv"
    flags = ["--runs", whole.path, "--split", split, "--output", out, "--device", "cpu"]
    predict.main([str(flag) for flag in flags])
    found, wanted = pd.read_csv(out), whole.predictions(split)
    assert list(found["image"]) == list(wanted["image"])
    assert np.allclose(found.iloc[:, 1:], wanted.iloc[:, 1:], atol=2e-6)


def test_predict_of_a_folder_is_the_mean_of_the_folds(whole, data, tmp_path):
    found = []
    for run in (whole, *whole.folds().values()):
        out = tmp_path / f"{run.name}.csv"
        flags = ["--runs", run.path, "--images", data / "test", "--output", out, "--device", "cpu"]
        predict.main([str(flag) for flag in flags])
        found.append(pd.read_csv(out, index_col="image"))
    assert np.allclose(found[0], np.mean(found[1:], axis=0), atol=2e-6)


def test_the_whole_is_judged_out_of_fold_and_submitted_once(whole, capsys):
    report_ = json.loads((whole.path / "metrics.json").read_text())
    assert report_["split"] == "out-of-fold validation over 3 folds, by patient, seed 0"
    table, manifest = whole.predictions("val"), whole.manifest().set_index("image")
    called = np.array(CLASSES)[table[list(CLASSES)].to_numpy().argmax(axis=1)]
    accuracy = accuracy_score(manifest.loc[table["image"], "label"], called)
    assert report_["overall"]["accuracy"]["value"] == pytest.approx(accuracy)
    assert {path.name for path in (whole.path.parents[1] / "submissions").iterdir()} == {"one.csv"}
    assert len(pd.read_csv(whole.path / "submission.csv")) == 6
    slices = json.loads((whole.path / "slices.json").read_text())["slices"]
    assert {each["value"] for each in slices if each["column"] == "fold"} == {"0", "1", "2"}
    page = (whole.path / "report.html").read_text()
    assert "Out-of-fold validation over 3 folds" in page
    assert "Means over 3 folds" in page
    assert "No network has learned the images that it is judged on" in page
    evaluate.main(["--run", str(whole.path), "--no-intervals", "--output", str(whole.path / "e")])
    shutil.rmtree(whole.path / "e")
    with pytest.raises(UserError, match="has no labelled split 'train'"):
        evaluate.main(["--run", str(whole.path), "--split", "train"])


def test_its_course_is_the_mean_and_its_seconds_the_sum(whole):
    folds = [fold.epochs() for fold in whole.folds().values()]
    course = whole.epochs()
    assert list(course["epoch"]) == [1, 2]
    assert list(course) == list(folds[0])
    for name in ("train_loss", "val_accuracy"):
        assert np.allclose(course[name], np.mean([fold[name] for fold in folds], axis=0), atol=1e-5)
    assert np.allclose(course["seconds"], sum(fold["seconds"] for fold in folds), atol=1e-4)


def test_each_image_is_explained_by_the_network_that_has_not_learned_it(whole, tmp_path):
    images, cpu = open_images(whole, "val", None, tmp_path), torch.device("cpu")
    manifest = whole.manifest()
    rows = manifest[manifest["fold"] != ""].iloc[[40, 3, 17, 60, 22]]
    assert rows["fold"].nunique() == 3
    pairs = rows.assign(**{"class": "disc", "kind": "hit"}).reset_index(drop=True)
    networks = load_networks(whole.folds())
    found = draw_held_out(networks, images.dataset, whole.config(), cpu)(pairs)
    assert isinstance(found, HeatMaps)
    assert found.pairs is pairs
    for row, number in enumerate(pairs["fold"]):
        fold = whole.folds()[int(number)]
        one = pairs.iloc[[row]]
        own = map_pairs(load_best(fold, cpu), images.dataset, one, fold.config())
        assert np.allclose(found.values[row], own.values[0], atol=1e-5)


def test_explain_doubts_compare_and_report_take_the_whole_for_a_run(whole, singles, tmp_path):
    run = RunFolder(Path(shutil.copytree(whole.path, tmp_path / "runs" / "one")))
    explain.main(["--run", str(run.path), "--n", "4", "--device", "cpu"])
    assert len(pd.read_csv(run.path / "explain/val/maps.csv")) == 4
    with pytest.raises(UserError, match=r"Explain one of them: --run .*one-fold0$"):
        explain.main(["--run", str(run.path), "--split", "test"])
    evaluate.main(["--doubts", str(run.path)])
    assert (run.path / "label_doubts.csv").is_file()
    evaluate.main(["--compare", str(run.path), str(whole.path)])
    out = tmp_path / "runs.html"
    report.main([str(run.path), str(singles[0].path), "--output", str(out)])
    assert "Out-of-fold validation over 3 folds" in out.read_text() or "out-of-fold" in (
        out.read_text()
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_second_fold_it_goes_on_bit_for_bit(data, whole, tmp_path, number):
    said = tmp_path / "stderr"
    with said.open("w") as stderr:
        flags = flags_of(data, tmp_path, "--folds", "3")
        process = subprocess.Popen(
            [sys.executable, "-m", "xraycomp.train", *flags],
            env=ENVIRONMENT,
            stdout=stderr,
            stderr=stderr,
        )
    try:
        latest = time.monotonic() + STARTS_WITHIN
        while not SECOND_FOLD.search(said.read_text()):
            assert process.poll() is None, said.read_text()
            assert time.monotonic() < latest
            time.sleep(0.002)
        process.send_signal(number)
        process.wait(timeout=STARTS_WITHIN)
    finally:
        process.kill()
    run = RunFolder(tmp_path / "runs" / "one")
    if number == signal.SIGINT:
        last = said.read_text().splitlines()[-1].rpartition("\r")[2].strip()
        assert last.endswith(f"Go on with: python -m xraycomp.train --resume {run.path}")
    assert [fold.finished for fold in run.folds().values()] == [True, False, False]
    kept = (run.folds()[0].path / "best.pt").stat().st_mtime_ns
    assert not (run.path / "metrics.json").exists()
    train.main(["--resume", str(run.path)])
    assert (run.folds()[0].path / "best.pt").stat().st_mtime_ns == kept
    assert_same_whole(run, whole)


def test_a_time_limit_stops_every_fold_with_a_submission_and_all_go_on(data, whole, tmp_path):
    train.main(flags_of(data, tmp_path, "--folds", "3", "--time-limit", "0.0001"))
    run = RunFolder(tmp_path / "runs" / "one")
    assert len(pd.read_csv(run.path / "submission.csv")) == 6
    assert not run.finished
    assert not any(fold.finished for fold in run.folds().values())
    train.main(["--resume", str(run.path)])
    assert_same_whole(run, whole)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.mark.parametrize("by", ["devices", "torchrun"])
def test_two_processes_train_folds(data, tmp_path, by):
    flags = flags_of(data, tmp_path, "--folds", "2", "--epochs", "1")
    if by == "devices":
        train.main([*flags, "--devices", "2"])
    else:
        command = [sys.executable, *TORCHRUN, "-m", "xraycomp.train", *flags]
        subprocess.run(command, env=ENVIRONMENT, check=True, timeout=2 * STARTS_WITHIN)
    run = RunFolder(tmp_path / "runs" / "one")
    assert run.finished
    assert all(fold.finished for fold in run.folds().values())
    assert len(run.predictions("val")) == 72


def merge_them(runs, folder, *flags, name="merged"):
    places = ["--name", name, "--runs-dir", folder / "runs", "--data-dir", folder / "data"]
    places += ["--submissions-dir", folder / "submissions", *flags]
    merge.main(["--runs", *(str(run.path) for run in runs), *map(str, places)])
    return RunFolder(folder / "runs" / name)


def test_folds_trained_by_themselves_and_merged_are_the_run_trained_as_one(
    whole, singles, tmp_path
):
    before = {run.path: (run.path / "train.log").read_bytes() for run in singles}
    merged = merge_them(reversed(singles), tmp_path)
    assert_same_whole(merged, whole)
    assert {path: (path / "train.log").read_bytes() for path in before} == before
    assert merged.folds()[1].best.samefile(singles[1].best)
    assert [run.name for run in merged.folds().values()] == [f"merged-fold{n}" for n in range(3)]


def test_a_merge_says_what_is_missing_and_resume_trains_just_that(whole, singles, tmp_path, caplog):
    with caplog.at_level("INFO", "xraycomp"):
        merged = merge_them(singles[:2], tmp_path)
    assert f"Merged 2 of 3 folds into {merged.path}." in caplog.messages
    assert any(
        said.startswith("Fold 2 (not there)") and said.endswith(f"--resume {merged.path}")
        for said in caplog.messages
    )
    assert not (merged.path / "metrics.json").exists()
    with pytest.raises(UserError, match=r"merged has no fold 2. Train it with: .*--resume"):
        predict.main(["--runs", str(merged.path)])
    best = merged.folds()[0].best.stat().st_mtime_ns
    train.main(["--resume", str(merged.path)])
    assert merged.folds()[0].best.stat().st_mtime_ns == best
    assert_same_whole(merged, whole)


def changed(run, folder, **settings):
    """A copy of a run with other settings."""
    path = Path(shutil.copytree(run.path, folder / "changed"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | settings))
    return RunFolder(path)


def test_what_is_no_fold_of_the_same_training_is_not_merged(singles, tmp_path, data):
    def refusal(*runs):
        with pytest.raises(UserError) as caught:
            merge_them(runs, tmp_path)
        assert not (tmp_path / "runs").exists()
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        return str(caught.value)

    first, second, _ = singles
    assert refusal(first, first) == (
        f"{first.path} and {first.path} are both fold 0. Leave one out."
    )
    other = changed(second, tmp_path, lr=0.5)
    assert "were trained otherwise: --lr 0.02 and 0.5" in refusal(first, other)
    other = changed(second, tmp_path, folds=4)
    assert "were trained otherwise: --folds 3 and 4" in refusal(first, other)
    other = changed(second, tmp_path, folds=0, fold=None)
    assert "is no fold: it was trained without --folds and --fold" in refusal(first, other)
    other = changed(second, tmp_path)
    (other.path / "best.pt").unlink()
    assert "has no best.pt" in refusal(first, other)
    other = changed(second, tmp_path)
    manifest = pd.read_csv(other.path / "manifest.csv", dtype=str, keep_default_na=False)
    manifest.assign(label=manifest["label"].replace("disc", "blank")).to_csv(
        other.path / "manifest.csv", index=False
    )
    assert "do not have the same images and labels" in refusal(first, other)
    other = changed(second, tmp_path)
    manifest["split"] = (
        manifest["split"].replace({"val": "train"}).mask(manifest["split"] == "train", "val")
    )
    manifest.to_csv(other.path / "manifest.csv", index=False)
    assert "is not fold 1 of the split" in refusal(first, other)
    other = changed(second, tmp_path)
    text = (other.path / "competition.toml").read_text()
    (other.path / "competition.toml").write_text(text.replace('"toy"', '"other"'))
    assert "are of different competitions" in refusal(first, other)


def test_a_fold_needs_folds_and_a_folder_that_is_free(data, whole, tmp_path):
    with pytest.raises(UserError, match="--fold 2 is one of --folds, which is not given"):
        train.main(flags_of(data, tmp_path, "--fold", "2"))
    with pytest.raises(UserError, match="holds an earlier run"):
        train.main(flags_of(data, whole.path.parents[1], "--folds", "3"))
    with pytest.raises(UserError, match="was started with --folds 3 and cannot go on with 4"):
        train.main(["--resume", str(whole.path), "--folds", "4"])
    with pytest.raises(UserError, match="too few to stand in each of 13 parts"):
        train.main(flags_of(data, tmp_path, "--folds", "13"))
    assert not (tmp_path / "runs").exists()
