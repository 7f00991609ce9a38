"""Judge predictions and leave the results in a folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraycomp.data.competition import Competition
from xraycomp.data.files import write_json
from xraycomp.judging.calibration import CALIBRATION, Calibration
from xraycomp.judging.metrics import judge
from xraycomp.judging.plots import plot_confusion, plot_reliability, plot_roc
from xraycomp.judging.thresholds import THRESHOLDS, Criterion, Thresholds, choose_thresholds


@dataclass(frozen=True)
class Results:
    """What was found, and where it lies."""

    report: dict[str, Any]
    """As `metrics.judge` gives it."""
    thresholds: Thresholds | None
    """At which findings were called; None: 0.5, or an image has one class."""
    calibration: Calibration
    """The temperature that was given, or fitted."""
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
    calibration: Calibration | None = None,
    resamples: int = 1000,
) -> Results:
    """Judge predictions and write ``metrics.json``, ``roc.png``, ``reliability.png`` and the rest.

    That is ``confusion.png`` where an image has one class, ``thresholds.json`` where findings'
    thresholds are chosen here, and ``calibration.json`` where the temperature is fitted here.

    Parameters
    ----------
    thresholds : from where on findings are called (multilabel; else ignored); a criterion to
        choose them by on these images; None for 0.5
    targets, probs, judged_on, calibration, resamples : as in `metrics.judge`

    Raises ``UserError`` for shapes and values that do not fit, before anything is written.
    """
    classes, chosen = competition.classes, None
    if not competition.multilabel:
        thresholds = None
    elif thresholds is not None and not isinstance(thresholds, Thresholds):
        thresholds = chosen = choose_thresholds(targets, probs, classes, judged_on, thresholds)
    options: dict[str, Any] = {"calibration": calibration, "resamples": resamples}
    report = judge(competition, targets, probs, judged_on, thresholds=thresholds, **options)
    files = ["metrics.json", "roc.png", "reliability.png"]
    title, note = f"{competition.slug}, {judged_on} ({len(targets):,} images)", report["note"]
    folder.mkdir(parents=True, exist_ok=True)
    if chosen:
        chosen.write(folder / THRESHOLDS)
        files.append(THRESHOLDS)
    if not calibration:
        calibration = Calibration(report["calibration"]["temperature"], judged_on)
        calibration.write(folder / CALIBRATION)
        files.append(CALIBRATION)
    plot_roc(folder / "roc.png", targets, probs, classes, title, note)
    plot_reliability(folder / "reliability.png", report["calibration"], title, note)
    if "confusion" in report:
        plot_confusion(folder / "confusion.png", report["confusion"], classes, title, note)
        files.append("confusion.png")
    write_json(folder / "metrics.json", report)
    return Results(report, thresholds, calibration, tuple(files))
