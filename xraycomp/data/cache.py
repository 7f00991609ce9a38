"""Decode and resize every image once, into one uint8 array on disk."""

import hashlib
import io
import json
import logging
import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from xraycomp.console.errors import UserError
from xraycomp.data.files import atomic_folder, write_csv, write_json

log = logging.getLogger(__name__)

THUMBNAIL_SIZE = 32
UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What PIL raises for files that are no image, cut off, or too large to be one."""

_DECODER = 1  # part of every key: raise it when decoding or resizing changes
_ROWS_PER_TASK = 32


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

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy ``rows`` (int array (n,)) into a new uint8 array of shape (n, size, size)."""
        block = np.empty((len(rows), self.size, self.size), dtype=np.uint8)
        stride = self.size * self.size
        with (self.folder / "images.npy").open("rb", buffering=0) as file:
            start = os.fstat(file.fileno()).st_size - self.n_images * stride
            for image, row in zip(block, rows.tolist(), strict=True):
                os.preadv(file.fileno(), [image.data], start + row * stride)
        return block

    def thumbnails(self) -> NDArray[np.uint8]:
        """Every image at 32 px: a mapped uint8 array of shape (n_images, 32, 32)."""
        mapped: NDArray[np.uint8] = np.load(self.folder / "thumbnails.npy", mmap_mode="r")
        return mapped


def load_gray(path: Path) -> Image.Image:
    """Decode an image file to 8-bit gray (mode ``L``).

    Colour is converted by luma (ITU-R 601-2), a palette through its colours; transparency is
    dropped; 16-bit gray is scaled from 0..65535 to 0..255.

    Raises one of ``UNDECODABLE`` for what is not a whole image.
    """
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            # PIL's own conversion clips at 255 instead of scaling.
            wide = np.asarray(image, dtype=np.float32)
            return Image.fromarray(np.clip(np.rint(wide / 257), 0, 255).astype(np.uint8))
        # A palette is converted by way of its colours.
        return (image.convert("RGB") if image.mode == "P" else image).convert("L")


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` (bilinear, antialiased), then crop the centre square.

    Equal to torchvision's ``Resize(size)`` and ``CenterCrop(size)`` on the PIL image.
    """
    width, height = image.size
    if width <= height:
        new = (size, int(size * height / width))
    else:
        new = (int(size * width / height), size)
    resized = image.resize(new, Image.Resampling.BILINEAR)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    return resized.crop((left, top, left + size, top + size))


def build_cache(
    paths: Sequence[Path],
    cache_dir: Path,
    size: int,
    *,
    workers: int | None = None,
) -> ImageCache:
    """Decode ``paths`` to (n_images, ``size``, ``size``) uint8, or find that this was done before.

    The folder below ``cache_dir`` is named after the contents of the files, their order and
    ``size``: a changed file or size builds anew, a touched or moved one does not. An interrupted
    build leaves nothing behind. Files that do not decode are listed in ``broken``.
    """
    if size < 1:
        raise UserError(f"The image size is {size}; it must be at least 1 pixel.")
    workers = workers or available_cpus()
    digests = _digest_files(paths, cache_dir, workers)
    key = hashlib.blake2b("\n".join([str(_DECODER), *digests]).encode(), digest_size=8).hexdigest()
    folder = cache_dir / f"{key}-{size}px"
    if not folder.is_dir():
        with atomic_folder(folder) as temporary:
            broken = _decode_all(paths, temporary, size, workers)
            write_json(temporary / "broken.json", {str(row): why for row, why in broken.items()})
    broken = {
        int(row): why
        for row, why in json.loads((folder / "broken.json").read_text(encoding="utf-8")).items()
    }
    return ImageCache(folder, size, len(paths), tuple(digests), broken)


def available_cpus() -> int:
    """The number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _decode_all(paths: Sequence[Path], folder: Path, size: int, workers: int) -> dict[int, str]:
    broken: dict[int, str] = {}
    with (
        (folder / "images.npy").open("wb") as images,
        (folder / "thumbnails.npy").open("wb") as thumbnails,
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(paths), unit="img", desc=f"Decode to {size} px") as bar,
    ):
        _start_array(images, (len(paths), size, size))
        _start_array(thumbnails, (len(paths), THUMBNAIL_SIZE, THUMBNAIL_SIZE))
        files, starts = (images, thumbnails), (images.tell(), thumbnails.tell())

        def decode(first: int) -> None:
            # Threads suffice: PIL decodes and resizes without Python's lock. Rows are written
            # with pwrite and not through a mapping, where a full disk would kill the process.
            for row in range(first, min(first + _ROWS_PER_TASK, len(paths))):
                try:
                    gray = load_gray(paths[row])
                except UNDECODABLE as error:
                    broken[row] = _reason(paths[row], error)
                    continue
                thumbnail = gray.resize((THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BOX)
                pictures = resize_and_crop(gray, size), thumbnail
                for file, start, picture in zip(files, starts, pictures, strict=True):
                    pixels = picture.tobytes()
                    _write_at(file.fileno(), pixels, start + row * len(pixels))
            bar.update(min(_ROWS_PER_TASK, len(paths) - first))

        tasks = [pool.submit(decode, first) for first in range(0, len(paths), _ROWS_PER_TASK)]
        try:
            for task in tasks:
                task.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        # Broken images at the end were never written; they are 0 like the others.
        for file, start, side in zip(files, starts, (size, THUMBNAIL_SIZE), strict=True):
            file.truncate(start + len(paths) * side * side)
    return dict(sorted(broken.items()))


def _start_array(file: io.BufferedWriter, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()


def _write_at(file: int, content: bytes, offset: int) -> None:
    # On a disk that is nearly full a write may be cut short; the next one then fails with a reason.
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written


def _reason(path: Path, error: Exception) -> str:
    if path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error) or type(error).__name__


def _digest_files(paths: Sequence[Path], cache_dir: Path, workers: int) -> list[str]:
    """Digests of the files' bytes; files whose size and time are as remembered are not read."""
    memory_path = cache_dir / "digests.csv"
    known: dict[tuple[str, int, int], str] = {}
    if memory_path.is_file():
        memory = pd.read_csv(memory_path, dtype={"path": str, "digest": str})
        known = {(path, size, time): digest for path, size, time, digest in memory.to_numpy()}

    def digest(path: Path) -> tuple[tuple[str, int, int], str]:
        state = path.stat()
        stamp = (str(path.resolve()), state.st_size, state.st_mtime_ns)
        return stamp, known.get(stamp) or _digest_file(path)

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(digest, paths, chunksize=1))
    if any(stamp not in known for stamp, _ in found):
        rows = [(*stamp, value) for stamp, value in ({**known, **dict(found)}).items()]
        columns = ["path", "size", "mtime_ns", "digest"]
        write_csv(memory_path, pd.DataFrame(rows, columns=columns))
    return [value for _, value in found]


def _digest_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
