"""The whole loop with the real ``kaggle`` command and ours, against the stand-in.

download -> train -> build -> rehearse -> push -> wait -> pull -> submit -> score. What
is pushed is really run: the stand-in starts the very text that came, with a /kaggle of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
from kaggle_server import KEY, USER, KernelVersion

SLUG = "toy-films"
CLASSES = ("stripe", "disc", "blank")
SMALL = "--arch squeezenet1_1 --image-size 32 --epochs 1 --batch-size 8 --lr 0.001 --name home"


@pytest.fixture
def desk(tmp_path, kaggle, draw, environment, make_kernel):
    """A competitor's folder with a kernel of theirs, and the competition on Kaggle."""
    films = {}
    for kind, name in enumerate(CLASSES):
        for n in range(16):
            path = draw(tmp_path / "drawn.png", kind, seed=n)
            films[f"films/train/{name}/film_{n}.png"] = path.read_bytes()
    for n in range(9):
        path = draw(tmp_path / "drawn.png", n % 3, seed=1000 + n)
        films[f"films/test/test_{n}.png"] = path.read_bytes()
    rows = "".join(f"test_{n},0\n" for n in range(9))
    kaggle.competitions[SLUG] = {**films, "sample.csv": f"id,target\n{rows}".encode()}
    kaggle.rules_accepted.add(SLUG)

    def score(data: bytes) -> tuple[float, float]:
        labels = [int(line.split(",")[1]) for line in data.decode().split()[1:]]
        right = sum(label == n % 3 for n, label in enumerate(labels)) / 9
        return right, right

    kaggle.solutions[SLUG] = score
    kaggle.run_kernel = lambda version: run_on_kaggle(version, kaggle, environment, tmp_path)
    return make_kernel(id="INSERT_USERNAME/toy-kernel")


def run_on_kaggle(version: KernelVersion, kaggle, environment, tmp_path):
    """Run the text that was pushed, as Kaggle would; returns status, log and output files."""
    root = tmp_path / f"kaggle-{version.number}"
    for name, data in kaggle.competitions[SLUG].items():
        path = root / "input/competitions" / SLUG / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    working = root / "working"
    working.mkdir()
    (root / "script.py").write_text(version.text)
    kept = {name: environment[name] for name in ("PATH", "MPLCONFIGDIR", "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, root / "script.py"],
        cwd=working,
        env={
            **kept,
            "HOME": str(root),
            "KAGGLE_KERNEL_RUN_TYPE": "Batch",
            "XRAYCOMP_KAGGLE_ROOT": str(root),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    files = {
        str(path.relative_to(working)): path.read_bytes()
        for path in working.rglob("*")
        if path.is_file()
    }
    shutil.rmtree(root)
    return ("ERROR" if done.returncode else "COMPLETE"), done.stdout, files


@pytest.fixture
def kit(tmp_path, kaggle_environment):
    """Run one of our commands as the signed-in user; it must succeed. Returns what it said."""
    said = []

    def run(command, *args, code=0):
        done = subprocess.run(
            [sys.executable, "-m", f"xraycomp.{command}", *map(str, args)],
            cwd=tmp_path,
            env=kaggle_environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        said.append(done.stdout + done.stderr)
        assert done.returncode == code, said[-1]
        return said[-1]

    run.said = said
    return run


def test_from_the_download_to_the_score_in_the_ledger(desk, kit, kaggle, kaggle_cli, tmp_path):
    listed = kaggle_cli("competitions", "files", "-c", SLUG)
    assert "sample.csv" in listed.stdout or "films/" in listed.stdout
    kit("download", "--competition", SLUG)
    kit("train", "--competition", desk / "toy.toml", *SMALL.split())

    said = kit("kernel", "run", "toy-kernel", "--poll", "0.5")  # rehearse, push, wait, pull
    assert f"Wrote your user name {USER} into the id" in said
    passed = [line for line in said.splitlines() if line.startswith("Passed")]
    assert len(passed) == 2  # under both layouts of mounts
    assert said.index(passed[1]) < said.index(f"Pushed {USER}/toy-kernel version 1")
    built = (desk / "kernel.py").read_text()
    sent = kaggle.kernels[f"{USER}/toy-kernel"].versions[0].text
    assert re.sub(r'^RUN = "\w+"$', 'RUN = ""', sent, flags=re.M) == built
    assert "complete" in kit("kernel", "status", "toy-kernel")
    home = tmp_path / "runs/toy-kernel-v1"
    for name in ("submission.csv", "metrics.json", "checkpoint.pt", "kernel.json", "kernel.log"):
        assert (home / name).is_file(), said
    log = (home / "kernel.log").read_text()
    assert json.loads((home / "kernel.json").read_text())["sha256"] in log

    # The pulled run is one like any other, also where the competition's files are not at hand.
    shutil.rmtree(tmp_path / "data")
    kit("submit", "--run", "runs/toy-kernel-v1", "--send", "--poll", "0.2")
    ledger = pd.read_csv(tmp_path / "submissions/ledger.csv")
    assert list(ledger["run"]) == ["toy-kernel-v1"]
    assert ledger["status"][0] == "COMPLETE"
    assert ledger["public_score"][0] == pytest.approx(kaggle.submissions[0].result[0], abs=1e-5)
    assert ledger["commit"][0] == json.loads((home / "kernel.json").read_text())["commit"]
    assert 0 <= ledger["val_score"][0] <= 1

    by_hand = kaggle_cli(
        "competitions", "submit", "-c", SLUG, "-f", "submissions/home.csv", "-m", "x"
    )
    assert "Successfully submitted" in by_hand.stdout
    time.sleep(0.1)
    kit("submit", "--sync")
    ledger = pd.read_csv(tmp_path / "submissions/ledger.csv")
    assert list(ledger["run"]) == ["toy-kernel-v1", "home"]
    assert "toy-kernel-v1" in kit("submit", "--list")

    everything = "".join(kit.said) + built
    everything += "".join(
        path.read_text(errors="replace")
        for path in (tmp_path / "runs").rglob("*")
        if path.is_file()
    )
    assert KEY not in everything + (tmp_path / "submissions/ledger.csv").read_text()


def test_a_plain_push_of_a_built_kernel_runs_and_a_broken_one_fails_loudly(
    desk, kit, kaggle, kaggle_cli
):
    kit("kernel", "build", "toy-kernel", "--owner", USER)
    done = kaggle_cli("kernels", "push", "-p", desk)
    assert "successfully pushed" in done.stdout
    (desk / "train.py").write_text("raise SystemExit('The planted failure.')\n")
    kit("kernel", "push", "toy-kernel")
    said = kit("kernel", "wait", "toy-kernel", "--poll", "0.5", code=1)
    assert "The planted failure." in said
    assert f"{USER}/toy-kernel version 2 failed" in said
    assert os.linesep not in said.splitlines()[0]
