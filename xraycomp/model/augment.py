"""From cached uint8 images to network input, on the device, by one warp of the whole batch."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from xraycomp.model.config import TrainConfig


def prepare(
    images: Tensor,
    config: TrainConfig,
    mean: float,
    std: float,
    generator: Generator | None = None,
) -> Tensor:
    """Crop, warp and normalise a batch.

    Without ``generator`` this is the evaluation transform: the centre crop of the cached images,
    equal to torchvision's ``Resize`` (done when they were cached), ``CenterCrop`` and
    ``Normalize`` to within 1e-4 of a normalised unit. With one, crop, mirror, rotation, zoom,
    shift, brightness, contrast and erasing are drawn from it as ``config`` says.

    Parameters
    ----------
    images : uint8 tensor of shape (batch, height, width), square, at least ``config.image_size``;
        or codes, float of shape (batch, n_features), which need no preparing
    config : the sizes and the strength of every random change
    mean, std : what the network's input is normalised by, for images in 0..1
    generator : source of the random numbers; drawn on the CPU, so every device sees the same

    Returns
    -------
    float32 tensor of shape (batch, 1, image_size, image_size) on the device of ``images``;
    of codes (batch, n_features, 1, 1), a map of one place
    """
    if images.ndim == 2:
        return images.float()[:, :, None, None]
    batch, cached, _ = images.shape
    if generator is None:
        theta = _affine(batch, cached, config.image_size)
    else:
        theta = _random_affine(batch, cached, config, generator)
    grid = F.affine_grid(
        torch.from_numpy(theta).to(images.device),
        [batch, 1, config.image_size, config.image_size],
        align_corners=False,
    )
    pixels = images.unsqueeze(1).float().div_(255)
    # Zero padding before normalisation: what lies outside the film is black.
    pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    if generator is not None:
        pixels = _random_tones(pixels, config, generator)
    pixels = pixels.sub_(mean).div_(std)
    if generator is not None and config.erasing:
        pixels = _erase(pixels, config.erasing, generator)
    return pixels


def mix(
    images: Tensor, targets: Tensor, alpha: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image and its target with another of the batch (mixup, Zhang et al. 2018).

    ``images`` is float of shape (batch, 1, height, width), ``targets`` float of shape
    (batch, n_classes); one share for the batch is drawn from Beta(alpha, alpha).
    """
    share = float(generator.beta(alpha, alpha))
    other = torch.from_numpy(generator.permutation(len(images))).to(images.device)
    return images.lerp(images[other], 1 - share), targets.lerp(targets[other], 1 - share)


def _affine(
    batch: int,
    cached: int,
    size: int,
    *,
    mirror: NDArray[np.float64] | float = 1.0,
    angle: NDArray[np.float64] | float = 0.0,
    zoom: NDArray[np.float64] | float = 1.0,
    offset: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Matrices of shape (batch, 2, 3) from output to input coordinates, both in -1..1.

    ``offset`` (batch, 2) is where the crop's centre lies off the image's, in pixels (x, y).
    """
    if offset is None:
        offset = np.full((batch, 2), _centre(cached, size))
    theta = np.zeros((batch, 2, 3), dtype=np.float32)
    ratio = size / cached / zoom
    theta[:, 0, 0] = ratio * np.cos(angle) * mirror
    theta[:, 0, 1] = -ratio * np.sin(angle)
    theta[:, 1, 0] = ratio * np.sin(angle) * mirror
    theta[:, 1, 1] = ratio * np.cos(angle)
    theta[:, :, 2] = 2 * offset / cached
    return theta


def _random_affine(
    batch: int, cached: int, config: TrainConfig, generator: Generator
) -> NDArray[np.float32]:
    size = config.image_size
    # Every number is drawn whether it is used or not: one setting does not move the others' luck.
    mirrored = generator.random(batch) < 0.5
    mirror = np.where(mirrored & config.flip, -1.0, 1.0)
    angle = generator.uniform(-1, 1, batch) * math.radians(config.rotation)
    zoom = np.exp(generator.uniform(-1, 1, batch) * math.log1p(config.scale))
    corner = generator.integers(0, cached - size, (batch, 2), endpoint=True)
    shift = generator.uniform(-1, 1, (batch, 2)) * config.shift * size
    crop = corner - (cached - size) / 2.0 if config.random_crop else _centre(cached, size)
    return _affine(batch, cached, size, mirror=mirror, angle=angle, zoom=zoom, offset=crop + shift)


def _centre(cached: int, size: int) -> float:
    """How far the centre crop's centre lies off the image's, in pixels.

    torchvision rounds the crop's corner, so an odd margin puts it half a pixel off.
    """
    return round((cached - size) / 2.0) - (cached - size) / 2.0


def _random_tones(pixels: Tensor, config: TrainConfig, generator: Generator) -> Tensor:
    if not (config.brightness or config.contrast):
        return pixels
    draws = torch.from_numpy(generator.uniform(-1, 1, (2, len(pixels), 1, 1, 1)).astype(np.float32))
    brightness, contrast = draws.to(pixels.device)
    contrast = 1 + contrast * config.contrast
    # Contrast turns about middle gray, so that it does not change brightness by itself.
    moved: Tensor = (pixels - 0.5) * contrast + (0.5 + brightness * config.brightness)
    return moved.clamp_(0, 1)


def _erase(pixels: Tensor, probability: float, generator: Generator) -> Tensor:
    """Blank a rectangle of 2 to 20 % of the area with 0, the mean (Zhong et al. 2020)."""
    batch, _, height, width = pixels.shape
    hit = generator.random(batch) < probability
    area = generator.uniform(0.02, 0.2, batch)
    aspect = np.exp(generator.uniform(-1, 1, batch) * math.log(3.3))
    half = np.stack([np.sqrt(area * aspect) * height, np.sqrt(area / aspect) * width]) / 2
    centre = generator.random((2, batch)) * np.array([[height], [width]])
    top, left = torch.from_numpy(centre - half)[:, :, None]
    bottom, right = torch.from_numpy(centre + half)[:, :, None]
    y, x = torch.arange(height)[None], torch.arange(width)[None]
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    blank = rows[:, :, None] & columns[:, None, :] & torch.from_numpy(hit)[:, None, None]
    return pixels.masked_fill_(blank[:, None].to(pixels.device), 0.0)
