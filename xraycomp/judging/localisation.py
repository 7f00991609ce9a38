"""Whether heat maps point at what they should: measured against boxes around the findings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.data.heat import HeatMap, in_image
from xraycomp.judging.intervals import Estimate, entries, percentile, wilson

THRESHOLD = 0.5
"""From which share of its maximum on a heat map covers a place (for the overlap with boxes)."""
_RESAMPLES = 1000


@dataclass(frozen=True)
class Location:
    """How a heat map lies to the boxes of its image and class."""

    peak_inside: bool
    """Whether its strongest place lies in one of them: the pointing game (Zhang et al., ECCV 2016),
    without its tolerance of 15 pixels."""
    iou: float
    """Intersection over union of the places where it is strong and of the boxes, in 0..1."""
    box_share: float
    """How much of the image the boxes fill: how often a random place lies in one."""


def locate(
    heat: HeatMap,
    width: int,
    height: int,
    boxes: NDArray[np.float64],
    threshold: float = THRESHOLD,
) -> Location:
    """Compare a heat map with boxes.

    Parameters
    ----------
    width, height : of the image, in pixels
    boxes : left, top, right and bottom in pixels, shape (n, 4), n >= 1
    threshold : share of the map's maximum from which on it covers a place

    A map that is all 0 points nowhere and covers nothing.
    """
    left, top, right, bottom = boxes.T[:, :, None]
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    rows, columns = (top <= y) & (y < bottom), (left <= x) & (x < right)
    inside = (rows[:, :, None] & columns[:, None, :]).any(axis=0)
    share, peak = float(inside.mean()), heat.peak()
    if peak is None:
        return Location(False, 0.0, share)
    hit = (left <= peak[0]) & (peak[0] < right) & (top <= peak[1]) & (peak[1] < bottom)
    seen = np.nan_to_num(in_image(heat, width, height))
    covered = seen >= threshold * heat.values.max()
    iou = (covered & inside).sum() / (covered | inside).sum()
    return Location(bool(hit.any()), float(iou), share)


def judge_locations(found: pd.DataFrame, classes: tuple[str, ...], **about: Any) -> dict[str, Any]:
    """Sum up the locations of many heat maps, for each class and for all of them.

    Parameters
    ----------
    found : one row a map: ``class``, ``called`` (whether the class was called in that image),
        ``peak_inside``, ``iou`` and ``box_share``
    about : what else the report is to say

    Returns
    -------
    JSON-ready dict: ``about``, ``threshold``, and under ``all``, ``called`` (where the class was
    called) and ``classes`` (by name) each ``n``, ``pointing_game`` (with Wilson's interval),
    ``iou`` (its mean, with percentiles of a bootstrap over images) and ``box_share``. Classes
    without boxes are left out.
    """
    by_class = {name: found[found["class"] == name] for name in classes}
    return {
        **about,
        "threshold": THRESHOLD,
        "all": _sum_up(found),
        "called": _sum_up(found[found["called"].astype(bool)]),
        "classes": {name: _sum_up(rows) for name, rows in by_class.items() if len(rows)},
    }


def _sum_up(found: pd.DataFrame) -> dict[str, Any]:
    hits, ious = found["peak_inside"].to_numpy(bool), found["iou"].to_numpy(np.float64)
    resampled = np.empty(0)
    if len(ious):
        rng = np.random.default_rng(0)
        resampled = ious[rng.integers(len(ious), size=(_RESAMPLES, len(ious)))].mean(axis=1)
    mean = ious.mean() if len(ious) else np.nan
    figures: dict[str, Estimate] = {
        "pointing_game": wilson(hits.sum(), len(hits)),
        "iou": percentile(mean, resampled),
    }
    share = float(found["box_share"].mean()) if len(found) else None
    return {"n": len(found), **entries(figures), "box_share": share}


def format_locations(report: dict[str, Any]) -> str:
    """The report of `judge_locations` as a table for the terminal."""
    rows = {**report["classes"], "all": report["all"], "all, where called": report["called"]}
    width = max(len("class"), *map(len, rows))
    lines = [f"{'class':<{width}}  boxed   peak in box (95 % CI)  IoU (95 % CI)          by chance"]
    for name, row in rows.items():
        figures = "  ".join(f"{_figure(row[key]):<21}" for key in ("pointing_game", "iou"))
        chance = "n/a" if row["box_share"] is None else f"{row['box_share']:.3f}"
        lines.append(f"{name:<{width}}  {row['n']:>5,}   {figures}  {chance:>9}")
    lines.append(
        "peak in box: the map's strongest place lies in a box around the finding (pointing game);"
        f"\nIoU: overlap of the box and of where the map has {report['threshold']:.0%} of its "
        "maximum; by chance: share of the image in the box"
    )
    return "\n".join(lines)


def _figure(entry: dict[str, float | None]) -> str:
    if entry["value"] is None:
        return "n/a"
    low, high = ("n/a" if entry[key] is None else f"{entry[key]:.3f}" for key in ("low", "high"))
    return f"{entry['value']:.3f} ({low}-{high})"
