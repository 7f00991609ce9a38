"""Which commit the running code is of."""

import os
import subprocess
from pathlib import Path

import xraycomp

COMMIT_VARIABLE = "XRAYCOMP_COMMIT"
"""Set by a built kernel, whose unpacked code lies in no checkout."""


def source_commit() -> str | None:
    """The commit of the package's sources, ``-dirty`` if changed; None where they are no checkout.

    A package that is installed inside somebody else's repository is not of that repository.
    """
    if told := os.environ.get(COMMIT_VARIABLE):
        return told
    source = Path(xraycomp.__file__)
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None
    return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None
