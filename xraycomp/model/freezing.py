"""Freezing: which layers of a network learn in a stage, and which stay as they are."""

from difflib import get_close_matches

from torch import nn

from xraycomp.console.errors import UserError, listing
from xraycomp.model.stages import ALL, HEAD


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
