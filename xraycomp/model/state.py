"""Everything that changes while training."""

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from xraycomp.console.errors import UserError
from xraycomp.model.body import count_codes
from xraycomp.model.config import TrainConfig
from xraycomp.model.device import autocast_dtype
from xraycomp.model.distributed import prepare_model
from xraycomp.model.freezing import first_layer, train_from
from xraycomp.model.losses import check_losses
from xraycomp.model.optimize import create_optimizer, create_scheduler
from xraycomp.model.stem import GrayModel
from xraycomp.model.zoo import check_input_size


@dataclass
class Progress:
    """How far the current epoch has come; kept in the checkpoint to go on in its middle."""

    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    data_seconds: float = 0.0


@dataclass
class TrainState:
    """Everything that changes while training."""

    model: GrayModel
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: torch.amp.GradScaler
    ema: GrayModel | None
    """The exponential moving average of the network's weights and buffers."""
    swa: GrayModel | None
    """The mean of the network's weights after each of the last epochs."""
    steps: int
    """Optimizer steps an epoch."""
    epoch: int = 0
    """Epochs done, through all stages."""
    stage: int = 0
    """Stages done."""
    stage_start: int = 0
    """Epochs done when the present stage began."""
    swa_epochs: int = 0
    """Epochs that the mean is of, up to now."""
    best: float = -float("inf")
    best_epoch: int = -1
    progress: Progress = field(default_factory=Progress)

    @property
    def judged(self) -> GrayModel:
        """The network that is validated and kept: the averaged one if there is one."""
        return self.ema or self.model

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """Let the average follow the network by one step, faster in the first ones: with ``decay``,
        or (1 + t) / (10 + t) after t steps as long as that is less (as TensorFlow's average)."""
        if self.ema is None:
            return
        step = self.epoch * self.steps + self.progress.step
        decay = min(decay, (1 + step) / (10 + step))
        averages, values = self._averaged
        get_ema_multi_avg_fn(decay)(averages, values, None)  # type: ignore[no-untyped-call]

    @cached_property
    def _averaged(self) -> list[list[Tensor]]:
        return [_floats(network) for network in (self.ema, self.model) if network]

    def add_to_swa(self) -> None:
        """Let the mean take in the network as it is after an epoch."""
        if self.swa is not None:
            average: Any = get_swa_multi_avg_fn()  # type: ignore[no-untyped-call]
            average(_floats(self.swa), _floats(self.model), self.swa_epochs)
            self.swa_epochs += 1


def _floats(network: GrayModel) -> list[Tensor]:
    """Weights and statistics, in an order of their own; without batch norm's counters, which
    nothing reads."""
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]


def check_trainable(model: GrayModel, config: TrainConfig) -> None:
    """Raise ``UserError`` for a loss that is not for its labels, stages of layers that it does not
    have, codes that it cannot give, and images of a size that it cannot take."""
    check_losses(config, model.activation)
    for stage in config.training_stages():
        first_layer(model.body, stage.layers)
    if config.codes_epochs:
        count_codes(model.body, model.parts, model.arch)
    epochs = sum(stage.epochs for stage in config.training_stages())
    for size in {config.image_size, *map(config.training_size, range(epochs))}:
        check_input_size(model, size)


def count_steps(n_train: int, config: TrainConfig) -> int:
    """Optimizer steps an epoch. Raises ``UserError`` where the training set does not fill one."""
    steps = n_train // (config.batch_size * config.accumulate)
    if steps == 0:
        raise UserError(
            f"--batch-size {config.batch_size} (times --accumulate {config.accumulate}) is larger "
            f"than the training set of {n_train:,} images. Choose a smaller one."
        )
    return steps


def start_state(
    model: GrayModel, n_train: int, config: TrainConfig, device: torch.device
) -> TrainState:
    """Put the network on the device and make what trains it, the same in every process.

    Raises ``UserError`` as `count_steps` does.
    """
    steps = count_steps(n_train, config)
    prepare_model(model, device.type)
    model = model.to(device).to(memory_format=torch.channels_last)
    optimizer, scheduler = stage_optimizer(model, config, 0, steps)
    return TrainState(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=torch.amp.GradScaler(device.type, enabled=autocast_dtype(device) == torch.float16),
        ema=copy.deepcopy(model).requires_grad_(False) if config.ema_decay else None,
        swa=copy.deepcopy(model).requires_grad_(False) if config.swa_epochs else None,
        steps=steps,
    )


def next_stage(state: TrainState, config: TrainConfig) -> None:
    """End the present stage, and let the layers of the next one learn, if there is one."""
    state.stage += 1
    state.stage_start = state.epoch
    if state.stage < len(config.training_stages()):
        state.optimizer, state.scheduler = stage_optimizer(
            state.model, config, state.stage, state.steps
        )


def stage_optimizer(
    model: GrayModel, config: TrainConfig, number: int, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """Freeze what does not learn in the stage of that number, from 0; an optimizer and a schedule
    for the rest."""
    stage = config.training_stages()[number]
    train_from(model.body, stage.layers)
    optimizer = create_optimizer(model, config, stage)
    return optimizer, create_scheduler(optimizer, config, stage, steps)
