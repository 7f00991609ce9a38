"""Labels as text and as targets."""

import numpy as np
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.labels import decode_targets, encode_targets, is_labelled, rarity

CLASSES = ("Mass", "Nodule", "Hernia")
NAN = np.nan


def test_one_label_an_image_is_one_hot_and_an_unlabelled_one_unknown():
    found = encode_targets(["Nodule", "?", "Mass", "Nodule"], CLASSES)
    wanted = [[0, 1, 0], [NAN] * 3, [1, 0, 0], [0, 1, 0]]
    np.testing.assert_array_equal(found, np.asarray(wanted, dtype=np.float32))


def test_several_labels_none_and_unknown_ones():
    labels = ["Mass|Hernia", "", "?", "?Nodule|Mass", "Mass|Hernia"]
    found = encode_targets(labels, CLASSES)
    wanted = [[1, 0, 1], [0, 0, 0], [NAN] * 3, [1, NAN, 0], [1, 0, 1]]
    np.testing.assert_array_equal(found, np.asarray(wanted, dtype=np.float32))
    assert found.dtype == np.float32


@pytest.mark.parametrize("label", ["Mas", "Mass|Nodul", "?Nodul", "Mass|"])
def test_a_name_that_is_no_class_is_refused(label):
    with pytest.raises(UserError, match="is none of the classes Mass, Nodule, Hernia"):
        encode_targets([label], CLASSES)


def test_the_rarest_class_of_an_image_counts_and_none_comes_last():
    labels = ["Nodule|Mass", "Nodule", "", "?Mass", "?", "Nodule|?Mass", "Hernia"]
    targets = encode_targets(labels, ("Nodule", "Mass", "Hernia"))
    # Mass and Hernia have one image each: the first in index order counts as the rarer.
    assert rarity(targets).tolist() == [0, 2, 3, 3, 3, 2, 1]


def test_of_an_image_s_classes_the_rarest_counts_wherever_it_stands():
    targets = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1]], dtype=np.float32)
    assert rarity(targets).tolist() == [0, 1, 2]
    assert rarity(targets[:, ::-1]).tolist() == [0, 1, 2]


def test_none_of_the_classes_is_a_label_too():
    assert is_labelled(["Mass", "", "?", "?Mass"]).tolist() == [True, True, False, True]


def test_decoded_targets_are_read_back():
    targets = np.array([[1, 0, 1], [0, 0, 0], [np.nan, 1, 0]], dtype=np.float32)
    labels = decode_targets(targets, CLASSES)
    assert labels == ["Mass|Hernia", "", "?Mass|Nodule"]
    np.testing.assert_array_equal(encode_targets(labels, CLASSES), targets)
    assert decode_targets(targets[:2].astype(bool), CLASSES) == labels[:2]
