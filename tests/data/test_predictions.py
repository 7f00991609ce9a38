"""Probability tables: written, read back, and refused where they are wrong."""

import numpy as np
import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.files import write_csv
from xraycomp.data.predictions import (
    labelled_images,
    labelled_rows,
    probability_table,
    read_predictions,
)

CLASSES = ("normal", "covid")  # a competition's own order is not that of the alphabet


def test_a_table_reads_back_as_it_was_written_to_six_digits(tmp_path):
    probs = np.random.default_rng(0).dirichlet([1, 1], size=50)
    # Ids that a careless reader turns into numbers or gaps.
    ids = ["001", "1e5", "NA", "nan", "null", "", *(f"test_{n}" for n in range(44))]
    write_csv(tmp_path / "test.csv", probability_table(ids, probs, CLASSES))
    table = read_predictions(tmp_path / "test.csv", CLASSES)
    assert list(table.columns) == ["image", "normal", "covid"]
    assert list(table["image"]) == ids
    assert np.abs(table[["normal", "covid"]].to_numpy() - probs).max() <= 5.1e-7


def test_columns_are_taken_by_name_and_others_dropped(tmp_path):
    table = pd.DataFrame({"normal": [0.25], "fold": [3], "image": ["a"], "covid": [0.75]})
    table.to_csv(tmp_path / "test.csv", index=False)
    read = read_predictions(tmp_path / "test.csv", CLASSES)
    assert read.to_dict("records") == [{"image": "a", "covid": 0.75, "normal": 0.25}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a readable CSV table"),
        (b'image,covid,normal\n"a,0.5', "not a readable CSV table"),
        ("image,covid,normal\nä,0,1\n".encode("latin-1"), "not a readable CSV table"),
        (b"image,covid\na,0.5\n", "no column normal"),
        (b"name,covid,normal\na,0.5,0.5\n", "no column image"),
        (b"image,covid,normal\na,0,1\na,0,1\n", "1 images twice: a"),
        (b"image,covid,normal\na,0,1\nb,-0.1,1\n", r"1 rows .* covid is '-0\.1' for b"),
        (b"image,covid,normal\na,0,1.01\n", r"normal is '1\.01' for a"),
        (b"image,covid,normal\na,,1\n", "covid is '' for a"),
        (b"image,covid,normal\na,nan,1\n", "covid is 'nan' for a"),
        (b"image,covid,normal\na,high,1\n", "covid is 'high' for a"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, content, said):
    (tmp_path / "test.csv").write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_predictions(tmp_path / "test.csv", CLASSES)
    assert "\n" not in str(caught.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no prediction table .*test\.csv"):
        read_predictions(tmp_path / "test.csv", CLASSES)


def test_labelled_rows_are_matched_by_id_in_the_order_of_the_manifest():
    manifest = pd.DataFrame(
        {
            "image": ["d", "b", "c", "a", "e"],
            "label": ["covid", "?", "normal", "covid|?normal", ""],
            "split": ["val", "val", "train", "val", "val"],
        }
    )
    table = probability_table(list("aecd"), np.arange(8).reshape(4, 2) / 10, ("covid", "normal"))
    table = table[["normal", "image", "covid"]]
    classes = ("covid", "normal")
    targets, probs = labelled_rows(manifest, "val", table, classes)
    np.testing.assert_array_equal(targets, [[1, 0], [1, np.nan], [0, 0]])
    np.testing.assert_allclose(probs, [[0.6, 0.7], [0.0, 0.1], [0.2, 0.3]])
    targets, probs = labelled_rows(manifest, "test", table, classes)
    assert targets.shape == probs.shape == (0, 2)
    with pytest.raises(UserError, match=r"lack 2 of 3 images of the val split: d, e\. Write them"):
        labelled_rows(manifest, "val", table[table["image"] == "a"], classes)


def test_images_of_which_nothing_is_known_are_not_labelled():
    labels = ["x|?y", "?", "", "?x|?y", "y"]
    manifest = pd.DataFrame({"image": list("abcde"), "label": labels, "split": ["val"] * 4 + ["t"]})
    assert list(labelled_images(manifest, "val", ("x", "y"))["image"]) == ["a", "c"]
    assert labelled_images(manifest, "none", ("x", "y")).empty
