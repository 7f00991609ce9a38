"""What is to be submitted, and the mark by which it is known again in Kaggle's list."""

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

from xraycomp.data.digests import sha256_file
from xraycomp.remote.credentials import redact

_FILE = r"\[[0-9a-f]{12}\]$"
_KERNEL = r"\[([\w-]+/[\w-]+/\d+)/[^\]]+\]$"


@dataclass(frozen=True)
class LocalFile:
    """A checked submission file on this machine."""

    path: Path

    def __str__(self) -> str:
        """What it is called in sentences."""
        return str(self.path)

    @property
    def file(self) -> str:
        """The file's name."""
        return self.path.name

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file, in hexadecimal digits."""
        return sha256_file(self.path)

    @property
    def mark(self) -> str:
        """What tells the file from every other: the first 12 digits of its SHA-256."""
        return self.sha256[:12]

    @property
    def identity(self) -> dict[str, str]:
        """The columns of a ledger row by which it is known again."""
        return {"sha256": self.sha256}


@dataclass(frozen=True)
class KernelOutput:
    """An output file of a kernel's version, for a code competition."""

    kernel: str
    """``owner/slug``."""
    version: int
    file: str

    def __str__(self) -> str:
        """What it is called in sentences."""
        return f"{self.file} of kernel {self.kernel}, version {self.version}"

    @property
    def mark(self) -> str:
        """What tells it from every other output: ``owner/slug/7/submission.csv``."""
        return f"{self.kernel}/{self.version}/{self.file}"

    @property
    def identity(self) -> dict[str, str]:
        """The columns of a ledger row by which it is known again."""
        return {"file": self.file, "kernel_version": f"{self.kernel}/{self.version}"}


@dataclass(frozen=True)
class Draft:
    """A submission that is not sent yet."""

    competition: str
    """Slug on Kaggle."""
    message: str
    content: LocalFile | KernelOutput
    known: dict[str, str] = field(default_factory=dict)
    """Columns of its ledger row that the run knows: run, commit, validation scores."""

    @property
    def description(self) -> str:
        """What Kaggle's list will say of it: the message, without secrets, and the mark."""
        return f"{redact(' '.join(self.message.split()))} [{self.content.mark}]"

    @property
    def row(self) -> dict[str, str]:
        """Its ledger row, as far as it is known before it is sent."""
        own = {"competition": self.competition, "file": self.content.file}
        return own | self.content.identity | self.known


def bears(description: str, mark: str) -> bool:
    """Whether a description of Kaggle's list holds the mark."""
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
