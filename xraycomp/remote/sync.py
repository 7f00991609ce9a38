"""The ledger brought up to date with Kaggle: late scores, and what was sent by other ways."""

import contextlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.remote import ledger
from xraycomp.remote.client import Kaggle
from xraycomp.remote.marks import (
    bears,
    file_mark,
    marked_kernel,
    marks_a_file,
    sha256,
    without_mark,
)
from xraycomp.remote.submissions import Sent, list_submissions


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


def sync(kaggle: Kaggle, competition: str, book: Path, runs_dir: Path) -> News:
    """Fill in what Kaggle knows about every submission, and add those that have no row.

    A submission sent by hand is recognised by its mark, or else by the name, size and date of a
    file beside the ledger or in a run below ``runs_dir``.
    """
    listed = list_submissions(kaggle, competition)[::-1]  # oldest first, as rows are added
    ours: list[News] = []

    def bring(table: pd.DataFrame) -> pd.DataFrame:
        known = set(table["ref"])
        updated = sum(ledger.fill_in(table, sent) for sent in listed)
        fresh = [sent for sent in listed if str(sent.ref) not in known]
        rows = [_row(sent, competition, book.parent, runs_dir) for sent in fresh]
        mine = table.loc[(table["competition"] == competition) & (table["ref"] != ""), "ref"]
        absent = set(mine) - {str(sent.ref) for sent in listed}
        named = sum(bool(row.get("run") or row.get("kernel_version")) for row in rows)
        ours.append(News(updated, len(fresh), named, len(absent)))
        if not rows:
            return table
        return pd.concat([table, pd.DataFrame(rows)], ignore_index=True).fillna("")

    ledger.rewrite(book, bring)
    return ours[0]


def _row(sent: Sent, competition: str, folder: Path, runs_dir: Path) -> dict[str, str]:
    return {
        "time": sent.time,
        "competition": competition,
        "file": Path(sent.file).name,
        "kernel_version": marked_kernel(sent.description),
        **_recognise(sent, folder, runs_dir),
        "ref": str(sent.ref),
        "public_score": sent.public_score,
        "private_score": sent.private_score,
        "status": sent.status,
        "error": sent.error,
    }


def _recognise(sent: Sent, folder: Path, runs_dir: Path) -> dict[str, str]:
    """What can be known of a submission's origin: its SHA-256, and the run that wrote the file."""
    # By hand one sends submissions/A.csv, or A's own submission.csv with the message "A".
    names = [Path(sent.file).stem, without_mark(sent.description)]
    runs = [runs_dir / name for name in names if re.fullmatch(r"\w[\w.-]*", name)]
    places = [folder / Path(sent.file).name, *(run / "submission.csv" for run in runs)]
    digest = next((sha256(path) for path in places if _is_the_file(path, sent)), "")
    if not digest:
        return {}
    for run in runs:
        own = run / "submission.csv"
        if own.is_file() and sha256(own) == digest:
            validation: dict[str, str] = {}
            with contextlib.suppress(UserError, OSError):  # a run that was never judged
                validation = ledger.read_validation(run)[1]
            commit = ledger.read_commit(run)
            return {"sha256": digest, "run": run.name, "commit": commit, **validation}
    return {"sha256": digest}


def _is_the_file(path: Path, sent: Sent) -> bool:
    if not path.is_file():
        return False
    if marks_a_file(sent.description):
        return bears(sent.description, file_mark(path))
    changed = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
    before = not sent.time or changed <= datetime.fromisoformat(sent.time)
    return path.stat().st_size == sent.size and before
