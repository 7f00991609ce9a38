"""What is exported computes what the kit computes: the resize, the networks, the 8 bits."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from xraycomp.data import decode
from xraycomp.data.competition_file import load_competition
from xraycomp.judging.calibration import Calibration
from xraycomp.model.augment import prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.export_int8 import quantize
from xraycomp.model.export_onnx import export_onnx, resize_and_crop
from xraycomp.model.export_session import compare_speed, infer_batches, open_session
from xraycomp.model.zoo import build_model, create_model

CONFIG = TrainConfig(image_size=64)  # cached at 73 px
CLASSES = ["a", "b", "c"]


def film(width, height, seed=0):
    """A film with edges and noise: where a resize goes wrong, it shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 120 + 80 * np.sin(x / 5) * np.cos(y / 9) + rng.normal(0, 20, (height, width))
    return waves.clip(0, 255).astype(np.uint8)


def kit_cache(pixels, size):
    return np.asarray(decode.resize_and_crop(Image.fromarray(pixels), size))


def network(arch, activation="softmax", **options):
    """A network whose batch norms have seen something, so that folding them matters."""
    torch.manual_seed(0)
    model = create_model(arch, len(CLASSES), **options).train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 1, 64, 64))
    model.activation = activation
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One network, its file, and films with the probabilities that the file gives."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    model = network("resnet18")
    export_onnx(model, CONFIG, 0.8, path, {"classes": CLASSES, "run": "one"})
    return model, path


def kit_probs(model, cached, temperature):
    """What the kit gives for cached films, by its own calibration."""
    corner = decode.centre_corner(cached.shape[-1], CONFIG.image_size)
    inside = slice(corner, corner + CONFIG.image_size)
    pixels = torch.from_numpy(cached[:, None, inside, inside].astype(np.float32) / 255)
    with torch.no_grad():
        probs = model.probabilities(model((pixels - model.mean) / model.std)).numpy()
    return Calibration(temperature, "").apply(probs, multilabel=model.activation == "sigmoid")


@pytest.mark.parametrize(
    "size", [(64, 64), (64, 48), (47, 64), (333, 100), (20, 20), (15, 31), (256, 255), (700, 901)]
)
@pytest.mark.parametrize("side", [7, 32, 73])
def test_the_resize_is_the_caches_up_to_one_gray_level(size, side):
    pixels = film(*size)
    expected = kit_cache(pixels, side).astype(int)
    found = resize_and_crop(torch.from_numpy(pixels[None]), side)[0].numpy()
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.3  # most of them where little is left of a film


ARCHITECTURES = {
    "resnet18": {},
    "resnet18 attention": {"pool": "attention", "hidden": (16, 8), "activation": "sigmoid"},
    "mobilenet_v3_small": {},
    "timm:tf_efficientnet_lite0": {},
    "densenet121": {"activation": "sigmoid"},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_kind_of_network_gives_what_torch_gives_for_films_of_any_size(tmp_path, name):
    model = network(name.split()[0], **ARCHITECTURES[name])
    export_onnx(model, CONFIG, 1.7, tmp_path / "model.onnx", {})
    infer = open_session(tmp_path / "model.onnx")
    for shape in ((1, 73, 73), (3, 73, 73)):
        films = np.stack([film(*shape[:0:-1], seed) for seed in range(shape[0])])
        assert np.allclose(infer(films), kit_probs(model, films, 1.7), atol=2e-5)
    for width, height in ((90, 120), (301, 150), (40, 33)):
        films = np.stack([film(width, height, seed) for seed in range(2)])
        cached = np.stack([kit_cache(one, 73) for one in films])
        assert np.allclose(infer(films), kit_probs(model, cached, 1.7), atol=0.02)


@pytest.mark.parametrize("settings", [{"channels": "rgb"}, {"laplacian": 1.5}])
def test_what_the_settings_make_of_a_film_is_in_the_file(tmp_path, settings):
    config = replace(CONFIG, arch="timm:test_resnet", **settings)
    torch.manual_seed(0)
    model = build_model(config, load_competition("phantom")).eval()
    films = np.stack([film(73, 73, seed) for seed in range(3)])
    inputs = prepare(torch.from_numpy(films), config, model.mean, model.std)
    with torch.no_grad():
        expected = model.probabilities(model(inputs)).numpy()
    export_onnx(model, config, 1.0, tmp_path / "model.onnx", {})
    assert np.allclose(open_session(tmp_path / "model.onnx")(films), expected, atol=2e-5)


def test_the_file_says_what_it_takes_and_gives(exported):
    session = onnxruntime.InferenceSession(exported[1], providers=["CPUExecutionProvider"])
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    assert given.shape == ["batch", "height", "width"]
    assert (returned.name, returned.type) == ("probs", "tensor(float)")
    assert returned.shape == ["batch", 3]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == CLASSES
    assert about["run"] == "one"
    saved = onnx.load(exported[1])
    assert {entry.version for entry in saved.opset_import if not entry.domain} == {18}
    assert not [node for node in saved.graph.node if node.op_type == "BatchNormalization"]


def test_eight_bits_are_small_close_and_keep_what_the_file_says(exported, tmp_path):
    _, path = exported
    films = np.stack([film(73, 73, seed) for seed in range(24)])
    quantize(path, tmp_path / "small.onnx", films[:12])
    before, after = (
        infer_batches(open_session(each), films[12:]) for each in (path, tmp_path / "small.onnx")
    )
    assert np.abs(before - after).max() < 0.1
    assert not np.array_equal(before, after)
    assert (tmp_path / "small.onnx").stat().st_size < 0.27 * path.stat().st_size
    saved = onnx.load(tmp_path / "small.onnx")
    assert {entry.key: entry.value for entry in saved.metadata_props}["run"] == "one"
    kinds = {node.op_type for node in saved.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv", "Resize"} <= kinds


def test_attention_that_is_nearly_nothing_everywhere_stays_a_number_in_eight_bits(tmp_path):
    model = network("resnet18", pool="attention")
    with torch.no_grad():
        pool = model.body.get_submodule(model.parts.pool)
        last = [module for module in pool.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        last.bias.fill_(-9.0)
    export_onnx(model, CONFIG, 1.0, tmp_path / "model.onnx", {})
    films = np.stack([film(73, 73, seed) for seed in range(8)])
    quantize(tmp_path / "model.onnx", tmp_path / "small.onnx", films)
    before, after = (
        infer_batches(open_session(tmp_path / name), films) for name in ("model.onnx", "small.onnx")
    )
    assert np.abs(before - after).max() < 0.1


def test_what_does_more_is_measured_to_be_slower(exported):
    infer = open_session(exported[1])

    def slow(films):
        for _ in range(3):
            infer(films)
        return infer(films)

    found = compare_speed(slow, infer, film(73, 73))
    for which in ("single", "batch"):
        assert found[f"{which}_ratio"] > 2  # four times the work
        assert found[f"{which}_before_ms"] > found[f"{which}_after_ms"] > 0
    assert found["batch_after_ms"] > found["single_after_ms"]
