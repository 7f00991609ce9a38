"""What `comparison.compare` found, as plain text for the terminal."""

from typing import Any

from xraycomp.judging.table import aligned, shorten

OVERALL = {"macro_auroc": "macro AUROC", "macro_f1": "macro F1", "accuracy": "accuracy"}

LEGEND = """\
b - a: in brackets the 95 % interval of the difference, from {resamples:,} resamples of the images,
each of which both are judged on; p: how likely so large a difference, either way, would be if the
two were equally good. Of 20 figures that do not differ, one will look as if it did."""
MCNEMAR = """\
McNemar's test: of what only one of the two calls right, is one's share larger than a coin's?"""


def format_comparison(comparison: dict[str, Any]) -> str:
    """Lay out what `compare` returned as plain text for the terminal, no newline at the end."""
    overall, tests = comparison["overall"], comparison["mcnemar"]
    heads = {"a": comparison["a"], "b": comparison["b"], "judged": comparison["split"]}
    heads["images"] = f"{comparison['n']:,}"
    rows = [["", "a", "b", "b - a (95 % CI)", "p", ""]]
    rows += [_row(OVERALL[name], figure) for name, figure in overall.items()]
    areas = {name: found["auroc"] for name, found in comparison["classes"].items()}
    rows += [_row(f"AUROC {shorten(name)}", area) for name, area in areas.items()]
    what = "all labels" if tests["classes"] else "images"
    counts = [["right are", "only a", "only b", "p", ""], _test_row(what, tests["overall"])]
    counts += [_test_row(shorten(name), test) for name, test in tests["classes"].items()]
    note = [f"These are {comparison['note']}."] if comparison["note"] else []
    parts = [
        "\n".join(f"{name:<8}{text}" for name, text in heads.items()),
        *(_with_verdicts(table) for table in (rows, counts)),
        LEGEND.format(resamples=comparison["resamples"]) + "\n" + MCNEMAR,
        *note,
    ]
    return "\n\n".join(parts)


def _row(name: str, figure: dict[str, Any]) -> list[str]:
    found = figure["difference"]
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return [name, "n/a", "n/a", "n/a", "n/a", "not defined on these images"]
    difference, verdict = f"{value:+.3f}", "no telling"
    if low is not None:
        difference += f" ({low:+.3f} to {high:+.3f})"
    if figure["p"] is None:
        verdict = "too few images to tell"
    elif low is not None and low > 0:
        verdict = f"b is better by {value:.3f} ({low:.3f}-{high:.3f})"
    elif low is not None and high < 0:
        verdict = f"a is better by {-value:.3f} ({-high:.3f}-{-low:.3f})"
    numbers = [f"{figure['a']:.3f}", f"{figure['b']:.3f}", difference, _p(figure["p"])]
    return [name, *numbers, verdict]


def _test_row(name: str, test: dict[str, Any]) -> list[str]:
    better = "b" if test["only_b"] > test["only_a"] else "a"
    verdict = f"{better} is right more often" if test["p"] < 0.05 else "no telling"
    return [name, f"{test['only_a']:,}", f"{test['only_b']:,}", _p(test["p"]), verdict]


def _p(p: float | None) -> str:
    if p is None:
        return "n/a"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _with_verdicts(rows: list[list[str]]) -> str:
    """The rows aligned, their last cells as text behind them."""
    lines = aligned([row[:-1] for row in rows]).splitlines()
    return "\n".join(f"{line}  {row[-1]}".rstrip() for line, row in zip(lines, rows, strict=True))
