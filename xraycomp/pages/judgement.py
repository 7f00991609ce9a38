"""What a run's page shows of how a split was judged: figures, curves, confusion, calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from xraycomp.data.predictions import labelled_rows, read_predictions
from xraycomp.judging.intervals import known_rows, wilson
from xraycomp.judging.metrics import RANKINGS
from xraycomp.pages.charts import Line, Mark, Plot, diagonal, line, unit_axes
from xraycomp.pages.run_files import EVALUATE, Entry, RunFiles, damaged, ends, entry

HEADLINE = {"accuracy": "accuracy", "macro_f1": "macro F1", "macro_auroc": "macro AUROC"}
FINDINGS_HEADLINE = {
    "macro_auroc": "macro AUROC",
    "macro_average_precision": "macro average precision",
    "macro_f1": "macro F1",
}
FIGURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity": "sensi\u00adtivity",
    "specificity": "speci\u00adficity",
    "precision": "precision",
    "negative_predictive_value": "NPV",
    "f1": "F1",
    "called_normal": "called normal",
}
METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "hard_label_auroc": "AUROC of hard labels",
}
"""A competition's metric in words."""
ERRORS = {"ece": "ECE", "brier": "Brier score", "log_loss": "log loss"}


def judgements(run: RunFiles) -> list[dict[str, Any]]:
    """Each split that was judged: validation, then test where its labels are known."""
    found = []
    for split, folder in (("val", ""), ("test", "test/")):
        report = run.json(f"{folder}metrics.json")
        if report is not None:
            with damaged(run.path / folder / "metrics.json", run.command(EVALUATE)):
                found.append(_judgement(run, split, report))
    return found


def headline(report: Mapping[str, Any]) -> list[tuple[str, str, Entry]]:
    """The scores that come first: key, name and figure; the competition's own before all."""
    own, overall = report["competition"], report["overall"]
    metric = METRICS.get(own["metric"], own["metric"])
    if own["metric"] in RANKINGS and ("confusion" not in report or len(report["classes"]) > 2):
        metric = f"macro {metric}"
    forms = {"score": metric, "public": f"{metric}, public", "private": f"{metric}, private"}
    found = [(key, text, entry(own[key])) for key, text in forms.items() if key in own]
    names = HEADLINE if "confusion" in report else FINDINGS_HEADLINE
    told = {own["metric"], f"macro_{own['metric']}"}
    return found + [(k, text, entry(overall[k])) for k, text in names.items() if k not in told]


def _judgement(run: RunFiles, split: str, report: dict[str, Any]) -> dict[str, Any]:
    classes = {name: dict(figures) for name, figures in report["classes"].items()}
    # Without a healthy class nothing can be called normal: no column of n/a.
    names = {
        key: text
        for key, text in FIGURES.items()
        if any(figures.get(key, {}).get("value") is not None for figures in classes.values())
    }
    rows = [
        {
            "name": name,
            "style": n,
            "support": int(figures["support"]),
            "unknown": int(figures.get("unknown", 0)),
            "threshold": figures.get("threshold"),
            "figures": [entry(figures[key]) for key in names],
        }
        for n, (name, figures) in enumerate(classes.items())
    ]
    return {
        "split": split,
        "judged_on": str(report["split"]),
        "n": int(report["n"]),
        "headline": headline(report),
        "columns": names,
        "rows": rows,
        "thresholds": report.get("thresholds"),
        "unknown": any(row["unknown"] for row in rows),
        "curves": _curves(run, split, rows, report),
        "confusion": _confusion(report, list(classes)) if "confusion" in report else None,
        "calibration": _calibration(report.get("calibration")),
    }


def _curves(
    run: RunFiles, split: str, rows: list[dict[str, Any]], report: dict[str, Any]
) -> dict[str, Any] | None:
    """ROC and precision-recall curves of each class against the rest, from the predictions."""
    path, classes = run.path / "predictions" / f"{split}.csv", run.competition.classes
    if not path.is_file():
        return None
    table = read_predictions(path, classes)
    targets, probs = labelled_rows(run.manifest, split, table, classes)
    roc_axes = unit_axes("false-positive rate (1 − specificity)", "sensitivity")
    pr_axes = unit_axes("recall (sensitivity)", "precision")
    roc: list[Line] = []
    pr: list[Line] = []
    legend = []
    known = known_rows(targets.astype(np.float64), probs)
    for row, (target, score, _) in zip(rows, known, strict=True):
        style, figures = row["style"], report["classes"][row["name"]]
        share = wilson(target.sum(), len(target)).entry()
        if target.any() and not target.all():
            fpr, tpr, _ = roc_curve(target, score)
            roc.append(line(style, *roc_axes, fpr, tpr))
            precision, recall, _ = precision_recall_curve(target, score)
            # By steps, as average precision has it.
            steps = np.repeat(recall, 2)[1:], np.repeat(precision, 2)[:-1]
            pr.append(line(style, *pr_axes, *steps))
        areas = entry(figures["auroc"]), entry(figures["average_precision"])
        legend.append((style, row["name"], *areas, share))
    return {
        "roc": Plot(
            _say("ROC curve", "AUROC", [(name, area) for _, name, area, _, _ in legend]),
            *roc_axes,
            tuple(roc),
            diagonal=diagonal(*roc_axes),
        ),
        "pr": Plot(
            _say("Precision-recall curve", "AP", [(name, ap) for _, name, _, ap, _ in legend]),
            *pr_axes,
            tuple(pr),
        ),
        "legend": legend,
    }


def _say(what: str, figure: str, found: list[tuple[str, Entry]]) -> str:
    known = [(value["value"], name) for name, value in found if value["value"] is not None]
    if not known:
        return f"{what}s: of no class are there both kinds of images."
    (low, worst), (high, best) = min(known), max(known)
    if len(known) <= 4:
        told = ", ".join(f"{name} {value:.3f}" for value, name in known)
    else:
        told = f"highest for {best} ({high:.3f}), lowest for {worst} ({low:.3f})"
    return f"{what} of each class against the rest; {figure}: {told}. The table gives all."


def _confusion(report: dict[str, Any], classes: list[str]) -> dict[str, Any]:
    matrix = np.asarray(report["confusion"], dtype=np.int64)
    if matrix.shape != (len(classes), len(classes)):
        raise ValueError(f"a confusion matrix of the shape {matrix.shape}")
    shares = wilson(matrix, np.broadcast_to(matrix.sum(axis=1, keepdims=True), matrix.shape))
    rows = []
    for r, name in enumerate(classes):
        cells = [
            {
                "count": int(matrix[r, c]),
                "share": float(shares.value[r, c]),
                "low": float(shares.low[r, c]),
                "high": float(shares.high[r, c]),
                "heat": int(np.nan_to_num(shares.value[r, c]) * 10),
            }
            for c in range(len(classes))
        ]
        rows.append((name, int(matrix[r].sum()), cells))
    return {"classes": classes, "rows": rows}


def _calibration(content: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if content is None:
        return None
    x, y = unit_axes("mean probability in the bin", "share that is so")
    marks, lines, tables, told = [], [], {}, []
    for style, when in enumerate(("before", "after")):
        bins = [one for one in content["reliability"][when] if one["n"]]
        shares = [entry(one["share"]) for one in bins]
        values = [np.nan if share["value"] is None else share["value"] for share in shares]
        confidence = [float(one["confidence"]) for one in bins]
        lines.append(line(style, x, y, confidence, values))
        for place, share in zip(confidence, shares, strict=True):
            if share["value"] is None:
                continue
            low, high = y.at(ends(share)).tolist()
            # A little apart, or one would hide the other.
            at = float(x.at(place)) + 5 * style - 2.5, float(y.at(share["value"]))
            marks.append(Mark(style, *at, y_reach=(low, high)))
        tables[when] = [
            (float(one["low"]), float(one["high"]), int(one["n"]), float(one["confidence"]), share)
            for one, share in zip(bins, shares, strict=True)
        ]
        told.append(f"{when} scaling ECE {entry(content[when]['ece'])['value'] or 0:.3f}")
    alt = (
        "Reliability diagram: how often a called probability comes true, against the diagonal of "
        f"perfect calibration; {', '.join(told)}."
    )
    errors = [
        (text, entry(content["before"][key]), entry(content["after"][key]))
        for key, text in ERRORS.items()
        if key in content["before"]
    ]
    return {
        "temperature": float(content["temperature"]),
        "fitted_on": str(content["fitted_on"]),
        "plot": Plot(alt, x, y, tuple(lines), tuple(marks), diagonal(x, y)),
        "errors": errors,
        "tables": tables,
    }
