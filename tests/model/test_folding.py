"""A network without its batch norms gives what it gave with them."""

import copy

import pytest
import torch
from torch import nn

from xraycomp.model.folding import fold_batch_norm
from xraycomp.model.zoo import create_model

# densenet121 has batch norms that stand before a convolution and must stay.
ARCHS = ("resnet18", "densenet121", "mobilenet_v2", "timm:tf_efficientnet_lite0", "vit_b_16")


def draw_images(arch, number):
    side = 224 if arch == "vit_b_16" else 64
    return torch.randn(number, 1, side, side)


def trained(arch):
    """A network whose batch norms have seen something, so that their statistics matter."""
    torch.manual_seed(0)
    model = create_model(arch, 3).train()
    with torch.no_grad():
        for _ in range(2):
            model(draw_images(arch, 4))
    return model


def count_norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("arch", ARCHS)
def test_a_folded_network_computes_the_same(arch):
    model = trained(arch)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norm(model)
    assert not folded.training
    images = draw_images(arch, 5)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model.eval()(images), atol=1e-4, rtol=1e-4)
    assert (folded.classes, folded.activation) == (model.classes, model.activation)
    for name, value in model.state_dict().items():  # the network itself can still be trained
        assert torch.equal(value, before[name])


def test_resnet_has_no_batch_norm_left():
    model = trained("resnet18")
    assert count_norms(model) == 20
    assert count_norms(fold_batch_norm(model)) == 0


class Stubborn(nn.Module):
    """Does what depends on its input, which cannot be traced."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, images):
        return self.body(images if images.sum() > 0 else -images)


def test_a_network_that_cannot_be_followed_stays_as_it_is():
    model = trained("resnet18")
    model.body = Stubborn(model.body)
    assert fold_batch_norm(model) is model
    assert not model.training
