"""What `ensemble.judge_ensemble` found, as plain text for the terminal."""

from collections.abc import Mapping
from typing import Any

from xraycomp.judging.table import aligned, interval, shorten

FIGURES = {
    "macro_auroc": "macro AUROC",
    "macro_f1": "macro F1",
    "accuracy": "accuracy",
    "macro_false_negative_rate": "macro FNR",
}
ADDED = {"macro_auroc": "macro AUROC", "macro_f1": "macro F1"}

LEGEND = """\
In brackets: 95 % interval, from {resamples:,} resamples of the images.
FNR, false-negative rate: of the images of a class, the share not called it.
* learns from labels: each fifth of the images is judged by what was learned on the others."""
THRESHOLDS = """
So are thresholds from which on findings are called, for a vote those of each member; it calls what
half the members do."""
ADDS_LEGEND = """\
adds: the ensemble ({method}) with the member minus without it, on the same resamples.
Where 0 lies in the brackets these images do not tell whether the member helps."""


def format_ensemble(report: Mapping[str, Any]) -> str:
    """Lay out what `judge_ensemble` returned as plain text for the terminal, no newline at the end:
    every method, false-negative rates by class, and what each member adds."""
    multilabel = report["multilabel"]
    heads = {"judged": report["split"], "images": f"{report['n']:,}", "method": report["method"]}
    figures = {name: text for name, text in FIGURES.items() if name != "accuracy" or not multilabel}
    names = {name: f"{name}{' *' * (name in report['fitted'])}" for name in report["methods"]}
    rows = [["method", *figures.values()]]
    for name, found in report["methods"].items():
        rows.append([names[name], *(interval(found["overall"][figure]) for figure in figures)])
    legend = LEGEND.format(resamples=report["resamples"]) + THRESHOLDS * multilabel
    note = [f"These are {report['note']}."] if report["note"] else []
    parts = [
        "\n".join(f"{name:<8}{text}" for name, text in heads.items()),
        aligned(rows),
        _missed(report, names),
        legend,
        _members(report),
        ADDS_LEGEND.format(method=report["method"]),
        _against_best(report),
        *note,
    ]
    return "\n\n".join(parts)


def _missed(report: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The false-negative rate of each class by each method."""
    rows = [["FNR", *names.values()]]
    for name in next(iter(report["methods"].values()))["classes"]:
        found = [one["classes"][name] for one in report["methods"].values()]
        values = [one["false_negative_rate"]["value"] for one in found]
        rows.append([shorten(name), *("n/a" if x is None else f"{x:.3f}" for x in values)])
    return aligned(rows)


def _members(report: Mapping[str, Any]) -> str:
    rows = [["member", *(f for text in ADDED.values() for f in (text, "adds"))]]
    for name, found in report["members"].items():
        cells = [shorten(name)]
        for figure in ADDED:
            cells += [interval(found["overall"][figure]), _signed(found["adds"][figure])]
        rows.append(cells)
    return aligned(rows)


def _against_best(report: Mapping[str, Any]) -> str:
    best = report["best_member"]
    found = [f"{text} {_signed(best['differences'][name])}" for name, text in ADDED.items()]
    return f"{report['method']} minus the best member alone, {best['name']}: {', '.join(found)}."


def _signed(figure: Mapping[str, Any]) -> str:
    """A difference with its interval, ``+0.012 (-0.003 to +0.027)``."""
    found = figure["difference"]
    if found["value"] is None:
        return "n/a"
    if found["low"] is None:
        return f"{found['value']:+.3f} (n/a)"
    return f"{found['value']:+.3f} ({found['low']:+.3f} to {found['high']:+.3f})"
