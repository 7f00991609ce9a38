"""python -m xraycomp.soup: which runs stay in, what it leaves, and what it refuses."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

from xraycomp import explain, predict, soup
from xraycomp.console.errors import UserError
from xraycomp.data.phantom import draw_competition
from xraycomp.job.training import train as train_run
from xraycomp.model.checkpoint import read_checkpoint, save_checkpoint
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder

SMALL = {
    "competition": "phantom",
    "image_size": 32,
    "epochs": 2,
    "batch_size": 8,
    "warmup_epochs": 0.0,
    "val_fraction": 0.3,
    "device": "cpu",
    "workers": 1,
    "weighted_sampling": False,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with phantoms in ``films`` and runs on them."""
    folder = tmp_path_factory.mktemp("soup")
    draw_competition(folder / "films", n_train=120, n_test=6, size=48)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, changes in {
            "a": {"lr": 0.01},
            "b": {"lr": 0.003, "rotation": 0.0},
            "c": {"lr": 0.02, "epochs": 1},
            "plain": {"arch": "timm:test_convnext", "lr": 0.01, "monitor": "val_loss"},
            "small": {"image_size": 24, "epochs": 1},
            "other": {"seed": 5, "epochs": 1},
        }.items():
            train_run(
                TrainConfig(data=folder / "films", name=name, **{**SMALL, **changes}), closer=False
            )
        yield folder


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def weights_of(run):
    return read_checkpoint(run / "best.pt")["model"]


def change(run, name, how):
    """A copy of a run with other weights."""
    copy = shutil.copytree(run, run.parent / name, dirs_exist_ok=True)
    content = read_checkpoint(copy / "best.pt")
    content["model"] = {key: how(value) for key, value in content["model"].items()}
    save_checkpoint(copy / "best.pt", content)
    return copy


def test_a_soup_is_a_run_as_any_other(here):
    soup.main(["--runs", "runs/a", "runs/b", "runs/c", "--device", "cpu"])
    run = here / "runs" / "soup"
    told = json.loads((run / "soup.json").read_text())
    assert told["monitor"] == "val_macro_f1"
    members = told["members"]
    assert {member["run"] for member in members} == {"runs/a", "runs/b", "runs/c"}
    alone = [member["val_macro_f1"] for member in members]
    assert alone == sorted(alone, reverse=True)
    assert members[0]["kept"]
    best = alone[0]
    for member in members[1:]:
        assert member["kept"] == (member["with_it"] >= best)
        best = max(best, member["with_it"]) if member["kept"] else best
    assert told["score"] == pytest.approx(best, abs=1e-6)

    kept = [weights_of(here / member["run"]) for member in members if member["kept"]]
    for key, value in weights_of(run).items():
        if "running" not in key and "tracked" not in key:
            wanted = np.mean([weights[key].double().numpy() for weights in kept], axis=0)
            np.testing.assert_allclose(value.numpy(), wanted, atol=1e-7)

    manifest = pd.read_csv(run / "manifest.csv").set_index("image")
    table = pd.read_csv(run / "predictions" / "val.csv").set_index("image")
    found = f1_score(manifest.loc[table.index, "label"], table.idxmax(axis=1), average="macro")
    assert told["score"] == pytest.approx(found, abs=1e-6)
    assert RunFolder.open(run).finished
    page = (run / "report.html").read_text()
    assert "xraycomp.soup --runs" in page
    assert "--resume" not in page  # a soup is not trained further
    rows = re.findall(r'class="break">(\S+)</th><td class="n">(.+?)</td>.*?<td>(yes|no)</td>', page)
    wanted = [
        (one["run"], f"{one[told['monitor']]:.4f}", "yes" if one["kept"] else "no")
        for one in members
    ]
    assert rows == wanted

    predict.main(["--runs", "runs/soup", "--output", "again.csv", "--device", "cpu"])
    again = pd.read_csv("again.csv").set_index("image")
    wanted = pd.read_csv(run / "predictions" / "test.csv").set_index("image")
    np.testing.assert_allclose(again, wanted, atol=1e-6)
    explain.main(["--run", "runs/soup", "--n", "4", "--device", "cpu"])
    assert (run / "submission.csv").is_file()


def test_what_harms_is_left_out_and_what_does_not_stays(here, caplog):
    """Without batch norm: the mean of a network and its like is that network."""
    caplog.set_level("INFO", logger="xraycomp")
    plain = here / "runs" / "plain"
    change(plain, "like", lambda value: value)
    rng = torch.Generator().manual_seed(0)
    change(plain, "noise", lambda value: value + 9 * torch.randn(value.shape, generator=rng))
    members = ["runs/noise", "runs/like", "runs/plain"]
    soup.main(["--runs", *members, "--name", "greedy", "--device", "cpu"])
    told = json.loads((here / "runs" / "greedy" / "soup.json").read_text())
    kept = {member["run"]: member["kept"] for member in told["members"]}
    assert kept == {"runs/like": True, "runs/plain": True, "runs/noise": False}
    for key, value in weights_of(here / "runs" / "greedy").items():
        assert torch.equal(value, weights_of(plain)[key]), key
    losses = [member["val_loss"] for member in told["members"]]
    assert losses[0] == losses[1] < losses[2]
    assert told["score"] == losses[0] < told["uniform_score"]
    assert "The soup of 2 of 3 runs has a val_loss of" in caplog.text


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (["a"], "needs two runs or more"),
        (["a", "a"], "A run is named twice"),
        (["a", "plain"], "runs/plain has the arch timm:test_convnext, but runs/a resnet18"),
        (["a", "small"], "runs/small has the image_size 24, but runs/a 32"),
        (["a", "other"], "have different validation images"),
        (["a", "none"], "is not a run folder"),
    ],
)
def test_runs_that_have_no_average_are_refused(here, runs, said):
    before = set(here.rglob("*"))
    with pytest.raises(UserError, match=said):
        soup.main(["--runs", *(f"runs/{run}" for run in runs), "--name", "no", "--device", "cpu"])
    assert set(here.rglob("*")) == before


def test_classes_names_and_further_training_are_refused(here):
    content = read_checkpoint(here / "runs" / "a" / "best.pt")
    change(here / "runs" / "a", "odd", lambda value: value)
    save_checkpoint(here / "runs" / "odd" / "best.pt", {**content, "mean": 0.4})
    for name, said in (
        ("a", "runs/a is one of --runs"),
        ("b", "holds an earlier run"),
        ("x/y", "it must be a plain folder name"),
        ("no", "runs/odd normalises images otherwise than runs/a"),
    ):
        with pytest.raises(UserError, match=said):
            soup.main(["--runs", "runs/a", "runs/odd", "--name", name, "--device", "cpu"])
    (here / "runs" / "odd" / "soup.json").write_text("{}")
    with pytest.raises(UserError, match="an average of runs, which is not trained further"):
        train_run(TrainConfig(resume=here / "runs" / "odd", device="cpu"))
