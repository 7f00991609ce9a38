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
from xraycomp.data.files import read_table, write_csv, write_text
from xraycomp.data.labels import encode_targets
from xraycomp.data.manifest import build_manifest, names_of_images
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
    targets = encode_targets(list(train["label"]), competition.classes)
    share = -(-n_train // len(competition.classes))
    chosen = np.zeros(len(train), dtype=bool)
    for column in targets.T:
        rows = np.flatnonzero(column == 1)
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
        _cut_tables(competition, root, destination, manifest[manifest["path"].isin(paths)])
    for path in paths:
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, destination / path)
    return int(chosen.sum())


def _cut_tables(
    competition: Competition, root: Path, destination: Path, chosen: pd.DataFrame
) -> None:
    """Write the label table and the lists with the ``chosen`` images only."""
    train = competition.train
    names = names_of_images(chosen).keys()
    table = read_table(root / train.labels)
    write_csv(destination / train.labels, table[table[train.image_column].isin(names)])
    if train.join:
        shutil.copyfile(root / train.join, destination / train.join)
    for file in filter(None, (train.train_list, train.test_list)):
        listed = (root / file).read_text(encoding="utf-8").split()
        write_text(destination / file, "".join(f"{name}\n" for name in listed if name in names))


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
    n_rows = share * len(classes)
    files = []
    for index in range(n_rows + (n_test if train.test_list else 0)):
        kind = index % len(classes)
        files.append(f"{name.format(index)}.png")
        folder = destination / _plain(train.images)
        if train.labels == "folders":
            folder /= classes[kind]
        finding = phantom.CLASSES[kind % len(phantom.CLASSES)]
        _draw(folder / files[-1], phantom.Film("train", index, 1, finding), size)
    if train.labels != "folders":
        _write_tables(competition, destination, files, n_rows)
    if competition.test:
        for index in range(n_test):
            finding = phantom.CLASSES[index % len(phantom.CLASSES)]
            path = destination / _plain(competition.test) / f"test_{index}.png"
            _draw(path, phantom.Film("test", index, 1, finding), size)
        _write_sample(competition, destination, n_test)
    return n_rows


def _write_tables(
    competition: Competition, destination: Path, files: list[str], n_train: int
) -> None:
    """Write label table, joined table and lists for ``files``, whose classes take turns."""
    classes, train = competition.classes, competition.train
    called = {name: text for text, name in train.names.items()}
    words = [called.get(name, name) for name in classes]
    rows = pd.DataFrame({train.image_column: files})
    if train.join:
        rows[train.join_column] = range(len(files))
    if competition.patient_column:
        rows[competition.patient_column] = [f"p{index}" for index in range(len(files))]
    for column, values in train.where.items():
        rows[column] = values[0]
    labels = pd.DataFrame(index=rows.index)
    kinds = np.arange(len(files)) % len(classes)
    if train.label_column:
        labels[train.label_column] = np.asarray(words, dtype=object)[kinds]
    else:
        labels[words] = np.eye(len(classes), dtype=int)[kinds]
    if train.join:
        key = rows[train.join_column]
        write_csv(destination / train.join, labels.assign(**{train.join_column: key}))
        write_csv(destination / train.labels, rows)
    else:
        write_csv(destination / train.labels, pd.concat([rows, labels], axis=1))
    if train.test_list:
        for list_file, part in (
            (train.train_list, files[:n_train]),
            (train.test_list, files[n_train:]),
        ):
            write_text(destination / list_file, "".join(f"{file}\n" for file in part))


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
