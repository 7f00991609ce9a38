"""A heat map over its film."""

import numpy as np
import pytest
from PIL import Image

from xraycomp.judging.overlay import COLOURS, MOST, overlay, write_picture


def test_colour_covers_the_film_where_the_map_is_strong_and_nowhere_else():
    film = np.full((2, 3), 100, dtype=np.uint8)
    heat = np.array([[0, 0.5, 1], [np.nan, 0, 0]])
    mixed = overlay(film, heat)
    assert mixed.shape == (2, 3, 3)
    assert mixed.dtype == np.uint8
    assert mixed[0, 0].tolist() == [100, 100, 100]
    for column, value in ((1, 0.5), (2, 1.0)):
        colour = 255 * np.array(COLOURS(value)[:3])
        wanted = 100 * (1 - MOST * value) + colour * MOST * value
        assert np.allclose(mixed[0, column], wanted, atol=0.51)
    assert mixed[1, 0].tolist() == [60, 60, 60]  # darker: the network did not see it


def test_a_stronger_place_is_brighter_in_colour():
    """Readable without colours: brightness grows with the map all the way."""
    ramp = 255 * COLOURS(np.linspace(0, 1, 64))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(ramp) > 0).all()


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_pictures_are_written_whole(tmp_path, name):
    film = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    write_picture(tmp_path / "new" / name, film)
    with Image.open(tmp_path / "new" / name) as image:
        assert (image.size, image.mode) == ((64, 48), "L")
        assert np.abs(np.asarray(image).astype(int) - film).max() <= 4
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
