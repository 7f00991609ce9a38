"""What heat maps show, as files: pictures, places against boxes, shares outside the body."""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from xraycomp.console.errors import listing
from xraycomp.data.boxes import boxes_in_pixels
from xraycomp.data.competition import Competition
from xraycomp.data.decode import load_gray
from xraycomp.data.files import atomic_folder, write_csv, write_json
from xraycomp.data.heat import HeatMaps, in_image
from xraycomp.judging.chest import find_body, share_outside
from xraycomp.judging.choosing import BOXED
from xraycomp.judging.localisation import judge_locations, locate
from xraycomp.judging.overlay import overlay, write_picture

OUTSIDE = 0.2
"""From which share outside the body on a map is said to look there."""
PICTURE_SIZE = 256
"""Longest side of the pictures for a page, in pixels."""
COLUMNS = ["image", "class", "kind", "label", "prob", "outside", "film", "overlay"]
"""Columns of ``maps.csv``."""


@dataclass(frozen=True)
class Explanation:
    """What heat maps showed, and where it lies."""

    maps: pd.DataFrame
    """``maps.csv``: one row a map that is shown."""
    locations: dict[str, Any] | None
    """As `judge_locations` gives it; None where there are no boxes."""
    files: tuple[str, ...]
    """The names of the files that are no pictures."""


def write_explanation(
    folder: Path,
    maps: HeatMaps,
    competition: Competition,
    root: Path,
    boxes: pd.DataFrame,
    *,
    full_size: bool = False,
    **about: Any,
) -> Explanation:
    """Write the films and overlays of heat maps, ``maps.csv``, ``maps.npz`` and, where there are
    boxes, ``localisation.json`` into ``folder``, in place of what lies there, all or nothing.

    ``maps.npz`` holds under ``0``, ``1`` ... the map of that row of ``maps.csv`` in the pixels of
    its picture: float16, NaN where the network saw nothing.

    Parameters
    ----------
    maps : heat maps; those of the kind ``boxed`` are measured, the others are shown
    root : folder below which the images lie
    boxes : as `read_boxes` gives it
    full_size : also write maps and overlays (PNG) in the size of the image files, into ``full``
    about : what ``localisation.json`` is to say besides
    """
    boxed = (maps.pairs["kind"] == BOXED).to_numpy()
    rows: list[dict[str, Any]] = []
    with atomic_folder(folder) as temporary:
        arrays: dict[str, NDArray[np.float16]] = {}
        for row in np.flatnonzero(~boxed).tolist():
            shown = _draw(temporary, maps, row, len(rows), root, full_size)
            arrays[str(len(rows))] = shown.pop("map")
            rows.append(shown)
        table = pd.DataFrame(rows, columns=COLUMNS)
        write_csv(temporary / "maps.csv", table)
        with (temporary / "maps.npz").open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        locations = None
        if boxed.any():
            found = _locate(maps, np.flatnonzero(boxed).tolist(), competition, root, boxes)
            locations = judge_locations(found, competition.classes, **about)
            write_json(temporary / "localisation.json", locations)
        files = tuple(sorted(p.name for p in temporary.iterdir() if p.suffix != ".jpg"))
        shutil.rmtree(folder, ignore_errors=True)
    return Explanation(table, locations, files)


def _draw(
    folder: Path, maps: HeatMaps, row: int, number: int, root: Path, full_size: bool
) -> dict[str, Any]:
    """Write the pictures of one map; its row of ``maps.csv``, and under ``map`` the map itself."""
    pair = maps.pairs.iloc[row]
    image = load_gray(root / pair["path"])
    heat = maps.of_image(row, *image.size)
    scale = min(1.0, PICTURE_SIZE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    film = np.asarray(image.resize(size, Image.Resampling.BOX))
    view = heat.view.scaled(size[0] / image.width, size[1] / image.height)
    small = in_image(replace(heat, view=view), *size)
    names = {"film": f"{number:03d}-film.jpg", "overlay": f"{number:03d}-map.jpg"}
    write_picture(folder / names["film"], film)
    write_picture(folder / names["overlay"], overlay(film, small))
    if full_size:
        whole = in_image(heat, *image.size)
        write_picture(folder / "full" / f"{number:03d}.png", overlay(np.asarray(image), whole))
        np.save(folder / "full" / f"{number:03d}.npy", whole.astype(np.float16))
    known = {name: pair[name] for name in ("image", "class", "kind", "label", "prob")}
    outside = share_outside(small, find_body(film))
    return {**known, "outside": outside, **names, "map": small.astype(np.float16)}


def _locate(
    maps: HeatMaps, rows: list[int], competition: Competition, root: Path, boxes: pd.DataFrame
) -> pd.DataFrame:
    """The locations of the maps at ``rows``, as `judge_locations` takes them."""
    found = []
    by_pair = dict(list(boxes.groupby(["image", "class"])))
    for row in rows:
        pair = maps.pairs.iloc[row]
        with Image.open(root / pair["path"]) as image:
            width, height = image.size
        heat = maps.of_image(row, width, height)
        own = boxes_in_pixels(by_pair[pair["image"], pair["class"]], competition, width, height)
        location = locate(heat, width, height, own)
        found.append({"class": pair["class"], "called": pair["called"], **asdict(location)})
    return pd.DataFrame(found)


def looks_outside(maps: pd.DataFrame) -> str:
    """A sentence on how many of the maps in ``maps.csv`` look outside the chest."""
    shares = pd.to_numeric(maps["outside"])
    known, far = shares.notna().sum(), maps["image"][shares > OUTSIDE]
    text = f"{len(far)} of {known} maps lie outside the body by more than {OUTSIDE:.0%}"
    if known < len(maps):
        text += f" (of {len(maps) - known} more it cannot be told)"
    return f"{text}: {listing(list(far))}." if len(far) else f"{text}."
