"""The embedded competition: thorax phantoms, drawn by arithmetic. They are not X-rays.

A patient has an anatomy, which all of their films share; a film adds a pose, an exposure, noise
and, unless the patient is normal, a finding of its own. Every film is drawn from random streams
that are keyed by ``(seed, split, patient, stream)``, so it does not depend on what was drawn
before it: the files are the same bytes in any order, in any number of processes.

``thorax`` draws the healthy chest and states the coordinates and densities used here.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from xraycomp.data.files import write_csv, write_text
from xraycomp.data.thorax import Plane, Thorax, draw_thorax, either_side, inside, plane, turned

Box = tuple[int, int, int, int]

# Index order is not alphabetical, as in acse4-ml-2020: code that sorts the folders gets it wrong.
CLASSES = ("nodule", "consolidation", "effusion", "pneumothorax", "normal")
SHARES = (0.17, 0.20, 0.17, 0.12, 0.34)
FILMS_PER_PATIENT = (0.6, 0.25, 0.15)  # the probability of 1, 2 and 3 films
SPLITS = {"train": 0, "test": 1}

README = """\
Thorax phantoms: DRAWN BY A PROGRAM. They are not X-rays, show no patient and teach no medicine.

They exist so that the kit can be tried and tested with nothing downloaded. No result on them says
anything about a model's use on real images.

train/<class>/p0012_1.png   the first film of patient p0012, 8-bit gray
test/test_0.png             films of other patients, without labels
sample_submission.csv       name,target: the target is the index of a class, in this order:
                            {classes}
lesions.csv                 where the finding was drawn in each training film: x and y of the
                            box's upper left corner, width and height, in pixels
"""


@dataclass(frozen=True)
class Film:
    """One image to draw: which patient of which split, which of their films, what it shows."""

    split: str
    patient: int
    shot: int
    finding: str


def draw_competition(
    destination: Path, seed: int = 0, n_train: int = 1800, n_test: int = 300, size: int = 128
) -> None:
    """Write the whole competition into ``destination``, which is created if need be.

    n_train, n_test : numbers of films
    size : height and width of a film in pixels
    """
    for folder in ("test", *(f"train/{name}" for name in CLASSES)):
        (destination / folder).mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng([seed, len(SPLITS)])
    train, test = (plan_films(*split, order) for split in (("train", n_train), ("test", n_test)))
    names = [f"p{film.patient:04d}_{film.shot}.png" for film in train]
    paths = [f"train/{film.finding}/{name}" for film, name in zip(train, names, strict=True)]
    paths += [f"test/test_{index}.png" for index in range(n_test)]

    def draw(film: Film, path: str) -> Box | None:
        pixels, box = draw_film(film, seed, size)
        Image.fromarray(pixels).save(destination / path)
        return box

    with ThreadPoolExecutor(2) as threads:  # numpy and the PNG encoder let go of the lock
        drawn = threads.map(draw, [*train, *test], paths)
        boxes = list(tqdm(drawn, "Drawing phantoms", len(paths), unit="img"))

    lesions = [
        (name, film.finding, *box)
        for name, film, box in zip(names, train, boxes[:n_train], strict=True)
        if box is not None
    ]
    header = ["image", "finding", "x", "y", "width", "height"]
    write_csv(destination / "lesions.csv", pd.DataFrame(sorted(lesions), columns=header))
    tests = [f"test_{index}" for index in range(n_test)]
    guesses = pd.DataFrame({"name": tests, "target": CLASSES.index("normal")})
    write_csv(destination / "sample_submission.csv", guesses)
    text = README.format(classes=", ".join(f"{name} {i}" for i, name in enumerate(CLASSES)))
    write_text(destination / "README.txt", text)


def plan_films(split: str, n_films: int, order: Generator) -> list[Film]:
    """Share ``n_films`` out over classes and patients, in an order that tells nothing."""
    bounds = np.round(np.cumsum((0, *SHARES)) * n_films).astype(int)
    patients: list[tuple[str, int]] = []  # (finding, number of films)
    for finding, left in zip(CLASSES, np.diff(bounds).tolist(), strict=True):
        while left > 0:
            shots = min(left, 1 + int(order.choice(3, p=FILMS_PER_PATIENT)))
            patients.append((finding, shots))
            left -= shots
    # Numbers are dealt after a shuffle: neither a patient's number nor a test name tells the class.
    # Test patients are keyed by their own split, so none of them is in the training set.
    order.shuffle(patients)
    films = [
        Film(split, number, shot, finding)
        for number, (finding, shots) in enumerate(patients)
        for shot in range(1, shots + 1)
    ]
    order.shuffle(films)
    return films


def draw_film(film: Film, seed: int, size: int) -> tuple[NDArray[np.uint8], Box | None]:
    """Draw one film.

    Returns the uint8 pixels of shape (size, size) and the finding's box (x, y, width, height) in
    pixels, None for a normal film. Pose, exposure and noise have a stream of their own: the same
    film drawn with ``finding="normal"`` differs in nothing but the finding.
    """
    key = (seed, SPLITS[film.split], film.patient)
    body = np.random.default_rng((*key, 0))
    pose = np.random.default_rng((*key, 1, film.shot))
    thorax = draw_thorax(body, pose, size)
    if film.finding == "normal":
        return expose(thorax.density, pose), None
    finding = np.random.default_rng((*key, 2, film.shot))
    density, footprint = FINDINGS[film.finding](thorax, finding)
    return expose(density, pose), box_of(footprint)


def expose(density: Plane, rng: Generator) -> NDArray[np.uint8]:
    """Turn whiteness into 8-bit gray values: blur, noise, and the tone of this film."""
    size = len(density)
    film = ndimage.gaussian_filter(density, rng.uniform(0.003, 0.007) * size)
    tone = film.clip(0, None) ** rng.uniform(0.75, 1.3)
    # A slow gradient stands for uneven exposure; without it and the wide range of brightness and
    # contrast, the mean of the image would tell a white lung from a black one.
    x, y = plane(size)
    tone = tone * rng.uniform(0.62, 0.95) + rng.uniform(0.0, 0.16)
    tone += rng.uniform(-0.05, 0.05) * x + rng.uniform(-0.05, 0.05) * y
    grain = ndimage.gaussian_filter(rng.standard_normal(density.shape, dtype=np.float32), 0.5)
    tone += rng.uniform(0.013, 0.038) * grain
    gray: NDArray[np.uint8] = np.round(255 * tone.clip(0, 1)).astype(np.uint8)
    return gray


def box_of(footprint: Plane) -> Box:
    """The smallest box (x, y, width, height) around the pixels at half of the strongest or more."""
    rows, columns = np.nonzero(footprint >= 0.5 * footprint.max())
    x, y = int(columns.min()), int(rows.min())
    return x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1


def pick_place(thorax: Thorax, rng: Generator, margin: float) -> tuple[float, float]:
    """A point of either lung, at least ``margin`` from the wall and in clear view."""
    sign = either_side(rng)
    clear = (thorax.x * sign > 0) & (thorax.lung > 0.9)
    clear &= np.minimum(thorax.edge, thorax.floor - thorax.y) > margin
    rows, columns = np.nonzero(clear)
    chosen = rng.integers(len(rows))
    row, column = rows[chosen], columns[chosen]
    return float(thorax.x[row, column]), float(thorax.y[row, column])


# Each finding is drawn into a healthy thorax: it returns the density with the finding in it, and
# the footprint, how much of the finding is in each pixel, from 0 to 1.


def draw_nodule(thorax: Thorax, rng: Generator) -> tuple[Plane, Plane]:
    """A round, sharp spot, a little longer than wide."""
    x, y = pick_place(thorax, rng, margin=0.11)
    radius, stretch = rng.uniform(0.085, 0.14), rng.uniform(1, 1.3)
    across, along = turned(thorax.x - x, thorax.y - y, rng.uniform(0, math.pi))
    footprint = inside(1 - np.hypot(across, along / stretch) / radius, 0.45)
    footprint *= 0.3 + 0.7 * thorax.lung  # dim where heart or wall is white already
    return thorax.density + rng.uniform(0.22, 0.36) * footprint, footprint


def draw_consolidation(thorax: Thorax, rng: Generator) -> tuple[Plane, Plane]:
    """A patchy cloud without a border, held by the lung, larger than any nodule."""
    x, y = pick_place(thorax, rng, margin=0.11)
    width, height = rng.uniform(0.17, 0.32), rng.uniform(0.17, 0.36)
    grain = rng.standard_normal(thorax.lung.shape, dtype=np.float32)
    clouds = ndimage.gaussian_filter(grain, 0.03 * len(grain))
    clouds /= clouds.std()
    heap = 1 - np.hypot((thorax.x - x) / width, (thorax.y - y) / height)
    same_side = thorax.x * x > 0
    footprint = inside(heap + 0.22 * clouds, 0.7) * thorax.lung * same_side
    return thorax.density + rng.uniform(0.18, 0.33) * footprint, footprint


def draw_effusion(thorax: Thorax, rng: Generator) -> tuple[Plane, Plane]:
    """Fluid that fills a lung from below and climbs the outer wall, hiding diaphragm and angle."""
    sign, depth = either_side(rng), rng.uniform(0.14, 0.42)
    outwards = (np.abs(thorax.x) - 0.35) / 0.36
    surface = 0.72 - depth - rng.uniform(0.12, 0.3) * outwards.clip(-0.8, 1.4) * np.abs(outwards)
    footprint = inside(thorax.y - surface, 0.1) * thorax.lung * (thorax.x * sign > 0.08)
    return thorax.density + rng.uniform(0.26, 0.38) * footprint, footprint


def draw_pneumothorax(thorax: Thorax, rng: Generator) -> tuple[Plane, Plane]:
    """Air between wall and lung: a dark strip without vessels, and the thin line of the pleura."""
    sign, widest = either_side(rng), rng.uniform(0.07, 0.18)
    # Air rises: the strip is widest at the apex and runs out towards the diaphragm.
    depth = widest * inside(rng.uniform(0.0, 0.6) - thorax.y, 0.9)
    outer = thorax.x * sign > 0.3 - 0.2 * inside(-0.3 - thorax.y, 0.2)
    footprint = inside(depth - thorax.edge, 0.03) * thorax.lung * outer
    pleura = np.exp(-(((thorax.edge - depth) / 0.014) ** 2)) * thorax.lung * outer
    air = thorax.chest_wall - rng.uniform(0.06, 0.14)
    density = thorax.density + footprint * (air - thorax.density)
    return density + rng.uniform(0.06, 0.12) * pleura, footprint


FINDINGS: dict[str, Callable[[Thorax, Generator], tuple[Plane, Plane]]] = {
    "nodule": draw_nodule,
    "consolidation": draw_consolidation,
    "effusion": draw_effusion,
    "pneumothorax": draw_pneumothorax,
}
