"""The files of heat maps: pictures in the image's own coordinates, shares outside, locations."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xraycomp.data.boxes import read_boxes
from xraycomp.data.competition_file import load_competition
from xraycomp.data.heat import Grid, HeatMaps
from xraycomp.data.phantom import Film, draw_film
from xraycomp.judging.choosing import BOXED
from xraycomp.judging.explanation import COLUMNS, looks_outside, write_explanation

CELLS = 8
LESION = (0.2, 0.7)  # of the square in the middle of every film


@pytest.fixture
def explained(tmp_path):
    """Films of odd sizes with one hot cell each; the last one is measured only."""
    competition, root = load_competition("phantom"), tmp_path / "data"
    root.mkdir()
    sizes, rows, values, boxes = [(333, 301), (301, 397), (90, 120), (128, 128)], [], [], []
    film, _ = draw_film(Film("train", 1, 1, "nodule"), 0, 512)
    for number, (width, height) in enumerate(sizes):
        Image.fromarray(film).resize((width, height)).save(root / f"p{number}.png")
        side = min(width, height)
        x, y = ((width - side) // 2 + LESION[0] * side, (height - side) // 2 + LESION[1] * side)
        boxes.append((f"p{number}.png", "nodule", x - 10, y - 10, 20, 20))
        kind = BOXED if number == 3 else ("error", "hit", "hit")[number]
        rows.append((f"p{number}", f"p{number}.png", "normal", "nodule", kind, 0.75, number != 3))
        cells = np.zeros((CELLS, CELLS), np.float32)
        cells[int(LESION[1] * CELLS), int(LESION[0] * CELLS)] = 1
        values.append(cells)
    names = ["image", "path", "label", "class", "kind", "prob", "called"]
    pairs = pd.DataFrame(rows, columns=names)
    table = pd.DataFrame(boxes, columns=["image", "finding", "x", "y", "width", "height"])
    table.to_csv(root / "lesions.csv", index=False)
    maps = HeatMaps(pairs, np.stack(values), Grid(0.5 / CELLS, 1 / CELLS), 64, 64)
    found_boxes = read_boxes(competition, root, pairs["image"])

    def write(**options):
        folder = tmp_path / "maps"
        found = write_explanation(folder, maps, competition, root, found_boxes, **options)
        return found, folder, sizes

    return write


def test_every_shown_map_is_a_row_with_its_pictures(explained):
    found, folder, sizes = explained(split="val")
    table = pd.read_csv(folder / "maps.csv")
    assert list(table.columns) == COLUMNS
    assert list(table["image"]) == ["p0", "p1", "p2"]
    assert list(table["kind"]) == ["error", "hit", "hit"]
    assert (table["label"] == "normal").all()
    with np.load(folder / "maps.npz") as arrays:
        maps = dict(arrays)
    assert sorted(maps) == ["0", "1", "2"]
    for number, row in table.iterrows():
        with Image.open(folder / row["film"]) as film, Image.open(folder / row["overlay"]) as over:
            assert (film.mode, over.mode, film.size) == ("L", "RGB", over.size)
            assert max(film.size) <= 256
            assert film.width / film.height == pytest.approx(
                sizes[number][0] / sizes[number][1], rel=0.01
            )
            assert maps[str(number)].shape == (film.height, film.width)
            reddish = np.asarray(over).astype(int)
        assert maps[str(number)].dtype == np.float16
        # The hot place, in the map and as the picture shows it.
        width, height = over.size
        side = min(width, height)
        x, y = (width - side) / 2 + LESION[0] * side, (height - side) / 2 + LESION[1] * side
        for shown in (np.nan_to_num(maps[str(number)]), reddish[:, :, 0] - reddish[:, :, 2]):
            row_at, column_at = np.unravel_index(shown.argmax(), shown.shape)
            assert abs(column_at + 0.5 - x) <= side / CELLS
            assert abs(row_at + 0.5 - y) <= side / CELLS
    assert found.files == ("localisation.json", "maps.csv", "maps.npz")


def test_maps_are_measured_against_boxes(explained):
    found, folder, _ = explained(split="val", method="gradcam")
    report = json.loads((folder / "localisation.json").read_text())
    assert report == found.locations
    assert (report["split"], report["method"]) == ("val", "gradcam")
    assert report["all"]["n"] == report["classes"]["nodule"]["n"] == 1
    assert report["all"]["pointing_game"]["value"] == 1.0
    assert report["called"]["n"] == 0


def test_a_hot_place_beside_the_patient_is_said(explained):
    found, _, _ = explained()
    assert (found.maps["outside"] < 0.2).all()
    assert looks_outside(found.maps) == "0 of 3 maps lie outside the body by more than 20%."
    beside = found.maps.assign(outside=[0.9, np.nan, 0.21])
    assert looks_outside(beside) == (
        "2 of 2 maps lie outside the body by more than 20% (of 1 more it cannot be told): p0, p2."
    )


def test_in_full_size_where_asked_for_and_nothing_of_before_is_left(explained):
    _, folder, sizes = explained(full_size=True)
    for number, (width, height) in enumerate(sizes[:3]):
        with Image.open(folder / "full" / f"{number:03d}.png") as image:
            assert (image.size, image.format) == ((width, height), "PNG")
        heat = np.load(folder / "full" / f"{number:03d}.npy")
        assert (heat.shape, heat.dtype) == ((height, width), np.float16)
        # What lies outside the square in the middle was not seen.
        assert np.isfinite(heat).sum() == pytest.approx(min(width, height) ** 2, rel=0.02)
    explained()
    assert not (folder / "full").exists()
