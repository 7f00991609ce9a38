"""The body on a film, estimated from brightness, on phantoms whose body is known."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from xraycomp.data.phantom import CLASSES, Film, draw_film
from xraycomp.data.thorax import draw_thorax
from xraycomp.judging.chest import find_body, otsu, share_outside


def true_body(patient, size):
    """The trunk of the phantom's film ``1``, as it was drawn: flesh, or lung within it."""
    thorax = draw_thorax(
        np.random.default_rng((0, 0, patient, 0)),
        np.random.default_rng((0, 0, patient, 1, 1)),
        size,
    )
    return (thorax.chest_wall > 0.27) | (thorax.lung > 0.3)


@pytest.mark.parametrize("size", [128, 256])
def test_the_body_of_phantoms(size):
    agreements = []
    for patient in range(30):
        film, _ = draw_film(Film("train", patient, 1, CLASSES[patient % 5]), 0, size)
        body, wanted = find_body(film), true_body(patient, size)
        assert body is not None
        assert (body[wanted]).mean() > 0.94, patient
        agreements.append((body & wanted).sum() / (body | wanted).sum())
    assert np.median(agreements) > 0.97
    assert min(agreements) > 0.9


def test_letters_and_markers_beside_the_patient_are_not_the_body():
    film, _ = draw_film(Film("train", 3, 1, "normal"), 0, 200)
    marked = film.copy()
    unmarked = find_body(film)
    assert not unmarked[:14, :14].any()
    marked[2:8, 3:8] = 255
    assert not find_body(marked)[:14, :14].any()
    assert (find_body(marked) == unmarked).mean() > 0.99


def test_what_shows_no_patient_is_said_to_be_unknown():
    assert find_body(np.zeros((64, 64), np.uint8)) is None
    assert find_body(np.full((64, 64), 255, np.uint8)) is None
    inverted = 255 - draw_film(Film("train", 3, 1, "normal"), 0, 128)[0]
    assert find_body(inverted) is None


def test_otsu_is_the_best_split_in_two():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(60, 9, 3000), rng.normal(150, 25, 1500)])
    groups = KMeans(2, n_init=5, random_state=0).fit(values[:, None])
    between = groups.cluster_centers_.mean()  # two means part at their middle, as Otsu's do
    assert otsu(values) == pytest.approx(between, abs=2.0)


def test_the_share_outside():
    body = np.zeros((4, 4), dtype=bool)
    body[:, 1:3] = True
    heat = np.zeros((4, 4))
    heat[0] = [1, 2, 3, np.nan]
    assert share_outside(heat, body) == pytest.approx(1 / 6)
    assert np.isnan(share_outside(heat, None))
    assert np.isnan(share_outside(np.zeros((4, 4)), body))
