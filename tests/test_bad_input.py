"""What a new user does wrong: one plain sentence, an exit code, and nothing half-written.

Most mistakes are made within this process, through the frame that every command has, those of a
full disk too; the last ones in processes of their own, with a folder that is really read-only.
"""

import ctypes
import logging
import os
import re
import resource
import shutil

import pandas as pd
import pytest
import torch
import torchvision

from xraycomp import evaluate, predict, submit, train
from xraycomp.model.config import TrainConfig

SMALL = "--image-size 16 --epochs 1 --batch-size 8 --device cpu --workers 1 --val-fraction 0.25"
FLAGS = [*SMALL.split(), "--data", "set"]

FOLDERS_TOML = """
slug = "mine"
source = "dataset"
task = "multiclass"
classes = ["covid", "pneumonia", "normal"]
metric = "macro_f1"

[train]
images = "train"
labels = "folders"
"""

TABLE_TOML = FOLDERS_TOML.replace(
    'labels = "folders"',
    'labels = "labels.csv"\nimage_column = "image"\nlabel_column = "label"',
)


@pytest.fixture
def data(tmp_path, draw_tree):
    """A good set of three classes and a test folder, for the test to spoil: ``set``."""
    return draw_tree(tmp_path / "set")


def nothing_there(data):
    shutil.rmtree(data)


def empty_folder(data):
    shutil.rmtree(data)
    data.mkdir()


def no_images(data):
    empty_folder(data)
    (data / "train/covid").mkdir(parents=True)


def one_class(data):
    shutil.rmtree(data / "train/normal")
    shutil.rmtree(data / "train/pneumonia")


def one_image_of_a_class(data):
    for path in (data / "train/covid").glob("image_[1-9].png"):
        path.unlink()


def text_image(data):
    (data / "train/covid/image_3.png").write_text("no image")


def truncated_image(data):
    path = data / "train/normal/image_3.png"
    path.write_bytes(path.read_bytes()[:-200])


def empty_image(data):
    (data / "train/covid/image_3.png").write_bytes(b"")


def empty_test_image(data):
    (data / "test/test_1.png").write_bytes(b"")


def truncated_test_image(data):
    path = data / "test/test_2.png"
    path.write_bytes(path.read_bytes()[:-200])


def whole_class_broken(data):
    for path in (data / "train/covid").iterdir():
        path.write_bytes(b"")


def everything_broken(data):
    for path in (data / "train").rglob("*.png"):
        path.write_bytes(b"")


def without_class_folder(data):
    shutil.rmtree(data / "train/pneumonia")
    (data.parent / "own.toml").write_text(FOLDERS_TOML)


def another_folder(data):
    shutil.copytree(data / "train/covid", data / "train/tuberculosis")
    (data.parent / "own.toml").write_text(FOLDERS_TOML)


def with_table(data, **changes):
    paths = sorted((data / "train").rglob("*.png"))
    table = pd.DataFrame(
        {"image": [f"{n}.png" for n in range(len(paths))], "label": [p.parent.name for p in paths]}
    )
    for n, path in enumerate(paths):
        path.rename(data / "train" / f"{n}.png")
    for column, value in changes.items():
        table.loc[5, column] = value
    table.to_csv(data / "labels.csv", index=False)
    (data.parent / "own.toml").write_text(TABLE_TOML)


def label_outside_the_list(data):
    with_table(data, label="flu")


def id_twice(data):
    with_table(data, image="4.png")


def image_without_file(data):
    with_table(data, image="99.png")


def two_suffixes_of_one_id(data):
    shutil.copy(data / "test/test_0.png", data / "test/test_0.jpg")


def wrong_key_in_toml(data):
    (data.parent / "own.toml").write_text(FOLDERS_TOML + "[recipe]\nlearning_rate = 1\n")


OWN = ["--competition", "own.toml"]
SKIP = ["--skip-broken"]


@pytest.mark.parametrize(
    ("spoil", "flags", "said"),
    [
        (nothing_there, [], "There is nothing at set"),
        (empty_folder, [], "The folder set is empty"),
        (no_images, [], "No image-folder tree"),
        (one_class, [], "No image-folder tree .*two classes or more"),
        (one_image_of_a_class, [], "class covid has 1 image"),
        (text_image, [], r"train/covid/image_3\.png \(not an image\).*--skip-broken"),
        (truncated_image, [], r"1 images do not decode: train/normal/image_3\.png \("),
        (empty_image, [], r"1 images do not decode: train/covid/image_3\.png \(empty file\)"),
        (empty_test_image, [], r"1 test images do not decode .* test/test_1\.png \(empty file\)"),
        (empty_test_image, SKIP, r"1 test images do not decode .* test/test_1\.png"),
        (truncated_test_image, SKIP, r"1 test images do not decode .* test/test_2\.png"),
        (whole_class_broken, SKIP, "class covid has 0 image"),
        (everything_broken, SKIP, "has 0 image"),
        (without_class_folder, OWN, "no folder for pneumonia"),
        (another_folder, OWN, "no class of mine: tuberculosis"),
        (label_outside_the_list, OWN, "line 7: the label 'flu'"),
        (id_twice, OWN, r"1 images twice: 4\.png"),
        (image_without_file, OWN, r"1 images of .* have no file in .*: 99\.png"),
        (two_suffixes_of_one_id, [], r"more than one file \(test_0\)"),
        (wrong_key_in_toml, OWN, "unknown key recipe.learning_rate"),
    ],
)
def test_a_set_that_is_wrong_is_one_sentence_and_no_run(
    refused, data, tmp_path, spoil, flags, said, match
):
    spoil(data)
    match(said, refused(train.main, *FLAGS, *flags))
    assert not list((tmp_path / "runs").glob("*"))
    assert not (tmp_path / "submissions").exists()


def damaged_weights(folder):
    (folder / "weights.pt").write_bytes(b"no weights")


def foreign_weights(folder):
    torch.save(torchvision.models.squeezenet1_1().state_dict(), folder / "weights.pt")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--epoch", "2"], "--epochs"),
        (["--no-such-flag"], "no-such-flag"),
        (["--epochs", "many"], "many"),
        (["--optimizer", "lion"], "lion"),
        (["--arch", "resnet81"], "did you mean resnet18"),
        (["--arch", "timm:resnet81"], "resnet"),
        (["--image-size", "0"], "--image-size is 0"),
        (["--resize-size", "8"], "--resize-size is 8"),
        (["--arch", "inception_v3"], "inception_v3 cannot take images of 16 pixels"),
        (["--batch-size", "19"], "--batch-size 19 .* larger than the training set of 18"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--accumulate", "3"], "--accumulate 3.* larger than the training set"),
        (["--val-fraction", "1"], r"--val-fraction is 1"),
        (["--folds", "1"], "--folds is 1; it must be at least 2"),
        (["--folds", "3", "--fold", "3"], "--fold is 3; it must be one of 0 to 2"),
        (["--device", "cuda:77"], "'cuda:77' cannot be used"),
        (["--device", "gpu"], "'gpu' cannot be used"),
        (["--competition", "phantoms"], "Did you mean phantom"),
        (["--competition", "gone.toml"], "no competition file gone.toml"),
        (["--resume", "runs/gone"], "runs/gone is not a run folder"),
        (["--weights", "gone.pt"], "no weight file gone.pt"),
        (["--weights", "weights.txt"], "no weight file weights.txt"),
    ],
)
def test_a_flag_that_is_wrong_is_one_sentence_and_no_run(
    refused, data, tmp_path, flags, said, match
):
    if "timm:" in " ".join(flags):
        pytest.importorskip("timm")
    match(said, refused(train.main, *FLAGS, *flags))
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (damaged_weights, r"weights\.pt .* is cut off, damaged or not a weight file"),
        (foreign_weights, r"weights\.pt do not belong to resnet18"),
    ],
)
def test_weights_that_are_wrong_are_one_sentence_and_no_run(
    refused, data, tmp_path, make, said, match
):
    make(tmp_path)
    match(said, refused(train.main, *FLAGS, "--weights", "weights.pt"))
    assert not list((tmp_path / "runs").glob("*"))


@pytest.fixture
def run(tmp_path, data, monkeypatch):
    """A finished run ``runs/one`` over the good set."""
    monkeypatch.chdir(tmp_path)
    train.main([*FLAGS, "--name", "one"])
    return tmp_path / "runs/one"


def test_broken_training_images_are_left_out_on_request_and_everything_else_is_done(
    tmp_path, data, monkeypatch, caplog
):
    for spoil in (text_image, truncated_image):
        spoil(data)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, "xraycomp"):
        train.main([*FLAGS, "--name", "one", "--skip-broken"])
    assert "Left out 2 images that do not decode" in caplog.text
    manifest = pd.read_csv(tmp_path / "runs/one/manifest.csv", keep_default_na=False)
    skipped = manifest["path"][manifest["split"] == "skipped"]
    assert list(skipped) == ["train/covid/image_3.png", "train/normal/image_3.png"]
    submission = pd.read_csv(tmp_path / "submissions/one.csv")
    assert list(submission["name"]) == ["test_0", "test_1", "test_2"]


def cut(path):
    path.write_bytes(path.read_bytes()[:100_000])


def cut_tail(path):
    path.write_bytes(path.read_bytes()[:-30_000])


def to_text(path):
    path.write_text("no checkpoint")


def to_nothing(path):
    path.write_bytes(b"")


def other_architecture(path):
    content = torch.load(path, weights_only=True)
    content["model"] = torchvision.models.squeezenet1_1().state_dict()
    torch.save(content, path)


def other_number_of_classes(path):
    content = torch.load(path, weights_only=True)
    for name, tensor in content["model"].items():
        if name.endswith("fc.weight") or name.endswith("fc.bias"):
            content["model"][name] = torch.cat([tensor, tensor])
    content["classes"] = [f"class {n}" for n in range(6)]
    torch.save(content, path)


def bare_state_dict(path):
    torch.save(torch.load(path, weights_only=True)["model"], path)


DAMAGES = {
    cut: "damaged, cut off",
    cut_tail: "damaged, cut off",
    to_text: "damaged, cut off",
    to_nothing: "damaged, cut off",
    other_architecture: "do not belong to resnet18|another model",
    other_number_of_classes: "another model|trained on the classes",
    bare_state_dict: "not a checkpoint of this kit",
}


def contents(folder):
    """All files but the log, which tells of failures too."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "train.log")
    return {path: path.read_bytes() for path in files}


def test_a_checkpoint_that_is_wrong_is_one_sentence_and_changes_nothing(
    refused, run, tmp_path, match
):
    whole = contents(run)
    for damage, said in DAMAGES.items():
        for file, main, args in (
            ("checkpoint.pt", train.main, ["--resume", run]),
            ("best.pt", predict.main, ["--runs", run]),
        ):
            damage(run / file)
            before = contents(tmp_path)
            match(said, refused(main, *args))
            assert contents(tmp_path) == before
            (run / file).write_bytes(whole[run / file])
    # best.pt is no checkpoint to go on from.
    shutil.copy(run / "best.pt", run / "checkpoint.pt")
    match("another model or configuration", refused(train.main, "--resume", run))
    (run / "best.pt").unlink()
    match(r"no checkpoint .*best\.pt", refused(predict.main, "--runs", run))


def test_mistakes_with_a_finished_run_are_one_sentence_and_change_nothing(
    refused, run, data, tmp_path, match
):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_text("no image")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "wrong.csv").write_text("name,target\ntest_0,1\n")
    shutil.copytree(run, tmp_path / "damaged")
    (tmp_path / "damaged/config.json").write_text('{"epochs": ')
    before = contents(tmp_path)
    output = ["--output", "out.csv"]
    for main, args, said in (
        (train.main, [*FLAGS, "--name", "one"], r"runs/one holds an earlier run.*--overwrite"),
        (train.main, ["--resume", run, "--epochs", "3"], "--epochs 1 and cannot go on with 3"),
        (train.main, ["--resume", "damaged"], "config.json is damaged"),
        (predict.main, ["--runs", "set"], "set is not a run folder"),
        (predict.main, ["--runs"], "--runs"),
        (predict.main, ["--runs", run, "--split", "tset"], "no split 'tset'"),
        (predict.main, ["--runs", run, "--batch-size", "0"], "--batch-size is 0"),
        (predict.main, ["--runs", run, "--images", "pictures"], "--output"),
        (predict.main, ["--runs", run, "--images", "gone", *output], "no images at gone"),
        (predict.main, ["--runs", run, "--images", "nothing", *output], "no images at nothing"),
        (
            predict.main,
            ["--runs", run, "--images", "pictures", *output],
            r"a\.png \(not an image\).*--skip-broken",
        ),
        (
            predict.main,
            ["--runs", run, "--images", "pictures", "--skip-broken", *output],
            "nothing to predict",
        ),
        (evaluate.main, ["--run", run, "--split", "test"], "no labelled split 'test'"),
        (evaluate.main, ["--run", run, "--predictions", "gone.csv"], "no prediction table gone"),
        (evaluate.main, ["--run", run, "--predictions", "wrong.csv"], "wrong.csv has no column"),
        (submit.main, ["--run", run, "--check", "gone.csv"], "no submission file gone.csv"),
        (submit.main, ["--run", run, "--check", "wrong.csv"], "wrong.csv lacks 2 ids"),
        (
            submit.main,
            ["--run", run, "--predictions", run / "predictions/val.csv"],
            "lack 3 of 3 test images",
        ),
    ):
        match(said, refused(main, *args))
        assert contents(tmp_path) == before, args
    shutil.rmtree(data)
    match("nothing at set", refused(train.main, "--resume", run))
    match("nothing at set", refused(predict.main, "--runs", run))


def test_a_run_is_not_replaced_by_one_that_cannot_begin(refused, run, data, match):
    before = contents(run)
    text_image(data)
    said = refused(train.main, *FLAGS, "--name", "one", "--overwrite")
    match("do not decode", said)
    assert contents(run) == before


@pytest.mark.parametrize("flag", ["--runs-dir", "--data-dir"])
@pytest.mark.parametrize("place", ["file/below", "/proc/xraycomp"])
def test_a_folder_that_cannot_be_made_is_named(refused, data, tmp_path, flag, place, match):
    (tmp_path / "file").write_text("")
    match(place, refused(train.main, *FLAGS, flag, place))


def test_recipes_and_flags_give_the_same_sentence_without_a_command_line(tmp_path):
    with pytest.raises(Exception, match="--image-size is 0; it must be at least 1"):
        TrainConfig(image_size=0)


@pytest.fixture
def limit_files_to():
    """Make every write beyond so many bytes of a file fail, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_while_decoding_leaves_no_cache_and_no_run(
    refused, limit_files_to, data, tmp_path
):
    limit_files_to(100_000)
    assert "The disk is full" in refused(train.main, *FLAGS, "--image-size", "64")
    assert [path for path in tmp_path.rglob("*") if path.name.endswith("px")] == []
    assert not list((tmp_path / "runs").glob("*"))


def test_a_disk_that_is_full_at_the_checkpoint_leaves_no_part_of_one(
    refused, limit_files_to, data, tmp_path
):
    limit_files_to(5_000_000)
    said = refused(train.main, *FLAGS, "--name", "one")
    assert "The disk is full" in said
    assert "runs/one/" in said
    assert not list(tmp_path.rglob("*.pt"))
    assert not (tmp_path / "submissions").exists()


def test_a_disk_that_is_full_at_the_start_of_a_run_leaves_no_half_of_it(
    refused, limit_files_to, run, tmp_path
):
    # The cache is there from the run before, so the manifest is the first file that is too large.
    limit_files_to(1000)
    assert "The disk is full" in refused(train.main, *FLAGS, "--name", "two")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["one"]


# ------------------------------------------------------------------ in processes of their own


def obey_permissions():
    """Drop root's right to write anywhere, in the child only, before the command starts."""
    if os.geteuid() == 0:
        drop_from_bounding_set, dac_override = 24, 1
        ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override, 0, 0, 0)


def test_a_wrong_flag_exits_with_2_and_writes_nothing(cli, one_sentence, tmp_path):
    done = cli("submit", "--mesage", "x")
    assert done.returncode == 2
    assert "--mesage" in one_sentence(done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_one_sentence_and_nothing_is_left(cli, one_sentence, data, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    runs.chmod(0o555)
    done = cli("train", *FLAGS, before=obey_permissions)
    runs.chmod(0o755)
    assert done.returncode == 1
    said = one_sentence(done.stderr)
    assert re.search(r"runs/set-.* cannot be written to\. Choose .* --runs-dir", said)
    assert list(runs.iterdir()) == []
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]
