"""A run that was stopped, in any way and anywhere, goes on as if it never had been.

Compared with an uninterrupted run, bit for bit: every tensor and number of ``checkpoint.pt``
(weights, optimizer, schedule, averaged weights, random state), ``best.pt``, and every table but the
columns of seconds. The stopped runs are real processes that get real signals.
"""

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

import xraycomp
from xraycomp.console.errors import UserError
from xraycomp.model.checkpoint import read_checkpoint
from xraycomp.model.run import RunFolder
from xraycomp.train import main

BASE = "--arch mobilenet_v3_small --image-size 32 --epochs 2 --batch-size 4 --lr 0.02 --device cpu"
RICH = (
    f"{BASE} --ema-decay 0.9 --mixup 0.4 --erasing 0.5 --shift 0.1 --optimizer adamw "
    "--schedule onecycle --accumulate 2 --tta mirror --channels rgb --laplacian 0.5 --swa-epochs 2"
)
FLAGS = {
    "plain": BASE.split(),
    "rich": RICH.split(),
    "step": [*BASE.split(), "--schedule", "step", "--no-weighted-sampling", "--class-weights"],
}
TIMES = ["seconds", "data_seconds", "images_per_second"]
UNCOMPARED = {*TIMES, "resume", "runs_dir", "submissions_dir"}  # the last are where, not what
SECOND_EPOCH_STEPS = re.compile(r"Epoch 2/2: +[1-9]")  # its progress bar past 0 %
STARTS_WITHIN = 120  # seconds until a process must have got somewhere; not a measure of speed


@pytest.fixture(scope="module")
def data(tmp_path_factory, draw_film):
    """A folder with 150 training films in three classes and 6 test films."""
    root = tmp_path_factory.mktemp("competition") / "films"
    rng = np.random.default_rng(0)
    for index in range(156):
        label = index % 3
        folder = root / ("test" if index >= 150 else f"train/{('top', 'below', 'none')[label]}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_film(label, rng, 36)).save(folder / f"film_{index}.png")
    return root


def flags_of(data, kind, folder):
    places = ["--data", data, "--data-dir", data.parent / "data", "--name", "one"]
    places += ["--runs-dir", folder / "runs", "--submissions-dir", folder / "submissions"]
    return [str(flag) for flag in (*FLAGS[kind], *places)]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The folder of an uninterrupted run with the flags of that name, trained once."""
    trained = {}

    def train(kind):
        if kind not in trained:
            folder = tmp_path_factory.mktemp(kind)
            main(flags_of(data, kind, folder))
            trained[kind] = folder / "runs" / "one"
        return trained[kind]

    return train


@pytest.fixture
def stop_a_run(data, tmp_path):
    """Start a run as a process, signal it in its second epoch; returns (folder, exit, stderr)."""

    def stop(kind, number):
        said = tmp_path / "stderr"
        with said.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "xraycomp.train", *flags_of(data, kind, tmp_path)],
                env={
                    **os.environ,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": str(Path(xraycomp.__file__).parents[1]),
                },
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        try:
            latest = time.monotonic() + STARTS_WITHIN
            while not SECOND_EPOCH_STEPS.search(said.read_text()):
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < latest
                time.sleep(0.002)
            process.send_signal(number)
            process.wait(timeout=STARTS_WITHIN)
        finally:
            process.kill()
        return tmp_path / "runs" / "one", process.returncode, said.read_text()

    return stop


def assert_equal(found, wanted, where="checkpoint"):
    """Equal to the last bit, whatever the nesting; seconds are not compared."""
    assert type(found) is type(wanted), where
    if isinstance(wanted, torch.Tensor):
        assert found.dtype == wanted.dtype, where
        assert torch.equal(found, wanted), where
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            if key not in UNCOMPARED:
                assert_equal(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for index, pair in enumerate(zip(found, wanted, strict=True)):
            assert_equal(*pair, f"{where}[{index}]")
    else:
        assert found == wanted, where


def assert_same_run(found, wanted):
    for name in ("checkpoint.pt", "best.pt"):
        assert_equal(read_checkpoint(found / name), read_checkpoint(wanted / name), name)
    tables = [pd.read_csv(run / "metrics.csv", dtype=str) for run in (found, wanted)]
    pd.testing.assert_frame_equal(*(table.drop(columns=TIMES) for table in tables))
    for name in ("predictions/val.csv", "predictions/test.csv", "submission.csv", "metrics.json"):
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name


@pytest.mark.parametrize(("kind", "number"), [("step", signal.SIGINT), ("rich", signal.SIGTERM)])
def test_a_run_stopped_in_the_middle_of_an_epoch_goes_on_bit_for_bit(
    whole, stop_a_run, kind, number
):
    wanted = whole(kind)
    run, code, said = stop_a_run(kind, number)
    kept = read_checkpoint(run / "checkpoint.pt")
    assert kept["epoch"] == 1
    step = kept["progress"]["step"]
    assert step > 0
    assert code == 128 + number
    last = said.splitlines()[-1].rpartition("\r")[2].strip()
    assert last.endswith(
        f"Stopped in epoch 2 after {step} steps. "
        f"Go on with: python -m xraycomp.train --resume {run}"
    )
    assert "Traceback" not in said
    assert len(pd.read_csv(run / "metrics.csv")) == 1
    assert not (run / "metrics.json").exists()
    main(["--resume", str(run)])
    assert_same_run(run, wanted)


def test_a_run_killed_in_an_epoch_goes_on_bit_for_bit_from_the_one_before(whole, stop_a_run):
    wanted = whole("plain")
    run, code, _ = stop_a_run("plain", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert read_checkpoint(run / "checkpoint.pt")["epoch"] == 1
    assert not (run / "metrics.json").exists()
    main(["--resume", str(run)])
    assert_same_run(run, wanted)


def test_a_time_limit_stops_with_a_submission_and_the_run_goes_on_bit_for_bit(
    data, whole, tmp_path
):
    run = tmp_path / "runs" / "one"
    main([*flags_of(data, "plain", tmp_path), "--time-limit", "0.0001"])
    assert read_checkpoint(run / "checkpoint.pt")["progress"]["step"] == 1
    assert len(pd.read_csv(run / "submission.csv")) == 6
    assert not RunFolder.open(run).finished
    main(["--resume", str(run)])
    assert_same_run(run, whole("plain"))
    assert RunFolder.open(run).finished


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of a finished run, free to be changed."""
    return shutil.copytree(whole("plain"), tmp_path / "runs" / "one")


def test_resuming_a_finished_run_reproduces_its_files(whole, finished):
    for name in ("predictions", "submission.csv", "metrics.json", "roc.png"):
        path = finished / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    main(["--resume", str(finished)])
    assert_same_run(finished, whole("plain"))
    assert (finished / "roc.png").is_file()


def test_a_run_stopped_before_its_first_checkpoint_starts_again(whole, finished):
    for name in ("checkpoint.pt", "best.pt", "metrics.csv"):
        (finished / name).unlink()
    main(["--resume", str(finished)])
    assert_same_run(finished, whole("plain"))


@pytest.mark.parametrize(
    ("flags", "field", "old", "new"),
    [
        (["--lr", "0.5"], "lr", "0.02", "0.5"),
        (["--batch-size", "8"], "batch_size", "4", "8"),
        (["--arch", "resnet18"], "arch", "mobilenet_v3_small", "resnet18"),
        (["--seed", "3"], "seed", "0", "3"),
    ],
)
def test_resuming_with_another_setting_is_refused(finished, flags, field, old, new):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as caught:
        main(["--resume", str(finished), *flags])
    flag = field.replace("_", "-")
    assert str(caught.value) == (
        f"{finished} was started with --{flag} {old} and cannot go on with {new}. "
        "Leave that as it was, or train anew under another name."
    )
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_resuming_with_the_same_setting_and_another_limit_is_allowed(whole, finished):
    main(["--resume", str(finished), "--lr", "0.02", "--time-limit", "100", "--workers", "1"])
    assert_same_run(finished, whole("plain"))


def test_a_damaged_checkpoint_is_refused_when_resuming(finished):
    path = finished / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match="is damaged, cut off or not a checkpoint"):
        main(["--resume", str(finished)])
