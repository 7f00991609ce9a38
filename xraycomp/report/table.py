"""The report of `metrics.evaluate` as plain text for the terminal."""

from typing import Any

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
(low-high), CI: 95 % interval; n/a: not defined, or too few images to tell"""
NORMAL_LEGEND = "as normal: of the images of a sick class, the share called the healthy class"

Entry = dict[str, float | None]


def format_table(report: dict[str, Any]) -> str:
    """Lay a report out as aligned plain text.

    Parameters
    ----------
    report : dict
        What `metrics.evaluate` returned, also when read back from ``metrics.json``.

    Returns
    -------
    str
        Headlines, one row a class, what the headings mean, and the confusion matrix; at most 110
        columns wide with class names of up to 14 letters. No newline at the end.
    """
    figures = report["classes"].values()
    columns, legend = dict(COLUMNS), f"{LEGEND}\n{NORMAL_LEGEND}"
    if all(row["called_normal"]["value"] is None for row in figures):
        # Without a healthy class nothing can be called normal: no column of n/a.
        del columns["called_normal"]
        legend = LEGEND
    table = _classes(report["classes"], columns)
    return "\n\n".join([_headlines(report), table, legend, _confusion(report)])


def _headlines(report: dict[str, Any]) -> str:
    overall, competition = report["overall"], report["competition"]
    lines = [
        ["images", f"{report['n']:,}"],
        ["accuracy", _interval(overall["accuracy"])],
        ["macro F1", _interval(overall["macro_f1"])],
        ["macro AUROC", _interval(overall["macro_auroc"])],
    ]
    for form in ("score", "public", "private"):
        if form in competition:
            kind = "" if form == "score" else f", {form} form"
            score = f"{_interval(competition[form])}  {competition['metric']}{kind}"
            lines.append(["competition", score])
    return "\n".join(f"{name:<13}{text}" for name, text in lines)


def _classes(classes: dict[str, dict[str, Any]], columns: dict[str, str]) -> str:
    rows = [["class", "images", *columns.values()]]
    for name, figures in classes.items():
        cells = [
            _interval(figures[key]) if key == "auroc" else _number(figures[key]["value"])
            for key in columns
        ]
        rows.append([_short(name), f"{figures['support']:,}", *cells])
    return _aligned(rows)


def _confusion(report: dict[str, Any]) -> str:
    names = [_short(name) for name in report["classes"]]
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
    return _aligned([["", *columns], *lines], gap)


def _aligned(rows: list[list[str]], gap: str = "  ") -> str:
    """First column to the left, the others to the right."""
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


def _interval(entry: Entry) -> str:
    if entry["value"] is None:
        return "n/a"
    return f"{_number(entry['value'])} ({_number(entry['low'])}-{_number(entry['high'])})".replace(
        "(n/a-n/a)", "(n/a)"
    )


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
