"""``study.html``: one search on one page, from ``study.json`` alone."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xraycomp.data.files import write_text
from xraycomp.pages.charts import LEFT, RIGHT, Mark, Plot, Scale, axes, line
from xraycomp.pages.page import PAGE, render
from xraycomp.pages.run_files import damaged
from xraycomp.pages.sections import plain

STUDY = "study.json"
STUDY_PAGE = "study.html"
_COMPLETE, _PRUNED, _BEST = 0, 3, 1
"""Colours of what is drawn."""
_MOST_TEXTS = 7
"""As many of an axis' numbers have room for a text."""
_MOST_LETTERS = 36
"""As many letters of names have room below an axis."""


def is_study(folder: Path) -> bool:
    """Whether the folder is a search's, and not a run's."""
    return (folder / STUDY).is_file()


def write_study_page(folder: Path) -> Path:
    """Write a study's ``study.html`` from its ``study.json`` and return its path.

    Raises ``UserError`` where that is damaged.
    """
    source, path = folder / STUDY, folder / STUDY_PAGE
    # Any of its trials writes it again.
    with damaged(source, f"python -m xraycomp.search --study {folder.name}"):
        text = _page(json.loads(source.read_text(encoding="utf-8")), folder)
    write_text(path, text)
    return path


def _page(study: Mapping[str, Any], folder: Path) -> str:
    trials: list[dict[str, Any]] = study["trials"]
    of = {
        state: [trial for trial in trials if trial["state"] == state]
        for state in ("complete", "pruned", "failed", "running", "waiting")
    }
    sign = 1 if study["minimized"] else -1
    shown = [trial for trial in trials if trial["state"] in ("complete", "pruned", "running")]
    # Complete ones first, since the score of others is one of fewer epochs.
    shown.sort(key=lambda one: (one["state"] != "complete", _order(one["value"], sign)))
    rows = [{**trial, "link": _link(folder, trial["run"])} for trial in shown]
    importances = [
        (name, share, {"low": 0, "high": 100 * share, "value": 100 * share})
        for name, share in sorted(study["importances"].items(), key=lambda one: -one[1])
    ]
    best = next((row for row in rows if row["number"] == study["best"]), None)
    return render(
        "study.html.jinja",
        study=study,
        counts={state: len(found) for state, found in of.items() if found},
        best=best,
        rows=rows,
        failed=of["failed"],
        unfinished=of["running"],
        setting=_setting,
        progress=_progress(study, of),
        slices=[part for name in study["fields"] if (part := _slice(study["monitor"], name, of))],
        importances=importances,
        folder=shlex.quote(str(folder)),
    )


def _setting(value: Any) -> str:
    """A setting as a person would write it; drawn numbers have sixteen digits."""
    return f"{value:.4g}" if isinstance(value, float) else plain(value)


def _order(value: float | None, sign: int) -> float:
    return math.inf if value is None else sign * value


def _link(folder: Path, run: str) -> str:
    """Address of the run's page as seen from the study's; empty where it has none."""
    return quote(f"{run}/{PAGE}") if run and (folder / run / PAGE).is_file() else ""


def _progress(study: Mapping[str, Any], of: Mapping[str, Sequence[Any]]) -> Plot | None:
    """Each trial's score by its number, and the best one so far."""
    complete, pruned = of["complete"], [one for one in of["pruned"] if one["value"] is not None]
    drawn = [*complete, *pruned]
    if not complete:
        return None
    numbers, values = [one["number"] for one in drawn], [one["value"] for one in drawn]
    x, y = axes("trial", numbers, study["monitor"], values, whole=True)
    so_far = [one for one in study["trials"] if one["best"] is not None and one in complete]
    # A stair: the best one holds until there is a better one.
    xs = [one["number"] for one in so_far for _ in range(2)][1:]
    ys = [one["best"] for one in so_far for _ in range(2)][:-1]
    first, last = so_far[0]["best"], so_far[-1]["best"]
    alt = (
        f"{study['monitor']} of {len(complete)} complete and {len(pruned)} pruned trials by their "
        f"number; the best so far goes from {first:.4f} to {last:.4f}. The table gives all."
    )
    return Plot(alt, x, y, (line(_BEST, x, y, xs, ys),), _marks(x, y, numbers, complete, pruned))


def _slice(monitor: str, name: str, of: Mapping[str, Sequence[Any]]) -> tuple[Plot, str] | None:
    """The score over one field, and what numbers on its axis stand for; None where the field does
    not differ."""
    complete, pruned = (
        [one for one in of[state] if name in one["params"] and one["value"] is not None]
        for state in ("complete", "pruned")
    )
    values = [one["params"][name] for one in (*complete, *pruned)]
    if len({plain(value) for value in values}) < 2 or not complete:
        return None
    x, places, key = _field_axis(name, values)
    _, y = axes("", [0, 1], monitor, [one["value"] for one in (*complete, *pruned)])
    alt = (
        f"{monitor} of {len(complete)} complete and {len(pruned)} pruned trials over {name}. The "
        "table gives all."
    )
    return Plot(alt, x, y, (), _marks(x, y, places, complete, pruned)), key


def _marks(
    x: Scale, y: Scale, places: Sequence[float], complete: Sequence[Any], pruned: Sequence[Any]
) -> tuple[Mark, ...]:
    kinds = [_COMPLETE] * len(complete) + [_PRUNED] * len(pruned)
    return tuple(
        Mark(kind, float(x.at(place)), float(y.at(one["value"])))
        for kind, place, one in zip(kinds, places, (*complete, *pruned), strict=True)
    )


def _apart(ticks: Sequence[tuple[float, str]], least: float) -> tuple[tuple[float, str], ...]:
    """The ticks, in their order, without those that are nearer to the one before than ``least``."""
    kept: list[tuple[float, str]] = []
    for place, text in ticks:
        if not kept or place - kept[-1][0] >= least:
            kept.append((place, text))
    return tuple(kept)


def _field_axis(name: str, values: Sequence[Any]) -> tuple[Scale, list[float], str]:
    """An axis for a field and the place of each value on it: logarithmic for numbers that differ
    by more than 20 times, even steps for what is no number, with numbers for long names and the
    key to them."""
    label, key = name.replace("_", " "), ""
    if all(isinstance(one, int | float) and not isinstance(one, bool) for one in values):
        low, high = min(values), max(values)
        log = low > 0 and high > 20 * low
        places = [math.log10(one) if log else float(one) for one in values]
        ticked = sorted(set(values))
        if len(ticked) > _MOST_TEXTS and not log:
            return axes(label, places, "", places)[0], places, key
        if len(ticked) > _MOST_TEXTS:
            powers = range(math.floor(min(places)), math.floor(max(places)) + 1)
            round_ones = [part * 10.0**power for power in powers for part in (1, 3)]
            ticked = [one for one in round_ones if low <= one <= high][:: 1 + len(powers) // 5]
        named = tuple((math.log10(one) if log else float(one), f"{one:.4g}") for one in ticked)
    else:
        kinds = sorted({plain(one) for one in values})
        places = [float(kinds.index(plain(one))) for one in values]
        shown = kinds
        if sum(map(len, kinds)) > _MOST_LETTERS:
            shown = [str(n + 1) for n in range(len(kinds))]
            key = ", ".join(f"{n} {kind}" for n, kind in zip(shown, kinds, strict=True))
        named = tuple((float(n), text) for n, text in enumerate(shown))
    low, high = min(places), max(places)
    named, room = _apart(named, 0.1 * (high - low)), 0.12 * (high - low)
    return Scale(label, low - room, high + room, LEFT, RIGHT, named=named), places, key
