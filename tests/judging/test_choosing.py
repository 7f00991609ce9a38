"""Which errors and hits get a heat map."""

import numpy as np
import pandas as pd
import pytest

from xraycomp.judging.choosing import BOXED, Called

CLASSES = ("Mass", "Edema", "normal")
NO_BOXES = pd.DataFrame(columns=["image", "class", "x", "y", "width", "height"])


def called(labels, probs, limits=None):
    names = [f"i{number}" for number in range(len(labels))]
    rows = pd.DataFrame({"image": names, "path": names, "label": labels})
    return Called(rows, np.array(probs, float), CLASSES, limits)


def seen(pairs):
    return list(zip(pairs["kind"], pairs["image"], pairs["class"], strict=True))


ONE_CLASS = called(
    ["Mass", "Mass", "Mass", "Edema", "Edema", "normal", "normal"],
    [
        [0.9, 0.1, 0.0],
        [0.6, 0.3, 0.1],
        [0.7, 0.2, 0.1],
        [0.6, 0.4, 0.0],  # called Mass
        [0.1, 0.8, 0.1],
        [0.0, 0.95, 0.05],  # called Edema, and surer of it
        [0.1, 0.1, 0.8],
    ],
)


def test_errors_are_the_surest_wrong_calls_and_hits_the_typical_ones_of_each_class():
    pairs = ONE_CLASS.errors_and_hits(6)
    assert seen(pairs) == [
        ("error", "i5", "Edema"),
        ("error", "i3", "Mass"),
        ("hit", "i2", "Mass"),  # of 0.6, 0.7 and 0.9 the middle one
        ("hit", "i4", "Edema"),
        ("hit", "i6", "normal"),
        ("hit", "i1", "Mass"),
    ]
    assert list(pairs["prob"]) == [0.95, 0.6, 0.7, 0.8, 0.8, 0.6]
    assert list(pairs["label"])[:2] == ["normal", "Edema"]
    assert pairs["called"].all()


@pytest.mark.parametrize(("n", "errors", "hits"), [(2, 1, 1), (3, 1, 2), (5, 2, 3), (99, 2, 5)])
def test_half_are_errors_as_far_as_there_are_any(n, errors, hits):
    assert list(ONE_CLASS.errors_and_hits(n)["kind"]) == ["error"] * errors + ["hit"] * hits


def test_only_the_classes_that_are_asked_for():
    assert set(ONE_CLASS.errors_and_hits(9, ("Edema",))["class"]) == {"Edema"}


def test_findings_are_missed_too_and_what_is_unknown_is_no_error():
    limits = np.array([0.5, 0.1, 0.5])
    table = called(
        ["Mass|Edema", "", "?Mass", "Edema", "Mass"],
        [
            [0.6, 0.4, 0.0],  # two hits
            [0.55, 0.0, 0.1],  # Mass is called: a tenth of the way above
            [0.99, 0.0, 0.0],  # unknown
            [0.0, 0.05, 0.0],  # Edema is missed: half of the way below
            [0.4, 0.0, 0.0],  # Mass is missed: a fifth
        ],
        limits,
    )
    pairs = table.errors_and_hits(5)
    assert seen(pairs) == [
        ("error", "i1", "Mass"),
        ("error", "i3", "Edema"),
        ("error", "i4", "Mass"),
        ("hit", "i0", "Mass"),
        ("hit", "i0", "Edema"),
    ]
    assert list(pairs["called"]) == [True, False, False, True, True]


def test_asked_for_are_classes_by_name_or_what_was_called():
    table = called(["?"] * 3, [[0.6, 0.7, 0], [0.1, 0.2, 0], [0, 0, 0.9]], np.full(3, 0.5))
    assert seen(table.asked()) == [
        ("asked", "i0", "Mass"),
        ("asked", "i0", "Edema"),
        ("asked", "i1", "Edema"),  # nothing is called: the most probable
        ("asked", "i2", "normal"),
    ]
    names = [(image, name) for _, image, name in seen(table.asked(("Edema", "Mass")))]
    assert names == [(f"i{i}", name) for i in range(3) for name in ("Mass", "Edema")]


def test_pairs_with_boxes_once_each():
    names = ["i1", "i1", "i3", "i5", "elsewhere"]
    kinds = ["Mass", "Mass", "Mass", "Edema", "Mass"]
    boxes = NO_BOXES.assign(image=names, **{"class": kinds})
    pairs = ONE_CLASS.boxed(boxes)
    assert seen(pairs) == [
        (BOXED, "i1", "Mass"),
        (BOXED, "i3", "Mass"),
        (BOXED, "i5", "Edema"),
    ]
    assert list(pairs["prob"]) == [0.6, 0.6, 0.95]
    assert seen(ONE_CLASS.boxed(boxes, ("Edema",))) == [(BOXED, "i5", "Edema")]
    assert [image for _, image, _ in seen(ONE_CLASS.boxed(boxes, most=2))] == ["i1", "i5"]


def test_unlabelled_images_are_shown_for_what_they_are_called():
    table = called(["?"] * 7, ONE_CLASS.probs)
    pairs = table.worth_seeing(3, (), NO_BOXES)
    assert seen(pairs) == [
        ("asked", "i0", "Mass"),
        ("asked", "i3", "Mass"),
        ("asked", "i6", "normal"),
    ]
