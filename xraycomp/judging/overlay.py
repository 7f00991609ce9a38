"""A heat map laid over its film."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from xraycomp.data.files import atomic_path

COLOURS = colormaps["inferno"]
"""From dark violet over red to yellow, even in brightness and so readable by colour-blind people
(van der Walt and Smith, 2015), and nowhere gray as the film is."""
MOST = 0.65
"""How much the colour covers the film where the map is strongest."""


def overlay(film: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The film in gray, coloured the more the stronger the map is, and not at all where it is 0.

    film : gray values of shape (height, width)
    heat : of the same shape, in 0..1; NaN where the network saw nothing, which is left darker

    Returns RGB values of shape (height, width, 3).
    """
    gray = film[:, :, None] * np.where(np.isnan(heat), 0.6, 1.0)[:, :, None]
    colours = 255 * COLOURS(np.nan_to_num(heat))[:, :, :3]
    cover = MOST * np.nan_to_num(heat)[:, :, None]
    mixed: NDArray[np.uint8] = np.round(gray * (1 - cover) + colours * cover).astype(np.uint8)
    return mixed


def write_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write gray or RGB values as JPEG or PNG, by the suffix of ``path``, whole or not at all."""
    kind = {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format=kind, quality=88)
