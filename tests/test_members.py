"""Members trained one after another within a session, continued in the next, and combined."""

import dataclasses
import functools
import json
import logging
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.stand_ins import draw_slice
from xraycomp.ensembles.members import train_ensemble
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder
from xraycomp.model.zoo import create_model
from xraycomp.remote.session import run_session

SMALL = {"competition": "phantom", "arch": "squeezenet1_1", "epochs": 1, "lr": 0.001}
MEMBERS = tuple(TrainConfig(name=f"at-{size}", image_size=size, **SMALL) for size in (32, 40))


@pytest.fixture
def session(tmp_path, monkeypatch, caplog):
    """Run one Kaggle session after another, each with the output of the one before attached."""
    root = tmp_path / "kaggle"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setenv("XRAYCOMP_KAGGLE_ROOT", str(root))
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setattr(logging.getLogger("xraycomp"), "handlers", [])
    caplog.set_level("INFO", "xraycomp")
    draw_slice(load_competition("phantom"), root / "input" / "phantom", 100, 10, size=32)

    def run(*configs):
        if (root / "working").exists():
            earlier = root / "input" / "notebooks" / "me" / "earlier"
            earlier.parent.mkdir(parents=True)
            (root / "working").rename(earlier)
        (root / "working").mkdir()
        caplog.clear()
        with pytest.raises(SystemExit) as stop:
            run_session(functools.partial(train_ensemble, "both"), *configs)
        assert stop.value.code == 0, caplog.text
        return root / "working"

    return run


def test_members_are_trained_in_turn_combined_and_gone_on_with(session, caplog):
    # The first takes its share of no time at all; what is left is for the second.
    cut = [dataclasses.replace(config, epochs=3, time_limit=0.02) for config in MEMBERS]
    working = session(*cut)
    assert "Not trained to the end, and combined all the same: at-32, at-40." in caplog.text
    tables = [pd.read_csv(working / f"runs/at-{size}/predictions/test.csv") for size in (32, 40)]
    classes = list(tables[0].columns[1:])
    found = pd.read_csv(working / "ensembles" / "both" / "predictions" / "test.csv")
    mean = np.mean([table[classes].to_numpy() for table in tables], axis=0)
    np.testing.assert_allclose(found[classes].to_numpy(), mean, atol=2e-6)
    sent = (working / "submission.csv").read_bytes()
    assert sent == (working / "ensembles" / "both" / "submission.csv").read_bytes()

    # What is left of the session is enough.
    working = session(*(dataclasses.replace(config, epochs=3) for config in MEMBERS))
    assert "Continuing the attached run" in caplog.text
    assert "Not trained to the end" not in caplog.text
    for size in (32, 40):
        run = RunFolder.open(working / "runs" / f"at-{size}")
        assert run.finished and len(run.epochs()) == 3
    report = json.loads((working / "ensembles" / "both" / "ensemble.json").read_text())
    assert [one["name"] for one in report["members"]] == ["at-32", "at-40"]


def test_finished_members_are_not_trained_again(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    draw_slice(load_competition("phantom"), tmp_path / "films", 100, 10, size=32)
    members = [dataclasses.replace(config, data=tmp_path / "films") for config in MEMBERS]
    first = train_ensemble("both", *members)
    assert first.path.resolve() == tmp_path / "ensembles" / "both"
    times = [(tmp_path / f"runs/at-{n}/best.pt").stat().st_mtime_ns for n in (32, 40)]
    third = dataclasses.replace(members[0], name="third", seed=0, flip=False)
    with caplog.at_level("INFO", "xraycomp"):
        again = train_ensemble("both", *members, third, method="max")
    assert caplog.text.count("It is finished already.") == 2
    assert times == [(tmp_path / f"runs/at-{n}/best.pt").stat().st_mtime_ns for n in (32, 40)]
    assert [one["name"] for one in again.report["members"]] == ["at-32", "at-40", "third"]
    assert again.report["method"] == "max"
    changed = [dataclasses.replace(members[0], lr=0.5), *members[1:]]
    with pytest.raises(UserError, match="was started with --lr"):
        train_ensemble("both", *changed)


def test_a_member_that_cannot_be_built_is_found_before_any_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = create_model("squeezenet1_1", 2)
    torch.save({"model": model.state_dict(), "mean": 0.5, "std": 0.25}, tmp_path / "gray.pth")
    for wrong, said in (
        ({"pool": "attention"}, "attention"),
        ({"image_size": 4}, "4"),
        ({"arch": "resnet"}, "resnet"),
        ({"weights": "gray.pth", "channels": "rgb"}, "use --channels gray"),
        ({"loss": "bce"}, "--loss bce does not fit this competition"),
    ):
        with pytest.raises(UserError, match=said):
            train_ensemble("both", MEMBERS[0], dataclasses.replace(MEMBERS[1], **wrong))
    assert not (tmp_path / "runs").exists()


def test_members_need_names_of_their_own():
    for given in (MEMBERS[:1], (MEMBERS[0], MEMBERS[0]), (TrainConfig(), MEMBERS[0])):
        with pytest.raises(UserError, match="each with a name of its own"):
            train_ensemble("both", *given)
