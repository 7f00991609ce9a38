"""Real torchvision and timm networks with random weights, real weight files, no network."""

import logging
import os
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from xraycomp.console.errors import UserError
from xraycomp.model.libraries import INCEPTIONS
from xraycomp.model.stem import GrayModel, fold_stem, gray_mix
from xraycomp.model.weights import bare_names
from xraycomp.model.zoo import check_input_size, create_model

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small images: threads that wait for each other cost more than they bring."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def rgb_network(arch: str, num_classes: int = 5) -> nn.Module:
    """The library's own network with weights, biases and statistics that are all at work."""
    torch.manual_seed(7)
    if arch.startswith("timm:"):
        import timm

        network = timm.create_model(arch.removeprefix("timm:"), num_classes=num_classes)
    else:
        # Pretrained, the inceptions take ImageNet's normalisation and change it themselves.
        options = {"aux_logits": False, "transform_input": True, "init_weights": True}
        network = torchvision.models.get_model(
            arch, weights=None, num_classes=num_classes, **(options if arch in INCEPTIONS else {})
        )
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
            elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.normal_(0, 0.1)
    return network.eval()


def normalised(gray: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``gray`` copied to RGB and normalised per channel, as the RGB network was trained."""
    shape = (1, 3, 1, 1)
    mean_c, std_c = torch.tensor(mean).view(shape).to(gray), torch.tensor(std).view(shape).to(gray)
    return (gray.expand(-1, 3, -1, -1) - mean_c) / std_c


def gray_images(size: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(2, 1, size, size, dtype=dtype, generator=torch.Generator().manual_seed(3))


def logits(model: GrayModel, gray: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()((gray - model.mean) / model.std)


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    return rgb_network("resnet18").state_dict()


@pytest.fixture(scope="module")
def resnet_file(resnet_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet_state, path)
    return path


@pytest.fixture(scope="module")
def resnet_logits(resnet_state: dict[str, Tensor]) -> Tensor:
    network = rgb_network("resnet18")
    with torch.no_grad():
        return network(normalised(gray_images(), IMAGENET_MEAN, IMAGENET_STD))


# --- the gray stem ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "planes"), [(IMAGENET_MEAN, IMAGENET_STD, 2), (HALF, HALF, 1)]
)
def test_folded_stem_equals_the_rgb_convolution_at_every_pixel(
    mean: tuple[float, float, float], std: tuple[float, float, float], planes: int
) -> None:
    conv = nn.Conv2d(3, 8, 7, stride=2, padding=3).double()
    gray = gray_images(33, torch.float64)
    expected = conv(normalised(gray, mean, std))
    gray_mean, gray_std, mix = gray_mix(mean, std)
    body = nn.Sequential(conv)
    assert mix.shape == (planes, 3)

    # float32 is what fold_stem checks itself in
    body.float()
    assert fold_stem(body, mix)
    body.double()
    images = (gray - gray_mean) / gray_std
    actual = GrayModel(body, "one convolution", gray_mean, gray_std, planes)(images)

    assert conv.weight.shape == (8, planes, 7, 7)
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("arch", "mean", "std", "planes"),
    [
        ("resnet18", IMAGENET_MEAN, IMAGENET_STD, 2),
        ("mobilenet_v3_small", IMAGENET_MEAN, IMAGENET_STD, 2),
        ("densenet121", IMAGENET_MEAN, IMAGENET_STD, 2),
        ("squeezenet1_1", IMAGENET_MEAN, IMAGENET_STD, 2),
        ("efficientnet_b0", IMAGENET_MEAN, IMAGENET_STD, 2),
        ("swin_t", IMAGENET_MEAN, IMAGENET_STD, 2),
        # RGB gets ImageNet's normalisation and its transform_input turns it into 0.5 and 0.5.
        ("googlenet", IMAGENET_MEAN, IMAGENET_STD, 1),
        ("timm:tf_efficientnet_lite0", HALF, HALF, 1),
        # "Same" padding: Conv2dSame, one pixel more at the far border than at the near one.
        ("timm:tf_efficientnet_b0.ns_jft_in1k", IMAGENET_MEAN, IMAGENET_STD, 2),
        ("timm:resnet10t", IMAGENET_MEAN, IMAGENET_STD, 2),
        # Two convolutions read the image.
        ("timm:repvgg_a0", IMAGENET_MEAN, IMAGENET_STD, 2),
    ],
)
def test_gray_model_equals_the_rgb_network(
    arch: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    planes: int,
    tmp_path: Path,
) -> None:
    network = rgb_network(arch)
    torch.save(network.state_dict(), tmp_path / "rgb.pth")
    model = create_model(arch, 5, weights=str(tmp_path / "rgb.pth")).double()
    assert model.planes == planes

    gray = gray_images(66, torch.float64)  # a size at which padding differs from side to side
    with torch.no_grad():
        expected = network.double()(normalised(gray, mean, std))

    assert expected.std() > 0
    # The folded weights are stored as float32: 1e-7 is what they can hold.
    error = (logits(model, gray) - expected).abs().max() / expected.abs().max()
    assert error < 2e-6


def test_same_padding_convolution_keeps_its_class() -> None:
    stem = create_model("timm:tf_efficientnet_b0", 2).body.get_submodule("conv_stem")
    assert type(stem).__name__ == "Conv2dSame"
    assert stem.weight.shape[1] == stem.in_channels == 1


def test_weight_standardised_stem_is_refused_for_rgb_weights_only(tmp_path: Path) -> None:
    arch = "timm:test_nfnet"
    torch.save(rgb_network(arch).state_dict(), tmp_path / "rgb.pth")
    with pytest.raises(UserError, match="standardises the weights of its first convolution"):
        create_model(arch, 5, weights=str(tmp_path / "rgb.pth"))

    model = create_model(arch, 5)  # from scratch there is nothing to be equal to
    path = save_checkpoint(model, tmp_path / "best.pt")
    again = create_model(arch, 5, weights=str(path))
    torch.testing.assert_close(logits(again, gray_images()), logits(model, gray_images()))


# --- from scratch ----------------------------------------------------------------------------


def test_from_scratch_has_one_channel_and_follows_the_global_seed() -> None:
    torch.manual_seed(1)
    first = create_model("resnet18", 4)
    torch.manual_seed(1)
    second = create_model("resnet18", 4)
    third = create_model("resnet18", 4)

    assert (first.mean, first.std, first.planes) == (0.5, 0.25, 1)
    assert first.body.get_submodule("conv1").weight.shape == (64, 1, 7, 7)
    assert first.state_dict().keys() == second.state_dict().keys()
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert not torch.equal(logits(first, gray_images()), logits(third, gray_images()))


@pytest.mark.parametrize("arch", ["resnet18", "googlenet", "timm:test_byobnet"])
@pytest.mark.filterwarnings("error::FutureWarning")
def test_training_step_reaches_the_stem(arch: str) -> None:
    model = create_model(arch, 3).train()
    output = model(gray_images(96))
    assert output.shape == (2, 3)
    output.logsumexp(dim=1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# --- weight files ----------------------------------------------------------------------------


def save_checkpoint(model: GrayModel, path: Path) -> Path:
    """What the kit saves as best.pt."""
    content = {"model": model.state_dict(), "mean": model.mean, "std": model.std, "epoch": 3}
    torch.save({**content, "config": {"arch": model.arch, "lr": 0.1, "fold": None}}, path)
    return path


@pytest.mark.parametrize("form", ["plain.pt", "model.pth", "data-parallel.pth", "x.safetensors"])
def test_every_form_of_weight_file_gives_the_same_network(
    form: str, resnet_state: dict[str, Tensor], resnet_logits: Tensor, tmp_path: Path
) -> None:
    path = tmp_path / form
    wrapped = {f"module._orig_mod.{key}": value for key, value in resnet_state.items()}
    match form:
        case "plain.pt":
            torch.save(dict(resnet_state), path)
        case "model.pth":
            torch.save({"model": resnet_state, "epoch": 9}, path)
        case "data-parallel.pth":
            torch.save({"state_dict": wrapped, "arch": "resnet18"}, path)
        case _:
            save_file(resnet_state, path)

    model = create_model("resnet18", 5, weights=str(path))
    torch.testing.assert_close(logits(model, gray_images()), resnet_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "wrapped", ["_orig_mod.module.", "module._orig_mod.", "model.module.", "body.model.body."]
)
def test_wrappers_within_wrappers_are_taken_off(wrapped: str) -> None:
    tensors = {name: torch.zeros(1) for name in ("conv1.weight", "fc.bias")}
    found = bare_names({wrapped + name: tensor for name, tensor in tensors.items()})
    assert list(found) == list(tensors)


def test_checkpoint_of_the_kit_comes_back_exactly(resnet_file: Path, tmp_path: Path) -> None:
    scratch = create_model("resnet18", 5)
    pretrained = create_model("resnet18", 5, weights=str(resnet_file))
    for model in (scratch, pretrained):
        path = save_checkpoint(model, tmp_path / "best.pt")
        again = create_model("resnet18", 5, weights=str(path))
        assert (again.mean, again.std, again.planes) == (model.mean, model.std, model.planes)
        assert torch.equal(logits(again, gray_images()), logits(model, gray_images()))


def test_normalisation_named_in_the_file_comes_before_the_library_s(
    resnet_state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "own.pth"
    torch.save({"model": resnet_state, "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.4, 0.5]}, path)
    model = create_model("resnet18", 5, weights=str(path))
    with torch.no_grad():
        expected = rgb_network("resnet18")(
            normalised(gray_images(), (0.1, 0.2, 0.3), (0.3, 0.4, 0.5))
        )
    torch.testing.assert_close(logits(model, gray_images()), expected, rtol=0, atol=1e-4)


def test_only_the_classifier_is_new_for_another_number_of_classes(
    resnet_file: Path, resnet_state: dict[str, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="xraycomp.model"):
        model = create_model("resnet18", 3, weights=str(resnet_file))
    assert "120 of 122 tensors loaded" in caplog.text
    assert "new: fc.bias, fc.weight" in caplog.text
    state = model.body.state_dict()
    assert state["fc.weight"].shape == (3, 512)
    for key in state.keys() - {"fc.weight", "fc.bias", "conv1.weight"}:
        assert torch.equal(state[key], resnet_state[key]), key


def test_torchvision_s_older_names_and_side_heads_are_understood(tmp_path: Path) -> None:
    dense = rgb_network("densenet121").state_dict()
    old = {}
    for key, value in dense.items():
        for part in ("norm1", "norm2", "conv1", "conv2"):
            if "denselayer" in key:
                key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        if not key.endswith("num_batches_tracked"):  # younger than these files
            old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "densenet121.pth")
    loaded = create_model("densenet121", 5, weights=str(tmp_path / "densenet121.pth"))
    assert torch.equal(loaded.body.state_dict()["classifier.weight"], dense["classifier.weight"])

    whole = torchvision.models.googlenet(num_classes=5, aux_logits=True, init_weights=True)
    torch.save(whole.state_dict(), tmp_path / "googlenet.pth")
    assert "aux1.fc1.weight" in whole.state_dict()
    create_model("googlenet", 5, weights=str(tmp_path / "googlenet.pth"))


@pytest.mark.parametrize("arch", ["resnet34", "resnet50", "timm:resnet18d", "densenet121"])
def test_weights_of_another_architecture_are_refused(arch: str, resnet_file: Path) -> None:
    with pytest.raises(UserError, match=rf"do not belong to {arch}: \d+ of its \d+ tensors match"):
        create_model(arch, 5, weights=str(resnet_file))


def test_a_smaller_network_does_not_load_from_a_larger_one(tmp_path: Path) -> None:
    # Every tensor of ResNet-18 is in ResNet-34 too, with the same shape.
    torch.save(rgb_network("resnet34").state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(UserError, match="122 of its 122 tensors match, 96 of the file"):
        create_model("resnet18", 5, weights=str(tmp_path / "resnet34.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_cut_off_file_is_refused(
    suffix: str, share: float, resnet_state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / f"cut{suffix}"
    if suffix == ".safetensors":
        save_file(resnet_state, path)
    else:
        torch.save(resnet_state, path, _use_new_zipfile_serialization=suffix == ".pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"bytes\) is cut off, damaged or not a weight file"):
        create_model("resnet18", 5, weights=str(path))


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    text, whole, numbers = (tmp_path / name for name in ("notes.pth", "whole.pt", "numbers.pt"))
    text.write_text("not weights\n" * 100)
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 1)), whole)
    torch.save([1, 2, 3], numbers)
    (tmp_path / "weights.onnx").write_bytes(b"x")
    for path, message in [
        (text, "is cut off, damaged or not a weight file"),
        (whole, "holds more than tensors and plain values"),
        (numbers, "holds no tensors by name"),
        (tmp_path / "weights.onnx", r"--weights reads \.pth, \.pt, \.safetensors"),
        (tmp_path / "absent.pth", "There is no weight file .*absent.pth"),
        (tmp_path, "There is no weight file"),
    ]:
        with pytest.raises(UserError, match=message):
            create_model("resnet18", 5, weights=str(path))


# --- ImageNet weights ------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No way to the internet and empty caches, wherever the tests run."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies it has seen
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("arch", "url"),
    [
        ("resnet18", "https://download.pytorch.org/models/resnet18-f37072fd.pth"),
        (
            "timm:tf_efficientnet_lite0",
            "https://huggingface.co/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors",
        ),
    ],
)
@pytest.mark.usefixtures("offline")
def test_imagenet_without_network_names_the_file_and_the_flag(arch: str, url: str) -> None:
    with pytest.raises(UserError) as caught:
        create_model(arch, 4, weights="imagenet")
    file = url.rpartition("/")[2]
    assert f"download {file} from {url}" in str(caught.value)
    assert f"--weights PATH/{file}" in str(caught.value)
    assert "Connection refused" in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_imagenet_comes_from_the_caches_without_network(tmp_path: Path) -> None:
    resnet = rgb_network("resnet18", 1000)
    path = tmp_path / "torch/hub/checkpoints/resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    torch.save(resnet.state_dict(), path)
    byobnet = rgb_network("timm:test_byobnet", 1000)
    repo = tmp_path / "hub/models--timm--test_byobnet.r160_in1k"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("abc")
    (repo / "snapshots/abc").mkdir(parents=True)
    save_file(byobnet.state_dict(), repo / "snapshots/abc/model.safetensors")

    for arch, network in [("resnet18", resnet), ("timm:test_byobnet", byobnet)]:
        model = create_model(arch, 1000, weights="imagenet")
        with torch.no_grad():
            expected = network(normalised(gray_images(), IMAGENET_MEAN, IMAGENET_STD))
        torch.testing.assert_close(logits(model, gray_images()), expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("offline")
def test_imagenet_where_nobody_published_any() -> None:
    with pytest.raises(UserError, match="There are no ImageNet weights for timm:efficientnet_b6"):
        create_model("timm:efficientnet_b6", 4, weights="imagenet")


def test_real_pretrained_body() -> None:
    packs = os.environ.get("XRAYCOMP_PACKS")
    path = Path(packs or ".", "weights", "tf_efficientnet_lite0-imagenet.safetensors")
    if not packs or not path.is_file():
        pytest.skip("XRAYCOMP_PACKS names no folder with weights/ in it")
    import timm

    model = create_model("timm:tf_efficientnet_lite0", 1000, weights=str(path))
    assert (model.mean, model.std, model.planes) == (0.5, 0.5, 1)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(load_file(path))
    with torch.no_grad():
        expected = network(normalised(gray_images(224), HALF, HALF))
    torch.testing.assert_close(logits(model, gray_images(224)), expected, rtol=0, atol=1e-4)
    assert create_model("timm:tf_efficientnet_lite0", 4, weights=str(path)).planes == 1


# --- names and sizes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet81", "no torchvision classifier named 'resnet81'; did you mean resnet18"),
        ("ResNet18", "did you mean resnet18"),
        ("fasterrcnn_resnet50_fpn", "no torchvision classifier"),
        ("", "no torchvision classifier named ''"),
        ("timm:efficientnet_lit0", "did you mean .*efficientnet_lite0"),
        ("timm:resnet18.mine", "no set of timm weights named 'resnet18.mine'; did you mean"),
        ("timm:", "no timm model named ''"),
        ("timm:tresnet_m", "no plain first convolution"),
    ],
)
def test_unknown_architecture(arch: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_model(arch, 4)


def test_missing_extra_names_its_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("timm", "safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "x.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"needs timm.*pip install 'xraycomp\[models\]'"):
        create_model("timm:resnet10t", 4)
    with pytest.raises(UserError, match=r"needs safetensors.*pip install 'xraycomp\[models\]'"):
        create_model("resnet18", 4, weights=str(tmp_path / "x.safetensors"))


def test_input_size_is_tried_and_nothing_changed() -> None:
    model = create_model("googlenet", 4).train()
    model.body.get_submodule("conv1").eval()  # a frozen part stays frozen
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}

    check_input_size(model, 96)
    with pytest.raises(UserError, match="googlenet cannot take images of 0 pixels a side"):
        check_input_size(model, 0)

    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(UserError, match="inception_v3 cannot take images of 32 pixels a side"):
        check_input_size(create_model("inception_v3", 4), 32)
    with pytest.raises(
        UserError, match="timm:vit_tiny_patch16_224 cannot take images of 96 pixels"
    ):
        check_input_size(create_model("timm:vit_tiny_patch16_224", 4), 96)


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        *((f"resnet{depth}", 64) for depth in (18, 50)),
        *(
            (arch, 64)
            for arch in ("densenet121", "googlenet", "mobilenet_v2", "mobilenet_v3_small")
        ),
        *(("inception_v3", 96), ("vgg19", 64), ("timm:mobilenetv1_100", 64)),
    ],
)
def test_networks_can_be_exported(arch, size):
    """As a graph that computes the same, which is what other runtimes start from."""
    model = create_model(arch, 4).eval()
    images = torch.rand(2, 1, size, size)
    with torch.no_grad():
        exported = torch.export.export(model, (images,), strict=False).module()
        torch.testing.assert_close(exported(images), model(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "mnasnet0_5"])
def test_batch_norms_know_their_statistics_after_a_short_training(arch):
    """Torchvision's own MobileNetV3 and MNASNet are still far from them after so few batches."""
    torch.manual_seed(0)
    body = create_model(arch, 4).body
    names = {name: it for name, it in body.named_modules() if isinstance(it, nn.BatchNorm2d)}
    first = next(iter(names.values()))
    for _ in range(40):
        first(5 + 2 * torch.randn(64, first.num_features, 4, 4))
    assert first.running_mean.mean() == pytest.approx(5, abs=0.2)
    assert first.running_var.mean() == pytest.approx(4, abs=0.2)
    assert {it.momentum for it in names.values()} == {0.1}
