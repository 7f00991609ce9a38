"""The stand-in for Kaggle, spoken to by the real client."""

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from kaggle_server import KaggleServer

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def folders(tmp_path: Path) -> None:
    """What a user pushes: a kernel, a data set, a submission."""
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel/train.py").write_text("print('hello')\n")
    metadata = {
        "id": "ada/xray-train",
        "title": "Xray train",
        "code_file": "train.py",
        "language": "python",
        "kernel_type": "script",
        "enable_internet": False,
        "competition_sources": ["xray-demo"],
    }
    (tmp_path / "kernel/kernel-metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/best.pt").write_bytes(b"weights")
    metadata = {"id": "ada/weights", "title": "Weights", "licenses": [{"name": "CC0-1.0"}]}
    (tmp_path / "weights/dataset-metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "submission.csv").write_text("name,target\ntest_0,0\ntest_1,1\ntest_2,2\n")


@pytest.mark.usefixtures("folders")
def test_the_real_client_can_do_all_it_is_used_for(
    tmp_path: Path, kaggle: KaggleServer, kaggle_cli: Cli
) -> None:
    def said(command: str) -> str:
        done = kaggle_cli(*command.split())
        assert done.returncode == 0, done
        assert done.stderr == "" or "%|" in done.stderr or "B/s" in done.stderr, done
        return done.stdout

    kaggle.competitions["other"] = {"train.csv": b"name\n"}
    assert "xray-demo" in said("competitions list -s xray")
    assert "sample_submission.csv" in said("competitions files xray-demo")
    said("competitions download xray-demo -p data")
    with zipfile.ZipFile(tmp_path / "data/xray-demo.zip") as archive:
        assert {n: archive.read(n) for n in archive.namelist()} == kaggle.competitions["xray-demo"]
    said("competitions download xray-demo -f test/test_0.png -p data")
    image = (tmp_path / "data/test_0.png").read_bytes()
    assert image == kaggle.competitions["xray-demo"]["test/test_0.png"]

    kaggle.solutions["xray-demo"] = lambda data: (0.75, 0.5) if b"test_2,2" in data else "no"
    assert "4 submissions remaining" in said("competitions submit xray-demo -f submission.csv -m 1")
    assert kaggle.submissions[0].data == (tmp_path / "submission.csv").read_bytes()
    assert "PENDING" in said("competitions submissions xray-demo")
    assert "0.75000" in said("competitions submissions xray-demo")
    assert "Remaining today: 4" in said("competitions submission-limits xray-demo")
    assert "0.90000" in said("competitions leaderboard xray-demo --show")

    assert "is being created" in said("datasets create -p weights")
    assert said("datasets status ada/weights") == "ready"
    assert "is being created" in said("datasets version -p weights -m again")
    assert "best.pt" in said("datasets files ada/weights")
    assert kaggle.datasets["ada/weights"].versions == [{"best.pt": b"weights"}] * 2

    kaggle.run_kernel = lambda version: ("COMPLETE", "trained\n", {"runs/best.pt": b"weights"})
    assert "version 1 successfully pushed" in said("kernels push -p kernel")
    assert "COMPLETE" in said("kernels status ada/xray-train")
    said("kernels output ada/xray-train -p output")
    assert (tmp_path / "output/runs/best.pt").read_bytes() == b"weights"
    assert "trained" in said("kernels logs ada/xray-train")
    assert said("kernels logs ada/xray-train --follow") == "trained\n"
    assert "28.50h" in said("quota")


def test_errors_have_the_status_that_they_have_on_kaggle(
    kaggle: KaggleServer, kaggle_cli: Cli
) -> None:
    kaggle.competitions["other"] = {"train.csv": b"name\n"}
    for command, status in {
        "competitions files nope": "Not found",
        "competitions download other": "accept this competition's rules",
        "kernels status ada/no-such-kernel": "kernels.get",
    }.items():
        done = kaggle_cli(*command.split())
        assert done.returncode == 1
        assert status in done.stderr, done
    done = kaggle_cli("competitions", "files", "xray-demo", env={"KAGGLE_KEY": "wrong"})
    assert (done.returncode, "Authentication required" in done.stdout) == (1, True)
