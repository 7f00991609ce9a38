"""Training in stages: which part of a network learns, for how long and at which rate."""

import math
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from xraycomp.console.errors import UserError, listing

HEAD = "head"
ALL = "all"
FORM = 'stages are written "layers:lr:epochs", as "head:0.001:2 layer4:0.0005:3 all:0.0001:5"'


@dataclass(frozen=True)
class Stage:
    """One part of the training."""

    layers: str
    """``head``, ``all``, or the name of a layer: it and all that come after it learn."""
    lr: float
    """Highest learning rate."""
    epochs: int
    """Passes over the training set."""
    loss: str
    """Name of the loss."""


def parse_stages(text: str, loss: str) -> tuple[Stage, ...]:
    """Read stages parted by spaces, each ``layers:lr:epochs`` or ``layers:lr:epochs:loss``.

    Without a loss of its own a stage has ``loss``. Raises ``UserError`` for anything else.
    """
    stages = []
    for part in text.split():
        layers, *numbers = part.split(":")
        try:
            lr, epochs = float(numbers[0]), int(numbers[1])
            well = bool(layers) and 0 <= lr < math.inf and epochs >= 1 and len(numbers) <= 3
        except (ValueError, IndexError):
            well = False
        if not well:
            raise UserError(f"--stages: {part!r} is no stage; {FORM}.")
        stages.append(Stage(layers, lr, epochs, numbers[2] if len(numbers) == 3 else loss))
    return tuple(stages)


def first_layer(body: nn.Module, layers: str) -> str:
    """The name of the first module of ``body`` that learns in a stage of ``layers``.

    ``head`` is the last part of the network that has weights: the classifier with all its layers.

    Raises ``UserError`` for a name that the network does not have.
    """
    if layers == ALL:
        return ""
    if layers == HEAD:
        return [name for name, child in body.named_children() if _has_weights(child)][-1]
    weighted = [name for name, module in body.named_modules() if name and _has_weights(module)]
    if layers not in weighted:
        close = get_close_matches(layers, weighted, n=1)
        meant = f"; did you mean {close[0]}?" if close else "."
        parts = [name for name in weighted if "." not in name]
        raise UserError(
            f"--stages: the network has no layer {layers}{meant} Choose head, all, or one that "
            f"is to learn with all that follow it, such as {listing(parts, 12)} or a part of one."
        )
    return layers


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def train_from(body: nn.Module, layers: str) -> None:
    """Put ``body`` into training mode from ``layers`` on, and freeze what comes before.

    Modules count in the order in which the network lists them, which is that of the way through
    it. Frozen ones are in evaluation mode (batch norm keeps its statistics, nothing is dropped) and
    their parameters get no gradient.
    """
    first = first_layer(body, layers)
    learns = False
    for name, module in body.named_modules():
        learns = learns or name == first
        # What holds the first learning module is itself in training mode.
        module.training = learns or not name or first.startswith(f"{name}.")
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(learns)
