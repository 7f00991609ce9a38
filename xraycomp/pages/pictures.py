"""Pictures as part of a page: small, and never more than the page may hold."""

import base64
import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SIDE = 256
"""Longest side of most pictures in the page, in pixels."""
BUDGET = 4_000_000
"""Most bytes of all pictures of a page, as the page holds them: it shall stay under 5 MB."""
_SMALL = 12_000  # bytes up to which a file is taken as it is
_QUALITY = 80
_KINDS = {"PNG": "png", "JPEG": "jpeg"}


class Pictures:
    """Takes picture files into one page until it has as many as it may hold."""

    def __init__(self, budget: int = BUDGET) -> None:
        self.left = budget
        self.left_out = 0
        """How many were there but would have made the page too large."""
        self._taken: dict[Path, str] = {}

    def take(self, folder: Path, name: str, side: int = SIDE) -> str:
        """The picture as a data URI, its longest side at most ``side`` pixels; empty where there is
        none, or no room for it.

        Only files in ``folder`` itself are taken: a table may name any.
        """
        path = folder / Path(name).name
        if not name or not path.is_file():
            return ""
        if path not in self._taken:
            uri = _encode(path, side)
            if len(uri) > self.left:
                self.left_out += 1
                return ""
            self.left -= len(uri)
            self._taken[path] = uri
        return self._taken[path]


def _encode(path: Path, side: int) -> str:
    """A PNG or JPEG file as a data URI, made smaller where it is large; empty for another file."""
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=list(_KINDS)) as image:
            kind = _KINDS[str(image.format)]
            if len(content) > _SMALL or max(image.size) > side:
                image.thumbnail((side, side))
                made = io.BytesIO()
                gray = image.mode in ("1", "L", "I;16", "I")
                image.convert("L" if gray else "RGB").save(made, "JPEG", quality=_QUALITY)
                content, kind = made.getvalue(), "jpeg"
    except (UnidentifiedImageError, OSError, ValueError):
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
