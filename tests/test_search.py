"""Searches as a user starts them: several processes on one study, killed, stopped, gone on with.

Trials are real runs of a small network on drawn images.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest

from xraycomp import report, search
from xraycomp.console.errors import UserError

SPACE = """
title = "Optimizers"

[choices.sgd]
optimizer = "sgd"
lr = { values = [0.01, 0.05] }

[choices.adamw]
optimizer = "adamw"
lr = { values = [0.001, 0.003] }
"""
GRID = Counter({("sgd", 0.01): 1, ("sgd", 0.05): 1, ("adamw", 0.001): 1, ("adamw", 0.003): 1})
SMALL = ("--data", "films", "--image-size", "16", "--batch-size", "8", "--val-fraction", "0.25")


@pytest.fixture
def here(
    tmp_path: Path, draw_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with drawn films and a space, in which commands run."""
    draw_tree(tmp_path / "films")
    (tmp_path / "space.toml").write_text(SPACE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start(here: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Start a search in a process of its own."""

    def _start(*args: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "xraycomp.search", *args],
            cwd=here,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return _start


def run(space: str, *flags: str, epochs: int = 1, text: str | None = None) -> dict[str, Any]:
    """Search in this process and return ``study.json``."""
    if text is not None:
        Path(space).write_text(text, encoding="utf-8")
    own = ["--space", space, "--study", "s", *flags]
    search.main([*own, "--", *SMALL, "--epochs", str(epochs)])
    return tally("s")


def tally(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("runs", name, "study.json").read_text(encoding="utf-8"))
    return found


def combinations(found: dict[str, Any], *states: str) -> Counter[tuple[str, float]]:
    rows = [row["params"] for row in found["trials"] if row["state"] in (states or ("complete",))]
    return Counter((row["optimizer"], row["lr"]) for row in rows)


def its_trial(process: subprocess.Popen[str]) -> Path:
    """The folder of the first trial that a process works on, once it has a checkpoint."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.match(r"Trial (\d+) of ", line):
            folder = Path("runs", "two", f"trial-{int(found[1]):04d}")
            while not (folder / "checkpoint.pt").is_file():
                assert process.poll() is None
                time.sleep(0.02)
            return folder
    raise AssertionError("".join(lines))


def test_two_processes_share_a_study_and_make_up_for_one_that_is_killed(here, start):
    shared = [*SMALL, "--epochs", "12"]
    processes = [start("--space", "space.toml", "--study", "two", "--", *shared) for _ in "ab"]
    folder = its_trial(processes[0])
    processes[0].kill()
    processes[0].wait()
    begun = len(pd.read_csv(folder / "metrics.csv"))
    assert 1 <= begun < 12
    assert not (folder / "finished.json").exists()
    said, _ = processes[1].communicate(timeout=300)
    assert processes[1].returncode == 0, said
    found = tally("two")
    # None lost, none doubled, and the killed one went on from its checkpoint.
    assert combinations(found) == GRID
    assert [row["state"] for row in found["trials"]] == ["complete"] * 4
    assert "Continuing" in (folder / "train.log").read_text(encoding="utf-8")
    for row in found["trials"]:
        epochs = pd.read_csv(here / "runs" / "two" / row["run"] / "metrics.csv")
        assert list(epochs["epoch"]) == list(range(1, 13))
        assert row["value"] == pytest.approx(epochs["val_macro_f1"].max())
        assert row["epochs"] == 12
    # Of a whole study the same command says what is there.
    again = start("--study", "two")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0
    assert "Trial" not in said
    assert combinations(tally("two")) == GRID


def test_a_search_that_is_stopped_goes_on(here, start):
    process = start("--space", "space.toml", "--study", "two", "--", *SMALL, "--epochs", "40")
    folder = its_trial(process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Go on with: python -m xraycomp.search --study two" in said
    assert "Traceback" not in said
    before = len(pd.read_csv(folder / "metrics.csv"))
    assert [row["state"] for row in tally("two")["trials"]] == ["running"] + ["waiting"] * 3
    # A limit of time is the whole search's.
    search.main(["--study", "two", "--", "--time-limit", "0.001"])
    assert [row["state"] for row in tally("two")["trials"]] == ["running"] + ["waiting"] * 3
    again = start("--study", "two", "--trials", "1")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    epochs = pd.read_csv(folder / "metrics.csv")
    assert list(epochs["epoch"]) == list(range(1, 41))
    assert before < 40
    assert tally("two")["trials"][0]["state"] == "complete"
    assert tally("two")["trials"][1]["state"] == "waiting"


FAILING = """
[choices.good]
optimizer = "adamw"
lr = 0.001

[choices.diverges]
optimizer = "sgd"
lr = 1e30
clip_grad = 0.0

[choices.impossible]
start_size = 32
lr = 0.001

[choices.large]
batch_size = 8
accumulate = 1000
"""


def test_trials_that_fail_are_marked_and_the_study_goes_on(here):
    found = run("space.toml", "--seeds", "1", text=FAILING)
    good, diverged, impossible, large = found["trials"]
    assert good["state"] == "complete"
    assert [row["state"] for row in (diverged, impossible, large)] == ["failed"] * 3
    assert "The loss became" in diverged["reason"]
    assert impossible["reason"].startswith("--start-size is 32; it must be image_size or less")
    assert found["best"] == 0
    # The failed ones are not tried again but on request.
    run("space.toml", "--seeds", "1")
    assert len(tally("s")["trials"]) == 4
    found = run("space.toml", "--seeds", "1", "--retry-failed")
    assert [row["state"] for row in found["trials"]] == ["complete"] + ["failed"] * 6


def test_a_trial_out_of_memory_is_marked(here):
    # 32 TB for one batch's activations.
    found = run("space.toml", text="[space]\nhead = {values = [[16], [4000000000000]]}\n")
    assert [row["state"] for row in found["trials"]] == ["complete", "failed"]
    assert found["trials"][1]["reason"].startswith("It ran out of memory")
    assert found["trials"][0]["params"] == {"head": [16]}


def test_a_search_whose_first_trials_all_fail_stops(here):
    space = "[space]\narch = 'no_such_net'\nseed = {values = [0, 1, 2, 3, 4]}\n"
    with pytest.raises(UserError, match="The first 3 trials failed for one reason: .*no_such_net"):
        run("space.toml", text=space)
    assert Counter(row["state"] for row in tally("s")["trials"]) == {"failed": 3, "waiting": 2}
