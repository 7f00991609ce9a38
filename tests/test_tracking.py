"""--track: what the clients of TensorBoard and Weights & Biases find in the run folder."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.phantom import draw_competition
from xraycomp.job.tracking import tracking
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder
from xraycomp.train import main

FLAGS = "--image-size 32 --batch-size 8 --warmup-epochs 0 --device cpu --workers 1"


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracking")
    draw_competition(folder / "films", n_train=80, n_test=6, size=48)
    return folder / "films"


@pytest.fixture
def train(films, tmp_path, monkeypatch):
    """Train a small run; gives its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)

    def go(*flags):
        data = ["--competition", "phantom", "--data", str(films), "--name", "one"]
        main([*data, "--val-fraction", "0.3", *FLAGS.split(), *flags])
        return tmp_path / "runs" / "one"

    return go


def events(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def assert_told(run, found, columns=("train_loss", "val_auroc", "lr")):
    table = pd.read_csv(run / "metrics.csv")
    for column in columns:
        scalars = found.Scalars(column)
        assert [scalar.step for scalar in scalars] == list(table["epoch"]), column
        assert [scalar.value for scalar in scalars] == pytest.approx(list(table[column]), rel=1e-5)


def test_tensorboard_has_every_epoch_the_settings_and_the_final_figures(train):
    pytest.importorskip("tensorboard")
    run = train("--epochs", "2", "--track", "tensorboard")
    found = events(run)
    assert_told(run, found)
    overall = json.loads((run / "metrics.json").read_text())["overall"]
    (final,) = found.Scalars("final/macro_auroc")
    assert final.value == pytest.approx(overall["macro_auroc"]["value"], rel=1e-5)
    from tensorboard.plugins.hparams import plugin_data_pb2

    content = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["epochs"].number_value == 2
    assert settings["arch"].string_value == "resnet18"


def test_a_resumed_run_goes_on_with_one_record(train):
    """Rows that an interrupted run told of epochs it has to do again are told once."""
    pytest.importorskip("tensorboard")
    run = train("--epochs", "3", "--track", "tensorboard", "--time-limit", "0.0001")
    assert not (run / "metrics.csv").is_file()
    folder = RunFolder(run)
    with tracking(folder, TrainConfig(track="tensorboard"), "phantom") as tracker:
        for epoch in (1, 2):
            tracker.epoch({"epoch": epoch, "train_loss": 99.0, "val_auroc": 0.0, "lr": 1.0})
    main(["--resume", str(run)])
    assert_told(run, events(run))


@pytest.fixture
def start(films, tmp_path):
    """Start training as a process of its own."""

    def go(*flags, code="from xraycomp.train import main; import sys; main(sys.argv[1:])"):
        data = ["--competition", "phantom", "--data", str(films), "--name", "one"]
        command = [sys.executable, "-c", code, *data, "--val-fraction", "0.3", *FLAGS.split()]
        environment = {
            **{name: value for name, value in os.environ.items() if "WANDB" not in name},
            "HOME": str(tmp_path),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        return subprocess.Popen(
            [*command, *flags],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return go


def test_without_the_flag_neither_is_imported(start, tmp_path):
    code = (
        "import sys; from xraycomp.train import main; main(sys.argv[1:]);"
        "print('LOADED', [n for n in ('tensorboard', 'wandb') if n in sys.modules])"
    )
    said, _ = start("--epochs", "1", code=code).communicate(timeout=240)
    assert "LOADED []" in said, said
    assert not (tmp_path / "runs" / "one" / "tensorboard").exists()
    assert not (tmp_path / "runs" / "one" / "wandb").exists()


def test_ctrl_c_leaves_what_was_told(start, tmp_path):
    pytest.importorskip("tensorboard")
    process = start("--epochs", "500", "--track", "tensorboard")
    table = tmp_path / "runs" / "one" / "metrics.csv"
    deadline = time.monotonic() + 120
    while not table.is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert "Go on with" in said, said
    assert_told(table.parent, events(table.parent))


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_client_that_is_not_installed_is_one_sentence(train, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as said:
        train("--epochs", "1", "--track", name)
    assert str(said.value) == (
        f"--track {name} needs {name}, which is not installed: pip install -e '.[track]'."
    )
    assert not (tmp_path / "runs").exists()


def logged(path):
    """The records of a file of LevelDB's log format: blocks of 32 kB, and in front of each part of
    a record its checksum, length and kind (1 whole, 2 first, 3 middle, 4 last)."""
    data, at, record = path.read_bytes(), 7, b""  # what begins it names the format
    while at < len(data):
        left = 32768 - at % 32768
        length, kind = struct.unpack("<4xHB", data[at : at + 7]) if left >= 7 else (0, 0)
        if not kind:
            at += left
            continue
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def records(run):
    """What the offline folders of Weights & Biases hold, in their order."""
    from wandb.proto import wandb_internal_pb2

    paths = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    return [wandb_internal_pb2.Record.FromString(one) for path in paths for one in logged(path)]


def test_weights_and_biases_has_it_offline(train):
    pytest.importorskip("wandb", reason="its install is 60 MB, too much for every test run")
    run = train("--epochs", "1", "--track", "wandb")
    main(["--resume", str(run)])
    folders = sorted((run / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1  # one record
    found = records(run)
    table = pd.read_csv(run / "metrics.csv")
    told = [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in each.history.item
        }
        for each in found
        if each.WhichOneof("record_type") == "history"
    ]
    assert told[0]["_step"] == 1
    assert told[0]["val_auroc"] == pytest.approx(table["val_auroc"].iloc[0])
    settings = {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for each in found
        if each.WhichOneof("record_type") == "run"
        for item in each.run.config.update
    }
    assert settings["arch"] == "resnet18" and settings["epochs"] == 1
    ends_at, exits = time.monotonic() + 60, []
    while len(exits) < 2 and time.monotonic() < ends_at:  # its own process writes on for a moment
        found = records(run)
        exits = [one.exit.exit_code for one in found if one.WhichOneof("record_type") == "exit"]
    assert exits == [0, 0]
