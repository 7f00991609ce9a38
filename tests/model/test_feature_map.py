"""The feature map that heat maps are of: which layer, and where in the film its cells look."""

import pytest
import torch
from torch import nn

from xraycomp.console.errors import UserError
from xraycomp.model.feature_map import FEWEST_CELLS, find_layer
from xraycomp.model.zoo import create_model


@pytest.mark.parametrize(
    ("arch", "size", "layer", "cells"),
    [
        ("resnet18", 224, "layer4", 7),  # what everyone takes
        ("resnet18", 128, "layer3", 8),  # layer4 has 4
        ("resnet18", 64, "layer2", 8),
        ("resnet50", 128, "layer3", 8),  # not within layer4, where a shortcut leads past
        ("densenet121", 224, "features.relu", 7),
        ("squeezenet1_1", 224, "classifier.2", 13),
        ("vgg11", 64, "features.14", 8),  # and not the 7 that its pooling makes of 2
    ],
)
def test_the_last_map_that_is_fine_enough(arch, size, layer, cells):
    model = create_model(arch, 3)
    found = find_layer(model, size)
    shapes = []
    module = model.body.get_submodule(found.name)
    module.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    with torch.no_grad():
        model(torch.zeros(1, 1, size, size))
    assert (found.name, shapes[0][2]) == (layer, cells)
    assert cells >= FEWEST_CELLS


@pytest.mark.parametrize(
    "arch",
    [
        *(
            "mobilenet_v2",
            "mobilenet_v3_small",
            "shufflenet_v2_x0_5",
            "mnasnet0_5",
            "regnet_y_400mf",
        ),
        *("efficientnet_b0", "convnext_tiny", "googlenet", "swin_t", "alexnet"),
        *(
            "timm:resnet10t",
            "timm:mobilenetv3_small_050",
            "timm:repvgg_a0",
            "timm:edgenext_xx_small",
        ),
        *("timm:swin_tiny_patch4_window7_224", "timm:tf_efficientnet_lite0", "timm:dla34"),
    ],
)
def test_all_that_the_network_sees_goes_through_the_map(arch):
    model = create_model(arch, 3)
    layer = find_layer(model, 224)
    film = torch.rand(1, 1, 224, 224)
    kept = []

    def swap(module, args, output):
        kept.append(output)
        return kept[0]

    model.body.get_submodule(layer.name).register_forward_hook(swap)
    with torch.no_grad():
        assert torch.equal(model(film), model(1 - film))  # the second film is never seen
    height = kept[0].shape[1 if layer.channels_last else 2]
    assert height >= FEWEST_CELLS
    assert layer.channels_last == (arch == "timm:swin_tiny_patch4_window7_224")
    # Cells lie inside the film.
    assert 0 < layer.grid.first < 0.5
    assert layer.grid.first + (height - 1) * layer.grid.step < 1
    assert not model.body.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("arch", ["timm:vit_tiny_patch16_224", "timm:mixer_s32_224"])
def test_a_network_without_a_last_feature_map_is_refused(arch, match):
    with pytest.raises(UserError) as refusal:
        find_layer(create_model(arch, 3), 224)
    match(f"^{arch} does not end in a feature map .*choose another --arch.$", str(refusal.value))


@pytest.mark.parametrize(
    ("arch", "cells"),
    [("resnet18", 40), ("densenet121", 80), ("vgg11", 40), ("timm:tf_efficientnet_lite0", 40)],
)
def test_cells_are_centred_where_the_gradient_says_that_they_look(arch, cells):
    size = 320
    model = create_model(arch, 3).eval()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MaxPool2d):  # whose gradient shows one place of its window
            average = nn.AvgPool2d(module.kernel_size, module.stride, module.padding)
            model.set_submodule(name, average)
        if isinstance(module, nn.ReLU6):  # which has no gradient above 6
            model.set_submodule(name, nn.ReLU())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # so that nothing cancels out and no ReLU is closed
    layer = find_layer(model, size, cells)
    features = []
    model.body.get_submodule(layer.name).register_forward_hook(
        lambda module, args, output: features.append(output)
    )
    film = torch.rand(1, 1, size, size, requires_grad=True)
    model(film)
    cell = features[0].shape[2] // 2
    (gradient,) = torch.autograd.grad(features[0][0, :, cell, cell].sum(), film)
    for axis in (0, 1):
        seen = gradient[0, 0].abs().sum(dim=axis).nonzero().ravel()
        assert seen.min() > 0 and seen.max() < size - 1, "the field is cut by the edge"
        middle = (seen.min() + seen.max() + 1) / 2 / size
        assert middle.item() == pytest.approx(layer.grid.first + cell * layer.grid.step, abs=1e-6)
