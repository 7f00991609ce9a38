"""One page that compares runs: only those that were judged on the same images, side by side."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xraycomp.console.errors import UserError
from xraycomp.data.files import write_text
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.pages.board import Board, show_board
from xraycomp.pages.charts import ParallelPlot, parallel
from xraycomp.pages.judgement import headline
from xraycomp.pages.page import PAGE, reaches, render
from xraycomp.pages.run_files import EVALUATE, Entry, RunFiles, damaged
from xraycomp.pages.sections import plain, training

_PLACES = {
    *("name", "resume", "overwrite", "data", "data_dir", "runs_dir", "submissions_dir"),
    *("time_limit", "device", "devices", "workers"),
}
"""Settings that say where and how far something ran, and not what."""
_AXES = 8
"""Most settings that a parallel plot shows."""


@dataclass(frozen=True)
class _Row:
    """One run in the table."""

    run: RunFiles
    scores: list[tuple[str, str, Entry]]
    """As `judgement.headline` gives them; empty for a run that is not finished."""
    metric: str
    epochs: int
    minutes: float
    rate: float | None
    link: str
    """Address of its own page as seen from this one; empty where it has none."""


@dataclass
class _Group:
    """Runs that were judged on the same images."""

    title: str
    described: str
    fingerprint: str
    n: int
    drawn: bool
    rows: list[_Row] = field(default_factory=list)


def read_runs(folders: Sequence[Path]) -> tuple[list[RunFiles], list[str]]:
    """The runs in these folders, and a sentence on each folder that is none or is damaged."""
    runs, broken = [], []
    for folder in folders:
        try:
            runs.append(RunFiles.read(folder))
        except (UserError, OSError) as error:
            broken.append(str(error))
    return runs, broken


def write_overview(
    path: Path,
    runs: Sequence[RunFiles],
    defaults: Mapping[str, Any],
    boards: Sequence[Board] = (),
    broken: Sequence[str] = (),
) -> list[str]:
    """Write the page that compares these runs to ``path``.

    Runs of different competitions, or judged on different images, come into tables of their own.

    Parameters
    ----------
    defaults : as in `page.write_page`
    broken : sentences on folders that are not among ``runs``, for the page to name

    Returns
    -------
    these sentences and those on runs whose results turned out to be damaged

    Raises ``UserError``, and writes nothing, where no run is left.
    """
    groups: dict[tuple[str, str, str], _Group] = {}
    broken = list(broken)
    for run in runs:
        try:
            row, group = _row(run, path), _group(run)
        except UserError as error:
            broken.append(str(error))
            continue
        same = (run.competition.slug, group.fingerprint, row.metric)
        groups.setdefault(same, group).rows.append(row)
    if not groups:
        raise UserError(f"There is no whole run among these folders. {broken[0]}")
    text = render(
        "runs.html.jinja",
        n=sum(len(group.rows) for group in groups.values()),
        groups=[_show(group, defaults) for group in groups.values()],
        broken=broken,
        boards=[show_board(board) for board in boards],
        phantoms=PHANTOMS,
    )
    write_text(path, text)
    return broken


def _group(run: RunFiles) -> _Group:
    """The group of runs that this one would be the first of."""
    judged = run.manifest[run.manifest["split"] == "val"].sort_values("image")
    text = "\n".join(
        f"{image}\t{label}" for image, label in zip(judged["image"], judged["label"], strict=True)
    )
    return _Group(
        title=run.competition.title,
        described=run.describe_split("val"),
        fingerprint=hashlib.sha256(text.encode()).hexdigest()[:8],
        n=len(judged),
        drawn=run.competition.drawn,
    )


def _row(run: RunFiles, path: Path) -> _Row:
    report, courses = run.json("metrics.json"), training(run)
    scores: list[tuple[str, str, Entry]] = []
    metric = run.competition.metric
    if report is not None:
        with damaged(run.path / "metrics.json", run.command(EVALUATE)):
            scores, metric = headline(report), str(report["competition"]["metric"])
    page = run.path / PAGE
    return _Row(
        run=run,
        scores=scores,
        metric=metric,
        epochs=sum(len(course["rows"]) for course in courses),
        minutes=sum(course["minutes"] for course in courses),
        rate=courses[-1]["rate"][0] if courses else None,
        link=quote(os.path.relpath(page, path.parent)) if page.is_file() else "",
    )


def _show(group: _Group, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows of a group."""
    configs = [{**defaults, **row.run.config} for row in group.rows]
    names = [name for name in {**defaults, **configs[0]} if name not in _PLACES]
    differing = [name for name in names if len({plain(config.get(name)) for config in configs}) > 1]
    common = [
        (name, plain(configs[0].get(name)), plain(defaults.get(name)))
        for name in names
        if name not in differing and plain(configs[0].get(name)) != plain(defaults.get(name))
    ]
    finished: list[dict[str, Any]] = []
    unfinished: list[dict[str, Any]] = []
    for row, config in zip(group.rows, configs, strict=True):
        shown = {
            "name": row.run.name,
            "path": row.run.quoted,
            "link": row.link,
            "settings": [(name, plain(config.get(name))) for name in differing],
            "figures": [figure for _, _, figure in row.scores],
            "epochs": row.epochs,
            "minutes": row.minutes,
            "rate": row.rate,
            "config": config,
        }
        (finished if row.scores else unfinished).append(shown)
    metric = group.rows[0].metric
    lower = metric == "log_loss"
    finished.sort(key=lambda one: _order(one["figures"][0], lower))
    columns = next(([text for _, text, _ in row.scores] for row in group.rows if row.scores), [])
    return {
        "group": group,
        "differing": differing,
        "common": common,
        "columns": columns,
        "lower": lower,
        "finished": finished,
        "unfinished": unfinished,
        "floor": None if lower else reaches(finished, 0),
        "parallel": _parallel(finished, differing, columns[0], lower) if columns else None,
        "beyond": differing[_AXES:],
    }


def _order(figure: Entry, lower: bool) -> float:
    value = figure["value"]
    if value is None:
        return float("inf")
    return value if lower else -value


def _parallel(
    finished: Sequence[Mapping[str, Any]], differing: Sequence[str], metric: str, lower: bool
) -> ParallelPlot | None:
    known = [run for run in finished if run["figures"][0]["value"] is not None]
    if len(known) < 2 or not differing:
        return None
    columns = [(name, [_drawn(run["config"].get(name)) for run in known]) for name in differing]
    best, worst = (
        ", ".join(f"{k} {v}" for k, v in run["settings"]) for run in (known[0], known[-1])
    )
    alt = (
        f"Parallel plot of {len(known)} runs across {', '.join(differing[:_AXES])} and {metric}. "
        f"Best: {known[0]['name']} ({best}). Worst: {known[-1]['name']} ({worst}). The table gives "
        "all."
    )
    return parallel(
        alt,
        [run["name"] for run in known],
        columns[:_AXES],
        (metric, [run["figures"][0]["value"] for run in known]),
        lower_is_better=lower,
    )


def _drawn(value: Any) -> object:
    """Numbers as they are, all else as text."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if number else plain(value)
