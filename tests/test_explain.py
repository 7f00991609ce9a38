"""Heat maps as a user gets them: at the end of training, and by the command."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xraycomp import explain, train
from xraycomp.data.files import write_text
from xraycomp.data.phantom import draw_competition

FLAGS = "--image-size 32 --epochs 1 --batch-size 16 --warmup-epochs 0 --device cpu --workers 1"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a few phantoms in ``films`` and a run on them in ``runs/one``."""
    folder = tmp_path_factory.mktemp("explain")
    draw_competition(folder / "films", n_train=80, n_test=6, size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = ["--competition", "phantom", "--data", str(folder / "films")]
        train.main([*data, "--name", "one", "--val-fraction", "0.3", *FLAGS.split()])
    return folder


def one(place, **changes):
    return explain.ExplainConfig(place / "runs" / "one", device="cpu", workers=1, **changes)


def test_training_leaves_heat_maps_of_validation_images(place):
    run = place / "runs" / "one"
    folder = run / "explain" / "val"
    table = pd.read_csv(folder / "maps.csv")
    manifest = pd.read_csv(run / "manifest.csv").set_index("image")
    probs = pd.read_csv(run / "predictions" / "val.csv").set_index("image")
    assert 12 <= len(table) <= 24
    assert set(table["kind"]) <= {"error", "hit"}
    for row in table.itertuples():
        assert manifest["split"][row.image] == "val"
        assert manifest["label"][row.image] == row.label
        assert probs.loc[row.image].idxmax() == row[2]  # the class that was called
        assert (row.label == row[2]) == (row.kind == "hit")
        assert row.prob == pytest.approx(probs.loc[row.image, row[2]], abs=1e-5)
        assert (folder / row.film).is_file()
        assert (folder / row.overlay).is_file()
    boxed = manifest[(manifest["split"] == "val") & (manifest["label"] != "normal")]
    report = json.loads((folder / "localisation.json").read_text())
    assert report["all"]["n"] == len(boxed)
    assert set(report["classes"]) == set(boxed["label"])


def test_the_command_gives_what_training_gave(place, cli):
    run = place / "runs" / "one"
    before = (run / "explain" / "val" / "maps.csv").read_text()
    shutil.rmtree(run / "explain")
    done = cli("explain", "--run", run, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert (run / "explain" / "val" / "maps.csv").read_text() == before
    assert "peak in box" in done.stdout
    assert "img/s" in done.stderr
    maps, page = done.stdout.strip().splitlines()[-2:]
    assert maps == f"Wrote {run / 'explain' / 'val'}: localisation.json, maps.csv, maps.npz."
    assert page == f"Wrote {run / 'report.html'} anew."


def test_another_method_another_split_and_fewer_classes(place, tmp_path):
    folder = explain.explain(
        one(place, split="train", method="gradcam", classes=("nodule",), n=3, output=tmp_path)
    )
    assert folder == tmp_path
    report = json.loads((folder / "localisation.json").read_text())
    assert (report["split"], report["method"]) == ("train", "gradcam")
    assert list(report["classes"]) == ["nodule"]
    assert set(pd.read_csv(folder / "maps.csv")["class"]) <= {"nodule"}


def test_images_without_labels_are_explained_for_what_they_are_called(place):
    table = pd.read_csv(explain.explain(one(place, split="test")) / "maps.csv")
    assert set(table["kind"]) == {"asked"}
    assert len(table) == 6
    assert not (place / "runs" / "one" / "explain" / "test" / "localisation.json").exists()


def test_images_of_any_size_for_the_classes_that_are_asked_for(place, tmp_path):
    films, sizes = sorted((place / "films" / "test").glob("*.png")), {}
    for film, size in zip(films, [(131, 97), (97, 131), (300, 300)], strict=False):
        sizes[film.stem] = size
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.open(film).resize(size).save(tmp_path / "in" / film.name)
    asked = ("nodule", "effusion")
    folder = explain.explain(
        one(
            place,
            images=tmp_path / "in",
            classes=asked,
            output=tmp_path / "out" / "maps",
            full_size=True,
        )
    )
    table = pd.read_csv(folder / "maps.csv", keep_default_na=False)
    assert [(row.image, row[2]) for row in table.itertuples()] == [
        (image, name) for image in sorted(sizes) for name in asked
    ]
    for number, row in table.iterrows():
        heat = np.load(folder / "full" / f"{number:03d}.npy")
        assert heat.shape == sizes[row["image"]][::-1]
        assert Image.open(folder / "full" / f"{number:03d}.png").size == sizes[row["image"]]


def test_what_cannot_be_explained_is_said_in_one_sentence(place, tmp_path, refused, match):
    run, full = place / "runs" / "one", tmp_path / "full"
    write_text(full / "mine.txt", "dear to me")
    for flags, said in (
        (["--run", tmp_path], "is not a run folder"),
        (["--run", run, "--split", "tset"], "no split 'tset'. It has: test, train, val"),
        (["--run", run, "--classes", "nodul"], "no class nodul. It has: nodule, "),
        (["--run", run, "--n", "0"], "--n is 0"),
        (["--run", run, "--batch-size", "0"], "--batch-size is 0"),
        (["--run", run, "--method", "attention"], "does not pool by attention"),
        (["--run", run, "--images", full], "--output FOLDER"),
        (["--run", run, "--images", full, "--output", tmp_path / "out"], "no images at"),
        (["--run", run, "--output", full], "holds something else than heat maps"),
    ):
        match(said, refused(explain.main, *flags))
    assert (full / "mine.txt").read_text() == "dear to me"


def test_a_network_without_a_feature_map_trains_all_the_same(place, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO, "xraycomp")
    flags = FLAGS.replace("--image-size 32", "--image-size 160")
    data = ["--competition", "phantom", "--data", str(place / "films"), "--name", "tokens"]
    train.main([*data, "--arch", "timm:test_vit", *flags.split()])
    run = tmp_path / "runs" / "tokens"
    assert (
        "No heat maps are drawn: timm:test_vit does not end in" in (run / "train.log").read_text()
    )
    assert not (run / "explain").exists()
    assert (run / "submission.csv").is_file()
