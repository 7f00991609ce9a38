"""Boxes around findings, drawn by radiologists, or by the program that drew the films."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition
from xraycomp.data.files import read_table
from xraycomp.data.image_ids import image_key

SIDES = ["x", "y", "width", "height"]
COLUMNS = ["image", "class", *SIDES]


def read_boxes(competition: Competition, root: Path, images: pd.Series) -> pd.DataFrame:
    """The boxes of those of the ``images`` (the manifest's ids) that have any.

    Returns a table with the columns ``image`` (as in ``images``), ``class``, and ``x``, ``y``,
    ``width``, ``height`` as the file has them; `boxes_in_pixels` brings them into an image. One
    row a box: an image may have several. It is empty where the competition has no boxes, and where
    their file is not among the data.

    Raises ``UserError`` for a table that cannot be read.
    """
    boxes = competition.boxes
    if not boxes or not (path := root / boxes.table).is_file():
        return pd.DataFrame(columns=COLUMNS)
    table = read_table(path)
    if table.shape[1] < len(COLUMNS):
        raise UserError(
            f"{path} has {table.shape[1]} columns; a table of boxes has image, finding, x, y, "
            "width and height in this order."
        )
    # By their place: the NIH's header parts "Bbox [x,y,w,h]" at its commas, and has empty ones.
    table = table.iloc[:, : len(COLUMNS)].set_axis(COLUMNS, axis=1)
    numbers = table[SIDES].apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = ~np.isfinite(numbers.to_numpy()).all(axis=1)
    if wrong.any():
        raise UserError(
            f"{path} holds {wrong.sum():,} boxes that are not four numbers, the first in line "
            f"{int(wrong.argmax()) + 2}. Mend it, or take it out of the data."
        )
    table[SIDES] = numbers
    called = table["class"].str.strip()
    table["class"] = called.map(lambda name: boxes.names.get(name, name))
    # A table may name images with or without folders and suffix.
    by_key = {image_key(name, folders=False): name for name in images}
    table["image"] = [by_key.get(image_key(name, folders=False), "") for name in table["image"]]
    fitting = table["class"].isin(competition.classes) & table["image"].ne("")
    return table[fitting].reset_index(drop=True)


def boxes_in_pixels(
    boxes: pd.DataFrame, competition: Competition, width: int, height: int
) -> NDArray[np.float64]:
    """Boxes of one image in the pixels of its file, which is ``width`` by ``height``.

    Returns left, top, right and bottom of each row of ``boxes``: shape (n, 4).
    """
    size = competition.boxes.size if competition.boxes else 0
    across, down = (width / size, height / size) if size else (1.0, 1.0)
    x, y, wide, high = boxes[SIDES].to_numpy(np.float64).T
    corners = (x * across, y * down, (x + wide) * across, (y + high) * down)
    return np.stack(corners, axis=1)
