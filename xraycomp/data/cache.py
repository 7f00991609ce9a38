"""Decode and resize every image once, into one uint8 array on disk."""

import contextlib
import errno
import fcntl
import hashlib
import io
import itertools
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from xraycomp.console.errors import UserError
from xraycomp.data.decode import UNDECODABLE, load_gray, resize_and_crop, why_broken
from xraycomp.data.digests import digest_files
from xraycomp.data.files import write_json, write_text

log = logging.getLogger(__name__)

THUMBNAIL_SIZE = 32
_DECODER = 1  # part of every key: raise it when decoding, resizing or _BLOCK changes
_BLOCK = 32  # neighbouring rows that are decoded in one task
_PROGRESS = "progress.json"
_PAGE = 4096
_MOST_BUFFERS = 128  # in one read: systems take 1,024, and no more than 2 GB
_SECONDS_UNKEPT = 1.0  # about what a killed build has to do again


@dataclass(frozen=True)
class ImageCache:
    """The decoded images of a competition, in the order in which they were asked for.

    ``images.npy`` is a plain array of shape (n_images, size, size), dtype uint8. It can be mapped
    with ``numpy.load(mmap_mode="r")``; training reads rows with ``gather``, whose memory does not
    grow with the number of images as that of a touched mapping does.
    """

    folder: Path
    size: int
    n_images: int
    digests: tuple[str, ...]
    """Digest of each file's bytes: equal for exact copies."""
    broken: dict[int, str]
    """Row -> reason, for files that do not decode; their pixels are 0."""
    read_ahead: int = 0
    """Wanted rows that are at most this far apart are read from the disk with all between them."""

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy ``rows`` (int array (n,)) into a new uint8 array of shape (n, size, size)."""
        block = np.empty((len(rows), self.size, self.size), dtype=np.uint8)
        stride = self.size * self.size
        order = np.argsort(rows)
        wanted, buffers = rows[order], [block[place].data for place in order.tolist()]
        with (self.folder / "images.npy").open("rb", buffering=0) as file:
            start = os.fstat(file.fileno()).st_size - self.n_images * stride
            if self.read_ahead and len(rows) and hasattr(os, "posix_fadvise"):  # macOS has none
                # Told of them, the system reads what lies between too, in large pieces, and keeps
                # it for the batches that follow: many times as fast on slow disks.
                for first, stop in _runs(wanted, self.read_ahead):
                    offset, length = wanted[first], wanted[stop - 1] + 1 - wanted[first]
                    place = start + int(offset) * stride, int(length) * stride
                    os.posix_fadvise(file.fileno(), *place, os.POSIX_FADV_WILLNEED)
            for first, stop in _runs(wanted, 1):
                for begin in range(first, stop, _MOST_BUFFERS):
                    part = buffers[begin : min(begin + _MOST_BUFFERS, stop)]
                    read = os.preadv(file.fileno(), part, start + int(wanted[begin]) * stride)
                    if read < len(part) * stride:
                        raise OSError(errno.EIO, "the file is cut short", file.name)
        return block

    def thumbnails(self) -> NDArray[np.uint8]:
        """Every image at 32 px: a mapped uint8 array of shape (n_images, 32, 32)."""
        mapped: NDArray[np.uint8] = np.load(self.folder / "thumbnails.npy", mmap_mode="r")
        return mapped


def _runs(rows: NDArray[np.int64], gap: int) -> Iterator[tuple[int, int]]:
    """Where the sorted ``rows`` fall into runs of which each row is 1 to ``gap`` after the last."""
    steps = np.diff(rows)
    cuts = np.flatnonzero((steps > gap) | (steps == 0)) + 1
    return itertools.pairwise([0, *cuts.tolist(), len(rows)])


def build_cache(
    paths: Sequence[Path],
    cache_dir: Path,
    size: int,
    *,
    workers: int | None = None,
) -> ImageCache:
    """Decode ``paths`` to (n_images, ``size``, ``size``) uint8, or find that this was done before.

    The folder below ``cache_dir`` is named after the contents of the files, their order and
    ``size``: a changed file or size builds anew, a touched or moved one does not. It gets its name
    when it is complete. An interrupted build, whether stopped, killed or cut off from power, leaves
    a folder ``*.partial`` with which the next one goes on; a failed one (a full disk) leaves
    nothing. Of several processes one builds, and the others wait for it. Files that do not decode
    are listed in ``broken``.
    """
    if size < 1:
        raise UserError(f"The image size is {size}; it must be at least 1 pixel.")
    workers = workers or joblib.cpu_count()
    digests = digest_files(paths, cache_dir / "digests.csv", workers)
    key = hashlib.blake2b("\n".join([str(_DECODER), *digests]).encode(), digest_size=8).hexdigest()
    folder = cache_dir / f"{key}-{size}px"
    if not folder.is_dir():
        with _one_at_a_time(cache_dir):
            if not folder.is_dir():
                _build(paths, folder, size, workers)
    broken = {
        int(row): why
        for row, why in json.loads((folder / "broken.json").read_text(encoding="utf-8")).items()
    }
    return ImageCache(folder, size, len(paths), tuple(digests), broken)


@contextlib.contextmanager
def _one_at_a_time(cache_dir: Path) -> Iterator[None]:
    """Wait until no other process builds in ``cache_dir``. The lock of one that died is gone."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("Another process decodes images into %s: waiting for it.", cache_dir)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(paths: Sequence[Path], folder: Path, size: int, workers: int) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    try:
        broken = _decode_all(paths, partial, size, workers)
        write_json(partial / "broken.json", {str(row): why for row, why in broken.items()})
        _sync(partial / "broken.json")
        (partial / _PROGRESS).unlink()
        partial.rename(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        # A write to an open file does not say which file it was; the user needs the name.
        error.filename = error.filename or str(folder)
        raise


def _decode_all(paths: Sequence[Path], folder: Path, size: int, workers: int) -> dict[int, str]:
    """Decode what is not yet in ``folder``, block by block; broken rows and why."""
    # First row of each finished block -> the broken rows in it.
    finished = _read_progress(folder / _PROGRESS)
    missing = [first for first in range(0, len(paths), _BLOCK) if first not in finished]
    n_finished = sum(min(_BLOCK, len(paths) - first) for first in finished)
    if finished:
        counts = f"{n_finished:,} of {len(paths):,}"
        log.info("Going on with an interrupted build: %s images are decoded.", counts)
    with (
        _open_array(folder / "images.npy", (len(paths), size, size)) as images,
        _open_array(folder / "thumbnails.npy", (len(paths), *[THUMBNAIL_SIZE] * 2)) as thumbnails,
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(paths), initial=n_finished, unit="img", desc=f"Decode to {size} px") as bar,
    ):
        files, starts = (images, thumbnails), (images.tell(), thumbnails.tell())

        def decode(first: int) -> tuple[int, dict[str, str]]:
            # Threads suffice: PIL decodes and resizes without Python's lock. Rows are written
            # with pwrite and not through a mapping, where a full disk would kill the process.
            broken = {}
            for row in range(first, min(first + _BLOCK, len(paths))):
                try:
                    gray = load_gray(paths[row])
                except UNDECODABLE as error:
                    broken[str(row)] = why_broken(paths[row], error)
                    continue
                thumbnail = gray.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
                pictures = resize_and_crop(gray, size), thumbnail
                for file, start, picture in zip(files, starts, pictures, strict=True):
                    pixels = picture.tobytes()
                    _write_at(file.fileno(), pixels, start + row * len(pixels))
            return first, broken

        def keep_progress() -> None:
            # Pixels first, so that after a power cut no block counts that is not on the disk.
            for file in files:
                os.fsync(file.fileno())
            write_text(folder / _PROGRESS, json.dumps(finished))

        kept = time.monotonic()
        tasks = [pool.submit(decode, first) for first in missing]
        try:
            for task in as_completed(tasks):
                first, broken = task.result()
                finished[first] = broken
                bar.update(min(_BLOCK, len(paths) - first))
                if time.monotonic() - kept > _SECONDS_UNKEPT:
                    keep_progress()
                    kept = time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
            keep_progress()
    return {int(row): finished[first][row] for first in sorted(finished) for row in finished[first]}


def _read_progress(path: Path) -> dict[int, dict[str, str]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # after a power cut it may be empty
        return {}
    return {int(first): broken for first, broken in found.items()}


def _open_array(path: Path, shape: tuple[int, ...]) -> io.BufferedRandom:
    """Open a .npy file at the first of its values, which stay as they are; new ones are 0.

    The header fills a page of memory, so that images of 64, 128, 256 px share no page. A shared one
    is read twice, so the system keeps it and next time reads image by image around it.
    """
    path.touch()
    file = path.open("r+b")
    start, length = np.lib.format.magic(1, 0), (_PAGE - 10).to_bytes(2, "little")
    header = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    file.write((start + length + header).ljust(_PAGE - 1) + b"\n")
    file.truncate(file.tell() + math.prod(shape))
    return file


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_at(file: int, content: bytes, offset: int) -> None:
    # On a disk that is nearly full a write may be cut short; the next one then fails with a reason.
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written
