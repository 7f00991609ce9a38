"""Copies planted among drawn films: each kind is found, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xraycomp.data.cache import build_cache
from xraycomp.data.duplicates import copy_groups, count_copies, describe_copies, find_copies
from xraycomp.data.phantom import CLASSES, Film, draw_film


@pytest.fixture
def films(tmp_path):
    """Twelve films of different patients, as files: number n is ``film_<n>.png``."""
    paths = []
    for n in range(12):
        pixels, _ = draw_film(Film("train", n, 0, CLASSES[n % len(CLASSES)]), 0, 128)
        paths.append(tmp_path / f"film_{n:02}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def copies_of(paths, tmp_path):
    return find_copies(build_cache(paths, tmp_path / "cache", 64, workers=1))


def rows(copies):
    return list(copies.itertuples(index=False, name=None))


def test_different_films_are_no_copies(films, tmp_path):
    assert copies_of(films, tmp_path).empty


def exact(image, path):
    path = path.with_suffix(".png")
    path.write_bytes(image.path.read_bytes())
    return path


def reencoded(image, path):
    path = path.with_suffix(".jpg")
    image.convert("L").save(path, quality=80)
    return path


def resized(image, path):
    path = path.with_suffix(".png")
    image.resize((97, 97), Image.Resampling.BILINEAR).save(path)
    return path


def brightened(image, path):
    path = path.with_suffix(".png")
    image.point([min(255, round(value * 1.05 + 6)) for value in range(256)]).save(path)
    return path


def in_colour(image, path):
    path = path.with_suffix(".png")
    image.convert("RGB").save(path)
    return path


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (exact, "exact"),
        (reencoded, "near"),
        (resized, "near"),
        (brightened, "near"),
        (in_colour, "near"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("row", [0, 5, 9])
def test_a_planted_copy_is_found_and_nothing_else(films, tmp_path, change, kind, row):
    image = Image.open(films[row])
    image.path = films[row]
    films.append(change(image, tmp_path / "planted"))
    assert rows(copies_of(films, tmp_path)) == [(row, 12, kind)]


def test_three_copies_form_one_group_and_the_others_their_own(films, tmp_path):
    for name in ("x", "y"):
        (tmp_path / f"{name}.png").write_bytes(films[4].read_bytes())
    paths = [tmp_path / "x.png", *films, tmp_path / "y.png"]
    groups = copy_groups(copies_of(paths, tmp_path), len(paths))
    assert groups[0] == groups[5] == groups[13]
    assert len(set(groups)) == 12


def test_broken_images_are_no_copies_of_each_other_or_of_a_black_one(films, tmp_path):
    black = [tmp_path / "black_0.png", tmp_path / "black_1.bmp"]
    for path, size in zip(black, (16, 20), strict=True):
        Image.new("L", (size, size)).save(path)
    broken = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path in broken:
        path.write_bytes(b"")
    paths = [broken[0], black[0], broken[1], black[1], broken[2], *films]
    assert rows(copies_of(paths, tmp_path)) == [(1, 3, "near")]


def test_a_set_without_one_whole_image_has_no_copies(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert copies_of([path], tmp_path).empty


def test_the_listing_names_both_images_and_counts_kinds_and_splits(films, tmp_path):
    image = Image.open(films[1])
    image.path = films[1]
    paths = [*films, exact(image, tmp_path / "p"), reencoded(image, tmp_path / "q")]
    manifest = pd.DataFrame(
        {
            "image": [path.stem for path in paths],
            "label": "normal",
            "patient": "",
            "split": ["train"] * 12 + ["train", "val"],
        }
    )
    described = describe_copies(copies_of(paths, tmp_path), manifest)
    assert list(described.columns) == [
        "kind",
        *(f"{name}_a" for name in ("image", "label", "patient", "split")),
        *(f"{name}_b" for name in ("image", "label", "patient", "split")),
    ]
    # Of three copies the listing joins each with one before it, so two pairs say it all.
    assert set(described["image_a"]) | set(described["image_b"]) == {"film_01", "p", "q"}
    exacts = described[described["kind"] == "exact"]
    assert exacts[["image_a", "image_b"]].to_numpy().tolist() == [["film_01", "p"]]
    said = count_copies(described)
    assert "1 exact" in said
    assert "1 within train" in said
    assert "between train and val" in said
    assert count_copies(described.iloc[:0]) == "Leak check: no copies."


def test_a_set_of_equal_images_is_one_group(tmp_path):
    paths = []
    for n in range(300):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(np.full((16, 16), n % 250, dtype=np.uint8)).save(paths[-1])
    assert len(set(copy_groups(copies_of(paths, tmp_path), 300))) == 1
