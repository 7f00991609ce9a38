"""Digests of files; those of images are remembered, so that none is read twice."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from xraycomp.data.files import write_csv


def digest_files(paths: Sequence[Path], memory_path: Path, workers: int) -> list[str]:
    """A digest of each file's bytes, equal for equal files.

    The table ``memory_path`` remembers them all, those of an interrupted call too: files that have
    the size and time that stand there are not read again.
    """
    known: dict[tuple[str, int, int], str] = {}
    if memory_path.is_file():
        memory = pd.read_csv(memory_path, dtype={"path": str, "digest": str})
        known = {(path, size, time): digest for path, size, time, digest in memory.to_numpy()}

    def digest(path: Path) -> tuple[tuple[str, int, int], str]:
        state = path.stat()
        stamp = (str(path.resolve()), state.st_size, state.st_mtime_ns)
        return stamp, known.get(stamp) or _digest_file(path)

    found: list[tuple[tuple[str, int, int], str]] = []
    try:
        with ThreadPoolExecutor(workers) as pool:
            for pair in pool.map(digest, paths):
                found.append(pair)
    finally:
        if any(stamp not in known for stamp, _ in found):
            rows = [(*stamp, value) for stamp, value in ({**known, **dict(found)}).items()]
            columns = ["path", "size", "mtime_ns", "digest"]
            write_csv(memory_path, pd.DataFrame(rows, columns=columns))
    return [value for _, value in found]


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
