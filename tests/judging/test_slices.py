"""Slices: the columns images are parted by, and each part judged by itself, the worst first."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled
from xraycomp.judging.slices import (
    FEWEST,
    check_slices,
    format_slices,
    judge_slices,
    slice_columns,
)

NAMES = ("Mass", "Effusion")
FINDINGS = Competition(
    slug="toy",
    title="toy",
    source="dataset",
    task="multilabel",
    classes=NAMES,
    metric="auroc",
    train=Labelled("images", "labels.csv"),
)


def manifest(n=60, **columns):
    rows = {
        "image": [f"x{i}" for i in range(n)],
        "path": [f"images_{i % 3}/x{i}.png" for i in range(n)],
        "label": ["Mass|Effusion", ""] * (n // 2),
        "patient": [str(i) for i in range(n)],
        "split": "val",
    }
    return pd.DataFrame(rows | columns, dtype=object)


def planted(n=300, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 2)) < 0.4).astype(float)
    return targets, 1 / (1 + np.exp(-rng.normal(size=(n, 2)) - 2 * targets + 1))


def test_the_columns_are_those_of_the_table_and_what_the_path_says():
    images = manifest(view=["PA", "AP"] * 30, site="one", note=[f"n{i}" for i in range(60)])
    found = slice_columns(images)
    # One value parts nothing, and 60 values only name the images.
    assert list(found.columns) == ["folder", "view"]
    assert set(found["folder"]) == {"images_0", "images_1", "images_2"}
    assert list(found["view"]) == ["PA", "AP"] * 30
    images["path"] = [f"x{i}.{'png' if i < 20 else 'JPG'}" for i in range(60)]
    assert list(slice_columns(images)["file type"]) == [".png"] * 20 + [".jpg"] * 40


def test_the_folder_of_a_class_is_no_slice_but_one_below_it_is():
    labels = ["covid", "normal"] * 30
    paths = [f"train/{label}/x.png" for label in labels]
    assert slice_columns(manifest(label=labels, path=paths)).empty
    paths = [f"train/{label}/site{i % 4 // 2}/x.png" for i, label in enumerate(labels)]
    found = slice_columns(manifest(label=labels, path=paths))
    assert set(found["folder"]) == {"train/site0", "train/site1"}


@pytest.mark.parametrize(
    ("ages", "bands"),
    [
        (["7", "19", "20", "088", "58Y", "031"], ["0-9", "10-19", "20-29", "80-89", "50-59"]),
        (["007Y", "019Y", "020Y", "088Y", "058Y", "031Y"], ["0-9", "10-19", "20-29", "80-89"]),
    ],
)
def test_ages_are_cut_into_decades(ages, bands):
    ages = [*ages, *map(str, range(40, 50)), "", " "]
    found = slice_columns(manifest(n=18, age=ages))["age"]
    assert list(found[: len(bands)]) == bands
    assert list(found[-4:]) == ["40-49", "40-49", "(not given)", "(not given)"]


def test_a_few_numbers_are_values_and_many_of_a_wide_range_are_thirds():
    images = manifest(n=60, code=["1", "2", "7"] * 20, dose=[str(37 * i) for i in range(60)])
    found = slice_columns(images)
    assert set(found["code"]) == {"1", "2", "7"}
    assert found["dose"].value_counts().to_dict() == {
        "up to 728": 20,
        "728 to 1,455": 20,
        "over 1,455": 20,
    }


def test_what_was_measured_counts_where_all_images_were():
    images = manifest()
    measured = pd.DataFrame(
        {
            "image": images["image"][::-1],
            "width": [512] * 30 + [1024] * 30,
            "height": 800,
            "brightness": np.linspace(0, 255, 60),
        }
    )
    found = slice_columns(images, measured)
    assert list(found["shorter side"]) == ["800"] * 30 + ["512"] * 30
    assert found["brightness"].iloc[0] == "over 170"
    assert found["brightness"].nunique() == 3
    assert list(slice_columns(images, measured[1:]).columns) == ["folder"]


def test_each_slice_is_judged_as_scikit_learn_judges_its_images():
    targets, probs = planted()
    view = np.array(["PA", "AP", "LL"])[np.arange(300) % 3]
    probs[view == "AP"] = np.random.default_rng(1).random((100, 2))
    columns = pd.DataFrame({"view": view})
    found = judge_slices(FINDINGS, targets, probs, "val", columns, resamples=50)
    assert json.loads(json.dumps(found)) == found
    assert found["slices"][0]["value"] == "AP"
    areas = [part["figures"]["macro_auroc"]["value"] for part in found["slices"]]
    assert areas == sorted(areas)
    for part in found["slices"]:
        rows = view == part["value"]
        true, called = targets[rows] == 1, probs[rows] >= 0.5
        values = {name: figure["value"] for name, figure in part["figures"].items()}
        assert (part["n"], part["classes"], found["classes"]) == (100, 2, 2)
        assert values == {
            "macro_auroc": pytest.approx(sk.roc_auc_score(true, probs[rows], average="macro")),
            "accuracy": pytest.approx((true == called).mean()),
            "macro_f1": pytest.approx(sk.f1_score(true, called, average="macro")),
        }
        for figure in part["figures"].values():
            assert figure["low"] < figure["value"] < figure["high"]


def test_small_slices_are_told_and_not_hidden():
    targets, probs = planted(n=100)
    site = np.array(["a"] * (100 - FEWEST + 1) + ["b"] * (FEWEST - 1))
    # The better of the two has one class only.
    targets[site == "a", 0] = 0
    found = judge_slices(
        FINDINGS, targets, probs, "val", pd.DataFrame({"site": site}), resamples=20
    )
    assert [part["value"] for part in found["slices"]] == ["a", "b"]
    assert found["slices"][1]["figures"]["accuracy"]["value"] is None
    assert [part["classes"] for part in found["slices"]] == [1, 2]
    text = format_slices(found)
    assert re.search(r"site: b +29 +2 +too few to tell", text)
    assert "classes: how many of 2 its means are over" in text


def test_a_column_that_is_not_there_names_those_that_are():
    targets, probs = planted(n=80)
    columns = pd.DataFrame({"view": ["PA", "AP"] * 40, "sex": ["M"] * 40 + ["F"] * 40})
    found = judge_slices(FINDINGS, targets, probs, "val", columns, resamples=9)
    text = format_slices(found, ["sex"])
    assert "sex: M" in text
    assert "view" not in text
    with pytest.raises(UserError, match=r"no slices by age: .* slices by: (view, sex|sex, view)\)"):
        check_slices(["age", "sex"], ["view", "sex"])
    nothing = judge_slices(FINDINGS, targets, probs, "val", columns[[]])
    assert nothing["slices"] == []
    assert "There are no slices" in format_slices(nothing)
