"""Exporting as a user does it, and the edge's command on what came out."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from PIL import Image

from xraycomp import export, predict, train
from xraycomp.data.phantom import draw_competition
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.thresholds import Thresholds

EDGE = Path(__file__).parents[1] / "edge" / "xraycomp_edge.py"
FLAGS = "--epochs 1 --batch-size 16 --warmup-epochs 0 --lr 0.01 --device cpu --workers 1"
FINDINGS = """
slug = "drawn-findings"
source = "dataset"
task = "multilabel"
classes = ["Left", "Right"]
metric = "auroc"

[train]
images = "films"
labels = "labels.csv"
image_column = "film"
label_column = "found"
separator = "|"
none = "nothing"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Phantoms in ``films``, a run on them in ``runs/one``, and what exporting it left."""
    folder = tmp_path_factory.mktemp("export")
    draw_competition(folder / "films", n_train=80, n_test=9, size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = ["--competition", "phantom", "--data", str(folder / "films"), "--name", "one"]
        size = ["--image-size", "32", "--arch", "timm:test_resnet", "--val-fraction", "0.5"]
        train.main([*data, *size, *FLAGS.split()])
        export.main(["--run", "runs/one", "--workers", "1"])
    return folder


def report_of(run):
    return json.loads((run / "export" / "export.json").read_text())


def edge(*args, cwd=None):
    """Run the edge's command in a process of its own."""
    return subprocess.run(
        [sys.executable, EDGE, *map(str, args)],
        cwd=cwd, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_report_is_of_the_files_that_lie_beside_it(place):
    run = place / "runs" / "one"
    report = report_of(run)
    assert list(report["files"]) == ["model.onnx", "model.int8.onnx"]
    names = {path.name for path in (run / "export").iterdir()}
    assert names == {*report["files"], "export.json"}
    for name, facts in report["files"].items():
        content = (run / "export" / name).read_bytes()
        assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    n = len(pd.read_csv(run / "predictions" / "val.csv"))
    assert report["check"]["images"] == report["check"]["image_files"] == n
    assert report["check"]["network"] < 1e-5
    assert report["check"]["whole"] <= report["check"]["resize"] + report["check"]["network"]
    accuracy = report["accuracy"]
    assert accuracy["calibrated_on"] + accuracy["n"] == n
    assert report["speed"]["threads"] == 1
    assert report["speed"]["image"] == [48, 48]


def test_what_the_report_says_of_accuracy_is_so(place):
    """AUROC of the two files by scikit-learn, on the half that the 8 bits have not seen."""
    from sklearn.metrics import roc_auc_score

    run, report = place / "runs" / "one", report_of(place / "runs" / "one")
    manifest = pd.read_csv(run / "manifest.csv")
    rows = manifest[manifest["split"] == "val"].reset_index(drop=True)
    judged = np.sort(np.random.default_rng(0).permutation(len(rows))[(len(rows) + 1) // 2 :])
    paths = [place / "films" / path for path in rows["path"].iloc[judged]]
    classes = json.loads(described(run, "model.onnx")["classes"])
    truth = rows["label"].iloc[judged].to_numpy()
    for name, which in {"model.onnx": "a", "model.int8.onnx": "b"}.items():
        done = edge(run / "export" / name, *paths, "--output", place / "table.csv")
        assert done.returncode == 0, done.stderr
        probs = pd.read_csv(place / "table.csv")[classes].to_numpy()
        areas = [roc_auc_score(truth == c, probs[:, i]) for i, c in enumerate(classes)]
        found = report["accuracy"]["overall"]["macro_auroc"][which]
        assert found == pytest.approx(np.mean(areas), abs=0.01)  # PIL's resize, and onnx's


def described(run, name):
    session = onnxruntime.InferenceSession(run / "export" / name)
    return session.get_modelmeta().custom_metadata_map


def test_both_files_say_which_run_they_are_of(place):
    run = place / "runs" / "one"
    for name in ("model.onnx", "model.int8.onnx"):
        about = described(run, name)
        assert about["run"] == "one"
        assert about["best.pt"] == hashlib.sha256((run / "best.pt").read_bytes()).hexdigest()
        assert about["task"] == "multiclass"
        assert float(about["temperature"]) == Calibration.read(run).temperature
        assert "thresholds" not in about


def test_the_edge_gives_what_predict_gives_calibrated(place):
    run, films = place / "runs" / "one", place / "films" / "test"
    table = place / "kit.csv"
    predict.main(
        f"--runs {run} --images {films} --calibrated --output {table} "
        f"--called {place / 'called.csv'} --device cpu --workers 1".split()
    )
    done = edge(run / "export" / "model.onnx", films, "--threads", "1")
    assert done.returncode == 0, done.stderr
    (place / "edge.csv").write_text(done.stdout)
    kit = pd.read_csv(table).set_index("image")
    found = pd.read_csv(place / "edge.csv")
    found.index = [Path(name).with_suffix("").as_posix() for name in found["image"]]
    called = pd.read_csv(place / "called.csv").set_index("image")["label"]
    assert sorted(found.index) == sorted(kit.index)
    bound = report_of(run)["check"]["whole"] + 0.005  # of other images
    assert (found[kit.columns].loc[kit.index] - kit).abs().to_numpy().max() < bound
    sure = kit.max(axis=1) - kit.apply(lambda row: row.nlargest(2).iloc[1], axis=1) > 2 * bound
    assert (found["called"].loc[kit.index] == called.loc[kit.index])[sure].all()


def test_findings_are_called_from_thresholds_for_calibrated_probabilities(tmp_path, monkeypatch):
    rng, rows = np.random.default_rng(0), []
    for number in range(60):
        film = rng.normal(90, 20, (40, 40))
        there = rng.random(2) < 0.5
        film[10:30, 3:15] += 90 * there[0]
        film[10:30, 25:37] += 90 * there[1]
        path = tmp_path / "data" / "films" / f"film_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film.clip(0, 255).astype(np.uint8)).save(path)
        found = [name for name, hit in zip(("Left", "Right"), there, strict=True) if hit]
        rows.append((path.name, "|".join(found) or "nothing"))
    pd.DataFrame(rows, columns=["film", "found"]).to_csv(tmp_path / "data/labels.csv", index=False)
    (tmp_path / "findings.toml").write_text(FINDINGS)
    monkeypatch.chdir(tmp_path)
    data = ["--competition", "findings.toml", "--data", "data", "--name", "one"]
    size = ["--image-size", "32", "--arch", "timm:test_resnet", "--val-fraction", "0.4"]
    train.main([*data, *size, *FLAGS.split()])
    export.main(["--run", "runs/one", "--output", "out/films.onnx", "--no-int8"])
    run = tmp_path / "runs" / "one"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"films.onnx", "export.json"}
    given = "--runs runs/one --images data/films --output kit.csv --called called.csv"
    predict.main([*given.split(), "--device", "cpu", "--workers", "1"])
    done = edge("out/films.onnx", "data/films", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kit = pd.read_csv("kit.csv").set_index("image")
    called = pd.read_csv("called.csv", keep_default_na=False).set_index("image")["label"]
    limits = Thresholds.read(run, ("Left", "Right")).limits
    near = ((kit - limits).abs() < 0.01).any(axis=1)
    found = json.loads(done.stdout)
    assert len(found) == 60
    for row in found:
        name = row["image"].removesuffix(".png")
        if not near[name]:
            assert "|".join(row["called"]) == called[name]
    assert 0 < sum(map(len, (row["called"] for row in found))) < 120


def test_data_that_was_moved_is_asked_for_and_taken(place, tmp_path, monkeypatch, refused):
    shutil.copytree(place / "runs" / "one", tmp_path / "one")
    shutil.copytree(place / "films", tmp_path / "moved")
    config = json.loads((tmp_path / "one" / "config.json").read_text())
    config["data"] = str(tmp_path / "gone")
    (tmp_path / "one" / "config.json").write_text(json.dumps(config))
    shutil.rmtree(tmp_path / "one" / "export")
    said = refused(export.main, "--run", tmp_path / "one")
    assert "if they were moved, say where they are with --data" in said
    assert not (tmp_path / "one" / "export").exists()
    export.main(["--run", str(tmp_path / "one"), "--data", str(tmp_path / "moved"), "--no-int8"])
    assert list(report_of(tmp_path / "one")["files"]) == ["model.onnx"]


def test_an_earlier_int8_file_goes_when_none_is_made(place, tmp_path):
    shutil.copytree(place / "runs" / "one", tmp_path / "one")
    settings = export.ExportConfig(tmp_path / "one", data=place / "films", int8=False)
    export.export(settings)
    assert not (tmp_path / "one" / "export" / "model.int8.onnx").exists()
    assert list(report_of(tmp_path / "one")["files"]) == ["model.onnx"]


def test_of_a_run_with_several_views_the_file_is_calibrated_for_one(place, tmp_path):
    """The run's own temperature is for the mean of its views; here it is one that would show."""
    run = tmp_path / "one"
    shutil.copytree(place / "runs" / "one", run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"tta": ["mirror"]}))
    plain = Calibration.read(run)
    replace(plain, temperature=7.0).write(run / "calibration.json")
    export.main(["--run", str(run), "--data", str(place / "films"), "--no-int8"])
    session = onnxruntime.InferenceSession(run / "export" / "model.onnx")
    found = float(session.get_modelmeta().custom_metadata_map["temperature"])
    assert found == pytest.approx(plain.temperature, rel=1e-3)


def test_of_a_run_of_all_folds_one_is_to_be_named(place, tmp_path, refused, match):
    run = tmp_path / "k"
    shutil.copytree(place / "runs" / "one", run)
    shutil.copytree(place / "runs" / "one", run / "k-fold0")
    for folder, fold in ((run, None), (run / "k-fold0", 0)):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"folds": 2, "fold": fold}))
    match(f"Export one of them: --run {run / 'k-fold0'}", refused(export.main, "--run", run))


def test_a_network_that_gives_no_numbers_leaves_no_file(place, tmp_path, refused):
    run = tmp_path / "one"
    shutil.copytree(place / "runs" / "one", run)
    shutil.rmtree(run / "export")
    saved = torch.load(run / "best.pt", weights_only=True)
    saved["model"] = {name: value * torch.nan for name, value in saved["model"].items()}
    torch.save(saved, run / "best.pt")
    said = refused(export.main, "--run", run, "--data", place / "films")
    assert "does not give what the run gives" in said
    assert not list((run / "export").iterdir())


def test_what_cannot_be_exported_is_said(place, tmp_path, refused, match):
    run = tmp_path / "one"
    shutil.copytree(place / "runs" / "one", run)
    match("ends in .onnx", refused(export.main, "--run", run, "--output", "model.pt"))
    match("not a run folder", refused(export.main, "--run", tmp_path / "none"))
    (run / "calibration.json").unlink()
    match("There is no temperature", refused(export.main, "--run", run))


def test_a_missing_package_is_one_sentence(place, tmp_path):
    """As inside a kernel whose image has onnx and no onnxruntime."""
    hide = tmp_path / "onnxruntime.py"
    hide.write_text("raise ImportError('No module named onnxruntime')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from xraycomp import export\n"
        "from xraycomp.console.command import run_command\n"
        f"sys.argv = ['export', '--run', {str(place / 'runs' / 'one')!r}]\n"
        "run_command(export.main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        "Exporting needs onnxruntime, which is not installed: pip install -e '.[export]'."
    ]


def test_moved_thresholds_call_the_same():
    probs = np.random.default_rng(0).random((500, 2))
    calibration = Calibration(0.6, "test")
    before = Thresholds({"a": 0.31, "b": 0.77}, "f1", "test")
    moved = before.calibrated(calibration)
    assert moved.criterion == "f1"
    after = calibration.apply(probs, multilabel=True)
    assert np.array_equal(probs >= before.limits, after >= moved.limits)
    assert list(moved.values) == ["a", "b"]
    assert not np.allclose(moved.limits, before.limits)
