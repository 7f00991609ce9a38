"""The ledger: one row a submission, with what validation promised and what Kaggle found.

``submissions/ledger.csv`` is a plain CSV table, all text, empty where nothing is known. It may be
edited by hand: unknown columns stay, missing ones are empty.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.files import read_table, write_csv
from xraycomp.remote.submissions import Submission

# The score is the competition's own metric. Where it has two forms (hard_label_auroc), val_score is
# the one of the public leaderboard and val_private the other.
FIGURES = ("val_score", "val_private", "val_accuracy", "val_macro_f1", "val_macro_auroc")
NUMBERS = (
    *(f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")),
    "public_score",
    "private_score",
)
COLUMNS = (
    *("time", "competition", "run", "file", "sha256", "commit", "kernel_version", "metric"),
    *NUMBERS[:-2],
    *("ref", "public_score", "private_score", "status", "error"),
)


def read_ledger(path: Path) -> pd.DataFrame:
    """Read a ledger, all values as text; an empty table where there is no file.

    Raises ``UserError`` for a file that is no ledger and for values that are no numbers.
    """
    if not path.is_file():
        return pd.DataFrame(columns=list(COLUMNS), dtype=str)
    table = read_table(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if "competition" in missing or "ref" in missing:
        raise UserError(
            f"{path} is not a ledger of submissions: it needs at least the columns competition and "
            "ref. Mend it, or move it away and fill a new one with --sync --competition SLUG."
        )
    # A row that ends early has gaps, which are no text.
    others = [name for name in table.columns if name not in COLUMNS]
    table = table.reindex(columns=[*COLUMNS, *others], fill_value="").fillna("")
    for name in (*NUMBERS, "ref"):
        values = table[name].str.strip()
        numbers = pd.to_numeric(values, errors="coerce")
        wrong = (values != "") & numbers.isna()
        if wrong.any():
            line = int(wrong.to_numpy().argmax()) + 2
            raise UserError(
                f"{path}, line {line}: {name} is {values[wrong].iloc[0]!r}, which is no number. "
                "Correct it, or leave it empty and run --sync."
            )
        table[name] = values
    table["ref"] = table["ref"].str.removesuffix(".0")  # spreadsheets write such
    return table


def append(path: Path, row: Mapping[str, str]) -> None:
    """Add one row; names of ``COLUMNS`` only, those that are not given stay empty."""
    rewrite(path, lambda table: add_rows(table, [row]))


def add_rows(table: pd.DataFrame, rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """``table`` with more rows, of which each may leave columns empty."""
    if unknown := {name for row in rows for name in row} - set(COLUMNS):
        raise ValueError(f"The ledger has no column {', '.join(sorted(unknown))}.")
    if not rows:
        return table
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True).fillna("")


def update(path: Path, submission: Submission) -> None:
    """Fill in what Kaggle says now of a submission that has a row."""

    def fill(table: pd.DataFrame) -> pd.DataFrame:
        fill_in(table, submission)
        return table

    rewrite(path, fill)


def fill_in(table: pd.DataFrame, submission: Submission) -> bool:
    """Fill in what Kaggle says now, in place; return whether that changed anything.

    A score is never taken away again: Kaggle may list a submission before it lists its scores.
    """
    rows = table["ref"] == str(submission.ref)
    before = table[rows].copy()
    table.loc[rows, "status"] = submission.status
    for name in ("public_score", "private_score", "error"):
        if value := getattr(submission, name):
            table.loc[rows, name] = value
    return not before.equals(table[rows])


def find(table: pd.DataFrame, **values: str) -> pd.DataFrame:
    """The rows that hold all these values: ``find(table, competition=..., sha256=...)``."""
    return table[(table[list(values)] == pd.Series(values)).all(axis=1)]


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Read, ``change`` and write the ledger while no other process does so."""
    with _alone(path):
        write_csv(path, change(read_ledger(path)))


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file of its own: the ledger itself is replaced, and with it any lock on it.
    with path.with_name(f".{path.name}.lock").open("a") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows; there, two commands at once may lose a row
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_validation(folder: Path) -> tuple[str, dict[str, str]]:
    """Read a ``metrics.json``: the competition that it is about, and its part of a ledger row.

    Raises ``UserError`` where it is damaged or does not judge a validation split.
    """
    path = folder / "metrics.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        split, slug = str(report["split"]), str(report["competition_slug"])
        columns = _validation(report)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged or of another version. Write it again with: python -m "
            "xraycomp.evaluate"
        ) from error
    if not split.startswith("validation"):
        raise UserError(
            f"{path} judges the {split}, not the validation split. Judge with: python -m "
            "xraycomp.evaluate --split val"
        )
    return slug, columns


def _validation(report: Mapping[str, Any]) -> dict[str, str]:
    own = report["competition"]
    entries = {
        "val_score": own["score"] if "score" in own else own["public"],
        "val_private": own.get("private", {}),
        **{f"val_{name}": report["overall"][name] for name in ("accuracy", "macro_f1")},
        "val_macro_auroc": report["overall"]["macro_auroc"],
    }
    row = {"metric": str(own["metric"])}
    for name, entry in entries.items():
        for key, end in (("value", ""), ("low", "_low"), ("high", "_high")):
            value = entry.get(key)
            row[name + end] = "" if value is None else f"{value:.6f}"
    return row


def read_commit(run: Path) -> str:
    """The commit of the code that a run was trained with; empty where it is not known."""
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        return str(environment.get("commit") or "")
    except (OSError, ValueError, AttributeError):
        return ""
