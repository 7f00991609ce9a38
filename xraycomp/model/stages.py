"""The stages of a training: what learns in each, for how long, at which rate, by which loss."""

import math
from dataclasses import dataclass

from xraycomp.console.errors import UserError

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
