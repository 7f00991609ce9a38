"""The drawn competition: the same bytes every time, a layout as promised, no easy way out."""

import csv
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xraycomp.data.phantom import CLASSES, Film, box_of, draw_competition, draw_film, plan_films

N_TRAIN, N_TEST, SIZE = 500, 40, 96
SICK = CLASSES[:-1]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantom")
    draw_competition(root, seed=3, n_train=N_TRAIN, n_test=N_TEST, size=SIZE)
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def training_set(root: Path) -> tuple[list[NDArray[np.uint8]], list[str], list[str]]:
    """Pixels, classes and patients of the training films."""
    paths = sorted(root.glob("train/*/*.png"))
    pixels = [np.asarray(Image.open(path)) for path in paths]
    return pixels, [path.parent.name for path in paths], [path.name[:5] for path in paths]


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        draw_competition(tmp_path / name, seed=seed, n_train=30, n_test=10, size=48)
    one, again, other = (contents(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert not set(one.values()) & {b for path, b in other.items() if path.endswith(".png")}


def test_a_film_does_not_depend_on_the_films_drawn_before_it(drawn: Path) -> None:
    film = plan_films("train", N_TRAIN, np.random.default_rng([3, 2]))[-1]
    path = drawn / "train" / film.finding / f"p{film.patient:04d}_{film.shot}.png"
    assert np.array_equal(draw_film(film, 3, SIZE)[0], np.asarray(Image.open(path)))


def test_layout_counts_and_imbalance(drawn: Path) -> None:
    assert {path.name for path in drawn.iterdir()} == {
        *("train", "test", "lesions.csv", "sample_submission.csv", "README.txt")
    }
    assert {path.name for path in (drawn / "train").iterdir()} == set(CLASSES)
    assert "not X-rays" in (drawn / "README.txt").read_text(encoding="utf-8")

    _, labels, patients = training_set(drawn)
    count = Counter(labels)
    assert sum(count.values()) == N_TRAIN
    assert max(count, key=count.__getitem__) == "normal"
    assert min(count, key=count.__getitem__) == "pneumothorax"
    assert count["normal"] > 2.5 * count["pneumothorax"]

    films = Counter(patients)
    assert set(films.values()) == {1, 2, 3}
    assert len({*zip(patients, labels, strict=True)}) == len(films), "one class a patient"
    names = [path.name for path in drawn.glob("train/*/*.png")]
    assert all(re.fullmatch(r"p\d{4}_[123]\.png", name) for name in names)


def test_the_class_order_is_not_alphabetical() -> None:
    assert CLASSES == ("nodule", "consolidation", "effusion", "pneumothorax", "normal")
    assert list(CLASSES) != sorted(CLASSES)


def test_every_film_is_8_bit_gray(drawn: Path) -> None:
    for path in drawn.rglob("*.png"):
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (SIZE, SIZE))
            assert np.asarray(image).std() > 15


def test_a_test_patient_is_not_the_training_patient_of_the_same_number() -> None:
    here, there = (draw_film(Film(split, 7, 1, "normal"), 0, 64)[0] for split in ("train", "test"))
    assert np.abs(here.astype(float) - there).mean() > 5


@pytest.mark.parametrize("finding", CLASSES)
def test_films_of_one_patient_differ_in_pose_and_finding(finding: str) -> None:
    films = [draw_film(Film("train", 7, shot, finding), 0, 64) for shot in (1, 2, 3)]
    (one, box), *others = films
    for film, other_box in others:
        assert np.abs(one.astype(float) - film).mean() > 2
        assert box is None or box != other_box


@pytest.mark.parametrize("finding", SICK)
def test_a_finding_of_each_film_is_drawn_anew(finding: str) -> None:
    # On the same pose nothing but the finding could move.
    centres = []
    for shot in range(1, 13):
        box = draw_film(Film("train", 7, shot, finding), 0, 64)[1]
        assert box is not None
        centres.append(box[0] + box[2] / 2)
    assert min(centres) < 24
    assert max(centres) > 40


def test_a_box_holds_all_pixels_of_half_the_footprint_and_no_others() -> None:
    footprint = np.zeros((20, 30))
    footprint[2:12, 3:15] = 0.3
    footprint[5:8, 7:14] = 0.45
    footprint[6, 10] = 0.8
    assert box_of(footprint) == (7, 5, 7, 3)


def test_neither_test_order_nor_patient_number_tells_the_class() -> None:
    """Runs of one class would show as neighbours that agree more often than by chance."""
    for split in ("train", "test"):
        films = plan_films(split, 3000, np.random.default_rng(0))
        for order in (films, sorted(films, key=lambda film: film.patient)):
            firsts = [film.finding for film in order if film.shot == 1]
            agree = np.mean([a == b for a, b in pairwise(firsts)])
            chance = sum((n / len(firsts)) ** 2 for n in Counter(firsts).values())
            assert abs(agree - chance) < 0.04
        # Nor do films of one patient follow each other: about one pair in a thousand does.
        assert sum(a.patient == b.patient for a, b in pairwise(films)) < 15


def test_the_sample_submission_names_every_test_film_in_order(drawn: Path) -> None:
    header, *body = rows(drawn / "sample_submission.csv")
    assert header == ["name", "target"]
    assert body == [[f"test_{index}", str(CLASSES.index("normal"))] for index in range(N_TEST)]
    assert {path.stem for path in (drawn / "test").iterdir()} == {name for name, _ in body}


def test_lesions_list_every_sick_training_film_with_a_box_inside_it(drawn: Path) -> None:
    header, *body = rows(drawn / "lesions.csv")
    assert header == ["image", "finding", "x", "y", "width", "height"]
    sick = {(path.name, path.parent.name) for path in drawn.glob("train/*/*.png")}
    sick = {(name, finding) for name, finding in sick if finding != "normal"}
    assert {(name, finding) for name, finding, *_ in body} == sick
    assert len(body) == len(sick)
    for _, _, *box in body:
        x, y, width, height = map(int, box)
        assert min(width, height) >= 3
        assert min(x, y) >= 0
        assert max(x + width, y + height) <= SIZE


@pytest.mark.parametrize("finding", SICK)
def test_the_finding_is_where_its_box_says_and_nowhere_else(finding: str) -> None:
    """Against the same film of the same patient drawn healthy, noise and all."""
    for patient in range(40):
        film = Film("train", patient, 1, finding)
        sick, box = draw_film(film, 0, SIZE)
        healthy, no_box = draw_film(replace(film, finding="normal"), 0, SIZE)
        assert no_box is None
        assert box is not None
        x, y, width, height = box
        change = sick.astype(float) - healthy
        within = np.zeros(change.shape, dtype=bool)
        within[y : y + height, x : x + width] = True
        strongest = np.abs(change[within]).max()
        assert strongest > 12, f"patient {patient}: not to be seen"
        assert np.abs(change[within]).mean() > 8 * np.abs(change[~within]).mean()
        near = np.zeros(change.shape, dtype=bool)
        near[max(0, y - 8) : y + height + 8, max(0, x - 8) : x + width + 8] = True
        assert np.abs(change[~near]).max(initial=0) < 0.7 * strongest
        darker = change[within].sum() < 0
        assert darker == (finding == "pneumothorax"), "air is dark, everything else is white"


@pytest.mark.parametrize("finding", SICK)
def test_either_lung_may_be_the_sick_one(finding: str) -> None:
    boxes = [draw_film(Film("train", n, 1, finding), 1, 48)[1] for n in range(200)]
    right = np.mean([box[0] + box[2] / 2 < 24 for box in boxes if box is not None])
    assert 0.38 < right < 0.62


def test_simple_statistics_and_a_linear_model_do_poorly(drawn: Path) -> None:
    """No shortcut: gray values, the border, the file size and single pixels tell little."""
    pixels, labels, patients = training_set(drawn)
    stack = np.stack(pixels).astype(np.float64)
    quantiles = np.percentile(stack, (1, 5, 25, 50, 75, 95, 99), axis=(1, 2)).T
    edges = (stack[:, 0], stack[:, -1], stack[:, :, 0], stack[:, :, -1])
    sizes = [[path.stat().st_size] for path in sorted(drawn.glob("train/*/*.png"))]
    features = {
        "gray values": np.c_[stack.mean((1, 2)), stack.std((1, 2)), quantiles],
        "border": np.concatenate(edges, axis=1)[:, ::4],
        "file size": np.array(sizes),
        "pixels": stack.reshape(len(stack), SIZE // 4, 4, SIZE // 4, 4)
        .mean((2, 4))
        .reshape(len(stack), -1),
    }
    for name, values in features.items():
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.01, tol=0.01, class_weight="balanced")
        )
        guess = cross_val_predict(model, values, labels, groups=patients, cv=GroupKFold(3))
        limit = 0.6 if name == "pixels" else 0.4
        assert balanced_accuracy_score(labels, guess) < limit, name
