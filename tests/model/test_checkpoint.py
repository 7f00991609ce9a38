"""Checkpoints: written whole, read without trust, and the best network out of them."""

import pickle
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.model.checkpoint import (
    load_best,
    read_checkpoint,
    restore_state,
    resume_state,
    save_best,
    save_checkpoint,
    save_state,
)
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder
from xraycomp.model.state import next_stage, start_state
from xraycomp.model.zoo import build_model

GOOD = {"model": {"w": torch.arange(6.0)}, "config": {"lr": 0.1}, "classes": ["a", "b"]}

CPU = torch.device("cpu")
PHANTOM = load_competition("phantom")
A_B_C = replace(PHANTOM, classes=("a", "b", "c"), normal="", positive="")
CONFIG = TrainConfig(arch="resnet18", image_size=32, resize_size=36)


@pytest.fixture
def net():
    """ResNet-18 whose batch norms have seen something, so that their statistics matter."""
    torch.manual_seed(0)
    model = build_model(CONFIG, A_B_C)
    model.train()(torch.randn(8, 1, 32, 32) * 0.5)
    return model


@pytest.fixture
def run_of(tmp_path, net):
    """A run whose best.pt holds ``net``, with other settings or classes than it was made with."""

    def make(competition=A_B_C, config=CONFIG):
        empty = pd.DataFrame({"image": []})
        run = RunFolder.create(tmp_path / "run", config, competition, empty, empty, {})
        save_best(net, 0, CONFIG, run)
        return run

    return make


def test_best_weights_come_back_as_the_network_that_was_saved(run_of, net):
    model = load_best(run_of(), CPU).eval()
    assert (model.mean, model.std, model.classes) == (net.mean, net.std, ("a", "b", "c"))
    images = torch.randn(5, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), net.eval()(images), atol=1e-6, rtol=0)


def test_the_scale_of_the_loss_comes_back(run_of, net):
    run = run_of()
    for scale in (64.0, 8.0):
        state = start_state(net, 32, CONFIG, torch.device("cpu"))
        state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)  # as on a GPU in float16
        state.scaler.scale(torch.ones(1))
        if scale == 64:
            save_state(state, CONFIG, run)
    restore_state(state, read_checkpoint(run.checkpoint), CONFIG, "here")
    assert state.scaler.get_scale() == 64


def test_a_run_goes_on_in_the_stage_that_it_was_in(run_of, net):
    config = replace(CONFIG, stages="head:0.1:1 layer4:0.01:2")
    run, device = run_of(config=config), torch.device("cpu")
    state = start_state(net, 32, config, device)
    state.epoch = 1
    next_stage(state, config)
    save_state(state, config, run)
    found = resume_state(run, config, 32, device)
    assert (found.epoch, found.stage, found.stage_start) == (1, 1, 1)
    learns = {name for name, value in found.model.named_parameters() if value.requires_grad}
    assert learns == {n for n, p in net.named_parameters() if "layer4" in n or ".fc." in n}
    groups = [each.optimizer.state_dict()["param_groups"] for each in (found, state)]
    assert groups[0] == groups[1]


@pytest.mark.parametrize("classes", [("a", "c", "b"), ("a", "b"), ("x", "y", "z")])
def test_best_weights_of_other_classes_are_refused(run_of, classes):
    with pytest.raises(UserError, match="was trained on the classes a, b, c, not on"):
        load_best(run_of(replace(A_B_C, classes=classes)), CPU)


def test_best_weights_of_another_architecture_are_refused(run_of):
    with pytest.raises(UserError, match="do not belong to squeezenet1_1"):
        load_best(run_of(config=TrainConfig(arch="squeezenet1_1")), CPU)


NIH = load_competition("nih-chest-xrays")


@pytest.mark.parametrize(("competition", "activation"), [(A_B_C, "softmax"), (NIH, "sigmoid")])
def test_the_kind_of_probabilities_is_the_competition_s(competition, activation):
    model = build_model(CONFIG, competition)
    assert (model.activation, model.classes) == (activation, competition.classes)
    logits = torch.tensor([[2.0, -1.0, 0.5]])
    wanted = logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=1)
    torch.testing.assert_close(model.probabilities(logits), wanted.double())


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, GOOD)
    found = read_checkpoint(path)
    assert torch.equal(found["model"]["w"], GOOD["model"]["w"])
    assert (found["config"], found["classes"]) == (GOOD["config"], GOOD["classes"])
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_save_leaves_the_checkpoint_that_was_there(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, GOOD)
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        save_checkpoint(path, {**GOOD, "broken": lambda: None})
    assert read_checkpoint(path)["classes"] == ["a", "b"]
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


class Planted:
    """Writes a file when it is unpickled by whoever trusts it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, -1])
def test_a_cut_off_checkpoint_is_one_sentence(tmp_path, keep):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, GOOD)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(UserError, match="is damaged, cut off or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04rubbish", b"\x89PNG\r\n\x1a\n"])
def test_a_foreign_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged, cut off or not a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [torch.ones(3), {"model": {}}, [1, 2], {"state_dict": {"w": torch.ones(1)}}]
)
def test_a_file_of_another_program_is_not_taken_for_a_checkpoint(tmp_path, content):
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match="is not a checkpoint of this kit"):
        read_checkpoint(path)


def test_a_missing_checkpoint_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    path, sign = tmp_path / "checkpoint.pt", tmp_path / "was_run"
    torch.save({**GOOD, "planted": Planted(sign)}, path)
    with pytest.raises(UserError, match="is damaged, cut off or not a checkpoint"):
        read_checkpoint(path)
    assert not sign.exists()
    torch.load(path, weights_only=False)
    assert sign.exists()  # the plant works: only our reading did not trust it
