"""What a film shows before anyone looks at the chest: its size, its brightness, its border."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from xraycomp.data.cache import THUMBNAIL_SIZE
from xraycomp.data.dataset import Dataset
from xraycomp.data.labels import is_labelled

MOST_TRAINING_IMAGES = 4000
"""Of the training split, which may have a hundred thousand, so many are measured."""


def measure_images(dataset: Dataset, root: Path, workers: int | None = None) -> pd.DataFrame:
    """Measure the labelled validation and test images, and a sample of the training split.

    Returns a table with the columns ``image``, ``split``, ``width`` and ``height`` (of the file, in
    pixels) and ``brightness`` (mean of the whole film, 0 to 255), in the manifest's order. Files
    are opened only for their headers; the rest comes from the cache's thumbnails.
    """
    manifest = dataset.manifest
    known = is_labelled(manifest["label"])
    train = np.flatnonzero((manifest["split"] == "train") & known)
    if len(train) > MOST_TRAINING_IMAGES:
        train = np.random.default_rng(0).choice(train, MOST_TRAINING_IMAGES, replace=False)
    others = np.flatnonzero(manifest["split"].isin(["val", "test"]) & known)
    rows = np.sort(np.concatenate([train, others]))
    table = manifest[["image", "split"]].iloc[rows].reset_index(drop=True)
    sizes = read_sizes([root / path for path in manifest["path"].iloc[rows]], workers)
    thumbnails = dataset.cache.thumbnails()[rows]
    return table.assign(
        width=sizes[:, 0], height=sizes[:, 1], brightness=thumbnails.mean(axis=(1, 2))
    )


def read_sizes(paths: list[Path], workers: int | None = None) -> NDArray[np.int64]:
    """Width and height of image files by their headers: int array of shape (n, 2)."""

    def read(path: Path) -> tuple[int, int]:
        with Image.open(path) as image:
            return image.size

    with ThreadPoolExecutor(workers) as pool:
        sizes = list(pool.map(read, paths))
    return np.array(sizes, dtype=np.int64).reshape(-1, 2)


def border_pixels(thumbnails: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The outermost pixels of whole films at 32 px: from (n, 32, 32) to floats of (n, 124).

    Each stands for a square of one 32nd of the film's sides.
    """
    ring = np.ones((THUMBNAIL_SIZE, THUMBNAIL_SIZE), dtype=np.bool_)
    ring[1:-1, 1:-1] = False
    return thumbnails[:, ring].astype(np.float64)
