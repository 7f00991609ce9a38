"""python -m xraycomp.report: run folders -> one page on a run, or one that compares several."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError, listing
from xraycomp.console.help import Help
from xraycomp.job.page import write_own_page
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder
from xraycomp.pages.board import Board
from xraycomp.pages.overview import read_runs, write_overview
from xraycomp.pages.page import PAGE
from xraycomp.pages.run_files import RunFiles
from xraycomp.pages.study import STUDY_PAGE, is_study, write_study_page
from xraycomp.remote.ledger import read_ledger
from xraycomp.remote.standing import Standing, agreement, standing

log = logging.getLogger("xraycomp.report")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.report"
HELP = Help(
    examples=("runs/NAME", "runs/*", "runs/A runs/B --output better.html"),
    first="runs output submissions_dir",
)


@dataclass(frozen=True)
class ReportConfig:
    """Write report.html of one run, or a page that compares several; any browser opens them, no
    network is needed."""

    runs: tuple[Path, ...]
    """Run folders. Of one, or of a search's study, its page is written; several are compared."""
    output: Path | None = None
    """The page that compares. Default: report.html in the folder that holds the runs."""
    submissions_dir: Path | None = None
    """Folder of ledger.csv, for validation against leaderboard. Default: the runs' own."""


def report(config: ReportConfig) -> Path:
    """Do what ``config`` describes and return the page's path.

    Raises ``UserError`` where there is no run, or the only one is damaged, and for a ledger that is
    none.
    """
    folders = [path for path in config.runs if path.is_dir()]
    if not folders:
        named = listing([str(path) for path in config.runs])
        what = f"{named} is no run folder" if named else "No run was named"
        raise UserError(f"{what}. Call it as in: {PROG} runs/*")
    if others := [path for path in config.runs if not path.is_dir() and path.name != PAGE]:
        log.info("Left out, since no folders: %s.", listing([str(path) for path in others]))
    defaults = TrainConfig().to_json()
    if len(folders) == 1:
        study = is_study(folders[0])
        own = folders[0] / (STUDY_PAGE if study else PAGE)
        if config.output:
            raise UserError(
                f"--output is for comparing several runs; that of one is {own}. "
                "Leave it out, or name more runs."
            )
        page = write_study_page(own.parent) if study else write_own_page(RunFolder.open(own.parent))
        log.info("Wrote %s.", page)
        return page
    runs, broken = read_runs(folders)
    for run in runs:
        if (run.path / "metrics.json").is_file() and not (run.path / PAGE).is_file():
            try:
                log.info("Wrote %s.", write_own_page(RunFolder.open(run.path)))
            except UserError as error:
                log.info("%s has no page of its own: %s", run.path, error)
    page = config.output or folders[0].parent / PAGE
    broken = write_overview(page, runs, defaults, _boards(runs, config.submissions_dir), broken)
    for sentence in broken:
        log.info("Left out: %s", sentence)
    log.info("Wrote %s.", page)
    return page


def _boards(runs: Sequence[RunFiles], folder: Path | None) -> list[Board]:
    """What the ledger says of the competitions of these runs, where anything was scored."""
    own = [Path(run.config.get("submissions_dir") or "submissions") for run in runs]
    folders = dict.fromkeys([folder] if folder else own)
    if not runs:
        return []
    table = pd.concat([read_ledger(path / "ledger.csv") for path in folders], ignore_index=True)
    slugs = dict.fromkeys(run.competition.slug for run in runs)
    found = [standing(table, slug) for slug in slugs]
    return [_board(one) for one in found if (one.rows["public_score"] != "").any()]


def _board(found: Standing) -> Board:
    scored = found.rows[found.rows["public_score"] != ""]
    rows = [
        {
            "run": row["run"] or row["file"],
            "validation": {
                "value": _number(row["val_score"]),
                "low": _number(row["val_score_low"]),
                "high": _number(row["val_score_high"]),
            },
            "public": float(row["public_score"]),
            "private": _number(row["private_score"]),
            "val_rank": _number(row["val_rank"]),
            "public_rank": _number(row["public_rank"]),
            "outside": bool(row["outside"]),
        }
        for row in scored.to_dict("records")
    ]
    return Board(found.competition, found.metric, rows, agreement(found))


def _number(value: Any) -> float | None:
    """A cell of the ledger, which may be empty, or a number that may be NaN."""
    return None if value == "" or pd.isna(value) else float(value)


def main(args: Sequence[str]) -> None:
    """Read the flags and write the page."""
    report(parse_flags(ReportConfig, args, prog=PROG, help=HELP, positional=True))


if __name__ == "__main__":
    run_command(main)
