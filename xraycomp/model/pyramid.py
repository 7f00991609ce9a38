"""The Laplacian pyramid, by which the fine detail of films is raised.

Burt & Adelson, "The Laplacian Pyramid as a Compact Image Code", IEEE Transactions on Communications
31 (1983).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 3  # detail of up to about 8 pixels
_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # their generating kernel with a = 0.375


def raise_detail(images: Tensor, gain: float) -> Tensor:
    """Add ``gain`` times the detail bands of each image's Laplacian pyramid to it.

    With bands ``L_k = G_k - expand(G_k+1)``, where ``G_k+1 = reduce(G_k)``, an image is the sum of
    its expanded bands and of the coarsest ``G``. All bands have one gain, and expanding is linear,
    so the raised image is ``image + gain * (image - G expanded to its size)``.

    Parameters
    ----------
    images : float tensor of shape (batch, 1, height, width), values in 0..1
    gain : 0 or more

    Returns
    -------
    A new tensor of that shape, in 0..1: what goes beyond is clipped. Flat images stay as they are.
    """
    coarse, sizes = images, []
    for _ in range(_LEVELS):
        sizes.append((coarse.shape[-2], coarse.shape[-1]))
        coarse = _reduce(coarse)
    for height, width in reversed(sizes):
        coarse = _expand(coarse, height, width)
    return (images + gain * (images - coarse)).clamp(0, 1)


def _kernel(images: Tensor) -> Tensor:
    taps = torch.tensor(_TAPS, dtype=images.dtype, device=images.device)
    return (taps[:, None] * taps)[None, None]


def _reduce(images: Tensor) -> Tensor:
    """Blur and take every second pixel, from the first on; beyond the border is the border."""
    return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), _kernel(images), stride=2)


def _expand(images: Tensor, height: int, width: int) -> Tensor:
    """To about twice the size, as `_reduce` took the pixels: they are blurred with zeros between
    them, by four times the kernel."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    spread = F.conv_transpose2d(padded, 4 * _kernel(images), stride=2)
    # The first pixel is the padded one's neighbour, whose kernel reaches two pixels further.
    return spread[..., 4 : 4 + height, 4 : 4 + width]
