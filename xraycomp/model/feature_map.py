"""Where a network keeps a feature map that can show places, and where in the film its cells look.

Both are seen on a blank film that is sent through the network.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xraycomp.console.errors import UserError
from xraycomp.data.heat import Grid
from xraycomp.model.stem import GrayModel

FEWEST_CELLS = 7
"""A side of a feature map, in cells: what most networks end in at the 224 px that they are made
for. On smaller images the last map may have 2 or 4, too few to show a place; then the last one that
is fine enough serves."""


@dataclass(frozen=True)
class Layer:
    """A feature map that all of the network after it is computed from, and from nothing else."""

    name: str
    """The module of the network's body whose output it is."""
    channels_last: bool
    """Whether it has the shape (batch, height, width, channels), as in timm's Swin."""
    grid: Grid


@dataclass(frozen=True)
class _Call:
    """A module's turn in the forward pass: the shapes that went in and came out."""

    name: str
    module: nn.Module
    inside: tuple[int, ...]
    outside: tuple[int, ...]


def find_layer(model: GrayModel, image_size: int, fewest_cells: int = FEWEST_CELLS) -> Layer:
    """The last feature map of at least ``fewest_cells`` a side, else the last of all.

    With 1 it is the one that the network pools.

    Raises ``UserError`` for a network that does not end in a feature map.
    """
    calls = _trace(model, image_size)
    pool = model.parts.pool or _pool_in_classifier(model.body)
    place = next((i for i, call in enumerate(calls) if pool and call.name == pool), None)
    pooled = calls[place] if place is not None else None
    if pooled is None or len(pooled.inside) != 4:
        raise UserError(
            f"{model.arch} does not end in a feature map that a layer of its own pools "
            "(transformers carry tokens there), so there are no heat maps of it; choose another "
            "--arch."
        )
    channels_last = pooled.outside[1] != pooled.inside[1]
    axis = 1 if channels_last else 2  # of the height
    before = [call for call in calls[:place] if not call.name.startswith(f"{pool}.")]
    for cells in (fewest_cells, pooled.inside[axis]):
        found = _last_cut(model, before, image_size, axis, cells)
        if found is not None:
            grid = _grid(calls[: calls.index(found) + 1], image_size, found.outside[axis])
            return Layer(found.name, channels_last, grid)
    raise UserError(
        f"{model.arch} has no feature map through which all goes that it sees, so there are no "
        "heat maps of it; choose another --arch."
    )


def _pool_in_classifier(body: nn.Module) -> str:
    """The pooling of networks that have it in their classifier (SqueezeNet, MaxViT)."""
    names = [
        name
        for name, module in body.named_modules()
        if name.startswith("classifier.") and isinstance(module, nn.AdaptiveAvgPool2d)
    ]
    return names[-1] if names else ""


def _blank(model: GrayModel, image_size: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.zeros(1, 1, image_size, image_size, device=device)


def _trace(model: GrayModel, image_size: int) -> list[_Call]:
    """The calls of all modules of the body in the order in which they end."""
    calls: list[_Call] = []
    hooks = []
    for name, module in model.body.named_modules():

        def look(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                calls.append(_Call(name, module, tuple(args[0].shape), tuple(output.shape)))

        hooks.append(module.register_forward_hook(look))
    model.eval()
    try:
        with torch.no_grad():
            model(_blank(model, image_size))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _last_cut(
    model: GrayModel, calls: Sequence[_Call], image_size: int, axis: int, cells: int
) -> _Call | None:
    """The last of the ``calls`` with a map of so many cells through which everything goes."""
    names = [call.name for call in calls]
    for call in reversed(calls):
        fine = len(call.outside) == 4 and call.outside[axis] >= cells
        # A module that works several times (a shared ReLU) is no one place.
        once = call.name and names.count(call.name) == 1
        if fine and once and _is_cut(model, call.name, image_size):
            return call
    return None


def _is_cut(model: GrayModel, name: str, image_size: int) -> bool:
    """Whether all that the logits know of the film comes through the output of this module."""
    module = model.body.get_submodule(name)
    hook = module.register_forward_hook(lambda module, args, output: output.detach())
    try:
        with frozen(model), torch.enable_grad():
            logits = model(_blank(model, image_size).requires_grad_())
    finally:
        hook.remove()
    return not logits.requires_grad


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Let no parameter have a gradient meanwhile, so that only what is asked for makes a graph."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _grid(calls: Sequence[_Call], image_size: int, cells: int) -> Grid:
    """Where the map that the last of the ``calls`` gives looks: the centres of receptive fields.

    A convolution with kernel k, stride s and padding p centres its cell i on the input
    ``s i + (k - 1) / 2 - p``. With k = 3, s = 2, p = 1 that is ``2 i`` and not the middle of two
    pixels: after five such steps cells of 32 px are centred half a cell further up and left than if
    they parted the film evenly (Alsallakh et al., "Mind the Pad", ICLR 2021). Where the course of
    the sizes cannot be followed they are taken to part it evenly.
    """
    size, first, step = image_size, 0.0, 1.0
    for call in calls:
        kernel = _number(call.module, "kernel_size")
        # Of branches beside each other the first that ends says how the size changes.
        if not kernel or len(call.inside) != 4 or call.inside[2] != size:
            continue
        after = call.outside[2]
        if after != size:
            stride = _number(call.module, "stride") or 1
            reach = (kernel - 1) * (_number(call.module, "dilation") or 1)
            padding = _number(call.module, "padding")
            if not padding:  # TensorFlow's, which stands in no attribute
                padding = max(0, (after - 1) * stride + reach + 1 - size) // 2
            first += (reach / 2 - padding) * step
            step, size = step * stride, after
    if size != cells:
        return Grid(0.5 / cells, 1 / cells)
    return Grid((first + 0.5) / image_size, step / image_size)


def _number(module: nn.Module, key: str) -> int:
    """An attribute of a convolution or pooling along the height; 0 where it is no number."""
    value = getattr(module, key, 0)
    value = value[0] if isinstance(value, tuple) else value
    return value if isinstance(value, int) else 0
