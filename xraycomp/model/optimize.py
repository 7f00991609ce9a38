"""Optimizer and learning-rate schedule as the configuration names them."""

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

from xraycomp.model.config import TrainConfig


def create_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """SGD with momentum, Adam or AdamW, without weight decay on norms and biases."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Norm weights and all biases have one dimension; what multiplies activations has more.
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=config.momentum)
    if config.optimizer == "adam":
        return Adam(groups, lr=config.lr)
    return AdamW(groups, lr=config.lr)


def create_scheduler(
    optimizer: Optimizer, config: TrainConfig, steps_per_epoch: int
) -> LRScheduler:
    """The schedule, to be stepped once an optimizer step, ``epochs * steps_per_epoch`` in all."""
    total = config.epochs * steps_per_epoch
    if config.schedule == "onecycle":
        return OneCycleLR(optimizer, config.lr, total_steps=total + 1, cycle_momentum=False)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total - 1)
    rest = total - warmup
    after: LRScheduler
    if config.schedule == "cosine":
        after = CosineAnnealingLR(optimizer, rest)
    elif config.schedule == "step":
        after = MultiStepLR(optimizer, [max(1, rest // 2), max(2, rest * 3 // 4)])
    else:
        after = ConstantLR(optimizer, factor=1.0)
    if warmup == 0:
        return after
    start = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [start, after], milestones=[warmup])
