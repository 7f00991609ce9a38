"""How fast the device could be, and how much of that is used."""

import functools
import time
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xraycomp.model.device import autocast, autocast_dtype, synchronize
from xraycomp.model.stem import GrayModel


@dataclass(frozen=True)
class Limit:
    """What bounds the speed of training a network on a device."""

    flops: int
    """Floating-point operations of the matrix products and convolutions for one image, forward and
    backward through what learns."""
    peak: float
    """Such operations a second that the device reaches in one large matrix product, by measurement,
    in the precision in which it trains."""

    def share(self, images_per_second: float) -> float:
        """Which share of the peak that speed uses."""
        return self.flops * images_per_second / self.peak


def measure_limit(model: GrayModel, image: Tensor) -> Limit:
    """Count what one image costs and measure the peak of its device.

    ``image`` is what `prepare` gives, of shape (1, 1, size, size) for images. The network is left
    as it was, without gradients.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()  # so that batch norm learns nothing from it
    with FlopCounterMode(display=False) as counter, autocast(image.device):
        model(image).sum().backward()
    model.zero_grad(set_to_none=True)
    for module in training:
        module.training = True
    return Limit(counter.get_total_flops(), measure_peak(image.device))


@functools.cache
def measure_peak(device: torch.device) -> float:
    """The best rate of a square matrix product on the device, in operations a second."""
    side, rounds = (8192, 6) if device.type == "cuda" else (1024, 6)
    one = torch.ones(side, side, dtype=autocast_dtype(device), device=device)
    product = one @ one
    best = 0.0
    for _ in range(rounds):
        synchronize(device)
        began = time.monotonic()
        torch.mm(one, one, out=product)
        synchronize(device)
        best = max(best, 2 * side**3 / (time.monotonic() - began))
    return best
