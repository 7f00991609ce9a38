"""What one epoch shows, in which order and changed how: all of it is known before it begins.

It depends on the settings and the number of the epoch alone. So a run that was stopped goes on as
if it had not been, and processes that train together each prepare their own share.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraycomp.data.batches import ImageSet, epoch_order
from xraycomp.model.augment import Draws, draw
from xraycomp.model.config import TrainConfig


@dataclass(frozen=True)
class EpochPlan:
    """An epoch of n images."""

    order: NDArray[np.int64]
    """Positions in the training set, in the order in which they are shown, shape (n,)."""
    draws: Draws
    """Row i is for the i-th image shown."""
    targets: Tensor
    """What is to be learned from each, on the device: float32 (n, n_classes), NaN for unknown."""
    n_known: NDArray[np.int64]
    """How many classes are known of each, shape (n,)."""
    partners: NDArray[np.int64] | None = None
    """With mixup: places in ``order`` of what each image is mixed with, shape (n,)."""
    lambdas: Tensor | None = None
    """With mixup: the weight of the image itself, on the device: float32 (n,)."""

    def places(self, part: slice) -> NDArray[np.int64]:
        """Places in ``order`` of all that has to be prepared to show ``part`` of it: the images
        and, after them, what they are mixed with.

        These are prepared again where they are shown themselves, so that what is mixed with what
        does not depend on the number of processes.
        """
        own = np.arange(part.start, part.stop)
        return own if self.partners is None else np.concatenate([own, self.partners[part]])

    def mix(self, images: Tensor, part: slice) -> Tensor:
        """The images of ``part``, from those of `places`: float (batch, 1, height, width).

        Mixup (Zhang et al. 2018), with a weight drawn for each image.
        """
        if self.lambdas is None:
            return images
        images, others = images.chunk(2)
        return others.lerp(images, self.lambdas[part, None, None, None])


def plan_epoch(
    train: ImageSet,
    weights: NDArray[np.float64] | None,
    config: TrainConfig,
    epoch: int,
    device: torch.device,
) -> EpochPlan:
    """Draw the epoch of that number, counted from 0; ``weights`` as `epoch_order` takes them."""
    order = epoch_order(len(train), weights, config.seed, epoch, config.shuffle_block)
    generator = np.random.default_rng([config.seed, epoch, 1])  # the order has one of its own
    draws = draw(len(order), config, generator, config.training_size(epoch)).to(device)
    targets, known = train.targets[order], ~np.isnan(train.targets[order])
    partners = lambdas = None
    if config.mixup:
        # What is in the same place of the next batch: as random as the order, and near on disk
        # where that is.
        partners = np.roll(np.arange(len(order)), -config.batch_size)
        weight = generator.beta(config.mixup, config.mixup, len(order)).astype(np.float32)
        targets = weight[:, None] * targets + (1 - weight[:, None]) * targets[partners]
        known &= known[partners]
        lambdas = torch.from_numpy(weight).to(device)
    n_known = np.count_nonzero(known, axis=1)
    return EpochPlan(order, draws, torch.from_numpy(targets).to(device), n_known, partners, lambdas)
