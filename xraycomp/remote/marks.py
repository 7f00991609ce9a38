"""Marks: by them a submission is known again in Kaggle's list, whoever sent it and when."""

import hashlib
import re
from pathlib import Path

from xraycomp.remote.credentials import redact

_KERNEL = re.compile(r"\[([\w-]+/[\w-]+/\d+)\]")


def file_mark(path: Path) -> str:
    """What tells the file from every other: the first 12 hexadecimal digits of its SHA-256."""
    return sha256(path)[:12]


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def kernel_mark(kernel: str, version: int) -> str:
    """What tells the version of a kernel from every other: ``owner/slug/7``."""
    return f"{kernel}/{version}"


def describe(message: str, mark: str) -> str:
    """The description under which something is sent; by its mark it is known again."""
    return f"{redact(' '.join(message.split()))} [{mark}]"


def bears(description: str, mark: str) -> bool:
    """Whether a description holds the mark that ``describe`` put there."""
    return f"[{mark}]" in description


def marked_kernel(description: str) -> str:
    """The kernel version that a description names, as ``kernel_mark`` gave it; empty if none."""
    found = _KERNEL.search(description)
    return found[1] if found else ""


def without_mark(description: str) -> str:
    """The message alone."""
    return re.sub(r" \[[\w/-]+\]$", "", description)
