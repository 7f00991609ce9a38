"""From cached uint8 images to network input, on the device, by one warp of the whole batch."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from xraycomp.data.decode import centre_corner
from xraycomp.model.config import TrainConfig
from xraycomp.model.pyramid import raise_detail
from xraycomp.model.views import View


@dataclass(frozen=True)
class Draws:
    """The random changes of some images, one row an image, on one device."""

    size: int
    """Side of the images that come out, in pixels."""
    theta: Tensor
    """What the warp does: float32 matrices (n, 2, 3) from output to input places, both in -1..1."""
    tones: Tensor
    """What is added to an image in 0..1, and the factor of its contrast: float32 (n, 2)."""
    boxes: Tensor
    """The rectangle to blank, in pixels from top and left: top, bottom, left, right; float32
    (n, 4), of no area where nothing is blanked."""

    def __getitem__(self, rows: slice | Tensor) -> Self:
        return type(self)(self.size, self.theta[rows], self.tones[rows], self.boxes[rows])

    def to(self, device: torch.device) -> Self:
        """The same draws on ``device``."""
        return type(self)(
            self.size, self.theta.to(device), self.tones.to(device), self.boxes.to(device)
        )


def draw(n_images: int, config: TrainConfig, generator: Generator, size: int) -> Draws:
    """Draw crop, mirror, rotation, zoom, shift, brightness, contrast and erasing for ``n_images``,
    as strong as ``config`` says, on the CPU: every device sees the same.

    The images come out ``size`` pixels wide and show the same part of the film whatever that is.
    """
    theta = _random_affine(n_images, config, generator)
    tones = generator.uniform(-1, 1, (n_images, 2)) * (config.brightness, config.contrast) + (0, 1)
    boxes = _random_boxes(n_images, size, config.erasing, generator)
    return Draws(
        size, *(torch.from_numpy(each.astype(np.float32)) for each in (theta, tones, boxes))
    )


def draw_view(view: View, config: TrainConfig) -> Draws:
    """One row that draws nothing by chance, for images to be predicted in that ``view``."""
    size, cached = config.image_size, config.cache_size
    crop = 0.0 if view.whole else centre_corner(cached, size) - (cached - size) / 2
    theta = _affine(
        1,
        cached,
        size,
        mirror=-1.0 if view.mirror else 1.0,
        angle=math.radians(view.degrees),
        zoom=size / cached if view.whole else view.zoom,
        offset=crop,
    )
    plain = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 4)
    return Draws(size, torch.from_numpy(theta.astype(np.float32)), *plain)


def prepare(
    images: Tensor, config: TrainConfig, mean: float, std: float, draws: Draws | None = None
) -> Tensor:
    """Enhance, crop, warp and normalise a batch.

    Without ``draws`` this is the evaluation transform: the centre crop of the cached images, equal
    to torchvision's ``Resize`` (done when they were cached), ``CenterCrop`` and ``Normalize``.

    Parameters
    ----------
    images : uint8 tensor of shape (batch, height, width), square, at least ``config.image_size``;
        or codes, float of shape (batch, n_features), which need no preparing
    config : the size and what is drawn at all
    mean, std : what the network's input is normalised by, for images in 0..1
    draws : a row for each image, on its device

    Returns
    -------
    float32 tensor of shape (batch, 1, size, size) on the device of ``images``, where ``size`` is
    that of ``draws`` or ``config.image_size``; of codes (batch, n_features, 1, 1), a map of one
    place
    """
    if images.ndim == 2:
        return images.float()[:, :, None, None]
    images = images[:, None]
    if draws is None and not config.laplacian:
        return _centre(images, config.image_size).float().div_(255).sub_(mean).div_(std)
    pixels = images.float().div_(255)
    if config.laplacian:
        # The film's detail and not the crop's: every view then shows the same film, and the black
        # that a warp brings in from outside has no edge that would be raised.
        pixels = raise_detail(pixels, config.laplacian)
    if draws is None:
        return _centre(pixels, config.image_size).sub_(mean).div_(std)
    if draws.size < config.image_size:  # the warp alone would leave out pixels between
        side = round(pixels.shape[-1] * draws.size / config.image_size)
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    # Zero padding before normalisation: what lies outside the film is black.
    pixels = F.grid_sample(
        pixels, _grid(draws), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    if config.brightness or config.contrast:
        brightness, contrast = draws.tones[:, :, None, None, None].unbind(dim=1)
        # Contrast turns about middle gray, so that it does not change brightness by itself.
        pixels = pixels.sub_(0.5).mul_(contrast).add_(brightness + 0.5).clamp_(0, 1)
    pixels = pixels.sub_(mean).div_(std)
    if config.erasing:
        pixels = pixels.masked_fill_(_blank(draws), 0.0)  # the mean
    return pixels


def _centre(images: Tensor, size: int) -> Tensor:
    """The centre crop that evaluation sees, as a view."""
    corner = centre_corner(images.shape[-1], size)
    return images[..., corner : corner + size, corner : corner + size]


def _affine(
    n_images: int,
    cached: int,
    size: int,
    *,
    mirror: NDArray[np.float64] | float = 1.0,
    angle: NDArray[np.float64] | float = 0.0,
    zoom: NDArray[np.float64] | float = 1.0,
    offset: NDArray[np.float64] | float = 0.0,
) -> NDArray[np.float64]:
    """Matrices of shape (n_images, 2, 3) from output to input coordinates, both in -1..1.

    ``offset`` (n_images, 2) is where the crop's centre lies off the image's, in pixels (x, y).
    """
    theta = np.zeros((n_images, 2, 3))
    ratio = size / cached / zoom
    theta[:, 0, 0] = ratio * np.cos(angle) * mirror
    theta[:, 0, 1] = -ratio * np.sin(angle)
    theta[:, 1, 0] = ratio * np.sin(angle) * mirror
    theta[:, 1, 1] = ratio * np.cos(angle)
    theta[:, :, 2] = 2 * offset / cached
    return theta


def _random_affine(n_images: int, config: TrainConfig, generator: Generator) -> NDArray[np.float64]:
    size, cached = config.image_size, config.cache_size
    # Every number is drawn whether it is used or not: one setting does not move the others' luck.
    mirrored = generator.random(n_images) < 0.5
    mirror = np.where(mirrored & config.flip, -1.0, 1.0)
    angle = generator.uniform(-1, 1, n_images) * math.radians(config.rotation)
    zoom = np.exp(generator.uniform(-1, 1, n_images) * math.log1p(config.scale))
    corner = generator.integers(0, cached - size, (n_images, 2), endpoint=True)
    shift = generator.uniform(-1, 1, (n_images, 2)) * config.shift * size
    crop = (corner if config.random_crop else centre_corner(cached, size)) - (cached - size) / 2
    return _affine(
        n_images, cached, size, mirror=mirror, angle=angle, zoom=zoom, offset=crop + shift
    )


def _grid(draws: Draws) -> Tensor:
    """Where in the film each pixel lies: (n, size, size, 2), what ``F.affine_grid`` gives.

    That multiplies matrices of three columns for every pixel, which takes as long as the warp; a
    sum of what its column and what its row add does not.
    """
    ticks = torch.arange(draws.size, device=draws.theta.device) * 2 + 1
    ticks = ticks / draws.size - 1
    x, y, middle = draws.theta[:, None].unbind(dim=-1)  # (n, 1, 2) each
    columns, rows = x * ticks[:, None], y * ticks[:, None] + middle  # (n, size, 2)
    return columns[:, None] + rows[:, :, None]


def _random_boxes(
    n_images: int, size: int, probability: float, generator: Generator
) -> NDArray[np.float64]:
    """Rectangles of 2 to 20 % of the area, some of them beyond the edges, after random erasing
    (Zhong et al. 2020), whose are up to 40 % and inside."""
    hit = generator.random(n_images) < probability
    area = generator.uniform(0.02, 0.2, n_images) * hit
    aspect = np.exp(generator.uniform(-1, 1, n_images) * math.log(3.3))
    half = np.sqrt(np.stack([area * aspect, area / aspect], axis=1)) / 2
    centre = generator.random((n_images, 2))
    return np.stack([centre - half, centre + half], axis=2).reshape(n_images, 4) * size


def _blank(draws: Draws) -> Tensor:
    """Which pixels are blanked: (n, 1, size, size)."""
    ticks = torch.arange(draws.size, device=draws.boxes.device)
    top, bottom, left, right = draws.boxes[:, :, None].unbind(dim=1)
    rows, columns = (ticks >= top) & (ticks < bottom), (ticks >= left) & (ticks < right)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
