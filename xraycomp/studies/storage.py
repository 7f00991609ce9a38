"""Where a study is kept: a journal in its folder, or a database."""

import contextlib
import fcntl
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xraycomp.console.errors import UserError

JOURNAL = "journal.log"


def find_study(folder: Path, storage: str, *, sampler: Any = None, pruner: Any = None) -> Any:
    """The ``optuna.Study`` of that folder's name, or None."""
    optuna = load_optuna()
    if not storage and not (folder / JOURNAL).is_file():
        return None  # a journal is there from when it is opened
    try:
        return optuna.load_study(
            storage=open_storage(folder, storage),
            study_name=folder.name,
            sampler=sampler,
            pruner=pruner,
        )
    except KeyError:
        return None


def open_storage(folder: Path, url: str) -> Any:
    """The storage, which keeps what it has read: a journal is read to the end once."""
    return _open_database(url) if url else _open_journal(folder.resolve() / JOURNAL)


@functools.cache
def _open_journal(path: Path) -> Any:
    optuna = load_optuna()
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))


@functools.cache
def _open_database(url: str) -> Any:
    try:
        return load_optuna().storages.get_storage(url)
    except Exception as error:  # of SQLAlchemy, its drivers, or the URL's scheme
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(
            f"The storage {url} cannot be opened: {reason}. Check --storage, and whether the "
            "database's Python driver is installed (for postgresql: pip install psycopg2-binary)."
        ) from None


def load_optuna() -> Any:
    """Optuna, silent.

    Raises ``UserError`` where it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "Searching needs Optuna, which is not installed. Install it with: pip install -e "
            "'.[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds ``path``, and hold it."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file gives it free, as does the death of the process
