"""Marks: by them a submission is known again in Kaggle's list, whoever sent it and when."""

import hashlib
import re
from pathlib import Path

from xraycomp.remote.credentials import redact

_FILE = r"\[[0-9a-f]{12}\]$"
_KERNEL = r"\[([\w-]+/[\w-]+/\d+)/[^\]]+\]$"


def file_mark(path: Path) -> str:
    """What tells the file from every other: the first 12 hexadecimal digits of its SHA-256."""
    return sha256(path)[:12]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kernel_mark(kernel: str, version: int, file: str) -> str:
    """What tells an output of a kernel's version from others: ``owner/slug/7/submission.csv``."""
    return f"{kernel}/{version}/{file}"


def describe(message: str, mark: str) -> str:
    """The description under which something is sent; by its mark it is known again."""
    return f"{redact(' '.join(message.split()))} [{mark}]"


def bears(description: str, mark: str) -> bool:
    """Whether a description holds the mark that ``describe`` put there."""
    return f"[{mark}]" in description


def marks_a_file(description: str) -> bool:
    """Whether a description ends with the mark of a file, whichever."""
    return re.search(_FILE, description) is not None


def marked_kernel(description: str) -> str:
    """The kernel version that a description's mark names (``owner/slug/7``); empty if none."""
    found = re.search(_KERNEL, description)
    return found[1] if found else ""


def without_mark(description: str) -> str:
    """The message alone."""
    return re.sub(f"({_FILE}|{_KERNEL})", "", description).rstrip()
