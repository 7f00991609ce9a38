"""Judge predictions and leave the results in a folder."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraycomp.data.competition import Competition
from xraycomp.data.files import write_json
from xraycomp.report.checks import class_indices
from xraycomp.report.findings import NO_THRESHOLD
from xraycomp.report.metrics import evaluate, evaluate_findings
from xraycomp.report.plots import plot_confusion, plot_roc
from xraycomp.report.thresholds import Criterion, Thresholds, choose_thresholds

PHANTOMS = "drawn phantoms, not X-rays"
THRESHOLDS = "thresholds.json"


def judge(
    competition: Competition,
    targets: NDArray[np.floating],
    probs: NDArray[np.floating],
    split: str,
    *,
    thresholds: Thresholds | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Judge predictions as the competition asks for: one class an image, or many findings.

    Parameters
    ----------
    targets : array of shape (n_images, n_classes) of 1 and 0; multilabel: NaN where unknown
    probs : array of that shape in [0, 1]
    split : names what was judged, and every result bears it
    thresholds : where findings are called (multilabel); 0.5 without
    resamples : of the bootstrap; without any, only intervals that have a formula are given

    Returns
    -------
    dict
        The report of `metrics.evaluate` or `findings.evaluate_findings` with
        ``competition_slug``, ``split``, ``note`` and (multilabel) ``thresholds``, in words.
    """
    report: dict[str, Any] = {
        "competition_slug": competition.slug,
        "split": split,
        "note": PHANTOMS if competition.drawn else None,
    }
    if competition.task == "multilabel":
        report["thresholds"] = str(thresholds) if thresholds else "0.5 for all"
        return report | evaluate_findings(
            targets,
            probs,
            competition.classes,
            thresholds=thresholds.values if thresholds else None,
            metric=competition.metric,
            resamples=resamples,
        )
    return report | evaluate(
        class_indices(targets),
        probs,
        competition.classes,
        normal=competition.normal or None,
        metric=competition.metric,
        positive=competition.positive or None,
        resamples=resamples,
    )


def keep_thresholds(
    folder: Path,
    competition: Competition,
    targets: NDArray[np.floating],
    probs: NDArray[np.floating],
    split: str,
    criterion: Criterion = "f1",
) -> Thresholds | None:
    """Choose the thresholds of findings on these images and write ``thresholds.json``.

    None, and no file, where an image has one class: it is the most probable one.
    """
    if competition.task != "multilabel":
        return None
    thresholds = choose_thresholds(targets, probs, competition.classes, split, criterion)
    folder.mkdir(parents=True, exist_ok=True)
    thresholds.write(folder / THRESHOLDS)
    return thresholds


def kept_thresholds(path: Path, competition: Competition) -> Thresholds | None:
    """Read what `keep_thresholds` wrote to the folder, or the file, ``path``.

    None where an image has one class. Raises ``UserError`` where it is missing or damaged.
    """
    if competition.task != "multilabel":
        return None
    return Thresholds.read(path / THRESHOLDS if path.is_dir() else path, competition.classes)


def hard_labels(
    probs: NDArray[np.floating], competition: Competition, thresholds: Thresholds | None = None
) -> NDArray[np.bool_]:
    """What probabilities of shape (n_images, n_classes) are called; a bool array of that shape.

    The most probable class (the first of equals), or every finding from its threshold on; 0.5
    without ``thresholds``.
    """
    if competition.task == "multilabel":
        values = thresholds.values if thresholds else {}
        limits = [values.get(name, NO_THRESHOLD) for name in competition.classes]
        called: NDArray[np.bool_] = probs >= np.asarray(limits)
        return called
    chosen: NDArray[np.bool_] = probs.argmax(axis=1)[:, None] == np.arange(probs.shape[1])
    return chosen


def write_results(
    folder: Path,
    competition: Competition,
    targets: NDArray[np.floating],
    probs: NDArray[np.floating],
    split: str,
    *,
    thresholds: Thresholds | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Write ``metrics.json``, ``roc.png`` and, where an image has one class, ``confusion.png``.

    Parameters are those of `judge`; returns the metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report = judge(competition, targets, probs, split, thresholds=thresholds, resamples=resamples)
    title, note = f"{competition.slug}, {split} ({len(targets):,} images)", report["note"]
    plot_roc(folder / "roc.png", targets, probs, competition.classes, title, note=note)
    if "confusion" in report:
        plot_confusion(
            folder / "confusion.png", report["confusion"], competition.classes, title, note=note
        )
    write_json(folder / "metrics.json", report)
    return report


def result_files(report: dict[str, Any]) -> list[str]:
    """The names of the files that `write_results` wrote for that report."""
    return ["metrics.json", "roc.png", *(["confusion.png"] if "confusion" in report else [])]
