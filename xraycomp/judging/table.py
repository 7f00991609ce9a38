"""The report of `metrics.judge` as plain text for the terminal."""

from typing import Any

from xraycomp.judging.calibration import BOUNDS

WIDTH = 110
LONGEST_NAME = 24

COLUMNS = {
    "sensitivity": "sens.",
    "specificity": "spec.",
    "precision": "prec.",
    "negative_predictive_value": "NPV",
    "f1": "F1",
    "auroc": "AUROC (95 % CI)",
    "average_precision": "AP",
    "false_positive_rate": "FPR",
    "false_negative_rate": "FNR",
    "called_normal": "as normal",
}
"""Figure of a class -> heading of its column."""

LEGEND = """\
sens. (sensitivity): of the images of the class, the share that is found; FNR = 1 - sens.
spec. (specificity): of the other images, the share not taken for the class; FPR = 1 - spec.
prec. (precision), NPV: of the images called (not called) this class, the share that is (is not)
F1: harmonic mean of precision and sensitivity; AP: average precision over all thresholds
AUROC: chance that an image of the class gets a higher probability for it than another image
(low-high), CI: 95 % interval; n/a: not defined, or too few images to tell
ECE, calibration error: mean distance from a called class's probability to how often it is so"""
NORMAL_LEGEND = "as normal: of the images of a sick class, the share called the healthy class"

FINDING_COLUMNS = {
    "support": "pos.",
    "negatives": "neg.",
    "unknown": "unkn.",
    "threshold": "from",
    "sensitivity": "sens.",
    "specificity": "spec.",
    "precision": "prec.",
    "f1": "F1",
    "auroc": "AUROC (95 % CI)",
    "average_precision": "AP",
}
FINDING_LEGEND = """\
macro: plain mean over findings; weighted: mean AUROC weighted by pos.
pos., neg., unkn.: images that have the finding, have it not, or of which that is not known
from: the probability from which on a finding is called; sens., spec., prec. and F1 are at that
sens. (sensitivity): of the images with the finding, the share that is found
spec. (specificity): of the images without it, the share not called
prec. (precision): of the called images, the share that has it; F1: harmonic mean of prec. and sens.
AUROC: chance that an image with the finding gets a higher probability for it than one without
AP: average precision over all thresholds; (low-high), CI: 95 % interval
ECE, calibration error: mean distance from a finding's probability to how often it is there
n/a: not defined (all known images have the finding, or none has), or too few images to tell"""

Entry = dict[str, float | None]


def format_table(report: dict[str, Any]) -> str:
    """Lay a report out as aligned plain text.

    Parameters
    ----------
    report : dict
        What `metrics.judge` returned, also when read back from ``metrics.json``.

    Returns
    -------
    str
        Headlines, one row a class, what the headings mean, and the confusion matrix where an image
        has one class; at most 110 columns wide with class names of up to 14 letters (findings: 18).
        No newline at the end.
    """
    figures = report["classes"].values()
    if "confusion" not in report:
        columns = dict(FINDING_COLUMNS)
        if not any(row["unknown"] for row in figures):
            del columns["unknown"]
        table = _classes(report["classes"], columns, "finding")
        return "\n\n".join([_headlines(report), table, FINDING_LEGEND])
    columns, legend = {"support": "images", **COLUMNS}, f"{LEGEND}\n{NORMAL_LEGEND}"
    if all(row["called_normal"]["value"] is None for row in figures):
        # Without a healthy class nothing can be called normal: no column of n/a.
        del columns["called_normal"]
        legend = LEGEND
    table = _classes(report["classes"], columns, "class")
    return "\n\n".join([_headlines(report), table, legend, _confusion(report)])


def _headlines(report: dict[str, Any]) -> str:
    overall, competition = report["overall"], report["competition"]
    names = {"accuracy": "accuracy", "macro_f1": "macro F1", "macro_auroc": "macro AUROC"}
    if "confusion" not in report:
        names |= {"weighted_auroc": "weighted", "macro_average_precision": "macro AP"}
    lines = [["images", f"{report['n']:,}"], ["judged", report["split"]]]
    if "thresholds" in report:
        lines.append(["thresholds", report["thresholds"]])
    lines += [[name, interval(overall[figure])] for figure, name in names.items()]
    for form in ("score", "public", "private"):
        if form in competition:
            kind = "" if form == "score" else f", {form} form"
            score = f"{interval(competition[form])}  {competition['metric']}{kind}"
            lines.append(["competition", score])
    lines.append(["calibration", _calibration(report["calibration"])])
    text = "\n".join(f"{name:<13}{text}" for name, text in lines)
    # Nobody asked for intervals: that there are none is no news.
    return text if report["resamples"] else text.replace(" (n/a)", "")


def _calibration(found: dict[str, Any]) -> str:
    before, after = (interval(found[side]["ece"]) for side in ("before", "after"))
    bound = ", as far as is tried" if found["temperature"] in BOUNDS else ""
    return f"ECE {before}, calibrated {after} (temperature {found['temperature']:.2f}{bound})"


def _classes(classes: dict[str, dict[str, Any]], columns: dict[str, str], heading: str) -> str:
    rows = [[heading, *columns.values()]]
    for name, figures in classes.items():
        rows.append([shorten(name), *(_cell(key, figures[key]) for key in columns)])
    return aligned(rows)


def _cell(figure: str, value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    return interval(value) if figure == "auroc" else _number(value["value"])


def _confusion(report: dict[str, Any]) -> str:
    names = [shorten(name) for name in report["classes"]]
    counts = [[f"{count:,}" for count in row] for row in report["confusion"]]
    title = "confusion matrix: a row a true class, a column a predicted class"
    table = _with_header(names, names, counts)
    if max(map(len, table.splitlines())) > WIDTH:
        numbers = [str(c) for c in range(len(names))]
        numbered = [f"{c} {name}" for c, name in zip(numbers, names, strict=True)]
        table = _with_header(numbered, numbers, counts, gap=" ")
    return f"{title}\n{table}"


def _with_header(
    rows: list[str], columns: list[str], cells: list[list[str]], gap: str = "  "
) -> str:
    lines = [[row, *line] for row, line in zip(rows, cells, strict=True)]
    return aligned([["", *columns], *lines], gap)


def aligned(rows: list[list[str]], gap: str = "  ") -> str:
    """Columns as wide as they need: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        gap.join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    )


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def interval(entry: Entry) -> str:
    """A figure and in brackets its interval, ``0.912 (0.873-0.941)``, n/a what is not defined."""
    if entry["value"] is None:
        return "n/a"
    return f"{_number(entry['value'])} ({_number(entry['low'])}-{_number(entry['high'])})".replace(
        "(n/a-n/a)", "(n/a)"
    )


def shorten(name: str) -> str:
    """A name cut to what a table has room for."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
