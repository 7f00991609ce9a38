"""A small competition out of a large one: a few images of every class, the tables cut to them."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from xraycomp.data.competition import Competition
from xraycomp.data.files import read_table, write_csv, write_text
from xraycomp.data.image_ids import image_key, rows_by_key
from xraycomp.data.labels import encode_targets
from xraycomp.data.manifest import build_manifest
from xraycomp.data.submission import expected_ids


def cut_slice(
    competition: Competition, root: Path, destination: Path, n_train: int, n_test: int
) -> int:
    """Copy about ``n_train`` training and ``n_test`` test images of ``root`` to ``destination``.

    Every class gets as many of its images as another, if it has them; label table and sample
    submission are cut to the images that were taken. Returns the number of training images.
    """
    manifest = build_manifest(competition, root)
    train = manifest[manifest["split"] == "train"].reset_index(drop=True)
    targets = encode_targets(train["label"], competition.classes)
    share = -(-n_train // len(competition.classes))
    chosen = np.zeros(len(train), dtype=bool)
    for column in targets.T:
        rows = np.flatnonzero(column == 1)
        chosen[rows[np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int)]] = True
    paths = list(train["path"][chosen])
    test = manifest[manifest["split"] == "test"].set_index("image")["path"]
    if competition.submission:
        ids = expected_ids(competition, root)[:n_test]
        paths += [test[name] for name in competition.submission.images_of(ids) if name in test]
        if competition.submission.sample:
            sample = read_table(root / competition.submission.sample)
            cut = sample[sample[competition.submission.id_column].isin(ids)]
            write_csv(destination / competition.submission.sample, cut)
    else:
        paths += list(test)[:n_test]
    if competition.train.labels != "folders":
        _cut_tables(competition, root, destination, manifest[manifest["path"].isin(paths)])
    if competition.boxes and (root / competition.boxes.table).is_file():
        paths.append(competition.boxes.table)  # those of other images do no harm
    for path in paths:
        (destination / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / path, destination / path)
    return int(chosen.sum())


def _cut_tables(
    competition: Competition, root: Path, destination: Path, chosen: pd.DataFrame
) -> None:
    """Write the label table and the lists with the ``chosen`` images only."""
    train = competition.train
    keys = rows_by_key(chosen["image"]).keys()
    table = read_table(root / train.labels)
    named = table[train.image_column].map(image_key)
    write_csv(destination / train.labels, table[named.isin(keys)])
    if train.join:
        shutil.copyfile(root / train.join, destination / train.join)
    for file in filter(None, (train.train_list, train.test_list)):
        listed = (root / file).read_text(encoding="utf-8").split()
        kept = [f"{name}\n" for name in listed if image_key(name) in keys]
        write_text(destination / file, "".join(kept))
