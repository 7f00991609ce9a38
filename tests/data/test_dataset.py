"""The decoded images of a competition with several findings an image, split by split."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.dataset import SKIPPED, load_dataset
from xraycomp.data.source import Source

CLASSES = ("Nodule", "Mass")


@pytest.fixture
def manifest(tmp_path, draw):
    """Six images in ``tmp_path``: three to learn from, two of a test list, one unlabelled."""
    for row in range(6):
        draw(tmp_path / f"i{row}.png", seed=row)
    return pd.DataFrame(
        {
            "image": [f"i{row}" for row in range(6)],
            "path": [f"i{row}.png" for row in range(6)],
            "label": ["Nodule|Mass", "", "?Mass", "Mass", "", "?"],
            "split": ["train"] * 3 + ["test"] * 3,
        }
    )


def load(manifest: pd.DataFrame, root: Path, **options: bool):
    competition = replace(load_competition("nih-chest-xrays"), classes=CLASSES)
    return load_dataset(manifest, Source(competition, root, root), 8, workers=1, **options)


def test_each_split_has_the_targets_of_its_images(tmp_path, manifest):
    dataset = load(manifest, tmp_path)
    nan = np.nan
    train, test = dataset.split("train").targets, dataset.split("test").targets
    assert np.array_equal(train, [[1, 1], [0, 0], [0, nan]], equal_nan=True)
    assert np.array_equal(test, [[0, 1], [0, 0], [nan, nan]], equal_nan=True)


def test_a_broken_image_of_a_test_list_can_be_left_out_and_an_unlabelled_one_not(
    tmp_path, manifest
):
    (tmp_path / "i4.png").write_text("no image")
    with pytest.raises(UserError, match=r"1 images do not decode: i4\.png .*--skip-broken"):
        load(manifest, tmp_path)
    dataset = load(manifest, tmp_path, skip_broken=True)
    assert list(dataset.manifest["split"]) == [*["train"] * 3, "test", SKIPPED, "test"]
    (tmp_path / "i5.png").write_text("no image")
    with pytest.raises(UserError, match=r"1 test images do not decode .*: i5\.png"):
        load(manifest, tmp_path, skip_broken=True)


def test_what_was_left_out_once_is_not_complained_of_again(tmp_path, manifest):
    (tmp_path / "i1.png").write_text("no image")
    kept = load(manifest, tmp_path, skip_broken=True).manifest
    assert list(kept["split"]) == ["train", SKIPPED, "train", *["test"] * 3]
    assert load(kept, tmp_path).manifest.equals(kept)
