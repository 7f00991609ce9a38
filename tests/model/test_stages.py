"""Stages as text, and which layers of real networks they let learn."""

import pytest
import torch
from torch import nn

from xraycomp.console.errors import UserError
from xraycomp.model.config import TrainConfig
from xraycomp.model.stages import Stage, first_layer, parse_stages, train_from
from xraycomp.model.zoo import create_model


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
