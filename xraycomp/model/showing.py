"""What of an epoch this process shows its network: its share of each part of a batch, prepared."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from xraycomp.data.batches import ImageSet
from xraycomp.model.augment import prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import shard
from xraycomp.model.epoch import EpochPlan
from xraycomp.model.feed import feed
from xraycomp.model.stem import GrayModel


def own_part(part: int, config: TrainConfig) -> slice:
    """Where in the epoch this process's share of a part of a batch lies."""
    start = part * config.batch_size
    mine = shard(config.batch_size)
    return slice(start + mine.start, start + mine.stop)


def blocks(
    train: ImageSet,
    plan: EpochPlan,
    parts: Iterable[int],
    config: TrainConfig,
    device: torch.device,
) -> Iterator[Tensor]:
    """This process's share of each of the ``parts`` of the epoch's batches, with what it is mixed
    with: uint8 (n, side, side), or codes."""
    places = (plan.places(own_part(part, config)) for part in parts)
    return feed(train.cache, (train.rows[plan.order[each]] for each in places), device)


def show(
    block: Tensor, plan: EpochPlan, mine: slice, config: TrainConfig, model: GrayModel
) -> Tensor:
    """A block as the network learns from it: float32 (n, 1, size, size); ``mine`` is where in the
    epoch it lies."""
    places = torch.from_numpy(plan.places(mine)).to(block.device, non_blocking=True)
    images = prepare(block, config, model.mean, model.std, plan.draws[places])
    return plan.mix(images, mine).contiguous(memory_format=torch.channels_last)
