"""Judge predictions and leave the results in a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraycomp.data.competition import Competition
from xraycomp.data.files import write_json
from xraycomp.judging.metrics import judge
from xraycomp.judging.plots import plot_confusion, plot_roc
from xraycomp.judging.thresholds import THRESHOLDS, Criterion, Thresholds, choose_thresholds


@dataclass(frozen=True)
class Results:
    """What was found, and where it lies."""

    report: dict[str, Any]
    """As `metrics.judge` gives it."""
    thresholds: Thresholds | None
    """At which findings were called; None: 0.5, or an image has one class."""
    files: tuple[str, ...]
    """The names of the files that were written."""


def write_results(
    folder: Path,
    competition: Competition,
    targets: NDArray[np.floating],
    probs: NDArray[np.floating],
    judged_on: str,
    *,
    thresholds: Thresholds | Criterion | None = None,
    resamples: int = 1000,
) -> Results:
    """Judge predictions and write ``metrics.json``, ``roc.png`` and what else there is.

    That is ``confusion.png`` where an image has one class, and ``thresholds.json`` where findings'
    thresholds are chosen here.

    Parameters
    ----------
    thresholds : from where on findings are called (multilabel; else ignored); a criterion to
        choose them by on these images; None for 0.5
    targets, probs, judged_on, resamples : as in `metrics.judge`

    Raises ``UserError`` for shapes and values that do not fit, before anything is written.
    """
    classes, chosen = competition.classes, None
    if not competition.multilabel:
        thresholds = None
    elif isinstance(thresholds, str):
        thresholds = chosen = choose_thresholds(targets, probs, classes, judged_on, thresholds)
    report = judge(
        competition, targets, probs, judged_on, thresholds=thresholds, resamples=resamples
    )
    files = ["metrics.json", "roc.png"]
    title, note = f"{competition.slug}, {judged_on} ({len(targets):,} images)", report["note"]
    folder.mkdir(parents=True, exist_ok=True)
    if chosen:
        chosen.write(folder / THRESHOLDS)
        files.append(THRESHOLDS)
    plot_roc(folder / "roc.png", targets, probs, classes, title, note)
    if "confusion" in report:
        plot_confusion(folder / "confusion.png", report["confusion"], classes, title, note)
        files.append("confusion.png")
    write_json(folder / "metrics.json", report)
    return Results(report, thresholds, tuple(files))
