"""An image file to 8-bit gray, and to the square that the cache keeps."""

import struct
import zlib
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
    width, height = image.size
    if width <= height:
        new = (size, int(size * height / width))
    else:
        new = (int(size * width / height), size)
    resized = image.resize(new, Image.Resampling.BILINEAR)
    left, top = round((new[0] - size) / 2.0), round((new[1] - size) / 2.0)
    return resized.crop((left, top, left + size, top + size))


def why_broken(path: Path, error: Exception) -> str:
    """In a few words, why ``path`` did not decode; ``error`` is one of ``UNDECODABLE``."""
    if path.stat().st_size == 0:
        return "empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return str(error) or type(error).__name__
