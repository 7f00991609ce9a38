"""Pseudo-labels: what is learned of test images, what is not, and who may not learn it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xraycomp import predict, train
from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.competition_file import format_competition, parse_competition
from xraycomp.data.folds import fold_manifest
from xraycomp.data.labels import encode_targets
from xraycomp.data.predictions import probability_table
from xraycomp.data.pseudo_labels import leave_out_copies, read_pseudo_labels
from xraycomp.job.images import open_images
from xraycomp.model.run import RunFolder

CLASSES = ("stripe", "disc")
TOML = """
slug = "toy"
source = "dataset"
task = "multiclass"
classes = ["stripe", "disc"]
metric = "macro_f1"
[train]
images = "train"
labels = "folders"
[test]
images = "test"
"""


def competition_of(task="multiclass", classes=CLASSES, **given):
    table = Labelled("train", "labels.csv", "id", "label", "|")
    return Competition("toy", "Toy", "dataset", task, classes, "macro_f1", table, **given)


def manifest_of(n_train, n_test, label="?"):
    n = n_train + n_test
    return pd.DataFrame(
        {
            "image": [f"i{row}" for row in range(n)],
            "path": [f"i{row}.png" for row in range(n)],
            "label": ["stripe"] * n_train + [label] * n_test,
            "patient": "",
            "split": ["train"] * n_train + ["test"] * n_test,
        }
    )


def table_at(path, images, probs, classes=CLASSES):
    probability_table(images, np.array(probs), classes).to_csv(path, index=False)
    return path


def test_one_class_is_the_most_probable_from_the_threshold_on(tmp_path):
    probs = [[0.95, 0.05], [0.949, 0.051], [0.02, 0.98], [1.0, 0.0]]
    path = table_at(tmp_path / "p.csv", ["i2", "i3", "i4", "i0"], probs)
    found = read_pseudo_labels(path, competition_of(), manifest_of(2, 4), 0.95)
    # A training image and one that the table lacks get none.
    assert list(found) == ["?", "?", "stripe", "?", "disc", "?"]


def test_of_findings_some_are_there_some_not_and_some_unknown(tmp_path):
    classes = ("Mass", "Nodule", "Edema")
    probs = [[0.95, 0.05, 0.5], [0.5, 0.94, 0.06], [0.05, 0.01, 0.0], [0.96, 0.99, 0.051]]
    path = table_at(tmp_path / "p.csv", ["i1", "i2", "i3", "i4"], probs, classes)
    competition = competition_of("multilabel", classes)
    found = read_pseudo_labels(path, competition, manifest_of(1, 4), 0.95)
    wanted = [[1, 0, np.nan], [0, 0, 0], [1, 1, np.nan]]
    assert list(found[[0, 2]]) == ["?", "?"]
    assert np.array_equal(encode_targets(found[[1, 3, 4]], classes), wanted, equal_nan=True)


def test_what_cannot_be_learned_from_is_one_sentence(tmp_path):
    path = table_at(tmp_path / "p.csv", ["i2", "i3"], [[0.6, 0.4], [0.4, 0.6]])
    cases = [
        (competition_of(pseudo_labels=False), manifest_of(2, 2), "toy does not allow to learn"),
        (competition_of(), manifest_of(2, 2, "disc"), "for test images without labels, and toy"),
        (competition_of(), manifest_of(2, 0), "for test images without labels, and toy has none"),
        (competition_of(), manifest_of(1, 1), "holds none of the 1 test images of toy"),
        (competition_of(), manifest_of(2, 2), "is sure of no test image at --pseudo-threshold 0.9"),
    ]
    for competition, manifest, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            read_pseudo_labels(path, competition, manifest, 0.9)


def test_copies_of_validation_images_are_never_learned():
    manifest = manifest_of(4, 4).assign(pseudo_label=["?"] * 4 + ["disc", "disc", "stripe", "?"])
    copies = np.array([0, 1, 2, 3, 1, 5, 3, 1])
    manifest["split"] = ["train", "val", "train", "train", *["test"] * 4]
    assert list(leave_out_copies(manifest, copies)["pseudo_label"][4:]) == [
        *("?", "disc", "stripe", "?")
    ]
    same_patient = manifest.assign(patient=["a", "b", "", "", "", "b", "a", ""])
    assert list(leave_out_copies(same_patient, copies)["pseudo_label"][4:]) == [
        *("?", "?", "stripe", "?")
    ]
    # Of folds, each leaves out those of its own validation.
    whole = manifest.assign(fold=["0", "1", "0", "2", *[""] * 4])
    for number, wanted in enumerate(
        (["disc", "disc", "stripe"], ["?", "disc", "stripe"], ["disc", "disc", "?"])
    ):
        own = fold_manifest(whole, number, copies)
        assert list(own["pseudo_label"][4:7]) == wanted
        assert list(own["split"][:4] == "val") == [fold == str(number) for fold in "0102"]


def test_a_competition_says_whether_it_allows_them():
    assert parse_competition(TOML, "x").pseudo_labels
    forbidding = parse_competition(f"pseudo_labels = false\n{TOML}", "x")
    assert not forbidding.pseudo_labels
    assert parse_competition(format_competition(forbidding), "x") == forbidding
    with pytest.raises(UserError, match="pseudo_labels must be true or false"):
        parse_competition(f"pseudo_labels = 1\n{TOML}", "x")


def film(kind, rng):
    y, x = np.mgrid[:36, :36]
    pixels = rng.normal(90, 12, (36, 36))
    top, left = rng.uniform(10, 26, 2)
    pixels[(np.abs(y - top) < 3) if kind == 0 else (np.hypot(y - top, x - left) < 7)] += 90
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """32 labelled films and 40 test films, the first of which is a copy of a labelled one."""
    root, rng = tmp_path_factory.mktemp("data") / "toy", np.random.default_rng(0)
    for n in range(72):
        folder = root / (f"train/{CLASSES[n % 2]}" if n < 32 else "test")
        folder.mkdir(parents=True, exist_ok=True)
        film(n % 2, rng).save(folder / f"{'film' if n < 32 else 'test'}_{n}.png")
    shutil.copyfile(root / "train/stripe/film_0.png", root / "test/test_32.png")
    (root.parent / "toy.toml").write_text(TOML)
    truth = [[0.97, 0.03] if n % 2 == 0 else [0.01, 0.99] for n in range(32, 72)]
    truth[3] = [0.6, 0.4]
    table_at(root.parent / "sure.csv", [f"test_{n}" for n in range(32, 72)], truth)
    return root


def flags_of(data, folder, *flags):
    text = "--arch mobilenet_v3_small --image-size 32 --epochs 1 --batch-size 4 --device cpu"
    places = ["--data", data, "--competition", data.parent / "toy.toml", "--name", "one"]
    places += ["--data-dir", data.parent / "data", "--runs-dir", folder / "runs"]
    places += ["--submissions-dir", folder / "submissions"]
    given = ["--pseudo-labels", data.parent / "sure.csv"]
    return [str(flag) for flag in (*text.split(), *places, *given, *flags)]


def learned(run, scratch):
    """Image and label of what a run learns of the test split, by its manifest and its data set."""
    dataset = open_images(run, "val", None, scratch).dataset
    images = dataset.learned()
    names = dataset.manifest["image"].iloc[images.rows]
    labels = np.array(CLASSES)[images.targets.argmax(axis=1)]
    found = dict(zip(names, labels, strict=True))
    assert len(found) == len(images)
    return {name: label for name, label in found.items() if name.startswith("test_")}


def test_a_run_learns_them_and_says_so(data, tmp_path, caplog):
    with caplog.at_level("INFO", "xraycomp"):
        train.main(flags_of(data, tmp_path, "--val-fraction", "0.25"))
    run = RunFolder(tmp_path / "runs" / "one")
    manifest = run.manifest()
    original = manifest.set_index("image").loc["stripe/film_0", "split"]
    wanted = {f"test_{n}": CLASSES[n % 2] for n in range(32, 72) if n != 35}
    if original == "val":
        del wanted["test_32"]
    assert learned(run, tmp_path / "scratch") == wanted
    assert "Pseudo-labels: 39 of 40 test images reach 0.95: stripe 20, disc 19." in caplog.messages
    n = (manifest["split"] == "train").sum() + len(wanted)
    assert any(
        said.startswith(f"Training mobilenet_v3_small on {n} images ({len(wanted)} of them pseudo")
        for said in caplog.messages
    )
    page = (run.path / "report.html").read_text()
    assert f"{len(wanted)} test images without labels are learned" in page
    # They stay test images, and none is validated on.
    assert len(run.predictions("test")) == 40
    assert set(run.predictions("val")["image"]) <= set(manifest["image"][:32])
    predict.main(["--runs", str(run.path), "--split", "train", "--device", "cpu"])
    assert not run.predictions("train")["image"].str.startswith("test_").any()
    train.main(["--resume", str(run.path)])


def test_every_fold_learns_them_but_for_copies_of_its_own_validation(data, tmp_path):
    train.main(flags_of(data, tmp_path, "--folds", "2", "--pseudo-threshold", "0.98"))
    run = RunFolder(tmp_path / "runs" / "one")
    assert run.finished
    wanted = {f"test_{n}": "disc" for n in range(33, 72, 2) if n != 35}
    for fold in run.folds().values():
        assert learned(fold, tmp_path / "scratch") == wanted
    train.main([*flags_of(data, tmp_path, "--folds", "2"), "--name", "two"])
    run = RunFolder(tmp_path / "runs" / "two")
    holder = int(run.manifest().set_index("image").loc["stripe/film_0", "fold"])
    for number, fold in run.folds().items():
        assert ("test_32" in learned(fold, tmp_path / "scratch")) == (number != holder)
    assert "39 test images without labels" in (run.path / "report.html").read_text()
    assert json.loads((run.path / "metrics.json").read_text())["n"] == 32


def test_a_competition_that_forbids_them_and_a_threshold_out_of_range_are_refused(data, tmp_path):
    toml = tmp_path / "toy.toml"
    toml.write_text(f"pseudo_labels = false\n{TOML}")
    with pytest.raises(UserError, match=r"does not allow .* Leave out --pseudo-labels\.$"):
        train.main([*flags_of(data, tmp_path), "--competition", str(toml)])
    with pytest.raises(UserError, match=r"--pseudo-threshold is 0\.5"):
        train.main(flags_of(data, tmp_path, "--pseudo-threshold", "0.5"))
    assert not (tmp_path / "runs").exists()
