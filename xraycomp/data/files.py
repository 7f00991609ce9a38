"""Writing files so that a reader never sees half of one."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from xraycomp.console.errors import UserError, listing


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary sibling of ``path`` to write; rename it into place when all went well.

    The temporary file is removed on any failure, a full disk and Ctrl-C included.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        # A write to an open file does not say which file it was; the user needs the name.
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a temporary sibling folder to fill; rename it to ``path`` when all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            # Another process may have finished the same folder first; its contents are the same.
            if not path.is_dir():
                raise
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON to ``path``, whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write ``table`` as CSV to ``path``, whole or not at all; six decimals, no index."""
    with atomic_path(path) as temporary:
        table.to_csv(
            temporary, index=False, float_format="%.6f", encoding="utf-8", lineterminator="\n"
        )


def read_table(path: Path) -> pd.DataFrame:
    """Read a CSV file with every value as text, exactly as it stands there (``NA`` is no gap).

    Raises ``UserError`` for a file that is no CSV table in UTF-8.
    """
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is not a readable CSV table: {reason}.") from error


def check_columns(table: pd.DataFrame, path: Path, needed: Iterable[str]) -> None:
    """Raise ``UserError`` where ``table``, read from ``path``, lacks one of these columns."""
    if missing := [name for name in needed if name not in table.columns]:
        raise UserError(
            f"{path} has no column {listing(missing)} (columns: "
            f"{listing(list(table.columns), 12)})."
        )
