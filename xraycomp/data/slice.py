"""A small competition out of a large one: a few images of every class, the tables cut to them."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from xraycomp.console.errors import UserError
from xraycomp.data import phantom
from xraycomp.data.competition import Competition
from xraycomp.data.files import read_table, write_csv
from xraycomp.data.manifest import build_manifest
from xraycomp.data.submission import expected_ids

# File names as the public sets have them, tried in turn where a pattern must find the patient.
_NAMES = (
    "image_{:04d}",
    "p{:04d}_1",
    "person{}_1",
    "IM-{:04d}-0001",
    "patient{:05d}_1",
    "{:08d}_000",
)


def cut_slice(
    competition: Competition, root: Path, destination: Path, n_train: int, n_test: int
) -> int:
    """Copy about ``n_train`` training and ``n_test`` test images of ``root`` to ``destination``.

    Every class gets as many of its images as another, if it has them; label table and sample
    submission are cut to the images that were taken. Returns the number of training images.
    """
    manifest = build_manifest(competition, root)
    train = manifest[manifest["split"] == "train"].reset_index(drop=True)
    share = -(-n_train // len(competition.classes))
    chosen = np.zeros(len(train), dtype=bool)
    for label in competition.classes:
        rows = np.flatnonzero(train["label"] == label)
        chosen[rows[np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int)]] = True
    paths = list(train["path"][chosen])
    test = manifest[manifest["split"] == "test"].set_index("image")["path"]
    if competition.submission:
        ids = expected_ids(competition, root)[:n_test]
        suffix = competition.submission.suffix
        images = [str(Path(name).with_suffix("")) if suffix else name for name in ids]
        paths += [test[image] for image in images if image in test.index]
        if competition.submission.sample:
            sample = read_table(root / competition.submission.sample)
            cut = sample[sample[competition.submission.id_column].isin(ids)]
            write_csv(destination / competition.submission.sample, cut)
    else:
        paths += list(test)[:n_test]
    if competition.train.labels != "folders":
        # The manifest's training rows are the table's, in its order.
        table = read_table(root / competition.train.labels)
        write_csv(destination / competition.train.labels, table[chosen])
    for path in paths:
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, destination / path)
    return int(chosen.sum())


def draw_slice(
    competition: Competition, destination: Path, n_train: int, n_test: int, size: int = 96
) -> int:
    """Draw phantoms as stand-ins for the images of ``competition``, in its layout.

    They show nothing that the classes mean; they are there to run code on. Returns the number of
    training images. Raises ``UserError`` where no file name can be made for the patient pattern.
    """
    classes, train = competition.classes, competition.train
    share = -(-n_train // len(classes))
    name = _name_for(competition)
    rows = []
    for index in range(share * len(classes)):
        kind = index % len(classes)
        file = f"{name.format(index)}.png"
        folder = destination / _plain(train.images)
        if train.labels == "folders":
            folder /= classes[kind]
        finding = phantom.CLASSES[kind % len(phantom.CLASSES)]
        _draw(folder / file, phantom.Film("train", index, 1, finding), size)
        row = {train.image_column: file, train.label_column: classes[kind]}
        rows.append({competition.patient_column: f"p{index}", **row})
    if train.labels != "folders":
        table = pd.DataFrame(rows).drop(columns="", errors="ignore")
        write_csv(destination / train.labels, table)
    if competition.test:
        for index in range(n_test):
            finding = phantom.CLASSES[index % len(phantom.CLASSES)]
            path = destination / _plain(competition.test) / f"test_{index}.png"
            _draw(path, phantom.Film("test", index, 1, finding), size)
        _write_sample(competition, destination, n_test)
    return len(rows)


def _plain(pattern: str) -> str:
    """One folder that ``pattern`` names."""
    return re.sub(r"\*+", "001", pattern)


def _name_for(competition: Competition) -> str:
    pattern = re.compile(competition.patient_pattern)
    fitting = [name for name in _NAMES if pattern.search(name.format(12) + ".png")]
    if not fitting:
        raise UserError(
            f"No stand-in images can be drawn for {competition.slug}, since no made-up file name "
            f"fits its patient.pattern {competition.patient_pattern!r}. Give its data with --data."
        )
    return fitting[0]


def _draw(path: Path, film: phantom.Film, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(phantom.draw_film(film, 0, size)[0]).save(path)


def _write_sample(competition: Competition, destination: Path, n_test: int) -> None:
    submission = competition.submission
    if not submission or not submission.sample:
        return
    guesses = {"label_index": 0, "label_name": competition.classes[0]}
    suffix = ".png" if submission.suffix else ""
    rows = [
        {
            column: f"test_{index}{suffix}" if content == "id" else guesses.get(content, 0.5)
            for column, content in submission.columns.items()
        }
        for index in range(n_test)
    ]
    write_csv(destination / submission.sample, pd.DataFrame(rows))
