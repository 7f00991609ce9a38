"""The ledger brought up to date with Kaggle: late scores, and what was sent by other ways."""

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.remote.client import Kaggle
from xraycomp.remote.drafts import LocalFile, bears, marked_kernel, marks_a_file, without_mark
from xraycomp.remote.ledger import add_rows, fill_in, read_commit, read_validation, rewrite
from xraycomp.remote.submissions import Submission, list_submissions


@dataclass(frozen=True)
class News:
    """What a look at Kaggle brought."""

    updated: int
    """Rows whose status or scores changed."""
    added: int
    """Submissions that had no row."""
    recognised: int
    """Of those, the ones whose run is known."""
    absent: int
    """Rows of submissions that Kaggle does not list."""


def sync(kaggle: Kaggle, competition: str, ledger: Path, runs_dir: Path) -> News:
    """Fill in what Kaggle knows about every submission, and add those that have no row.

    A submission sent by hand is recognised by its mark, or else by the name, size and date of a
    file beside the ledger or in a run below ``runs_dir``.
    """
    listed = list_submissions(kaggle, competition)[::-1]  # oldest first, as rows are added
    news: list[News] = []

    def bring(table: pd.DataFrame) -> pd.DataFrame:
        refs = {str(submission.ref) for submission in listed}
        mine = table.loc[(table["competition"] == competition) & (table["ref"] != ""), "ref"]
        updated = sum(fill_in(table, submission) for submission in listed)
        fresh = [item for item in listed if str(item.ref) not in set(table["ref"])]
        rows = [_row(item, competition, ledger.parent, runs_dir) for item in fresh]
        named = sum(bool(row.get("run") or row.get("kernel_version")) for row in rows)
        news.append(News(updated, len(fresh), named, len(set(mine) - refs)))
        table = add_rows(table, rows)
        for submission in fresh:
            fill_in(table, submission)
        return table

    rewrite(ledger, bring)
    return news[0]


def _row(submission: Submission, competition: str, folder: Path, runs_dir: Path) -> dict[str, str]:
    return {
        "time": submission.time,
        "competition": competition,
        "file": Path(submission.file).name,
        "kernel_version": marked_kernel(submission.description),
        "ref": str(submission.ref),
        **_recognise(submission, folder, runs_dir),
    }


def _recognise(submission: Submission, folder: Path, runs_dir: Path) -> dict[str, str]:
    """What can be known of a submission's origin: its SHA-256, and the run that wrote the file."""
    # By hand one sends submissions/A.csv, or A's own submission.csv with the message "A".
    names = [Path(submission.file).stem, without_mark(submission.description)]
    runs = [runs_dir / name for name in names if re.fullmatch(r"\w[\w.-]*", name)]
    places = [folder / Path(submission.file).name, *(run / "submission.csv" for run in runs)]
    digest = next((LocalFile(path).sha256 for path in places if _is_the_file(path, submission)), "")
    if not digest:
        return {}
    for run in runs:
        own = run / "submission.csv"
        if own.is_file() and LocalFile(own).sha256 == digest:
            validation: dict[str, str] = {}
            with contextlib.suppress(UserError, OSError):  # a run that was never judged
                validation = read_validation(run)[1]
            commit = read_commit(run)
            return {"sha256": digest, "run": run.name, "commit": commit, **validation}
    return {"sha256": digest}


def _is_the_file(path: Path, submission: Submission) -> bool:
    if not path.is_file():
        return False
    if marks_a_file(submission.description):
        return bears(submission.description, LocalFile(path).mark)
    changed = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    before = not submission.time or changed <= datetime.fromisoformat(submission.time)
    return path.stat().st_size == submission.size and before
