"""A heat map comes back to the pixels of its image: crop and scale undone, for every shape."""

import numpy as np
import pytest
from PIL import Image

from xraycomp.data.decode import centre_corner, resize_and_crop, seen_part
from xraycomp.data.heat import Grid, HeatMap, in_image

SHAPES = [(301, 211), (211, 301), (257, 257), (640, 127), (61, 83)]  # width, height
SIZES = [(73, 64), (64, 64), (255, 224)]  # of the cache and of the network's input


def what_the_network_sees(pixels: np.ndarray, cache_size: int, image_size: int) -> np.ndarray:
    cached = np.asarray(resize_and_crop(Image.fromarray(pixels), cache_size))
    corner = centre_corner(cache_size, image_size)
    return cached[corner : corner + image_size, corner : corner + image_size]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_every_place_of_the_input_goes_back_to_where_it_came_from(shape, sizes):
    width, height = shape
    view = seen_part(width, height, *sizes)
    for axis in (0, 1):
        # Gray is the coordinate itself, so what comes back says where it thinks it is.
        side = shape[1 - axis]
        ramp = (np.arange(side) + 0.5) * 250 / side
        pixels = np.broadcast_to(ramp[:, None] if axis == 0 else ramp, (height, width))
        rounded = np.round(pixels).astype(np.uint8)
        seen = what_the_network_sees(rounded, *sizes) / 250
        grid = Grid(0.5 / sizes[1], 1 / sizes[1])
        back = in_image(HeatMap(seen.astype(np.float32), grid, view), width, height)
        known = np.isfinite(back)
        off = np.abs(back - pixels / 250)[known]
        # Of one pixel of input; the edges, whose pixels are averages of fewer, included.
        pixel = min(shape) / sizes[0] / side
        assert off.max() < 0.75 * pixel + 1 / 250
        assert np.median(off) < 1 / 500 + 0.02 * pixel


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("corner", [(0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9), (0.5, 0.5)])
def test_a_planted_lesion_is_found_within_half_a_cell(shape, corner):
    width, height = shape
    view, n_cells = seen_part(width, height, 73, 64), 8
    x, y = view.left + corner[0] * view.width, view.top + corner[1] * view.height
    rows, columns = np.mgrid[:height, :width] + 0.5
    radius = min(shape) / 20
    pixels = np.where(np.hypot(rows - y, columns - x) < radius, 255, 0).astype(np.uint8)
    seen = what_the_network_sees(pixels, 73, 64)
    cells = seen.reshape(n_cells, 8, n_cells, 8).mean(axis=(1, 3)).astype(np.float32)
    heat = HeatMap(cells, Grid(0.5 / n_cells, 1 / n_cells), view)
    across, down = heat.peak()
    assert abs(across - x) <= view.width / n_cells / 2 + 1e-6
    assert abs(down - y) <= view.height / n_cells / 2 + 1e-6
    # The pixels show the same, and between the cells more: the middle of what is strong.
    spread = np.nan_to_num(in_image(heat, width, height))
    assert spread.shape == (height, width)
    assert spread[int(down), int(across)] == pytest.approx(spread.max(), rel=0.1)


def test_what_the_crop_left_out_is_unknown_and_nothing_else_is():
    view = seen_part(200, 100, 100, 80)
    assert (view.left, view.top, view.width, view.height) == (60, 10, 80, 80)
    cells = np.ones((2, 2), dtype=np.float32)
    heat = in_image(HeatMap(cells, Grid(0.25, 0.5), view), 200, 100)
    known = np.zeros((100, 200), dtype=bool)
    known[10:90, 60:140] = True
    assert np.array_equal(np.isfinite(heat), known)
    assert (heat[known] == 1).all()


def test_cells_lie_where_their_grid_says():
    cells = np.zeros((4, 4), dtype=np.float32)
    cells[2, 1] = 1
    view = seen_part(64, 64, 64, 64)
    heat = in_image(HeatMap(cells, Grid(0.5 / 64, 16 / 64), view), 64, 64)
    assert np.unravel_index(heat.argmax(), heat.shape) == (32, 16)
    assert heat[32, 24] == pytest.approx(0.5)
    assert heat[32, 32] == pytest.approx(0.0)
    picture = in_image(HeatMap(cells, Grid(0.5 / 64, 16 / 64), view.scaled(0.5, 0.5)), 32, 32)
    assert np.allclose(picture[:-1, :-1], heat.reshape(32, 2, 32, 2).mean(axis=(1, 3))[:-1, :-1])
