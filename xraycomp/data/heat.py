"""A heat map as numbers: where its cells lie, and how it comes into the pixels of an image."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.data.decode import View, seen_part

FloatMap = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Where the cells of a feature map lie in the square that the network sees, alike in x and y.

    Cell ``i`` is centred at ``first + i * step``, in shares of the square's side.
    """

    first: float
    step: float


@dataclass(frozen=True)
class HeatMap:
    """How strongly each place of one image speaks for a class."""

    values: FloatMap
    """One number a cell of the feature map, in 0..1; shape (rows, columns)."""
    grid: Grid
    view: View
    """The part of the image that the network saw, in pixels of the image."""

    def peak(self) -> tuple[float, float] | None:
        """x and y of the strongest place, the centre of a cell; None where all is 0."""
        if not self.values.any():
            return None
        row, column = np.unravel_index(self.values.argmax(), self.values.shape)
        x, y = (self.grid.first + self.grid.step * int(cell) for cell in (column, row))
        return self.view.left + x * self.view.width, self.view.top + y * self.view.height


@dataclass(frozen=True)
class HeatMaps:
    """The heat maps of some images for some classes."""

    pairs: pd.DataFrame
    """One row a map: ``image``, ``path`` (below the competition's root), ``class``, ``kind`` and
    what else is known."""
    values: FloatMap
    """In 0..1; shape (n_maps, rows, columns)."""
    grid: Grid
    cache_size: int
    image_size: int

    def of_image(self, row: int, width: int, height: int) -> HeatMap:
        """The map of a row, whose image is ``width`` by ``height`` pixels in its file."""
        view = seen_part(width, height, self.cache_size, self.image_size)
        return HeatMap(self.values[row], self.grid, view)


def in_image(heat: HeatMap, width: int, height: int) -> FloatMap:
    """The map in the pixels of its image: float32 of shape (height, width), in 0..1.

    Bilinear between the centres of cells, and even beyond the outermost ones. NaN where the network
    saw nothing, since crops leave out the ends of an image that is not square.

    width, height : of the image as it is in its file; for a picture of another size, of that
        picture, if ``heat.view`` is scaled to it
    """
    down = _weights(heat.values.shape[0], heat.grid, height, heat.view.top, heat.view.height)
    across = _weights(heat.values.shape[1], heat.grid, width, heat.view.left, heat.view.width)
    spread: FloatMap = (down @ heat.values @ across.T).astype(np.float32)
    return spread


def _weights(
    n_cells: int, grid: Grid, n_pixels: int, start: float, length: float
) -> NDArray[np.float64]:
    """What each cell adds to each pixel along one axis: (n_pixels, n_cells), NaN outside."""
    place = (np.arange(n_pixels) + 0.5 - start) / length
    cell = np.clip((place - grid.first) / grid.step, 0, n_cells - 1)
    weights: NDArray[np.float64] = np.maximum(0, 1 - np.abs(cell[:, None] - np.arange(n_cells)))
    weights[(place < 0) | (place > 1)] = np.nan
    return weights
