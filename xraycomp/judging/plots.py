"""ROC curves, the confusion matrix and the reliability diagram as PNG files.

Figures are built as objects on the Agg canvas: no pyplot, so no display, no global state, and
nothing of it stays in memory once the file is written.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from numpy.typing import ArrayLike
from sklearn.metrics import roc_curve

from xraycomp.data.files import atomic_path
from xraycomp.judging.checks import checked
from xraycomp.judging.intervals import delong, known_rows, ratio

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito (2008), told apart by colour-blind readers; their yellow is too pale for a line."""

DASHES = ("-", "--", ":", "-.")
"""The style changes when the colours are used up, so 28 classes differ."""

DPI = 150
GRAY = "#666666"
LONGEST_TITLE = 68
"""Letters in a line of a title."""


def plot_roc(
    path: Path,
    targets: ArrayLike,
    probs: ArrayLike,
    class_names: Sequence[str],
    title: str,
    note: str | None = None,
) -> None:
    """Draw one ROC curve a class, with its AUROC and 95 % interval (DeLong) in the legend.

    Parameters
    ----------
    path : file to write, as PNG; an older one is replaced only when the new one is complete
    targets : array of shape (n, k) of 1, 0 and NaN (unknown: left out of that curve)
    probs : float array of shape (n, k) in [0, 1]
    class_names : k different names, in index order
    title : printed above the plot
    note : printed under the title, such as "phantoms, not X-rays"

    Raises
    ------
    UserError
        When shapes, values or names do not fit.
    OSError
        When the file cannot be written; nothing half-written stays.
    """
    true, scores = checked(targets, probs, class_names)
    areas = delong(true, scores)

    figure = Figure(figsize=(8.6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#AAAAAA", linewidth=1, zorder=1)
    axes.text(0.52, 0.5, "chance", color=GRAY, fontsize=8, rotation=45, ha="left", va="top")
    lines, texts = [], []
    width = 1.8 if len(class_names) <= 8 else 1.4
    for c, (target, score, _) in enumerate(known_rows(true, scores)):
        defined = not np.isnan(areas.value[c])
        fpr, tpr, _ = roc_curve(target, score) if defined else ([], [], [])
        style = DASHES[c // len(PALETTE) % len(DASHES)]
        lines += axes.plot(fpr, tpr, color=PALETTE[c % len(PALETTE)], linestyle=style, lw=width)
        figures = f"{areas.value[c]:.3f} ({areas.low[c]:.3f}–{areas.high[c]:.3f})"
        texts.append(f"{class_names[c]}\n{figures if defined else 'n/a: one class only'}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel("false-positive rate (1 − specificity)")
    axes.set_ylabel("true-positive rate (sensitivity)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="#E6E6E6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(
        lines,
        texts,
        title="class against the rest\nAUROC (95 % interval)",
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=9 if len(texts) <= 8 else 7.5,
        title_fontsize=9,
        labelspacing=0.7,
    )
    _take_literally(legend.get_texts())
    _head(axes, title, note)
    write_figure(figure, path)


def plot_confusion(
    path: Path,
    confusion: ArrayLike,
    class_names: Sequence[str],
    title: str,
    note: str | None = None,
) -> None:
    """Draw the confusion matrix: counts, with each row's percentages as colour and text.

    Parameters
    ----------
    confusion : int array of shape (k, k), rows = truth
    path, class_names, title, note : as in `plot_roc`

    Raises
    ------
    ValueError
        When the matrix is not k by k.
    OSError
        When the file cannot be written; nothing half-written stays.
    """
    counts, k = np.asarray(confusion), len(class_names)
    if counts.shape != (k, k):
        raise ValueError(f"confusion has the shape {counts.shape}, not {(k, k)}")
    share = ratio(counts, counts.sum(axis=1, keepdims=True))

    side = max(4.2, 0.62 * k + 2.0)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(np.nan_to_num(share), cmap="Blues", vmin=0, vmax=1)
    size = 11 if k <= 5 else 7.5
    for row, column in np.ndindex(k, k):
        percent = "n/a" if np.isnan(share[row, column]) else f"{share[row, column]:.1%}"
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}\n{percent}",
            ha="center",
            va="center",
            fontsize=size,
            color="white" if share[row, column] > 0.5 else "black",
        )
    if k <= 3:
        axes.set_xticks(range(k), class_names)
    else:
        axes.set_xticks(range(k), class_names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(k), class_names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_xticks(np.arange(k - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(k - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    _take_literally([*axes.get_xticklabels(), *axes.get_yticklabels()])
    bar = figure.colorbar(image, ax=axes, shrink=0.75, format=PercentFormatter(1))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    _head(axes, title, note)
    write_figure(figure, path)


def plot_reliability(
    path: Path,
    calibration: Mapping[str, Any],
    title: str,
    note: str | None = None,
) -> None:
    """Draw what came true of what was claimed, before and after the temperature is set.

    Points are the bins, the larger the more they hold, with Wilson's 95 % intervals; below is how
    many claims each holds.

    Parameters
    ----------
    calibration : what `reliability.judge_calibration` returned
    path, title, note : as in `plot_roc`

    Raises
    ------
    OSError
        When the file cannot be written; nothing half-written stays.
    """
    figure = Figure(figsize=(8.6, 6.6), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    sides = {
        "before": ("as predicted", "o", -0.2),
        "after": (f"at temperature {calibration['temperature']:.2f}", "s", 0.2),
    }
    for color, (side, (name, marker, moved)) in zip(PALETTE, sides.items(), strict=False):
        bins, ece = calibration["reliability"][side], calibration[side]["ece"]
        n, low, high = (np.array([b[key] for b in bins]) for key in ("n", "low", "high"))
        claimed = np.array([b["confidence"] for b in bins])
        share, *bounds = ([b["share"][key] for b in bins] for key in ("value", "low", "high"))
        label = f"{name}\nECE " + ("n/a" if ece["value"] is None else f"{ece['value']:.3f}")
        if ece["low"] is not None:
            label += f" ({ece['low']:.3f}–{ece['high']:.3f})"
        axes.vlines(claimed, *bounds, color=color, linewidth=1.2, alpha=0.5)
        axes.plot(claimed, share, color=color, linewidth=1.2, alpha=0.35)
        # A bin of few claims must not catch the eye.
        area = 12 + 88 * n / max(n.max(initial=0), 1)
        axes.scatter(claimed, share, area, color=color, marker=marker, label=label, zorder=3)
        wide = high - low
        below.bar((low + high) / 2 + moved * wide, n, 0.4 * wide, color=color)
    axes.plot([0, 1], [0, 1], color="#AAAAAA", linewidth=1, zorder=1, label="what is claimed")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_ylabel("share that comes true")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    below.set_ylabel("how many")
    below.set_xlabel("probability given")
    below.xaxis.set_major_formatter(PercentFormatter(1))
    below.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for part in (axes, below):
        part.grid(color="#E6E6E6", linewidth=0.7)
        part.set_axisbelow(True)
        part.spines[["top", "right"]].set_visible(False)
    axes.legend(
        title="calibration error (95 % interval)",
        alignment="left",
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        title_fontsize=9,
        labelspacing=0.7,
    )
    _head(axes, title, note)
    write_figure(figure, path)


def _take_literally(texts: Iterable[Text]) -> None:
    """A dollar sign in a class name is a dollar sign, not mathematics."""
    for text in texts:
        text.set_parse_math(False)


def _head(axes: Axes, title: str, note: str | None) -> None:
    lines = textwrap.fill(title, LONGEST_TITLE)  # a longer line would push the axes aside
    heading = axes.set_title(lines, loc="left", fontsize=12, weight="bold", pad=24 if note else 10)
    heading.set_parse_math(False)
    if note:
        small = axes.annotate(
            note,
            xy=(0, 1),
            xycoords="axes fraction",
            xytext=(0, 9),
            textcoords="offset points",
            color=GRAY,
            fontsize=9,
        )
        small.set_parse_math(False)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        # "tight" keeps a long title or a long legend whole, whatever the size of the figure.
        figure.savefig(temporary, format="png", dpi=DPI, bbox_inches="tight", pad_inches=0.15)
