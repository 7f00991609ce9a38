"""The views of an image that predictions can be averaged over, by name (test-time augmentation)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xraycomp.console.errors import UserError


@dataclass(frozen=True)
class View:
    """How one view differs from the plain one, the centre crop."""

    mirror: bool = False
    degrees: float = 0.0
    """Turned counter-clockwise by so much."""
    zoom: float = 1.0
    """How many times as large things appear."""
    whole: bool = False
    """Without the crop: the whole square that is cached."""


VIEWS: Mapping[str, View] = {
    "mirror": View(mirror=True),
    "zoom": View(zoom=8 / 7),
    "whole": View(whole=True),
    "left": View(degrees=5.0),
    "right": View(degrees=-5.0),
}


def check_views(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once. Raises ``UserError`` for one that is no view."""
    for name in names:
        if name not in VIEWS:
            raise UserError(f"--tta: there is no view {name!r}; choose among {', '.join(VIEWS)}.")
    return tuple(dict.fromkeys(names))
