"""Heat maps against boxes: the pointing game and the overlap, with their intervals."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, bootstrap

from xraycomp.data.decode import View
from xraycomp.data.heat import Grid, HeatMap
from xraycomp.judging.localisation import format_locations, judge_locations, locate


def heat_map(values, size=40):
    """A map whose cells part a square image evenly."""
    cells = np.asarray(values, dtype=np.float32)
    return HeatMap(cells, Grid(0.5 / len(cells), 1 / len(cells)), View(0, 0, size, size))


def test_the_peak_is_in_the_box_or_not():
    values = np.zeros((4, 4))
    values[1, 2] = 1  # its cell is 20..30 by 10..20
    for box, hit in (
        ([20, 10, 30, 20], True),
        ([24, 14, 26, 16], True),
        ([26, 10, 30, 20], False),
        ([10, 20, 20, 30], False),  # x and y changed round
    ):
        assert locate(heat_map(values), 40, 40, np.array([box], float)).peak_inside == hit


def test_several_boxes_are_one_region():
    values = np.zeros((4, 4))
    values[1, 2] = 1
    boxes = np.array([[0, 0, 4, 4], [20, 10, 30, 20]], float)
    found = locate(heat_map(values), 40, 40, boxes)
    assert found.peak_inside
    assert found.box_share == (16 + 100) / 1600


@pytest.mark.parametrize("threshold", [0.25, 0.5, 0.8])
def test_the_overlap_is_that_of_places_counted_one_by_one(threshold):
    rng = np.random.default_rng(0)
    heat = heat_map(rng.random((5, 5)), size=30)
    box = np.array([[4.2, 7.0, 19.9, 22.4]])
    found = locate(heat, 30, 30, box, threshold)
    covered = inside = both = 0
    for y in range(30):
        for x in range(30):
            row, column = (min(max((place + 0.5) / 6 - 0.5, 0), 4) for place in (y, x))
            r, c = min(int(row), 3), min(int(column), 3)
            f, g = row - r, column - c
            value = (
                (1 - f) * (1 - g) * heat.values[r, c]
                + f * (1 - g) * heat.values[r + 1, c]
                + (1 - f) * g * heat.values[r, c + 1]
                + f * g * heat.values[r + 1, c + 1]
            )
            a = value >= threshold * heat.values.max()
            b = 4.2 <= x + 0.5 < 19.9 and 7.0 <= y + 0.5 < 22.4
            covered, inside, both = covered + a, inside + b, both + (a and b)
    assert found.iou == pytest.approx(both / (covered + inside - both))
    assert found.box_share == pytest.approx(inside / 900)


def test_a_map_of_nothing_points_nowhere():
    found = locate(heat_map(np.zeros((4, 4))), 40, 40, np.array([[0, 0, 40, 40.0]]))
    assert (found.peak_inside, found.iou) == (False, 0.0)


@pytest.fixture
def report():
    rng = np.random.default_rng(1)
    n = 60
    found = pd.DataFrame(
        {
            "class": np.where(np.arange(n) < 45, "Mass", "Nodule"),
            "called": rng.random(n) < 0.5,
            "peak_inside": rng.random(n) < 0.7,
            "iou": rng.random(n),
            "box_share": rng.random(n) / 4,
        }
    )
    return found, judge_locations(found, ("Edema", "Mass", "Nodule"), split="val")


def test_rates_and_means_with_the_intervals_of_other_libraries(report):
    found, judged = report
    assert judged["split"] == "val"
    assert list(judged["classes"]) == ["Mass", "Nodule"]
    for rows, entry in (
        (found, judged["all"]),
        (found[found["called"]], judged["called"]),
        (found[found["class"] == "Nodule"], judged["classes"]["Nodule"]),
    ):
        hits, n = int(rows["peak_inside"].sum()), len(rows)
        low, high = binomtest(hits, n).proportion_ci(method="wilson")
        assert entry["n"] == n
        assert entry["pointing_game"] == pytest.approx(
            {"value": hits / n, "low": low, "high": high}
        )
        assert entry["iou"]["value"] == pytest.approx(rows["iou"].mean())
        other = bootstrap((rows["iou"],), np.mean, method="percentile", rng=0).confidence_interval
        assert entry["iou"]["low"] == pytest.approx(other.low, abs=0.02)
        assert entry["iou"]["high"] == pytest.approx(other.high, abs=0.02)
        assert entry["box_share"] == pytest.approx(rows["box_share"].mean())


def test_the_report_is_json_and_a_table(report):
    _, judged = report
    assert json.loads(json.dumps(judged)) == judged
    lines = format_locations(judged).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["Mass", "Nodule", "all", "all,"]
    nothing = judge_locations(
        pd.DataFrame(columns=["class", "called", "peak_inside", "iou", "box_share"]), ("Mass",)
    )
    assert nothing["all"]["pointing_game"]["value"] is None
    assert "n/a" in format_locations(nothing)
