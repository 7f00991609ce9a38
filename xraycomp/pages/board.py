"""Validation against leaderboard: a competition's scored submissions, as a plot and a table."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xraycomp.pages.charts import Mark, Plot, axes, diagonal
from xraycomp.pages.judgement import METRICS
from xraycomp.pages.run_files import ends


@dataclass(frozen=True)
class Board:
    """A competition's submissions that have a public score."""

    competition: str
    metric: str
    rows: Sequence[Mapping[str, Any]]
    """``run``, ``validation`` and ``private`` (entry, float; None where not known), ``public``,
    ``val_rank`` and ``public_rank`` (None for no pair), ``outside`` its validation interval."""
    said: Sequence[str] = ()
    """What the two scores say of each other, in sentences."""


def show_board(board: Board) -> dict[str, Any]:
    """A competition's submissions: those with both scores as points, all with a score as rows."""
    pairs = [row for row in board.rows if row["public_rank"] is not None]
    plot = None
    if pairs:
        reach = [ends(row["validation"]) for row in pairs]
        both = [*itertools.chain(*reach), *(row["public"] for row in pairs)]
        x, y = axes("validation score", both, "public score", both)
        marks = tuple(
            Mark(
                int(row["outside"]),
                float(x.at(row["validation"]["value"])),
                float(y.at(row["public"])),
                x_reach=(float(x.at(low)), float(x.at(high))),
            )
            for row, (low, high) in zip(pairs, reach, strict=True)
        )
        outside = sum(bool(row["outside"]) for row in pairs)
        alt = (
            f"Validation against public score of {len(pairs)} submissions; {outside} lie outside "
            "their validation interval. The table gives all."
        )
        plot = Plot(alt, x, y, marks=marks, diagonal=diagonal(x, y))
    metric = METRICS.get(board.metric, board.metric)
    return {"board": board, "plot": plot, "metric": metric, "pairs": len(pairs)}
