"""Stages as text, which layers of real networks they let learn, and training in them."""

import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xraycomp.console.errors import Stopped, UserError
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model import engine
from xraycomp.model.checkpoint import read_checkpoint
from xraycomp.model.config import TrainConfig
from xraycomp.model.freezing import first_layer, train_from
from xraycomp.model.stages import Stage, parse_stages
from xraycomp.model.state import check_trainable
from xraycomp.model.stem import GrayModel
from xraycomp.model.zoo import create_model

STAGES = "head:0.05:2 2:0.02:2 all:0.01:2"


def test_stages_are_read_from_text():
    text = "head:0.001:2  layer4:5e-4:3:focal all:0.0001:5"
    assert parse_stages(text, "bce") == (
        Stage("head", 0.001, 2, "bce"),
        Stage("layer4", 0.0005, 3, "focal"),
        Stage("all", 0.0001, 5, "bce"),
    )


def test_without_stages_the_whole_network_is_one():
    config = TrainConfig(lr=0.3, epochs=7, loss="focal")
    assert config.training_stages() == (Stage("all", 0.3, 7, "focal"),)
    staged = TrainConfig(lr=0.3, epochs=7, stages="head:0.1:2")
    assert staged.training_stages() == (Stage("head", 0.1, 2, "auto"),)


def test_a_recipe_may_have_stages():
    config = TrainConfig.from_recipe({"stages": "head:0.1:2 all:0.01:1"}, "x.toml")
    assert [stage.layers for stage in config.training_stages()] == ["head", "all"]
    assert TrainConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "stage",
    [
        *("head", "head:0.1", "head:x:2", "head:0.1:two", "head:0.1:0", "head:-1:2"),
        *("head:0.1:2:bce:x", ":0.1:2", "head:nan:2", "head:inf:2", "head:0.1:2.5"),
    ],
)
def test_what_is_no_stage_is_refused_and_the_form_said(stage):
    with pytest.raises(UserError) as caught:
        TrainConfig(stages=f"all:0.1:1 {stage}")
    assert str(caught.value) == (
        f'--stages: {stage!r} is no stage; stages are written "layers:lr:epochs", as '
        '"head:0.001:2 layer4:0.0005:3 all:0.0001:5".'
    )


def test_a_stage_of_an_unknown_loss_is_refused():
    with pytest.raises(UserError, match="--stages: there is no loss 'bse'; use one of auto, cross"):
        TrainConfig(stages="all:0.1:1:bse")


@pytest.fixture(scope="module")
def network():
    """Networks by name, built once each."""
    built = {}

    def create(arch):
        if arch not in built:
            built[arch] = create_model(arch, 3)
        return built[arch]

    return create


@pytest.mark.parametrize(
    ("arch", "layers", "first", "frozen"),
    [
        ("resnet18", "head", "fc.weight", "layer4.1.bn2.bias"),
        ("resnet18", "layer4", "layer4.0.conv1.weight", "layer3.1.bn2.bias"),
        ("resnet18", "layer4.1", "layer4.1.conv1.weight", "layer4.0.downsample.1.bias"),
        ("densenet121", "head", "classifier.weight", "features.norm5.bias"),
        (
            "densenet121",
            "features.denseblock4",
            "features.denseblock4.denselayer1.norm1.weight",
            "features.transition3.conv.weight",
        ),
        ("efficientnet_b0", "head", "classifier.1.weight", "features.8.1.bias"),
        ("efficientnet_b0", "features.7", "features.7.0.block.0.0.weight", None),
        ("vgg11_bn", "head", "classifier.0.weight", "features.26.bias"),
        ("vgg11_bn", "features.22", "features.22.weight", "features.19.bias"),
        ("mobilenet_v3_small", "head", "classifier.0.weight", "features.12.1.bias"),
        ("squeezenet1_1", "head", "classifier.1.weight", "features.12.expand3x3.bias"),
        ("vit_b_16", "head", "heads.head.weight", "encoder.ln.bias"),
        ("timm:tf_efficientnet_lite0", "head", "classifier.weight", "bn2.bias"),
        ("timm:tf_efficientnet_lite0", "blocks.6", "blocks.6.0.conv_pw.weight", None),
        ("timm:test_convnext", "head", "head.norm.weight", None),
    ],
)
def test_what_learns_is_the_end_of_the_network_from_the_named_layer_on(
    network, arch, layers, first, frozen
):
    body = network(arch).body
    train_from(body, layers)
    learns = [parameter.requires_grad for parameter in body.parameters()]
    names = [name for name, _ in body.named_parameters()]
    start = learns.index(True)
    assert names[start] == first
    assert all(learns[start:])
    assert start > 0
    assert frozen in (None, names[start - 1])
    train_from(body, "all")
    assert all(parameter.requires_grad for parameter in body.parameters())
    assert all(module.training for module in body.modules())


def test_layers_that_are_frozen_are_in_evaluation_mode(network):
    body = network("resnet18").body
    train_from(body, "layer4.1")
    training = {name for name, module in body.named_modules() if module.training}
    assert training == {"", "layer4", "layer4.1", "avgpool", "fc"} | {
        f"layer4.1.{name}" for name in ("conv1", "bn1", "relu", "conv2", "bn2")
    }
    body = network("mobilenet_v3_small").body
    train_from(body, "features.12")
    modes = {name: module.training for name, module in body.named_modules()}
    assert modes["features"] and modes["features.12"]
    assert not modes["features.1"]  # the start of that name, but not around that layer
    train_from(network("vgg11_bn").body, "classifier.3")
    dropouts = [m.training for m in network("vgg11_bn").body.modules() if isinstance(m, nn.Dropout)]
    assert dropouts == [False, True]


def test_a_frozen_part_gives_the_same_output_whatever_else_is_in_the_batch(network):
    body = network("resnet18").body
    train_from(body, "head")
    images = torch.randn(4, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(body(images)[:1], body(images[:1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ("layr4", "no layer layr4; did you mean layer4? Choose head, all, or one that is to learn"),
        (
            "zzz",
            "no layer zzz. Choose head, all, or one that is to learn with all that follow it, ",
        ),
        ("avgpool", "such as conv1, bn1, layer1, layer2, layer3, layer4, fc or a part of one."),
        ("body.layer4", "did you mean layer4"),
    ],
)
def test_a_layer_that_the_network_lacks_is_refused(network, layers, sentence):
    with pytest.raises(UserError) as caught:
        first_layer(network("resnet18").body, layers)
    assert sentence in str(caught.value)


@pytest.fixture
def staged(begin):
    """A run in stages of a network with batch norm; (state, its fit, its folder)."""

    def make():
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Dropout(0.2),
            nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
            nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(72, 3)),
        )
        return GrayModel(body, "staged", mean=0.5, std=0.25, planes=1)

    def start(name="run", **changes):
        fields = {"stages": STAGES, "optimizer": "adamw", "weight_decay": 0.1, **changes}
        return begin(name, make(), **fields)

    return start


def after_each_epoch(state, note):
    """A judge that also calls ``note(epochs done before)``."""

    def score(targets, probs):
        note(state.epoch)
        return epoch_scores(targets, probs)

    return score


def test_frozen_layers_stay_as_they_are_to_the_last_bit(staged):
    """Weights, despite their decay, and the statistics of batch norm; with averaging too."""
    state, go, _ = staged(ema_decay=0.9)
    seen = [{key: value.clone() for key, value in state.model.state_dict().items()}]
    averaged, held = [], []

    def note(epoch):
        for model, kept in ((state.model, seen), (state.judged, averaged)):
            kept.append({key: value.clone() for key, value in model.state_dict().items()})
        held.append([p.shape for group in state.optimizer.param_groups for p in group["params"]])
        assert len(state.optimizer.state) == len(held[-1])

    assert go(after_each_epoch(state, note))
    frozen = {1: "body.3.", 2: "body.3.", 3: ("body.2.", "body.3."), 4: ("body.2.", "body.3.")}
    for epoch in range(1, 7):
        learning = frozen.get(epoch, "body.")
        for key, value in seen[epoch].items():
            still = torch.equal(value, seen[epoch - 1][key])
            assert still != key.startswith(learning), (epoch, key)
    for key in seen[0]:
        if not key.startswith("body.3."):
            assert torch.equal(averaged[1][key], seen[0][key]), key
    assert [len(shapes) for shapes in held] == [2, 2, 6, 6, 10, 10]


def test_epochs_count_on_through_the_stages_and_each_has_its_own_schedule(staged):
    _, go, run = staged(schedule="cosine", warmup_epochs=0.0)
    assert go()
    table = run.epochs()
    assert list(table["epoch"]) == [1, 2, 3, 4, 5, 6]
    assert list(table["stage"]) == [1, 1, 2, 2, 3, 3]
    # Each stage's rate falls from its own height to 0 in its own two epochs.
    half = (0.05 / 2, 0.02 / 2, 0.01 / 2)
    np.testing.assert_allclose(table["lr"].iloc[::2], half, rtol=1e-6)
    np.testing.assert_allclose(table["lr"].iloc[1::2], 0, atol=1e-9)
    kept = read_checkpoint(run.checkpoint)
    assert (kept["epoch"], kept["stage"]) == (6, 3)


def test_a_stage_may_have_a_loss_of_its_own(staged):
    _, go, run = staged(stages="all:0:1:focal all:0:1", label_smoothing=0.0, gamma=3.0)
    go()
    table = run.epochs()
    assert table["train_loss"].iloc[0] < table["train_loss"].iloc[1] / 2


def test_patience_ends_the_stage_and_not_the_training(staged):
    _, go, run = staged(stages="head:0.01:5 all:0.01:5", patience=2)
    scores = iter([0.5, 0.4, 0.3, 0.4, 0.6, 0.5, 0.5, 0.9])

    def score(targets, probs):
        value = next(scores)
        return {"val_accuracy": value, "val_macro_f1": value, "val_auroc": value}

    assert go(score)
    table = run.epochs()
    assert list(table["stage"]) == [1, 1, 1, 2, 2, 2, 2]
    assert read_checkpoint(run.best)["epoch"] == 5


def stop_at(monkeypatch, step):
    """Press Ctrl-C in that step of the training."""
    real, calls = engine.Loop.step, iter(range(1, 10_000))

    def step_and_stop(*args):
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(engine.Loop, "step", step_and_stop)


@pytest.mark.parametrize(
    ("step", "place"),
    [
        (5, (0, 0, 5)),
        (24, (2, 1, 0)),
        (25, (2, 1, 1)),
        (41, (3, 1, 5)),
        (48, (4, 2, 0)),
        (70, (5, 2, 10)),
        (72, (6, 3, 0)),
    ],
)
def test_a_run_stopped_in_or_between_stages_goes_on_bit_for_bit(staged, monkeypatch, step, place):
    _, go, whole = staged("whole", ema_decay=0.9, mixup=0.2)
    go()
    _, go, run = staged("stopped", ema_decay=0.9, mixup=0.2)
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            go()
    kept = read_checkpoint(run.checkpoint)
    assert (kept["epoch"], kept["stage"], kept["progress"]["step"]) == place
    _, go, again = staged("again", ema_decay=0.9, mixup=0.2, resume_from=kept)
    shutil.copytree(run.path, again.path, dirs_exist_ok=True)
    go()
    for name in ("checkpoint.pt", "best.pt"):
        assert_equal(read_checkpoint(again.path / name), read_checkpoint(whole.path / name))
    times = ["seconds", "data_seconds", "images_per_second"]
    tables = [folder.epochs().drop(columns=times) for folder in (again, whole)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)


def assert_equal(found, wanted):
    """Equal to the last bit, whatever the nesting; seconds are not compared."""
    if isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted)
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted.keys() - {"seconds", "data_seconds"}:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        for pair in zip(found, wanted, strict=True):
            assert_equal(*pair)
    else:
        assert found == wanted


def test_stages_of_layers_that_are_not_there_are_refused_before_anything_is_trained(
    tiny_net, plain_config
):
    config = plain_config(stages="head:0.1:1 layer4:0.1:1")
    with pytest.raises(UserError, match="the network has no layer layer4"):
        check_trainable(tiny_net(), config)


def test_a_rate_far_too_high_names_the_stages(staged):
    _, go, _ = staged(stages="head:1e30:1", optimizer="sgd", clip_grad=0, warmup_epochs=0)
    with pytest.raises(UserError, match=r"try a lower rate in --stages than 1e\+30\."):
        go()
