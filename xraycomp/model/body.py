"""Where a network ends in pooling and a classifier, and what else may stand there.

Networks keep their classes, their ``forward`` and the names of their tensors; only modules at the
two places are exchanged. So weight files fit whatever the end of the network is.
"""

from dataclasses import dataclass

import torch
from torch import nn

from xraycomp.console.errors import UserError
from xraycomp.model.config import Pool
from xraycomp.model.pooling import create_pool

# torchvision's networks that pool in their ``forward``, and the layers before that. What is added
# after these layers leaves a map of one place, which their own average does not change.
_POOL_IN_FORWARD = {
    "DenseNet": "features",
    "MobileNetV2": "features",
    "MNASNet": "layers",
    "ShuffleNetV2": "conv5",
}
_PROBE_SIZE = 128
_DROPOUT = 0.25


@dataclass(frozen=True)
class BodyParts:
    """Names of modules in a body, so that body = features -> pool -> head; "" where not found.

    What enters ``pool`` is the last feature map, (batch, channels, height, width). What enters
    ``head``, the classifier, are the codes, (batch, features); with a few networks there are layers
    between pool and head (MobileNetV3, VGG).
    """

    pool: str = ""
    head: str = ""


def split_body(body: nn.Module, heads: tuple[str, ...]) -> BodyParts:
    """Find the pooling and the classifier of a torchvision or timm network.

    Where torchvision pools in ``forward`` the pooling becomes a module here, in place; what the
    network computes and the names of its tensors stay as they were.

    Parameters
    ----------
    body : the network
    heads : names of the layers that depend on the number of classes
    """
    head = heads[0] if len(heads) == 1 else ""
    name = type(body).__name__
    if type(body).__module__.startswith("torchvision") and name in _POOL_IN_FORWARD:
        layers = body.get_submodule(_POOL_IN_FORWARD[name])
        if name == "DenseNet":  # its last ReLU is in forward too
            layers.add_module("relu", nn.ReLU(inplace=True))
        layers.add_module("pool", nn.AdaptiveAvgPool2d(1))
        return BodyParts(f"{_POOL_IN_FORWARD[name]}.pool", head)
    # timm calls it global_pool, in the network itself or in its head module.
    pools = [
        path
        for path, module in body.named_modules()
        if path == "avgpool" or type(module).__name__ == "SelectAdaptivePool2d"
    ]
    return BodyParts(pools[-1] if pools else "", head)


def replace_pool(
    body: nn.Module, parts: BodyParts, kind: Pool, num_classes: int, arch: str
) -> BodyParts:
    """Let ``body`` pool by ``kind``, in place; "" changes nothing. Returns the parts as they are.

    Where the network's own pooling leaves a grid for a classifier of several layers (VGG,
    AlexNet), one new linear layer takes their place.

    Raises ``UserError`` for networks that do not pool a feature map (transformers, SqueezeNet).
    """
    if not kind:
        return parts
    before, after = _pool_shapes(body, parts.pool) if parts.pool else ((), ())
    if len(before) != 4 or after[1:2] != before[1:2]:
        raise UserError(
            f"{arch} has no pooling of a feature map that --pool {kind} could replace; leave "
            "--pool out or choose another --arch."
        )
    if len(after) == 4 and after[2] > 1:
        parts = BodyParts(parts.pool, parts.head.partition(".")[0])
        body.set_submodule(parts.head, nn.Linear(before[1], num_classes))
    pool = create_pool(kind, before[1], flat=len(after) == 2)
    body.set_submodule(parts.pool, pool)
    return parts


def replace_head(
    body: nn.Module, parts: BodyParts, hidden: tuple[int, ...], num_classes: int, arch: str
) -> None:
    """Put layers of the ``hidden`` widths before the classifier's last, in place; () adds none.

    Each is linear, with batch norm and ReLU; one dropout stands before the last layer. All of the
    head is new, and all of it goes by the classifier's name.

    Raises ``UserError`` where the classifier is no linear layer.
    """
    if not hidden:
        return
    features = count_codes(body, parts, arch)
    layers: list[nn.Module] = []
    for width in hidden:
        # The norm has a bias of its own.
        layers += [nn.Linear(features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        features = width
    layers += [nn.Dropout(_DROPOUT), nn.Linear(features, num_classes)]
    body.set_submodule(parts.head, nn.Sequential(*layers))


def count_codes(body: nn.Module, parts: BodyParts, arch: str) -> int:
    """How many features enter the head. Raises ``UserError`` where the head is not linear."""
    head = body.get_submodule(parts.head) if parts.head else None
    first = head[0] if isinstance(head, nn.Sequential) else head
    if not isinstance(first, nn.Linear):
        raise UserError(
            f"{arch} does not end in one linear layer, which --head and --codes-epochs need; "
            "choose another --arch."
        )
    return first.in_features


@torch.no_grad()
def _pool_shapes(body: nn.Module, pool: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of what enters and what leaves the pooling, seen on a blank RGB image."""
    shapes: list[tuple[int, ...]] = []

    def look(_: nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        shapes.extend((tuple(args[0].shape), tuple(output.shape)))

    hook = body.get_submodule(pool).register_forward_hook(look)
    training = body.training
    body.eval()
    try:
        body(torch.zeros(1, 3, _PROBE_SIZE, _PROBE_SIZE))
    except (RuntimeError, AssertionError):  # a network of one size only, or stumbling after it
        pass
    finally:
        hook.remove()
        body.train(training)
    return (shapes[0], shapes[1]) if shapes else ((), ())
