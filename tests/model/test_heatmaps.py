"""Heat maps against the papers' formulas, computed image by image in plain loops."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xraycomp.console.errors import UserError
from xraycomp.data.dataset import Dataset
from xraycomp.model.config import TrainConfig
from xraycomp.model.feature_map import find_layer
from xraycomp.model.heatmaps import gradcam_plus_plus, heat_maps, map_layer, map_pairs
from xraycomp.model.pooling import attention_map
from xraycomp.model.zoo import create_model

FILMS = 5


@pytest.fixture(scope="module")
def films():
    return torch.randn(FILMS, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def parts_of_resnet(model, film):
    """Feature map after layer2 and logits, by calling the layers one by one."""
    body = model.body
    x = body.maxpool(body.relu(body.bn1(body.conv1(film))))
    features = body.layer2(body.layer1(x)).detach().requires_grad_()
    x = body.layer4(body.layer3(features))
    return features, body.fc(body.avgpool(x).flatten(1))


def by_the_paper(features, gradients, plus):
    """One image: (channels, rows, columns) to (rows, columns), in loops over channels."""
    features, gradients = features.double().numpy(), gradients.double().numpy()
    total = np.zeros(features.shape[1:])
    for values, slope in zip(features, gradients, strict=True):
        if plus:
            below = 2 * slope**2 + values.sum() * slope**3
            alpha = np.divide(slope**2, below, out=np.zeros_like(below), where=below != 0)
            weight = (alpha * np.maximum(slope, 0)).sum()
        else:
            weight = slope.mean()
        total += weight * values
    total = np.maximum(total, 0)
    return total / total.max() if total.max() > 0 else total


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_a_batch_with_several_classes_equals_one_image_and_class_at_a_time(films, method):
    torch.manual_seed(1)
    model = create_model("resnet18", 4).eval()
    classes = torch.tensor([[0, 3], [1, 1], [2, 0], [3, 2], [1, 0]])
    found = heat_maps(model, films, classes, find_layer(model, 64), method)
    assert found.shape == (FILMS, 2, 8, 8)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    for film, asked, maps in zip(films, classes, found, strict=True):
        features, logits = parts_of_resnet(model, film[None])
        for index, one in zip(asked, maps, strict=True):
            (slope,) = torch.autograd.grad(logits[0, index], features, retain_graph=True)
            wanted = by_the_paper(features[0].detach(), slope[0], method == "gradcam++")
            assert np.allclose(one.numpy(), wanted, atol=2e-4)


def test_gradcam_of_the_last_layer_is_the_class_activation_map(films):
    torch.manual_seed(1)
    model = create_model("resnet18", 4).eval()
    layer = find_layer(model, 64, 1)  # the last one
    assert layer.name == "layer4"
    found = heat_maps(model, films, torch.full((FILMS, 1), 2), layer, "gradcam")
    kept = []
    model.body.layer4.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        model(films)
    # Zhou et al. 2016, which Grad-CAM is where average pooling and one linear layer follow.
    maps = torch.einsum("c,bchw->bhw", model.body.fc.weight[2], kept[0]).relu().detach()
    highest = maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    assert torch.allclose(found[:, 0], maps / highest, atol=1e-5)


def test_gradcam_plus_plus_is_of_the_exponential_of_the_logit():
    rng = torch.Generator().manual_seed(3)
    features = torch.rand(1, 3, 2, 2, generator=rng, dtype=torch.float64).requires_grad_()
    weights = torch.randn(1, 3, 2, 2, generator=rng, dtype=torch.float64)
    score = (weights * features).sum().exp()
    total = torch.zeros(2, 2, dtype=torch.float64)
    for channel in range(3):
        weight = 0.0
        for row, column in np.ndindex(2, 2):
            place = (0, channel, row, column)
            (first,) = torch.autograd.grad(score, features, create_graph=True)
            (second,) = torch.autograd.grad(first[place], features, create_graph=True)
            (third,) = torch.autograd.grad(second[place], features, retain_graph=True)
            below = 2 * second[place] + features[0, channel].sum() * third[place]
            weight += second[place] / below * first[place].relu()
        total += weight * features[0, channel]
    wanted = (total.relu() / total.max()).detach()
    found = gradcam_plus_plus(features.detach(), weights)[0]
    assert torch.allclose(found / found.max(), wanted, atol=1e-12)


def test_one_forward_and_one_backward_serve_the_whole_batch(films):
    model = create_model("resnet18", 4).train()
    layer = find_layer(model, 64)
    model.train()
    passes = {"forward": 0, "backward": 0}

    def count(kind):
        def hook(*_):
            passes[kind] += 1

        return hook

    model.body.layer3.register_forward_hook(count("forward"))
    model.body.layer3.register_full_backward_hook(count("backward"))
    before = model.body.bn1.running_mean.clone()
    found = heat_maps(model, films, torch.zeros(FILMS, 1, dtype=torch.int64), layer)
    assert passes == {"forward": 1, "backward": 1}
    assert torch.equal(model.body.bn1.running_mean, before)  # each image is judged by itself
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    with torch.no_grad():  # nor does it matter what mode it is called in
        again = heat_maps(model, films[:1], torch.zeros(1, 1, dtype=torch.int64), layer)
    assert torch.allclose(again, found[:1], atol=1e-5)


def test_where_nothing_speaks_for_the_class_the_map_is_0(films):
    model = create_model("resnet18", 2).eval()
    with torch.no_grad():
        model.body.fc.weight.zero_()
    found = heat_maps(model, films, torch.zeros(FILMS, 1, dtype=torch.int64), find_layer(model, 64))
    assert (found == 0).all()


def test_channels_last_maps_are_read_as_such():
    torch.manual_seed(0)
    model = create_model("timm:swin_tiny_patch4_window7_224", 3).eval()
    layer = find_layer(model, 224)
    film = torch.randn(1, 1, 224, 224)
    found = heat_maps(model, film, torch.tensor([[1]]), layer, "gradcam")
    kept = []

    def keep(module, args, output):
        kept.append(output.detach().requires_grad_())
        return kept[0].clone()

    model.body.get_submodule(layer.name).register_forward_hook(keep)
    (slope,) = torch.autograd.grad(model(film)[0, 1], kept[0])
    features, slope = kept[0][0].detach().permute(2, 0, 1), slope[0].permute(2, 0, 1)
    assert np.allclose(found[0, 0].numpy(), by_the_paper(features, slope, False), atol=1e-4)


def test_attention_is_the_map_that_the_network_pools_by(films):
    torch.manual_seed(0)
    model = create_model("resnet18", 3, pool="attention").eval()
    layer = map_layer(model, TrainConfig(image_size=64), "attention")
    pool = next(m for m in model.modules() if type(m).__name__ == "AttentionPool")
    nn.init.normal_(pool.mask[-1].weight)
    found = heat_maps(model, films, torch.zeros(FILMS, 2, dtype=torch.int64), layer, "attention")
    with torch.no_grad():
        wanted = attention_map(model, films)
    assert found.shape == (FILMS, 2, 2, 2)
    assert torch.allclose(found[:, 0], (wanted / wanted.amax(dim=(2, 3), keepdim=True))[:, 0])
    assert torch.equal(found[:, 0], found[:, 1])


def test_attention_of_a_network_without_it_is_refused(match):
    model = create_model("resnet18", 3)
    with pytest.raises(UserError) as refusal:
        map_layer(model, TrainConfig(image_size=64), "attention")
    match("--method gradcam.*--pool attention", str(refusal.value))


@pytest.mark.parametrize("batch_size", [3, 64])
def test_images_of_a_dataset_get_the_map_of_their_class(toy, plain_config, batch_size):
    train, _ = toy
    names = [f"film_{row}" for row in range(train.cache.n_images)]
    manifest = pd.DataFrame({"image": names, "split": "train"})
    dataset = Dataset(manifest, train.cache, ("top", "below", "none"))
    config = plain_config(image_size=16, resize_size=18)
    torch.manual_seed(0)
    model = create_model("resnet18", 3).eval()
    pairs = pd.DataFrame(
        {
            "image": ["film_7", "film_0", "film_7", "film_50"],
            "class": ["top", "none", "none", "top"],
        }
    )
    maps = map_pairs(model, dataset, pairs, config, batch_size=batch_size)
    pixels = torch.from_numpy(train.cache.gather(np.array([7, 0, 7, 50])))[:, None, 1:17, 1:17]
    images = (pixels / 255 - model.mean) / model.std
    asked = torch.tensor([[0], [2], [2], [0]])
    wanted = heat_maps(model, images, asked, find_layer(model, 16))[:, 0]
    assert np.allclose(maps.values, wanted.numpy(), atol=1e-5)
    assert (maps.cache_size, maps.image_size) == (18, 16)
    assert maps.pairs is pairs
