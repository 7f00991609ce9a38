"""The warp against torchvision, planted points, and the ranges of everything random."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize
from torchvision.transforms import ToTensor as ToUnit
from torchvision.transforms import functional as TF

from xraycomp.data.cache import build_cache
from xraycomp.model.augment import _affine, draw, prepare
from xraycomp.model.config import TrainConfig

MEAN, STD = 0.5, 0.25
BILINEAR = InterpolationMode.BILINEAR


def config(size, cached, **strengths):
    """Nothing random but what ``strengths`` name."""
    still = dict.fromkeys(("rotation", "scale", "brightness", "contrast"), 0.0)
    still |= {"flip": False, "random_crop": False}
    return TrainConfig(image_size=size, resize_size=cached, **{**still, **strengths})


def films(*arrays):
    return torch.from_numpy(np.stack(arrays).astype(np.uint8))


def noise(count, size, seed=0):
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (count, size, size), dtype=np.uint8)
    )


def unit(prepared):
    """Undo the normalisation: (batch, height, width) in 0..1."""
    return (prepared * STD + MEAN)[:, 0]


def drawn(images, changed, seed=0):
    draws = draw(len(images), changed, np.random.default_rng(seed), changed.image_size)
    return prepare(images, changed, MEAN, STD, draws)


def warp(images, size, **constants):
    """What ``prepare`` does with one matrix, for constants instead of draws."""
    theta = torch.from_numpy(_affine(len(images), images.shape[-1], size, **constants)).float()
    grid = F.affine_grid(theta, [len(images), 1, size, size], align_corners=False)
    return F.grid_sample(images[:, None].float(), grid, align_corners=False)[:, 0]


def dot(size, y, x, blur=1.5):
    """A soft dot, whose place a warp moves without loss."""
    rows, columns = np.mgrid[:size, :size]
    return 255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * blur**2))


def places(pictures):
    """Centre of mass (y, x) of each picture, from the picture's centre."""
    size = pictures.shape[-1]
    ticks = torch.arange(size) - (size - 1) / 2
    mass = pictures.sum(dim=(1, 2))
    y = (pictures.sum(dim=2) * ticks).sum(dim=1) / mass
    x = (pictures.sum(dim=1) * ticks).sum(dim=1) / mass
    return np.stack([y.numpy(), x.numpy()], axis=1)


@pytest.mark.parametrize(
    ("width", "height", "cached", "size"),
    [
        (50, 50, 40, 32),
        (50, 50, 37, 32),
        (50, 50, 35, 32),
        (41, 41, 33, 32),
        (300, 300, 256, 224),
        (64, 47, 37, 32),
        (47, 64, 37, 32),
        (200, 90, 40, 40),
    ],
)
def test_evaluation_equals_torchvision(tmp_path, width, height, cached, size):
    """The cache holds the resized centre square; a film that is no square is cut twice, therefore.

    Noise is the hardest film: each pixel differs from the next by the whole range.
    """
    rng = np.random.default_rng(width)
    path = tmp_path / "film.png"
    Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)).save(path)
    square = [] if width == height else [CenterCrop(cached)]
    reference = Compose(
        [Resize(cached), *square, CenterCrop(size), ToUnit(), Normalize([MEAN], [STD])]
    )
    with Image.open(path) as film:
        wanted = reference(film)
    settings = config(size, cached)
    cache = build_cache([path], tmp_path / "cache", settings.cache_size, workers=1)
    found = prepare(torch.from_numpy(cache.gather(np.array([0]))), settings, MEAN, STD)
    assert found.shape == (1, 1, size, size)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("constants", "place"),
    [
        ({}, (2, 6)),
        ({"mirror": -1.0}, (2, 2)),
        ({"angle": math.pi / 2}, (2, 2)),  # counter-clockwise: the right goes to the top
        ({"angle": -math.pi / 2}, (6, 6)),
        ({"mirror": -1.0, "angle": math.pi}, (6, 6)),
        ({"offset": np.array([[1.0, -2.0]])}, (4, 5)),  # the crop goes right and up
    ],
)
def test_a_bright_pixel_goes_where_the_matrix_says(constants, place):
    film = np.zeros((9, 9))
    film[2, 6] = 255
    found = warp(films(film), 9, **constants)[0]
    wanted = torch.zeros(9, 9)
    wanted[place] = 255
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0)


@pytest.mark.parametrize("degrees", [-30.0, -7.0, 3.5, 90.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_equals_torchvision_before_the_mirror(degrees, mirrored):
    images = noise(2, 21)
    wanted = TF.rotate(images[:, None].float(), degrees, interpolation=BILINEAR)
    wanted = TF.hflip(wanted) if mirrored else wanted
    found = warp(images, 21, angle=math.radians(degrees), mirror=-1.0 if mirrored else 1.0)
    torch.testing.assert_close(found, wanted[:, 0], atol=0.02, rtol=0)


@pytest.mark.parametrize("zoom", [0.8, 1.25, 2.0])
def test_zoom_equals_torchvision(zoom):
    images = noise(2, 21)
    wanted = TF.affine(images[:, None].float(), 0.0, [0, 0], zoom, [0.0], BILINEAR)
    torch.testing.assert_close(warp(images, 21, zoom=zoom), wanted[:, 0], atol=0.02, rtol=0)


def test_every_image_has_its_own_constants():
    images = films(*[dot(41, 20, 28)] * 3)
    found = places(warp(images, 41, angle=np.array([0.0, 0.5, -0.5]), zoom=np.array([1, 0.5, 1.5])))
    wanted = [[0, 8], [-4 * math.sin(0.5), 4 * math.cos(0.5)]]
    wanted += [[12 * math.sin(0.5), 12 * math.cos(0.5)]]
    np.testing.assert_allclose(found, wanted, atol=0.06)


def test_half_of_the_images_are_mirrored():
    film = np.zeros((8, 8))
    film[:, :3] = 255
    pictures = unit(drawn(films(*[film] * 400), config(8, 8, flip=True)))
    original = torch.from_numpy(film / 255).float()
    same = (pictures - original).abs().amax(dim=(1, 2)) < 1e-4
    mirrored = (pictures - original.flip(-1)).abs().amax(dim=(1, 2)) < 1e-4
    assert (same ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 200) < 40  # four standard deviations


@pytest.mark.parametrize("margin", [1, 3, 4, 5])
def test_random_crops_reach_every_corner_of_the_margin_and_nothing_else(margin):
    size, cached = 6, 6 + margin
    rows, columns = np.mgrid[:cached, :cached]
    film = 20 * rows + columns  # each value tells its place
    settings = config(size, cached, random_crop=True)
    pictures = unit(drawn(films(*[film] * 900), settings)) * 255
    corners = pictures[:, 0, 0].round().int()
    inside = torch.from_numpy(20 * rows[:size, :size] + columns[:size, :size])
    torch.testing.assert_close(
        pictures, (corners[:, None, None] + inside).float(), atol=0.01, rtol=0
    )
    found = {divmod(corner, 20) for corner in corners.tolist()}
    assert found == {(y, x) for y in range(margin + 1) for x in range(margin + 1)}


def test_rotation_stays_in_its_range_and_fills_it():
    images = films(*[dot(65, 32, 56)] * 300)
    y, x = places(unit(drawn(images, config(65, 65, rotation=20.0)))).T
    angles = np.degrees(np.arctan2(-y, x))
    assert np.abs(angles).max() < 20.2
    assert angles.min() < -18
    assert angles.max() > 18
    np.testing.assert_allclose(np.hypot(y, x), 24, atol=0.1)


def test_zoom_stays_in_its_range_and_fills_it():
    images = films(*[dot(65, 32, 48)] * 300)
    y, x = places(unit(drawn(images, config(65, 65, scale=0.5)))).T
    zoom = x / 16
    assert 1 / 1.52 < zoom.min() < 1 / 1.45
    assert 1.45 < zoom.max() < 1.52
    assert abs(np.median(np.log(zoom))) < 0.08  # as often smaller as larger
    np.testing.assert_allclose(y, 0, atol=0.1)


@pytest.mark.parametrize("size", [65, 45])  # the share is of what the network sees
def test_shift_stays_in_its_range_and_fills_it(size):
    images = films(*[dot(65, 32, 32)] * 300)
    found = places(unit(drawn(images, config(size, 65, shift=0.2))))
    assert np.abs(found).max() < 0.2 * size + 0.1
    assert (found.min(axis=0) < -0.2 * size + 1).all()
    assert (found.max(axis=0) > 0.2 * size - 1).all()
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.2  # both axes have their own luck


def test_brightness_adds_within_its_range():
    pictures = unit(drawn(films(*[np.full((4, 4), 128)] * 300), config(4, 4, brightness=0.2)))
    added = pictures[:, 0, 0] - 128 / 255
    assert (pictures - pictures[:, :1, :1]).abs().max() < 1e-5
    assert -0.2001 < added.min() < -0.19
    assert 0.19 < added.max() < 0.2001


def test_contrast_turns_about_middle_gray_within_its_range():
    film = np.full((4, 4), 102)
    film[:2] = 178
    pictures = unit(drawn(films(*[film] * 300), config(4, 4, contrast=0.3)))
    dark, bright = (pictures[:, 3, 0] - 0.5), (pictures[:, 0, 0] - 0.5)
    factor = dark / (102 / 255 - 0.5)
    torch.testing.assert_close(bright / (178 / 255 - 0.5), factor, atol=1e-4, rtol=0)
    assert 0.6999 < factor.min() < 0.72
    assert 1.28 < factor.max() < 1.3001


def test_tones_stay_between_black_and_white():
    film = np.zeros((4, 4))
    film[:2] = 255
    pictures = unit(
        drawn(films(*[film] * 100), config(4, 4, brightness=0.5, contrast=0.5)),
    )
    assert pictures.min() >= -1e-6
    assert pictures.max() <= 1 + 1e-6
    assert (pictures == 1).any()


def test_erasing_blanks_one_rectangle_of_its_area_with_the_mean():
    images = films(*[np.full((64, 64), 255)] * 200)
    blank = drawn(images, config(64, 64, erasing=1.0))[:, 0] == 0
    rows, columns = blank.any(dim=2), blank.any(dim=1)
    torch.testing.assert_close(blank, rows[:, :, None] & columns[:, None, :])
    assert blank.any(dim=(1, 2)).all()
    share = blank.float().mean(dim=(1, 2)).numpy()
    edges = torch.stack([rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]]).any(dim=0)
    whole = share[~edges.numpy()]  # the border cuts off none of these
    assert len(whole) > 50
    assert whole.min() > 0.02 * 0.8
    assert whole.max() < 0.2 * 1.1
    assert whole.max() / whole.min() > 4


def test_erasing_hits_its_share_of_the_images():
    images = films(*[np.full((16, 16), 255)] * 400)
    hit = (drawn(images, config(16, 16, erasing=0.3)) == 0).any(dim=(1, 2, 3))
    assert abs(int(hit.sum()) - 120) < 37  # four standard deviations


STRONG = {
    "flip": True,
    "rotation": 20.0,
    "scale": 0.2,
    "shift": 0.1,
    "random_crop": True,
    "brightness": 0.2,
    "contrast": 0.2,
    "erasing": 0.5,
}


def test_the_same_seed_draws_the_same_batch_and_another_one_does_not():
    images, settings = noise(4, 20), config(16, 20, **STRONG)
    assert torch.equal(drawn(images, settings, 3), drawn(images, settings, 3))
    assert not torch.equal(drawn(images, settings, 3), drawn(images, settings, 4))


@pytest.mark.parametrize("cached", [16, 17, 19, 20])
def test_training_without_any_strength_equals_evaluation(cached):
    images, settings = noise(4, cached), config(16, cached)
    found = drawn(images, settings)
    torch.testing.assert_close(found, prepare(images, settings, MEAN, STD), atol=1e-4, rtol=0)


@pytest.mark.parametrize("setting", [{"flip": True}, {"rotation": 10.0}, {"random_crop": True}])
def test_one_setting_does_not_move_the_luck_of_the_others(setting):
    """Whoever turns one change on still gets the same shifts: a fair comparison."""
    images = films(*[dot(65, 32, 32)] * 8)
    one = places(unit(drawn(images, config(61, 65, shift=0.1))))
    other = places(unit(drawn(images, config(61, 65, shift=0.1, **setting))))
    if "random_crop" in setting:  # the crop adds whole pixels to the same shift
        steps = other - one
        np.testing.assert_allclose(steps, steps.round(), atol=0.02)
        assert 0.9 < np.abs(steps).max() < 2.1
    else:  # a mirror or a turn keeps the distance from the centre
        assert np.abs(other - one).max() > 0.5
        np.testing.assert_allclose(np.hypot(*other.T), np.hypot(*one.T), atol=0.02)


def test_evaluation_of_an_image_does_not_depend_on_the_batch():
    images, settings = noise(7, 19), config(16, 19)
    together = prepare(images, settings, MEAN, STD)
    alone = torch.cat([prepare(image[None], settings, MEAN, STD) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


def test_small_training_images_are_shrunk_without_aliasing():
    """A pattern finer than the small image can show is gray in it; a coarse one stays."""
    fine = np.indices((64, 64)).sum(axis=0) % 2 * 255
    coarse = np.indices((64, 64)).sum(axis=0) // 32 % 2 * 255
    settings = config(56, 64)
    draws = draw(2, settings, np.random.default_rng(0), 28)
    found = unit(prepare(films(fine, coarse), settings, MEAN, STD, draws))
    assert found.shape == (2, 28, 28)
    assert (found[0, 2:-2, 2:-2] - 0.5).abs().max() < 0.1
    wanted = TF.resize(films(coarse)[:, None, 4:60, 4:60].float() / 255, [28, 28])[0, 0]
    assert (found[1] - wanted).abs().mean() < 0.02


@pytest.mark.parametrize("size", [16, 31])
def test_the_warp_is_that_of_torch_s_affine_grid(size):
    """Films may come out in another size than evaluation's and show the same part of it."""
    images, settings = noise(6, 20), config(16, 20, **{**STRONG, "brightness": 0, "contrast": 0})
    settings = replace(settings, erasing=0.0)
    draws = draw(6, settings, np.random.default_rng(0), size)
    grid = F.affine_grid(draws.theta, [6, 1, size, size], align_corners=False)
    wanted = F.grid_sample(images[:, None] / 255, grid, align_corners=False)[:, 0]
    found = unit(prepare(images, settings, MEAN, STD, draws))
    assert found.shape == (6, size, size)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_a_row_of_draws_belongs_to_its_image():
    images, settings = noise(6, 20), config(16, 20, **STRONG)
    draws = draw(6, settings, np.random.default_rng(0), 16)
    together = prepare(images, settings, MEAN, STD, draws)
    for rows in (slice(2, 5), torch.tensor([4, 1])):
        alone = prepare(images[rows], settings, MEAN, STD, draws[rows])
        torch.testing.assert_close(alone, together[rows], atol=1e-6, rtol=0)


def test_the_input_is_left_as_it_was():
    images = noise(2, 18)
    before = images.clone()
    drawn(images, config(16, 18, **STRONG))
    assert torch.equal(images, before)
