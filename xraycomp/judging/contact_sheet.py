"""Doubted labels with their films, on one sheet to look through."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from xraycomp.judging.plots import GRAY, write_figure

ON_SHEET = 24
_COLUMNS = 6


def plot_doubts(
    path: Path,
    doubts: pd.DataFrame,
    films: Sequence[Image.Image],
    title: str,
    note: str | None = None,
) -> None:
    """Draw the first doubted labels: the film, its label, what is predicted instead.

    Parameters
    ----------
    path : file to write, as PNG
    doubts : as `doubt_labels` gives it
    films : the gray images of its first rows, at least one and at most `ON_SHEET`
    title : printed above
    note : printed below the title, such as "phantoms, not X-rays"
    """
    rows = -(-len(films) // _COLUMNS)
    figure = Figure(figsize=(2.1 * _COLUMNS, 2.75 * rows + 0.7), layout="constrained")
    places = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for axes in places:
        axes.set_axis_off()
    for axes, film, row in zip(places, films, doubts.itertuples(), strict=False):
        axes.imshow(film, cmap="gray", vmin=0, vmax=255)
        head = f"labelled {row.label} {row.label_prob:.2f}"
        below = _wrapped(f"predicted {row.suggested} {row.suggested_prob:.2f}")
        below += f"\n{_tail(str(row.image))}"
        axes.set_title(_wrapped(head), fontsize=8, color=GRAY, pad=3, parse_math=False)
        axes.text(
            *(0.5, -0.03, below),
            transform=axes.transAxes,
            ha="center",
            va="top",
            fontsize=8,
            parse_math=False,
        )
    heading = f"{title}\n{note}" if note else title
    figure.suptitle(heading, fontsize=11, weight="bold", x=0.01, ha="left", parse_math=False)
    write_figure(figure, path)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 26))


def _tail(image: str) -> str:
    """The end of a long id, which tells more than the folders that it begins with."""
    return image if len(image) <= 26 else f"...{image[-23:]}"
