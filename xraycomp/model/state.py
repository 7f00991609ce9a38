"""Everything that changes while training, and its way into a checkpoint and back."""

from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xraycomp.console.errors import UserError
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import prepare_model
from xraycomp.model.inference import autocast_dtype
from xraycomp.model.optimize import create_optimizer, create_scheduler
from xraycomp.model.stages import first_layer, train_from
from xraycomp.model.stem import GrayModel


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
    ema: AveragedModel | None
    steps: int
    """Optimizer steps an epoch."""
    epoch: int = 0
    """Epochs done, through all stages."""
    stage: int = 0
    """Stages done."""
    stage_start: int = 0
    """Epochs done when the present stage began."""
    best: float = -float("inf")
    best_epoch: int = -1
    progress: Progress = field(default_factory=Progress)

    @property
    def judged(self) -> GrayModel:
        """The network that is validated and kept: the averaged one if there is one."""
        return cast(GrayModel, self.ema.module) if self.ema else self.model


def start_state(
    model: GrayModel, n_train: int, config: TrainConfig, device: torch.device, stage: int = 0
) -> TrainState:
    """Put the network on the device and make what trains it, the same in every process.

    ``stage`` counts the stages that a checkpoint, which will be restored, has behind it.

    Raises ``UserError`` where the training set does not fill one step, and for stages of layers
    that the network does not have.
    """
    steps = n_train // (config.batch_size * config.accumulate)
    if steps == 0:
        raise UserError(
            f"--batch-size {config.batch_size} (times --accumulate {config.accumulate}) is larger "
            f"than the training set of {n_train:,} images. Choose a smaller one."
        )
    stages = config.training_stages()
    for each in stages:
        first_layer(model.body, each.layers)
    prepare_model(model, device.type)
    model = model.to(device).to(memory_format=torch.channels_last)
    average = get_ema_multi_avg_fn(config.ema_decay)  # type: ignore[no-untyped-call]
    stage = min(stage, len(stages) - 1)  # of a finished run, the last
    optimizer, scheduler = _stage_optimizer(model, config, stage, steps)
    return TrainState(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=torch.amp.GradScaler(device.type, enabled=autocast_dtype(device) == torch.float16),
        ema=AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        if config.ema_decay
        else None,
        steps=steps,
    )


def next_stage(state: TrainState, config: TrainConfig) -> None:
    """End the present stage, and let the layers of the next one learn, if there is one."""
    state.stage += 1
    state.stage_start = state.epoch
    if state.stage < len(config.training_stages()):
        state.optimizer, state.scheduler = _stage_optimizer(
            state.model, config, state.stage, state.steps
        )


def _stage_optimizer(
    model: GrayModel, config: TrainConfig, number: int, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """Freeze what does not learn in that stage; an optimizer and a schedule for the rest."""
    stage = config.training_stages()[number]
    train_from(model.body, stage.layers)
    config = replace(config, lr=stage.lr, epochs=stage.epochs)
    optimizer = create_optimizer(model, config)
    return optimizer, create_scheduler(optimizer, config, steps)


def checkpoint(state: TrainState, classes: tuple[str, ...], config: TrainConfig) -> dict[str, Any]:
    """Everything that is needed to go on; ``restore_state`` reads it back."""
    return {
        "model": state.model.state_dict(),
        "mean": state.model.mean,
        "std": state.model.std,
        "activation": state.model.activation,
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "scaler": state.scaler.state_dict(),
        "ema": state.ema.state_dict() if state.ema else None,
        "epoch": state.epoch,
        "stage": state.stage,
        "stage_start": state.stage_start,
        "progress": vars(state.progress),
        "best": state.best,
        "best_epoch": state.best_epoch,
        "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
        "classes": list(classes),
        "config": config.to_json(),
    }


def restore_state(state: TrainState, saved: dict[str, Any], where: str) -> None:
    """Put a checkpoint's values into ``state``. Raises ``UserError`` where they do not fit."""
    try:
        state.model.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scheduler.load_state_dict(saved["scheduler"])
        state.scaler.load_state_dict(saved["scaler"])
        if state.ema:
            state.ema.load_state_dict(saved["ema"])
        state.epoch = saved["epoch"]
        state.stage, state.stage_start = saved["stage"], saved["stage_start"]
        state.best, state.best_epoch = saved["best"], saved["best_epoch"]
        state.progress = Progress(**saved["progress"])
        torch.set_rng_state(saved["rng"]["cpu"])
        for device, rng in zip(
            range(torch.cuda.device_count()), saved["rng"]["cuda"], strict=False
        ):
            torch.cuda.set_rng_state(rng, device)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"{where} is a checkpoint of another model or configuration and cannot be continued "
            "with this one. Train anew."
        ) from error
