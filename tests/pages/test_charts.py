"""Values to places in a plot, and pictures that a page can hold."""

import re

import numpy as np
import pytest
from PIL import Image

from xraycomp.pages.charts import SHADES, axes, diagonal, line, parallel, shade, unit_axes
from xraycomp.pages.pictures import SIDE, Pictures


def points(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path)]


def test_a_value_lies_where_its_axis_has_it():
    x, y = unit_axes("x", "y")
    assert (x.at(0), x.at(1), y.at(0), y.at(1)) == (x.start, x.end, y.start, y.end)
    assert y.start > y.end  # an SVG counts downwards
    assert [text for _, text in x.ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [place for place, _ in x.ticks] == pytest.approx(np.linspace(x.start, x.end, 6), abs=0.1)
    assert diagonal(x, y) == f"M{x.start} {y.start}L{x.end} {y.end}"


def test_epochs_are_counted_in_whole_numbers_and_one_alone_is_seen():
    x, _ = axes("epoch", [1, 2, 3], "loss", [0.3, np.nan, 0.1], whole=True)
    assert [text for _, text in x.ticks] == ["1", "2", "3"]
    x, y = axes("epoch", [1], "loss", [0.3], whole=True)
    assert [text for _, text in x.ticks] == ["1"]
    drawn = line(0, x, y, [1], [0.3], dotted=True)
    assert len(drawn.dots) == 1
    assert x.start < drawn.dots[0][0] < x.end


def test_a_line_leaves_out_only_what_lies_amid_a_straight_stretch():
    x, y = unit_axes("x", "y")
    corners = [(0, 0), (0, 0.3), (0, 0.6), (0.2, 0.6), (0.5, 0.6), (0.7, 0.8), (1, 1)]
    kept = [(0, 0), (0, 0.6), (0.5, 0.6), (0.7, 0.8), (1, 1)]
    found = points(line(0, x, y, *zip(*corners, strict=True)).path)
    assert found == [(float(x.at(a)), float(y.at(b))) for a, b in kept]


def test_a_line_is_broken_where_a_value_is_not_known():
    x, y = unit_axes("x", "y")
    drawn = line(0, x, y, [0, 0.2, 0.4, 0.6, 0.8], [0.5, 0.6, np.nan, 0.7, 0.9], dotted=True)
    assert re.sub(r"[-\d. ]", "", drawn.path) == "MLML"
    assert len(drawn.dots) == 4


def test_many_points_are_no_more_than_can_be_seen():
    x, y = unit_axes("x", "y")
    steps = np.sort(np.random.default_rng(0).random((2, 50_000)))
    assert len(line(0, x, y, *steps).path) < 50_000


def test_shades_go_from_first_to_last():
    values = np.linspace(0.6, 0.9, 50)
    shades = [shade(value, 0.6, 0.9) for value in values]
    assert shades == sorted(shades)
    assert set(shades) == set(range(SHADES))
    assert shade(0.5, 0.5, 0.5) == SHADES - 1


def test_a_parallel_plot_has_an_axis_a_setting_and_the_best_line_last():
    settings = [("lr", [0.001, 0.1, 0.01]), ("optimizer", ["sgd", "adamw", "sgd"])]
    found = parallel("alt", ["a", "b", "c"], settings, ("AUROC", [0.7, 0.9, 0.8]))
    assert [axis.label for axis in found.axes] == ["lr", "optimizer", "AUROC"]
    assert [text for _, text in found.axes[0].ticks] == ["0.001", "0.01", "0.1"]
    # On a logarithmic axis the three rates lie evenly.
    low, middle, high = (place for place, _ in found.axes[0].ticks)
    assert middle == pytest.approx((low + high) / 2, abs=0.1)
    assert [text for _, text in found.axes[1].ticks] == ["adamw", "sgd"]
    assert [name for _, _, name in found.lines] == ["a", "c", "b"]
    assert [len(points(path)) for _, path, _ in found.lines] == [3, 3, 3]
    worse = parallel("alt", ["a", "b"], [], ("log loss", [0.2, 0.9]), lower_is_better=True)
    assert [name for _, _, name in worse.lines] == ["b", "a"]


def test_pictures_are_made_small_and_never_more_than_there_is_room_for(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (600, 400, 3), dtype=np.uint8)
    for n in range(3):
        Image.fromarray(noise).save(tmp_path / f"{n}.png")
    pictures = Pictures(budget=100_000)
    first = pictures.take(tmp_path, "0.png")
    assert first.startswith("data:image/jpeg;base64,")
    assert len(first) < (tmp_path / "0.png").stat().st_size / 4
    assert pictures.take(tmp_path, "0.png") is first
    while pictures.left > len(first):
        pictures.left -= len(first)
    assert pictures.take(tmp_path, "1.png") == ""
    assert pictures.left_out == 1


def test_a_small_picture_is_taken_as_it_is_and_what_is_none_is_not(tmp_path):
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "small.png")
    (tmp_path / "script.png").write_text("<svg onload='alert(1)'/>")
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret.png").write_bytes((tmp_path / "small.png").read_bytes())
    pictures = Pictures()
    assert pictures.take(tmp_path, "small.png").startswith("data:image/png;base64,")
    assert pictures.take(tmp_path, "script.png") == ""
    assert pictures.take(tmp_path, "missing.png") == pictures.take(tmp_path, "") == ""
    assert pictures.take(tmp_path / "inner", "../secret.png") == ""
