"""Optimizer and learning-rate schedule as the configuration names them."""

import math

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from xraycomp.model.config import TrainConfig
from xraycomp.model.stages import Stage


def create_optimizer(model: nn.Module, config: TrainConfig, stage: Stage) -> Optimizer:
    """SGD with momentum, Adam or AdamW for all that learns; norms and biases do not decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Norm weights and all biases have one dimension; what multiplies activations has more.
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    # One kernel for all that an update does: three times as fast on the CPU, and on a GPU it does
    # not wait to know whether a gradient has overflowed.
    fused = parameters[0].device.type in ("cpu", "cuda")
    if config.optimizer == "sgd":
        sgd = SGD(groups, lr=stage.lr, momentum=config.momentum, fused=fused)
        if config.momentum:
            # Else what lay in memory, should the first step overflow and be left out.
            for parameter in parameters:
                sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return sgd
    if config.optimizer == "adam":
        return Adam(groups, lr=stage.lr, fused=fused)
    return AdamW(groups, lr=stage.lr, fused=fused)


def create_scheduler(
    optimizer: Optimizer, config: TrainConfig, stage: Stage, steps_per_epoch: int
) -> LRScheduler:
    """The stage's schedule, to be stepped once an optimizer step, through all of its epochs."""
    total = stage.epochs * steps_per_epoch
    if config.schedule == "onecycle":
        return OneCycleLR(optimizer, stage.lr, total_steps=total + 1, cycle_momentum=False)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    rest = total - warmup
    divided_at = (max(1, rest // 2), max(2, rest * 3 // 4))

    def factor(step: int) -> float:
        """What the highest rate is multiplied by after ``step`` steps."""
        if step < warmup:
            return (step + 1) / (warmup + 1)
        step -= warmup
        if config.schedule == "cosine":
            return (1 + math.cos(math.pi * step / rest)) / 2
        if config.schedule == "step":
            return math.prod(0.1 for milestone in divided_at if step >= milestone)
        return 1.0

    return LambdaLR(optimizer, factor)
