"""This process as a signed-in user of the stand-in."""

import pytest
from kaggle_server import KaggleServer

from xraycomp.remote import client, transfer


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
