"""This process as a signed-in user of the stand-in, and what a user sends with the plain client."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from kaggle_server import KaggleServer

from xraycomp.remote import client, transfer


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
