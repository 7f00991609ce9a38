"""The run folder: refused when it holds something, written whole, read without trust."""

import json
import logging
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.files import write_csv
from xraycomp.model.config import TrainConfig
from xraycomp.model.environment import describe_environment
from xraycomp.model.run import RunFolder, check_free, default_name

MANIFEST = pd.DataFrame(
    {
        "image": ["007", "NA", "c,d"],
        "path": ["x/007.png", "x/NA.png", 'x/"c,d".png'],
        "label": ["covid", "", "normal"],
        "patient": ["", "1e5", "0012"],
        "split": ["train", "test", "val"],
    }
)
SETUP = {"config.json", "environment.json", "manifest.csv", "competition.toml", "duplicates.csv"}


COPIES = pd.DataFrame({"image": ["a"], "copy": ["b"]})


def create(path, config=None, competition=None, environment=None):
    competition = competition or load_competition("phantom")
    return RunFolder.create(
        path, config or TrainConfig(), competition, MANIFEST, COPIES, environment or {}
    )


@pytest.fixture
def run(tmp_path):
    return create(tmp_path / "runs" / "one")


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match=f"--overwrite.* --resume {tmp_path}"):
        check_free(tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_overwriting_clears_the_folder_when_the_new_run_begins_and_nothing_beside_it(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "predictions").mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text("old")
    check_free(tmp_path / "one", overwrite=True)
    assert (tmp_path / "one" / "metrics.csv").read_text() == "old"
    run = create(tmp_path / "one")
    assert {path.name for path in run.path.iterdir()} == SETUP
    assert (tmp_path / "other" / "metrics.csv").read_text() == "old"


def test_a_setup_that_breaks_off_is_no_run(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="No space left"):
        create(tmp_path / "one")
    assert not list(tmp_path.iterdir())


def test_an_empty_or_a_new_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "a" / "new"):
        check_free(path)
        assert {file.name for file in create(path).path.iterdir()} == SETUP


def test_a_folder_that_is_no_run_is_not_opened(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"is not a run folder \(it has no config\.json\)"):
            RunFolder.open(path)


def test_half_a_setup_is_never_there(tmp_path):
    with pytest.raises(TypeError):
        create(tmp_path / "runs" / "one", environment={"torch": object()})
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_setup_comes_back_as_it_was(tmp_path):
    config = TrainConfig(lr=0.3, data=Path("x.zip"))
    competition = load_competition("chest-xray-4")
    run = create(tmp_path / "run", config, competition, describe_environment())
    assert {path.name for path in run.path.iterdir()} == SETUP
    opened = RunFolder.open(run.path)
    assert opened.config() == config
    assert opened.competition() == competition
    pd.testing.assert_frame_equal(opened.manifest(), MANIFEST, check_dtype=False)
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert {"commit", "python", "numpy", "platform", "gpus"} <= environment.keys()
    assert list(pd.read_csv(run.path / "duplicates.csv")) == ["image", "copy"]


@pytest.mark.parametrize("text", ["", "{", '{"lrr": 1}', '{"lr": "high"}', "[1, 2]", '{"lr": -1}'])
def test_a_damaged_configuration_is_one_sentence(run, text):
    (run.path / "config.json").write_text(text)
    with pytest.raises(UserError):
        RunFolder.open(run.path).config()


def test_epochs_are_rows_and_a_repeated_epoch_replaces_those_after_it(run):
    for epoch in (1, 2, 3):
        run.write_epoch({"epoch": epoch, "train_loss": 1 / 3, "lr": 1e-7})
    before = (run.path / "metrics.csv").read_text().splitlines()
    run.write_epoch({"epoch": 2, "train_loss": 0.25, "lr": 0.1})
    after = (run.path / "metrics.csv").read_text().splitlines()
    assert after[:2] == before[:2]  # not a digit of what stays is changed
    assert len(after) == 3
    assert list(run.epochs()["train_loss"].round(3)) == [0.333, 0.25]
    assert list(run.epochs()["lr"]) == [1e-7, 0.1]  # a small rate is not rounded to 0


def test_the_log_goes_to_the_run_while_it_is_open(run):
    logger = logging.getLogger("xraycomp.model")
    logging.getLogger("xraycomp").setLevel(logging.INFO)
    with run.log():
        logger.info("inside ✓")
    logger.info("outside")
    text = (run.path / "train.log").read_text(encoding="utf-8")
    assert text.endswith("inside ✓\n")
    assert "outside" not in text


@pytest.mark.parametrize("arch", ["resnet18", "timm:hf/some.model"])
def test_a_default_name_is_one_folder(arch):
    name = default_name(load_competition("phantom"), TrainConfig(arch=arch))
    assert re.fullmatch(r"phantom-[\w.-]+-\d{8}-\d{6}", name)


def test_what_was_measured_is_read_as_numbers_and_may_be_missing(run):
    assert run.features() is None
    table = MANIFEST[["image", "split"]].assign(width=[4, 5, 6], height=7, brightness=0.5)
    write_csv(run.features_path, table)
    found = run.features()
    assert list(found["image"]) == ["007", "NA", "c,d"]
    assert found[["width", "height", "brightness"]].sum().tolist() == [15, 21, 1.5]
    write_csv(run.features_path, table.drop(columns="height"))
    with pytest.raises(UserError, match=r"features\.csv has no column height"):
        run.features()
