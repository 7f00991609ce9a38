"""An image file to 8-bit gray, to the square that the cache keeps, and back to its own places."""

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What PIL raises for files that are no image, cut off, or too large to be one."""


def load_gray(path: Path) -> Image.Image:
    """Decode an image file to 8-bit gray (mode ``L``).

    Colour is converted by luma (ITU-R 601-2), a palette through its colours; transparency is
    dropped; 16-bit gray is scaled from 0..65535 to 0..255.

    Raises one of ``UNDECODABLE`` for what is not a whole image.
    """
    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            # PIL's own conversion clips at 255 instead of scaling.
            wide = np.asarray(image, dtype=np.float32)
            return Image.fromarray(np.clip(np.rint(wide / 257), 0, 255).astype(np.uint8))
        # A palette is converted by way of its colours.
        return (image.convert("RGB") if image.mode == "P" else image).convert("L")


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Resize the shorter side to ``size`` (bilinear, antialiased), then crop the centre square.

    Equal to torchvision's ``Resize(size)`` and ``CenterCrop(size)`` on the PIL image.
    """
    new = _resized(image.size, size)
    resized = image.resize(new, Image.Resampling.BILINEAR)
    left, top = centre_corner(new[0], size), centre_corner(new[1], size)
    return resized.crop((left, top, left + size, top + size))


def _resized(sides: tuple[int, int], size: int) -> tuple[int, int]:
    width, height = sides
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def centre_corner(side: int, size: int) -> int:
    """Where a crop of ``size`` from the middle of ``side`` begins, in pixels; torchvision rounds it
    as Python does."""
    return round((side - size) / 2.0)


@dataclass(frozen=True)
class View:
    """The rectangle of an image that a network sees, in pixels of the image as it is in its file.

    0 is the outer edge of the first pixel, whose centre is at 0.5.
    """

    left: float
    top: float
    width: float
    height: float

    def scaled(self, across: float, down: float) -> "View":
        """The same rectangle of the image resized by these factors."""
        return View(self.left * across, self.top * down, self.width * across, self.height * down)


def seen_part(width: int, height: int, cache_size: int, image_size: int) -> View:
    """What of an image of ``width`` by ``height`` pixels evaluation shows a network.

    This undoes `resize_and_crop` to ``cache_size`` and the centre crop to ``image_size`` that
    follows it, with their roundings.
    """
    new = _resized((width, height), cache_size)
    across, down = new[0] / width, new[1] / height
    margin = centre_corner(cache_size, image_size)
    return View(
        (centre_corner(new[0], cache_size) + margin) / across,
        (centre_corner(new[1], cache_size) + margin) / down,
        image_size / across,
        image_size / down,
    )


def why_broken(path: Path, error: Exception) -> str:
    """In a few words, why ``path`` did not decode; ``error`` is one of ``UNDECODABLE``."""
    if path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error) or type(error).__name__
