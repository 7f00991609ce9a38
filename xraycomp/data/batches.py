"""Which images an epoch shows, in which order, as blocks."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xraycomp.data.labels import rarity

BLOCKS_AT_ONCE = 16
"""How many blocks of neighbours are mixed where an epoch goes by blocks. They should fit into the
memory that is free: read once from the disk, they are then shown in random order."""


class Rows(Protocol):
    """Images on disk, or codes that stand for them, one a row."""

    def gather(self, rows: NDArray[np.int64]) -> Any:
        """Copy ``rows`` (int array (n,)) into a new array, or tensor, of shape (n, ...)."""
        ...


@dataclass(frozen=True)
class ImageSet:
    """Some images of a cache with their labels."""

    cache: Rows
    rows: NDArray[np.int64]
    """Rows of the cache, shape (n_images,)."""
    targets: NDArray[np.float32]
    """1 for the classes that an image has, 0 for the others, NaN where that is not known; shape
    (n_images, n_classes)."""

    def __len__(self) -> int:
        return len(self.rows)


def balanced_weights(targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Sampling weights of shape (n_images,), adding up to 1, that draw every class alike.

    ``targets`` as in ``ImageSet``. An image with several classes counts as one of its rarest class
    (else it would be drawn for all of them); images with none are a class of their own.
    """
    kinds = rarity(targets)
    weights: NDArray[np.float64] = 1.0 / np.bincount(kinds)[kinds]
    weights /= weights.sum()
    return weights


def epoch_order(
    n_images: int,
    weights: NDArray[np.float64] | None,
    seed: int,
    epoch: int,
    block: int = 0,
) -> NDArray[np.int64]:
    """The ``n_images`` positions that one epoch shows: int array of shape (n_images,).

    With ``weights`` (shape (n_images,), adding up to 1) positions are drawn with replacement, as
    ``torch.utils.data.WeightedRandomSampler`` does but for any number of images; without, each
    comes once, shuffled. The order depends on ``seed`` and ``epoch`` alone, so a resumed epoch
    goes on where it stopped.

    With ``block`` the same positions come in an order for disks: they are cut into blocks of that
    many neighbours, at other places in each epoch, and the blocks are shuffled; positions are
    shuffled among each ``BLOCKS_AT_ONCE`` blocks that follow each other, as in a shuffle buffer.
    """
    generator = np.random.default_rng([seed, epoch])
    if weights is None:
        order = generator.permutation(n_images)
    else:
        order = generator.choice(n_images, size=n_images, p=weights)
    if not block:
        return order
    block_of = (order + generator.integers(block)) // block
    place = generator.permutation(n_images // block + 2)
    # The sort is stable: within a window the order stays the random one.
    return order[np.argsort(place[block_of] // BLOCKS_AT_ONCE, kind="stable")]
