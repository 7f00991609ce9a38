"""Every architecture of the seed systems, with its own pooling and with others, on gray images."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from xraycomp.console.errors import UserError
from xraycomp.model.body import count_codes
from xraycomp.model.libraries import INCEPTIONS
from xraycomp.model.pooling import AttentionPool, attention_map, create_pool
from xraycomp.model.zoo import check_input_size, create_model

# Architecture, smallest side, features of its last map, codes that enter its head.
SMALL = [
    ("resnet18", 1, 512, 512),
    ("densenet121", 29, 1024, 1024),
    ("googlenet", 15, 1024, 1024),
    ("mobilenet_v2", 1, 1280, 1280),
    ("mobilenet_v3_small", 1, 576, 1024),
    ("timm:mobilenetv1_100", 1, 1024, 1024),
]
MIDDLE = [
    ("resnet34", 1, 512, 512),
    ("resnet50", 1, 2048, 2048),
    ("inception_v3", 75, 2048, 2048),
    ("mobilenet_v3_large", 1, 960, 1280),
]
LARGE = [
    ("resnet101", 1, 2048, 2048),
    ("resnet152", 1, 2048, 2048),
    ("vgg19", 32, 512, 4096),
    ("timm:inception_resnet_v2", 75, 1536, 1536),
    ("timm:nasnetalarge", 3, 4032, 4032),
]
POOLED = [*SMALL, MIDDLE[2]]


def network(arch, **changes):
    torch.manual_seed(0)
    return create_model(arch, 3, **changes)


def gray(side, count=2):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(1))


def entering(model, name, images):
    """What enters the module ``name`` of the body, and the logits."""
    seen = []
    hook = model.body.get_submodule(name).register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )
    with torch.no_grad():
        logits = model.eval()(images)
    hook.remove()
    return seen[0], logits


def rgb_parameters(arch):
    """How many parameters the library's own network has, counted without making them."""
    with torch.device("meta"):
        if arch.startswith("timm:"):
            rgb = timm.create_model(arch.removeprefix("timm:"), num_classes=3)
        else:
            options = {"aux_logits": False, "init_weights": False} if arch in INCEPTIONS else {}
            rgb = torchvision.models.get_model(arch, num_classes=3, **options)
    stem = next(module for module in rgb.modules() if isinstance(module, nn.Conv2d))
    assert stem.in_channels == 3
    return sum(p.numel() for p in rgb.parameters()), stem.weight.numel() * 2 // 3


@pytest.mark.parametrize(("arch", "side", "features", "codes"), [*SMALL, *MIDDLE, *LARGE])
def test_every_architecture_takes_gray_images_of_its_smallest_size(arch, side, features, codes):
    model = network(arch)
    # One plane in place of three: all that the gray stem takes away.
    total, saved = rgb_parameters(arch)
    assert sum(p.numel() for p in model.parameters()) == total - saved
    if side > 1:
        with pytest.raises(UserError, match=f"{arch} cannot take images of {side - 1} pixels"):
            check_input_size(model, side - 1)

    side = max(side, 32)
    pooled, logits = entering(model, model.parts.pool, gray(side))
    assert pooled.shape[:2] == (2, features)
    assert pooled.ndim == 4
    assert logits.shape == (2, 3)
    assert logits.isfinite().all()
    assert count_codes(model.body, model.parts, arch) == codes
    if (arch, codes) not in [(name, width) for name, _, _, width in LARGE]:
        model.train()(gray(side)).logsumexp(dim=1).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("arch", "side", "features", "codes"), POOLED)
def test_average_pooling_is_what_the_network_did_itself(arch, side, features, codes):
    images = gray(max(side, 64))
    own, averaged, attentive = (network(arch, pool=pool) for pool in ("", "avg", "attention"))
    averaged.load_state_dict(own.state_dict())  # not one name has changed
    missing = attentive.load_state_dict(own.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert all(f"{own.parts.pool}." in key for key in missing.missing_keys)
    with torch.no_grad():
        expected = own.eval()(images)
        torch.testing.assert_close(averaged.eval()(images), expected, rtol=0, atol=0)
        # The map starts even, so attention starts as the average.
        torch.testing.assert_close(attentive.eval()(images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("arch", "side", "features", "codes"), POOLED)
def test_maximum_pooling_takes_each_feature_s_largest(arch, side, features, codes):
    model = network(arch, pool="max")
    features, _ = entering(model, model.parts.pool, gray(max(side, 64)))
    pooled = model.body.get_submodule(model.parts.pool)(features)
    assert torch.equal(pooled.flatten(1), features.amax(dim=(2, 3)))


def test_attention_is_the_average_weighted_by_its_map():
    torch.manual_seed(0)
    pool = AttentionPool(6)
    for parameter in pool.parameters():
        nn.init.normal_(parameter)
    features = torch.randn(2, 6, 5, 4)
    weights = pool.attention(features)
    assert weights.shape == (2, 1, 5, 4)
    assert ((weights > 0) & (weights <= 1)).all()
    assert weights.std() > 0.01
    map_, values = weights.detach().numpy(), features.numpy()
    expected = [
        [np.average(channel, weights=map_[image, 0]) for channel in values[image]]
        for image in range(2)
    ]
    pooled = pool(features).detach()
    assert pooled.shape == (2, 6, 1, 1)
    np.testing.assert_allclose(pooled[:, :, 0, 0], expected, rtol=1e-4, atol=1e-5)
    flat = create_pool("attention", 6, flat=True)
    assert flat(features).shape == (2, 6)


def test_attention_never_divides_by_nothing():
    pool = AttentionPool(2)
    nn.init.constant_(pool.mask[-1].bias, -1e4)
    features = torch.randn(1, 2, 3, 3)
    torch.testing.assert_close(pool(features), features.mean(dim=(2, 3), keepdim=True))


@pytest.mark.parametrize("arch", ["densenet121", "timm:mobilenetv1_100"])
def test_the_attention_map_of_images_can_be_had(arch):
    model = network(arch, pool="attention").eval()
    images = gray(64)
    with torch.no_grad():
        found = attention_map(model, images)
        assert found.shape == (2, 1, 2, 2)
        assert torch.equal(found, torch.full_like(found, 0.5))
        features, _ = entering(model, model.parts.pool, images)
        pool = next(m for m in model.modules() if isinstance(m, AttentionPool))
        nn.init.normal_(pool.mask[-1].weight)
        assert torch.equal(attention_map(model, images), pool.attention(features))
    assert attention_map(network(arch), images) is None


def test_attention_learns():
    model = network("resnet18", pool="attention").train()
    for _ in range(2):  # the first step only moves the map's last layer
        model(gray(64)).logsumexp(dim=1).sum().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    pool = next(m for m in model.modules() if isinstance(m, AttentionPool))
    assert all(p.grad.abs().sum() > 0 for p in pool.mask[-1].parameters())


def test_vgg_gets_one_linear_layer_where_its_grid_goes():
    model = network("vgg19", pool="attention")
    assert model.parts.head == "classifier"
    codes, logits = entering(model, "classifier", gray(32))
    assert (codes.shape, logits.shape) == ((2, 512), (2, 3))


@pytest.mark.parametrize("arch", ["vit_b_32", "squeezenet1_1", "timm:test_vit"])
def test_pooling_that_is_not_there_is_not_replaced(arch):
    with pytest.raises(UserError, match="has no pooling of a feature map that --pool max could"):
        network(arch, pool="max")


def test_a_head_that_is_not_linear_is_not_replaced():
    with pytest.raises(UserError, match="squeezenet1_1 does not end in one linear layer"):
        network("squeezenet1_1", hidden=(8,))


def test_a_new_head_has_batch_norm_relu_and_one_dropout():
    model = network("resnet18", pool="avg", hidden=(16, 8))
    assert all(module.training for module in model.modules())
    found = model.body.get_submodule(model.parts.head)
    wanted = nn.Sequential(
        *(nn.Linear(512, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU()),
        *(nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU()),
        *(nn.Dropout(0.25), nn.Linear(8, 3)),
    )
    for own, other in zip(wanted.parameters(), found.parameters(), strict=True):
        own.data.copy_(other.data)
    codes = torch.randn(64, 512, generator=torch.Generator().manual_seed(2))
    for training in (True, False):  # the second time with the statistics of the first
        logits = []
        for head in (wanted.train(training), found.train(training)):
            torch.manual_seed(3)  # of the dropout
            logits.append(head(codes))
        assert torch.equal(*logits)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "timm:mobilenetv1_100"])
def test_pretrained_weights_go_below_a_new_pooling_and_head(arch, tmp_path):
    file = tmp_path / "plain.pt"
    plain = network(arch)
    torch.save(plain.body.state_dict(), file)
    model = create_model(arch, 5, str(file), pool="attention", hidden=(16, 8))
    old, new = plain.body.state_dict(), model.body.state_dict()
    head = f"{model.parts.head}."
    assert [n for n in old if n not in new] == [f"{head}weight", f"{head}bias"]
    assert all(torch.equal(old[n], new[n]) for n in old if n in new)
    layers = model.body.get_submodule(model.parts.head)
    widths = [m.out_features for m in layers.modules() if isinstance(m, nn.Linear)]
    assert widths == [16, 8, 5]

    # What the kit saves of it comes back whole, pooling and head too.
    saved = tmp_path / "best.pt"
    nn.init.normal_(next(m for m in model.modules() if isinstance(m, AttentionPool)).mask[-1].bias)
    torch.save({"model": model.state_dict(), "mean": model.mean, "std": model.std}, saved)
    again = create_model(arch, 5, str(saved), pool="attention", hidden=(16, 8))
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_a_head_of_another_number_of_classes_is_new_with_all_its_layers(tmp_path):
    old = network("timm:test_resnet", hidden=(8,))
    torch.save(old.body.state_dict(), tmp_path / "old.pt")
    new = create_model("timm:test_resnet", 5, str(tmp_path / "old.pt"), hidden=(8,))
    head = f"{new.parts.head}."
    for name, value in new.body.state_dict().items():
        if not name.startswith(head):
            assert torch.equal(value, old.body.state_dict()[name])
    first = f"{head}0.weight"
    assert not torch.equal(new.body.state_dict()[first], old.body.state_dict()[first])
