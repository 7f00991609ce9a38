"""Networks that keep their RGB stem: what they compute, and that they come back as they were."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.model.checkpoint import load_best, save_best
from xraycomp.model.config import TrainConfig
from xraycomp.model.folding import fold_batch_norm
from xraycomp.model.heatmaps import heat_maps, map_layer
from xraycomp.model.run import RunFolder
from xraycomp.model.zoo import create_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")
PHANTOM = replace(load_competition("phantom"), classes=("a", "b", "c"), normal="", positive="")
CONFIG = TrainConfig(arch="resnet18", image_size=32, resize_size=36, channels="rgb")


def library_network(arch):
    torch.manual_seed(7)
    if arch.startswith("timm:"):
        return pytest.importorskip("timm").create_model(arch[5:], num_classes=3).eval()
    import torchvision

    return torchvision.models.get_model(arch, num_classes=3).eval()


@pytest.fixture
def gray():
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(3))


def logits(model, gray):
    with torch.no_grad():
        return model.eval()((gray - model.mean) / model.std)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "timm:test_nfnet"])
def test_it_equals_the_rgb_network_on_three_equal_channels(arch, gray, tmp_path):
    """Even where the stem cannot be folded, since its weights are standardised (NFNet's)."""
    network = library_network(arch)
    torch.save({"model": network.state_dict(), "mean": MEAN, "std": STD}, tmp_path / "rgb.pth")
    model = create_model(arch, 3, str(tmp_path / "rgb.pth"), rgb=True)
    shape = (1, 3, 1, 1)
    copies = gray.expand(-1, 3, -1, -1)
    with torch.no_grad():
        wanted = network((copies - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape))
    torch.testing.assert_close(logits(model, gray), wanted, atol=1e-5, rtol=1e-4)
    assert model.state_dict().keys() == {f"body.{name}" for name in network.state_dict()}


def test_gray_and_rgb_begin_as_one_function_and_learn_otherwise(gray):
    losses = []
    models = []
    for rgb in (False, True):
        torch.manual_seed(1)
        models.append(create_model("resnet18", 3, rgb=rgb))
    assert [model.body.conv1.weight.shape[1] for model in models] == [1, 3]
    torch.testing.assert_close(*(logits(model, gray) for model in models), atol=1e-5, rtol=1e-4)
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            loss = model(gray).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(logits(model, gray))
    assert not torch.allclose(*losses, atol=1e-4)


@pytest.mark.parametrize("stated", [(MEAN, STD), (None, None)])
def test_it_comes_back_from_best_pt_into_rgb_and_into_gray(gray, tmp_path, stated):
    network = library_network("resnet18")
    content = {"model": network.state_dict(), "mean": stated[0], "std": stated[1]}
    torch.save(content, tmp_path / "rgb.pth")
    model = create_model("resnet18", 3, str(tmp_path / "rgb.pth"), rgb=True)
    model.classes = PHANTOM.classes
    empty = pd.DataFrame({"image": []})
    run = RunFolder.create(tmp_path / "run", CONFIG, PHANTOM, empty, empty, {})
    save_best(model, 0, CONFIG, run)
    again = load_best(run, CPU)
    assert (again.mean, again.std, again.rgb) == (model.mean, model.std, model.rgb)
    torch.testing.assert_close(logits(again, gray), logits(model, gray))
    folded = create_model("resnet18", 3, str(run.best))
    assert folded.planes == 2
    torch.testing.assert_close(logits(folded, gray), logits(model, gray), atol=1e-5, rtol=1e-4)


def test_folded_weights_are_refused(tmp_path):
    model = create_model("resnet18", 3)
    torch.save({"model": model.state_dict(), "mean": 0.5, "std": 0.25}, tmp_path / "gray.pth")
    with pytest.raises(UserError, match="folded to read gray images; use --channels gray"):
        create_model("resnet18", 3, str(tmp_path / "gray.pth"), rgb=True)


def test_folding_batch_norm_and_heat_maps_see_the_same_network(gray, tmp_path):
    torch.save(library_network("resnet18").state_dict(), tmp_path / "rgb.pth")
    models = [create_model("resnet18", 3, str(tmp_path / "rgb.pth"), rgb=rgb) for rgb in (0, 1)]
    torch.testing.assert_close(
        logits(fold_batch_norm(models[1]), gray), logits(models[1], gray), atol=1e-5, rtol=1e-4
    )
    config = replace(CONFIG, image_size=64, resize_size=64)
    classes = torch.tensor([[0, 1], [2, 1]])
    maps = [
        heat_maps(model, (gray - model.mean) / model.std, classes, map_layer(model, config))
        for model in models
    ]
    np.testing.assert_allclose(maps[0].numpy(), maps[1].numpy(), atol=1e-3)
