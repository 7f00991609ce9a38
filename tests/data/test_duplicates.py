"""Copies planted among drawn films: each kind is found, and nothing else."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.fft import idctn

from xraycomp.data.cache import build_cache
from xraycomp.data.duplicates import (
    MAX_DISTANCE,
    copy_groups,
    count_copies,
    describe_copies,
    find_copies,
    perceptual_hashes,
)
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


def hash_bits(rng, bits=None, kept=()):
    """255 bits of which 127 are set, drawn by chance; those at the places ``kept`` are ``bits``."""
    drawn = np.zeros(255, dtype=bool) if bits is None else bits.copy()
    free = np.setdiff1d(np.arange(255), np.asarray(kept, dtype=int))
    n_set = 127 - sum(drawn[place] for place in kept)
    drawn[free] = rng.permutation(np.arange(len(free)) < n_set)
    return drawn


def flipped(bits, stretches):
    """``bits`` with one changed in each of the stretches, by turns a set and a cleared one."""
    bits = bits.copy()
    for turn, places in enumerate(stretches):
        place = places[bits[places] == (turn % 2 == 0)][0]
        bits[place] = not bits[place]
    return bits


def write_films(folder, hashes):
    """Files of 32 px whose perceptual hashes are these bits."""
    paths = []
    for n, bits in enumerate(hashes):
        low = np.array([128 * 32, *np.where(bits, 30, -30)])
        frequencies = np.pad(low.reshape(16, 16), (0, 16))
        film = np.rint(idctn(frequencies, norm="ortho")).astype(np.uint8)
        assert np.array_equal(perceptual_hashes(film[None])[0], np.packbits(bits))
        paths.append(folder / f"{n}.png")
        Image.fromarray(film).save(paths[-1])
    return paths


@pytest.mark.parametrize(("differing", "found"), [(MAX_DISTANCE, True), (MAX_DISTANCE + 2, False)])
def test_near_copies_are_found_up_to_the_limit_wherever_they_differ(tmp_path, differing, found):
    rng = np.random.default_rng(0)
    one = hash_bits(rng)
    other = flipped(one, np.array_split(np.arange(255), differing))
    paths = write_films(tmp_path, [hash_bits(rng), one, hash_bits(rng), other])
    assert rows(copies_of(paths, tmp_path)) == ([(1, 3, "near")] if found else [])


def test_near_copies_are_found_past_another_film_that_is_partly_like_them(tmp_path):
    # Both copies are alike in the last stretch alone, where the film sorted between them is too.
    rng = np.random.default_rng(0)
    stretches = np.array_split(np.arange(255), MAX_DISTANCE + 1)
    one = hash_bits(rng)
    other = flipped(one, stretches[:-1])
    place = (one != other).argmax()
    between = one.copy()
    between[place], between[place + 1 : len(stretches[0])] = False, True
    between = hash_bits(rng, between, kept=[*stretches[0], *stretches[-1]])
    assert tuple(other) < tuple(between) < tuple(one)
    paths = write_films(tmp_path, [one, between, other])
    assert rows(copies_of(paths, tmp_path)) == [(0, 2, "near")]


def test_hashes_of_many_thumbnails_are_those_of_each_alone():
    films = np.random.default_rng(0).integers(0, 256, (4100, 32, 32), dtype=np.uint8)
    hashes = perceptual_hashes(films)
    assert len(hashes) == 4100
    assert np.array_equal(hashes[4090:], perceptual_hashes(films[4090:]))
