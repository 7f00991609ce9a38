"""What is measured of a film without looking at the chest."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xraycomp.data import features
from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.dataset import load_dataset
from xraycomp.data.features import border_pixels, measure_images, read_sizes
from xraycomp.data.manifest import build_manifest
from xraycomp.data.source import Source


@pytest.fixture
def dataset(tmp_path, draw_tree):
    root = draw_tree(tmp_path / "raw", classes=("covid", "normal"), per_class=6, n_test=2)
    Image.new("L", (80, 60), 200).save(root / "train/covid/image_0.png")
    competition = Competition(
        slug="toy",
        title="toy",
        source="dataset",
        task="multiclass",
        classes=("covid", "normal"),
        metric="macro_f1",
        train=Labelled("train", "folders"),
        test="test",
    )
    manifest = build_manifest(competition, root)
    manifest.loc[[0, 6], "split"] = "val"
    return load_dataset(manifest, Source(competition, root, tmp_path), 24), root


def test_labelled_images_are_measured_in_the_manifest_s_order(dataset):
    data, root = dataset
    table = measure_images(data, root)
    assert list(table.columns) == ["image", "split", "width", "height", "brightness"]
    labelled = data.manifest[data.manifest["label"] != "?"]
    pd.testing.assert_frame_equal(table[["image", "split"]], labelled[["image", "split"]])
    first = table.iloc[0]
    assert (first["width"], first["height"], first["brightness"]) == (80, 60, 200)
    pixels = np.asarray(Image.open(root / data.manifest["path"][3]))
    assert table["brightness"][3] == pytest.approx(pixels.mean(), abs=2)


def test_of_a_large_training_split_a_sample_is_measured(dataset, monkeypatch):
    data, root = dataset
    monkeypatch.setattr(features, "MOST_TRAINING_IMAGES", 4)
    table = measure_images(data, root)
    assert table["split"].value_counts().to_dict() == {"train": 4, "val": 2}
    assert list(table["image"]) == [i for i in data.manifest["image"] if i in set(table["image"])]
    assert table.equals(measure_images(data, root))


def test_sizes_are_read_in_order(tmp_path):
    paths = [tmp_path / f"{n}.png" for n in range(20)]
    for n, path in enumerate(paths):
        Image.new("L", (10 + n, 40 - n)).save(path)
    assert read_sizes(paths, 3).tolist() == [[10 + n, 40 - n] for n in range(20)]
    assert read_sizes([]).shape == (0, 2)


def test_the_border_is_the_outermost_ring():
    pictures = np.zeros((2, 32, 32), np.uint8)
    pictures[1, 1:-1, 1:-1] = 99
    pictures[1, 0, 31] = 7
    ring = border_pixels(pictures)
    assert ring.shape == (2, 124)
    assert sorted(ring[1])[-2:] == [0, 7]
