"""Which images an epoch shows, in which order, as blocks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xraycomp.data.labels import rarity


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
    n_images: int, weights: NDArray[np.float64] | None, seed: int, epoch: int
) -> NDArray[np.int64]:
    """The ``n_images`` positions that one epoch shows: int array of shape (n_images,).

    With ``weights`` (shape (n_images,), adding up to 1) positions are drawn with replacement, as
    ``torch.utils.data.WeightedRandomSampler`` does but for any number of images; without, each
    comes once, shuffled. The order depends on ``seed`` and ``epoch`` alone, so a resumed epoch
    goes on where it stopped.
    """
    generator = np.random.default_rng([seed, epoch])
    if weights is None:
        return generator.permutation(n_images)
    return generator.choice(n_images, size=n_images, p=weights)


def whole_batches(
    order: NDArray[np.int64], batch_size: int, start: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Cut ``order`` into batches of exactly ``batch_size`` from batch ``start`` on.

    The rest that fills no batch is left out: a batch of one breaks batch norm.
    """
    for batch in range(start, len(order) // batch_size):
        yield order[batch * batch_size : (batch + 1) * batch_size]
