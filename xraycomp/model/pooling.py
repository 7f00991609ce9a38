"""Pooling: one number a feature out of the last feature map."""

from torch import Tensor, nn

from xraycomp.model.config import Pool

_WIDTHS = (64, 16, 8)


class AttentionPool(nn.Module):
    """The average over places, weighted by a map that is learned from the features.

    1x1 convolutions make one weight in 0..1 of the features at each place, and the weighted sum is
    divided by the sum of the weights (K. S. Mader's attention model for ChestX-ray14, 2018). The
    map starts even, so that at first this is average pooling and a pretrained network is itself.

    Float (batch, channels, height, width) to (batch, channels, 1, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in _WIDTHS:
            layers += [nn.Conv2d(channels, width, 1), nn.ReLU(inplace=True)]
            channels = width
        last = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]  # there is a bias
        self.mask = nn.Sequential(*layers, last)

    def attention(self, features: Tensor) -> Tensor:
        """The map: float32 in 0..1 of shape (batch, 1, height, width)."""
        # In float32, and never all 0: half precision would divide by nothing.
        weights: Tensor = self.mask(features).float().sigmoid().clamp_min(1e-6)
        return weights

    def forward(self, features: Tensor) -> Tensor:
        weights = self.attention(features)
        # Even weights leave the features' average as it is to the last bit: 1 divides exactly.
        weights = weights / weights.mean(dim=(2, 3), keepdim=True)
        return (features * weights).mean(dim=(2, 3), keepdim=True).to(features.dtype)


def create_pool(kind: Pool, channels: int, *, flat: bool) -> nn.Module:
    """The pooling called ``kind`` of a map with ``channels`` features.

    It gives (batch, channels), if ``flat``, else (batch, channels, 1, 1). An ``AttentionPool`` may
    lie within another module; it is found by its class.
    """
    pool: nn.Module
    if kind == "attention":
        pool = AttentionPool(channels)
    else:
        pool = nn.AdaptiveMaxPool2d(1) if kind == "max" else nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(pool, nn.Flatten()) if flat else pool


def pools_by_attention(network: nn.Module) -> bool:
    """Whether there is an ``AttentionPool`` in the network."""
    return any(isinstance(module, AttentionPool) for module in network.modules())


def attention_map(network: nn.Module, images: Tensor) -> Tensor | None:
    """The attention map of ``images`` in a network with attention pooling, else None.

    ``network`` is used as it stands: in training or evaluation, with or without gradients.

    Returns
    -------
    float32 tensor of shape (batch, 1, height, width) of the last feature map, in 0..1
    """
    pools = [module for module in network.modules() if isinstance(module, AttentionPool)]
    if not pools:
        return None
    maps: list[Tensor] = []

    def keep(pool: AttentionPool, args: tuple[Tensor]) -> None:
        maps.append(pool.attention(args[0]))

    hook = pools[0].register_forward_pre_hook(keep)
    try:
        network(images)
    finally:
        hook.remove()
    return maps[0]
