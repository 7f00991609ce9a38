"""Raised detail against the pyramid computed band by band with SciPy."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve1d

from xraycomp.model.augment import draw, prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.pyramid import raise_detail

TAPS = np.array([1, 4, 6, 4, 1]) / 16


def blur(image):
    for axis in (0, 1):
        image = convolve1d(image, TAPS, axis=axis, mode="nearest")
    return image


def expand(image, shape):
    """Zeros between the pixels of an image that goes on beyond its border, blurred."""
    wide = np.pad(image, 2, mode="edge")
    spread = np.zeros([2 * side for side in wide.shape])
    spread[::2, ::2] = wide
    return 4 * blur(spread)[4 : 4 + shape[0], 4 : 4 + shape[1]]


def by_bands(image, gain):
    """Take the pyramid apart, raise each band, put it together again."""
    bands = []
    for _ in range(3):
        smaller = blur(image)[::2, ::2]
        bands.append(image - expand(smaller, image.shape))
        image = smaller
    for band in reversed(bands):
        image = expand(image, band.shape) + (1 + gain) * band
    return image


@pytest.mark.parametrize("shape", [(16, 16), (37, 37), (41, 30), (5, 9), (256, 256)])
@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_it_equals_the_pyramid_band_by_band(shape, gain):
    films = np.random.default_rng(0).random((3, *shape))
    found = raise_detail(torch.from_numpy(films)[:, None], gain)[:, 0].numpy()
    wanted = np.stack([by_bands(film, gain) for film in films])
    assert (wanted < 0).any() and (wanted > 1).any()
    np.testing.assert_allclose(found, wanted.clip(0, 1), atol=1e-12)


@pytest.mark.parametrize("level", [0, 17, 128, 255])
def test_flat_films_stay_flat(level):
    flat = torch.full((2, 1, 37, 37), level / 255)
    torch.testing.assert_close(raise_detail(flat, 1.5), flat, atol=1e-6, rtol=0)


def film_and_config(**changes):
    films = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (4, 40, 40), dtype=np.uint8))
    still = dict.fromkeys(("rotation", "scale", "brightness", "contrast"), 0.0)
    config = TrainConfig(image_size=32, resize_size=40, flip=False, random_crop=False, **still)
    return films, replace(config, **changes)


def test_training_and_evaluation_see_the_same_raised_film():
    films, config = film_and_config(laplacian=0.7)
    evaluated = prepare(films, config, 0.5, 0.25)
    whole = raise_detail(films[:, None] / 255, 0.7)[:, :, 4:36, 4:36]
    torch.testing.assert_close(evaluated, (whole - 0.5) / 0.25, atol=1e-6, rtol=0)
    draws = draw(len(films), config, np.random.default_rng(0), 32)
    trained = prepare(films, config, 0.5, 0.25, draws)
    torch.testing.assert_close(trained, evaluated, atol=2e-4, rtol=0)


def test_the_order_of_films_is_nothing_to_them():
    films, config = film_and_config(laplacian=1.0)
    alone = torch.cat([prepare(film[None], config, 0.5, 0.25) for film in films])
    torch.testing.assert_close(prepare(films, config, 0.5, 0.25), alone, atol=1e-6, rtol=0)


def test_it_goes_into_an_exported_graph_of_any_batch():
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    class Raise(torch.nn.Module):
        def forward(self, images):
            return raise_detail(images, 0.8)

    films = torch.rand(3, 1, 37, 37)
    program = torch.onnx.export(
        Raise().eval(), (films[:2],), dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: films.numpy()})
    np.testing.assert_allclose(found, raise_detail(films, 0.8).numpy(), atol=1e-5)
