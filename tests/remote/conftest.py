"""This process as a signed-in user of the stand-in; kernels of one's own, on a competition of drawn
films that trains in seconds; and what a user sends with the plain client."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kaggle_server import KaggleServer

from xraycomp.remote import client, transfer
from xraycomp.remote.bundle import Bundle

TOML = """
slug = "toy-films"
source = "competition"
task = "multiclass"
classes = ["stripe", "disc", "blank"]
metric = "macro_f1"

[train]
images = "films/train"
labels = "folders"

[test]
images = "films/test"

[submission]
sample = "sample.csv"

[submission.columns]
id = "id"
target = "label_index"
"""

TRAIN = '''
"""A kernel on the toy films."""

from pathlib import Path

from xraycomp.model.config import TrainConfig
from xraycomp.remote.session import run_session
from xraycomp.job.training import train

if __name__ == "__main__":
    toy = Path(__file__).with_name("toy.toml")
    sizes = {"image_size": 32, "arch": "squeezenet1_1", "epochs": 3, "batch_size": 8, "lr": 0.001}
    run_session(train, TrainConfig(competition=str(toy), name="toy", **sizes))
'''

METADATA: dict[str, Any] = {
    "id": "somebody/toy-kernel",
    "title": "Toy kernel",
    "code_file": "kernel.py",
    "language": "python",
    "kernel_type": "script",
    "is_private": True,
    "enable_gpu": False,
    "enable_tpu": False,
    "enable_internet": False,
    "machine_shape": "",
    "keywords": [],
    "dataset_sources": [],
    "competition_sources": ["toy-films"],
    "kernel_sources": [],
    "model_sources": [],
    "docker_image": None,
    "docker_image_pinning_type": "original",
}


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[..., Path]:
    """Write the kernel ``ada/xray-train``; arguments change its metadata, None takes a key out."""

    def write(**changes: object) -> Path:
        metadata = {
            "id": "ada/xray-train",
            "title": "Xray train",
            "code_file": "train.py",
            "language": "python",
            "kernel_type": "script",
            "enable_internet": False,
            "competition_sources": ["xray-demo"],
            **changes,
        }
        metadata = {key: value for key, value in metadata.items() if value is not None}
        folder = tmp_path / "kernel"
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text("print('hello')\n")
        (folder / "kernel-metadata.json").write_text(json.dumps(metadata))
        return folder

    write()
    return write


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The data set ``ada/weights`` as a folder to upload, with one file."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "best.pt").write_bytes(b"weights")
    metadata = {"id": "ada/weights", "title": "Weights", "licenses": [{"name": "CC0-1.0"}]}
    (folder / "dataset-metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def submission(tmp_path: Path) -> Path:
    path = tmp_path / "submission.csv"
    path.write_text("name,target\ntest_0,0\ntest_1,1\ntest_2,2\n")
    return path


@pytest.fixture
def signed_in(
    monkeypatch: pytest.MonkeyPatch, kaggle: KaggleServer, tmp_path, refused
) -> KaggleServer:
    """The stand-in, with this process's environment pointing at it; pauses are short.

    After ``refused``, which takes every Kaggle variable out.
    """
    for name, value in kaggle.environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home").mkdir(exist_ok=True)
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(transfer, "FIRST_WAIT", 0.01)
    return kaggle


@pytest.fixture
def make_kernel(tmp_path: Path) -> Callable[..., Path]:
    """Write a kernel's folder: its script, the toy competition, its metadata with changes."""

    def make(script: str = TRAIN, **changes: Any) -> Path:
        folder = tmp_path / "kernels" / "toy-kernel"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.py").write_text(script)
        (folder / "toy.toml").write_text(TOML)
        (folder / "kernel-metadata.json").write_text(json.dumps({**METADATA, **changes}, indent=2))
        return folder

    return make


@pytest.fixture
def run_built(
    tmp_path: Path, environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a built file as Python runs a script, with nothing of the kit on the path."""

    def run(bundle: Bundle, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
        (tmp_path / "tmp").mkdir(exist_ok=True)
        return subprocess.run(
            [sys.executable, str(bundle.path)],
            cwd=tmp_path,
            env={**env, "TMPDIR": str(tmp_path / "tmp"), **variables},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run
