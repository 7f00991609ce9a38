"""The geometry of a page's plots: values to places in an SVG, which the templates draw.

Plots are drawn by the page itself and not by a plotting library, so that they are small, have text
as text, and take their colours from the page: light, dark and print.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from xraycomp.judging.intervals import FloatArray

WIDTH, HEIGHT = 360, 270
LEFT, RIGHT, TOP, BOTTOM = 54, 350, 10, 228
"""The plotting area, in units of the SVG; at most a phone's pixels, so that its text stays legible
there."""
SHADES = 9
"""How many steps a colour has that stands for a number."""
_DOTS = 40  # more would hide the line


@dataclass(frozen=True)
class Scale:
    """An axis: values from ``low`` to ``high`` lie between the places ``start`` and ``end``."""

    label: str
    low: float
    high: float
    start: float
    end: float
    whole: bool = False
    """Whether ticks stand at whole numbers only."""
    named: tuple[tuple[float, str], ...] = ()
    """Values that have ticks, and their texts, in place of round values."""

    def at(self, values: ArrayLike) -> FloatArray:
        """The places of values, of any shape; to a tenth of a unit."""
        share = (np.asarray(values, np.float64) - self.low) / (self.high - self.low)
        return np.round(self.start + share * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """The named values, or round ones within the axis: place and text of each."""
        if self.named:
            return [(float(self.at(value)), text) for value, text in self.named]
        least = 1 if self.whole else 2
        locator = MaxNLocator(5, integer=self.whole, min_n_ticks=least)
        found = locator.tick_values(self.low, self.high)
        kept = [value for value in found if self.low - 1e-9 <= value <= self.high + 1e-9]
        return [(float(self.at(value)), f"{value:.6g}") for value in kept]


@dataclass(frozen=True)
class Line:
    """One curve: an SVG path, and dots on it."""

    style: int
    path: str
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Mark:
    """One point with the reach of its intervals; all four in units of the SVG."""

    style: int
    x: float
    y: float
    x_reach: tuple[float, float] | None = None
    y_reach: tuple[float, float] | None = None


@dataclass(frozen=True)
class Plot:
    """What the template draws; ``alt`` says in words what is to be seen."""

    alt: str
    x: Scale
    y: Scale
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    diagonal: str = ""
    """The path of the line where both axes are equal."""


def axes(
    x_label: str,
    x_values: ArrayLike,
    y_label: str,
    y_values: ArrayLike,
    *,
    whole: bool = False,
) -> tuple[Scale, Scale]:
    """Axes that hold all of these values with a little room; NaN does not count.

    ``whole`` is for an x axis of whole numbers.
    """
    x_low, x_high = _reach(x_values, 0 if whole else 0.04)
    y_low, y_high = _reach(y_values, 0.06)
    return (
        Scale(x_label, x_low, x_high, LEFT, RIGHT, whole),
        Scale(y_label, y_low, y_high, BOTTOM, TOP),
    )


def unit_axes(x_label: str, y_label: str) -> tuple[Scale, Scale]:
    """Axes from 0 to 1."""
    return Scale(x_label, 0, 1, LEFT, RIGHT), Scale(y_label, 0, 1, BOTTOM, TOP)


def line(
    style: int, x: Scale, y: Scale, xs: ArrayLike, ys: ArrayLike, *, dotted: bool = False
) -> Line:
    """A curve through these points, shape (n,) each, broken where one is NaN.

    ``dotted`` shows each point, unless there are many.
    """
    points = np.stack([x.at(xs), y.at(ys)], axis=1)
    known = points[~np.isnan(points).any(axis=1)]
    shown = known if dotted and len(known) <= _DOTS else known[:0]
    return Line(style, _path(points), tuple((float(a), float(b)) for a, b in shown))


def diagonal(x: Scale, y: Scale) -> str:
    """The path of the line on which both axes have the same value, as far as both reach."""
    low, high = max(x.low, y.low), min(x.high, y.high)
    if low >= high:
        return ""
    return _path(np.stack([x.at([low, high]), y.at([low, high])], axis=1))


def _reach(values: ArrayLike, room: float) -> tuple[float, float]:
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if low == high:
        around = 0.5 if room == 0 or low == 0 else 0.05 * abs(low)
        return low - around, high + around
    return low - room * (high - low), high + room * (high - low)


def _path(points: FloatArray) -> str:
    """SVG path data through points (n, 2), broken at NaN, without those amid a straight stretch."""
    same = points[:-1] == points[1:]
    amid = (same[:-1] & same[1:]).any(axis=1)
    kept = points[~np.concatenate([[False], amid, [False]])[: len(points)]]
    text, pen = [], "M"
    for x, y in kept.tolist():
        known = x == x and y == y
        if known:
            text.append(f"{pen}{x:g} {y:g}")
        pen = "L" if known else "M"
    return "".join(text)


def shade(value: float, low: float, high: float) -> int:
    """The step of a colour, 0 to ``SHADES`` - 1, for a value between two others."""
    share = (value - low) / (high - low) if high > low else 1.0
    return int(np.clip(share * SHADES, 0, SHADES - 1))


@dataclass(frozen=True)
class ParallelAxis:
    """One upright axis of a parallel plot: places from 0 (top) to 1 (bottom) of its ticks."""

    label: str
    x: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class ParallelPlot:
    """One line a run across upright axes, one a setting, the last one the score."""

    alt: str
    width: float
    axes: tuple[ParallelAxis, ...]
    lines: tuple[tuple[int, str, str], ...]
    """Shade (best is the highest), path, and the run's name."""


PARALLEL_TOP, PARALLEL_BOTTOM = 40, 230
_APART = 120


def parallel(
    alt: str,
    names: Sequence[str],
    columns: Sequence[tuple[str, Sequence[object]]],
    scores: tuple[str, Sequence[float]],
    *,
    lower_is_better: bool = False,
) -> ParallelPlot:
    """Lay runs out across their settings.

    Parameters
    ----------
    names : of n runs
    columns : setting and its value in each run; numbers get an axis of numbers, on a logarithmic
        scale where they are positive and differ by more than 20 times, other values even steps
    scores : name of the score and its value in each run, which gives each line its shade
    """
    placed = [_place(values) for _, values in columns] + [_place(scores[1], ".3f")]
    labels = [label for label, _ in columns] + [scores[0]]
    xs = [_APART * (n + 0.5) for n in range(len(labels))]
    low, high = min(scores[1]), max(scores[1])
    lines = []
    for run, (name, score) in enumerate(zip(names, scores[1], strict=True)):
        points = np.array([[x, places[run]] for x, (places, _) in zip(xs, placed, strict=True)])
        step = shade(score, low, high)
        # Not `_path`: a level stretch still has to meet each axis.
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        lines.append((SHADES - 1 - step if lower_is_better else step, path, name))
    found = tuple(
        ParallelAxis(label, x, ticks)
        for label, x, (_, ticks) in zip(labels, xs, placed, strict=True)
    )
    # The best are drawn last, over the others.
    return ParallelPlot(
        alt, _APART * len(labels), found, tuple(sorted(lines, key=lambda one: one[0]))
    )


def _place(
    values: Sequence[object], written: str = ".4g"
) -> tuple[list[float], tuple[tuple[float, str], ...]]:
    """The place of each value on an upright axis, and its ticks, which are ``written`` so."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = np.array([float(str(value)) for value in values])
        ticked = np.unique(numbers)
        logarithmic = ticked[0] > 0 and ticked[-1] > 20 * ticked[0]
        if len(ticked) > 6:
            ticked = ticked[[0, -1]]
        texts = [format(value, written) for value in ticked]
        if logarithmic:
            numbers, ticked = np.log(numbers), np.log(ticked)
    else:
        kinds = sorted({str(value) for value in values})
        texts = kinds
        numbers = np.array([float(kinds.index(str(value))) for value in values])
        ticked = np.arange(len(kinds), dtype=np.float64)
    low, high = _reach(ticked, 0)
    scale = Scale("", low, high, PARALLEL_BOTTOM, PARALLEL_TOP)
    ticks = tuple(zip(scale.at(ticked).tolist(), texts, strict=True))
    return scale.at(numbers).tolist(), ticks
