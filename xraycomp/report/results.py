"""Judge predictions and leave the results in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraycomp.data.competition import Competition
from xraycomp.data.files import write_json
from xraycomp.report.metrics import evaluate
from xraycomp.report.plots import plot_confusion, plot_roc

PHANTOMS = "drawn phantoms, not X-rays"


def write_results(
    folder: Path,
    competition: Competition,
    labels: NDArray[np.int64],
    probs: NDArray[np.float64],
    split: str,
) -> dict[str, Any]:
    """Write ``metrics.json``, ``roc.png`` and ``confusion.png``; return the metrics.

    ``labels`` are class indices of shape (n_images,), ``probs`` has the shape
    (n_images, n_classes); ``split`` names what was judged, and every result bears it.
    """
    note = PHANTOMS if competition.drawn else None
    report = evaluate(
        labels,
        probs,
        competition.classes,
        normal=competition.normal or None,
        metric=competition.metric,
        positive=competition.positive or None,
    )
    report = {"competition_slug": competition.slug, "split": split, "note": note, **report}
    title = f"{competition.slug}, {split} ({len(labels):,} images)"
    plot_roc(folder / "roc.png", labels, probs, competition.classes, title, note=note)
    plot_confusion(
        folder / "confusion.png", report["confusion"], competition.classes, title, note=note
    )
    write_json(folder / "metrics.json", report)
    return report
