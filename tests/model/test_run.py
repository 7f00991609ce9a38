"""The run folder: refused when it holds something, written whole, read without trust."""

import json
import logging
import pickle
import re
from pathlib import Path

import pandas as pd
import pytest
import torch

from xraycomp.console.errors import UserError
from xraycomp.data.competition import load_competition
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder, default_name, read_checkpoint, save_checkpoint

GOOD = {"model": {"w": torch.arange(6.0)}, "config": {"lr": 0.1}, "classes": ["a", "b"]}
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


def set_up(run, config=None, competition=None):
    copies = pd.DataFrame({"image": ["a"], "copy": ["b"]})
    competition = competition or load_competition("phantom")
    run.write_setup(config or TrainConfig(), competition, MANIFEST, copies)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "runs" / "one")


def test_a_folder_that_holds_something_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match=f"--resume {tmp_path}, replace it with --overwrite"):
        RunFolder.create(tmp_path)
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_overwriting_clears_the_folder_when_the_new_run_begins_and_nothing_beside_it(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "predictions").mkdir(parents=True)
        (tmp_path / name / "metrics.csv").write_text("old")
    run = RunFolder.create(tmp_path / "one", overwrite=True)
    assert (run.path / "metrics.csv").read_text() == "old"
    set_up(run)
    assert {path.name for path in run.path.iterdir()} == SETUP
    assert (tmp_path / "other" / "metrics.csv").read_text() == "old"


def test_a_setup_that_breaks_off_is_no_run(run, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    with pytest.raises(OSError, match="No space left"):
        set_up(run)
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder.open(run.path)


def test_an_empty_or_a_new_folder_is_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    assert RunFolder.create(tmp_path / "empty").path.is_dir()
    assert RunFolder.create(tmp_path / "a" / "new").path.is_dir()


def test_a_folder_that_is_no_run_is_not_opened(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"is not a run folder \(it has no config\.json\)"):
            RunFolder.open(path)


def test_the_setup_comes_back_as_it_was(run):
    config = TrainConfig(lr=0.3, data=Path("x.zip"))
    competition = load_competition("chest-xray-4")
    set_up(run, config, competition)
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


def test_the_log_goes_to_the_run_until_its_handler_is_removed(run):
    logger = logging.getLogger("xraycomp.model")
    logging.getLogger("xraycomp").setLevel(logging.INFO)
    handler = run.log_to_file()
    logger.info("inside ✓")
    logging.getLogger("xraycomp").removeHandler(handler)
    handler.close()
    logger.info("outside")
    text = (run.path / "train.log").read_text(encoding="utf-8")
    assert text.endswith("inside ✓\n")
    assert "outside" not in text


@pytest.mark.parametrize("arch", ["resnet18", "timm:hf/some.model"])
def test_a_default_name_is_one_folder(arch):
    name = default_name(load_competition("phantom"), TrainConfig(arch=arch))
    assert re.fullmatch(r"phantom-[\w.-]+-\d{8}-\d{6}", name)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, GOOD)
    found = read_checkpoint(path)
    assert torch.equal(found["model"]["w"], GOOD["model"]["w"])
    assert (found["config"], found["classes"]) == (GOOD["config"], GOOD["classes"])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_save_leaves_the_checkpoint_that_was_there(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, GOOD)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {**GOOD, "broken": lambda: None})
    assert read_checkpoint(path)["classes"] == ["a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


class Planted:
    """Writes a file when it is unpickled by whoever trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_cut_off_checkpoint_is_one_sentence(tmp_path, keep):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, GOOD)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="is damaged, cut off or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04rubbish", b"\x89PNG\r\n\x1a\n"])
def test_a_foreign_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged, cut off or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [torch.ones(3), {"model": {}}, [1, 2], {"state_dict": {"w": torch.ones(1)}}]
)
def test_a_file_of_another_program_is_not_taken_for_a_checkpoint(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match="is not a checkpoint of this kit"):
        read_checkpoint(path)


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, sign = tmp_path / "checkpoint.pt", tmp_path / "was_run"
    torch.save({**GOOD, "planted": Planted(sign)}, path)
    with pytest.raises(UserError, match="is damaged, cut off or not a checkpoint"):
        read_checkpoint(path)
    assert not sign.exists()
    torch.load(path, weights_only=False)
    assert sign.exists()  # the plant works: only our reading did not trust it
