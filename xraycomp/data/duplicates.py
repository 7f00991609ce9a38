"""Find exact and near copies of images: the leaks that make a validation score too good."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from xraycomp.data.cache import ImageCache

MAX_DISTANCE = 12
"""Near copies differ in at most this many of the hash's 255 bits. Re-encoded, resized and slightly
brightened copies differ in fewer than 10; on 9,455 chest X-rays no two pictures of different
patients differed in fewer than 18."""

_SIDE = 16  # the hash keeps the lowest 16 x 16 frequencies
_MAX_NEIGHBOURS = 200  # compared per image and band, so that thousands of blank images stay cheap
_ROWS_AT_ONCE = 4096


def find_copies(cache: ImageCache) -> pd.DataFrame:
    """Pairs of images that are copies of each other.

    Returns a table with the columns ``a`` and ``b`` (rows of the cache, a < b) and ``kind``:
    ``exact`` for files of equal bytes, else ``near`` for perceptual hashes within
    ``MAX_DISTANCE`` bits. Of several copies each is paired with one that is already listed.
    """
    # Broken images are black in the cache; they must not stand between two that are black.
    whole = np.setdiff1d(np.arange(cache.n_images), list(cache.broken)).astype(np.int64)
    exact = _chain(pd.factorize(np.asarray(cache.digests, dtype=object)[whole])[0])
    hashes = perceptual_hashes(cache.thumbnails())[whole]
    unique, first, same = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    near = np.concatenate([_chain(same), first[_near_pairs(unique)]])
    found = whole[np.concatenate([exact, near])]
    pairs = pd.DataFrame(np.sort(found, axis=1), columns=["a", "b"])
    pairs["kind"] = ["exact"] * len(exact) + ["near"] * len(near)
    return pairs.drop_duplicates(["a", "b"]).sort_values(["a", "b"], ignore_index=True)


def copy_groups(copies: pd.DataFrame, n_images: int) -> NDArray[np.int64]:
    """One number a group of copies, shape (n_images,): what must stay on one side of a split."""
    ones = np.ones(len(copies), dtype=np.int8)
    graph = coo_array((ones, (copies["a"], copies["b"])), shape=(n_images, n_images))
    _, groups = connected_components(graph, directed=False)
    numbers: NDArray[np.int64] = groups.astype(np.int64)
    return numbers


def perceptual_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The pHash of each thumbnail, packed: uint8 of shape (n_images, 32).

    The signs of the lowest 255 frequencies of the cosine transform about their median (Zauner,
    *Implementation and benchmarking of perceptual image hash functions*, 2010).
    """
    hashes = []
    for start in range(0, len(thumbnails), _ROWS_AT_ONCE):
        block = thumbnails[start : start + _ROWS_AT_ONCE].astype(np.float32)
        low = dctn(block, axes=(1, 2), norm="ortho")[:, :_SIDE, :_SIDE]
        # Without the first coefficient, the mean: brightness is not content.
        low = low.reshape(len(block), -1)[:, 1:]
        hashes.append(np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1))
    return np.concatenate(hashes)


def describe_copies(copies: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """The table for ``duplicates.csv``: kind, then image, label, patient and split of both."""
    columns = ["image", "label", "patient", "split"]
    sides = [
        manifest.iloc[copies[side]][columns].add_suffix(f"_{side}").reset_index(drop=True)
        for side in ("a", "b")
    ]
    return pd.concat([copies["kind"].reset_index(drop=True), *sides], axis=1)


def read_copies(described: pd.DataFrame, manifest: pd.DataFrame) -> pd.DataFrame:
    """What `find_copies` gave, from the table that `describe_copies` made of it.

    The ``manifest`` may be parted otherwise than that of then, but for its test images.
    """
    # An id may stand for a training image and for a test image too.
    rows = pd.MultiIndex.from_arrays([manifest["image"], manifest["split"] == "test"])
    sides = {
        side: rows.get_indexer(
            pd.MultiIndex.from_arrays(
                [described[f"image_{side}"], described[f"split_{side}"] == "test"]
            )
        )
        for side in ("a", "b")
    }
    return pd.DataFrame({**sides, "kind": described["kind"].to_numpy()})


def count_copies(described: pd.DataFrame) -> str:
    """One line for the log: how many copies of which kind lie within and between the splits."""
    if described.empty:
        return "Leak check: no copies."
    kinds = described["kind"].value_counts()
    both = zip(described["split_a"], described["split_b"], strict=True)
    pairs = [(min(pair), max(pair)) for pair in both]
    where = [
        f"{count:,} within {one}" if one == other else f"{count:,} between {one} and {other}"
        for (one, other), count in Counter(pairs).most_common()
    ]
    return (
        f"Leak check: {kinds.get('exact', 0):,} exact and {kinds.get('near', 0):,} near copies "
        f"({'; '.join(where)}), listed in duplicates.csv."
    )


def _chain(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs (n, 2) that join each position with the one before it that has the same number."""
    order = np.argsort(numbers, kind="stable")
    equal = numbers[order][1:] == numbers[order][:-1]
    return np.stack([order[:-1][equal], order[1:][equal]], axis=1)


def _near_pairs(hashes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pairs (n, 2) of rows within ``MAX_DISTANCE`` bits.

    Of MAX_DISTANCE + 1 bands of the hash, two such rows share at least one whole; so only rows
    that are equal in a band are compared.
    """
    bands: Sequence[NDArray[np.uint8]] = np.array_split(
        np.unpackbits(hashes, axis=1)[:, :255], MAX_DISTANCE + 1, axis=1
    )
    found = [np.empty((0, 2), dtype=np.int64)]
    for band in bands:
        key = band.astype(np.int64) @ (1 << np.arange(band.shape[1], dtype=np.int64))
        order = np.argsort(key, kind="stable")
        key = key[order]
        for offset in range(1, _MAX_NEIGHBOURS):
            equal = np.flatnonzero(key[offset:] == key[:-offset])
            if len(equal) == 0:
                break
            a, b = order[equal], order[equal + offset]
            distance = np.bitwise_count(hashes[a] ^ hashes[b]).sum(axis=1, dtype=np.int64)
            close = distance <= MAX_DISTANCE
            found.append(np.stack([a[close], b[close]], axis=1))
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
