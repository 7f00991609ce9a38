"""Which commit the running code is of."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import xraycomp

COMMIT_VARIABLE = "XRAYCOMP_COMMIT"
"""Set by a built kernel, whose unpacked code lies in no checkout."""


def source_commit(others: Sequence[Path] = ()) -> str | None:
    """The commit of the package's sources and ``others``; None where they are no checkout.

    ``-dirty`` is added where one of these files is changed, or is not of that commit; what else
    lies in the checkout does not count. A package that is installed inside somebody else's
    repository is not of that repository.
    """
    if told := os.environ.get(COMMIT_VARIABLE):
        return told
    source = Path(xraycomp.__file__)
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = _git(source.parent, "rev-parse", "HEAD")
    files = [str(source.parent), *(str(path.resolve()) for path in others)]
    # Both fail for a file outside the repository, and for one that it does not know.
    known = _git(source.parent, "ls-files", "--error-unmatch", "--", *files)
    unchanged = known and _git(source.parent, "status", "--porcelain", "--", *files) == ""
    return commit if not commit or unchanged else f"{commit}-dirty"


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
