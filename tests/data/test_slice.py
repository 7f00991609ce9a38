"""Slices: the tables agree with the images, every class is there, for every kind of layout."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition import built_in_slugs, load_competition, parse_competition
from xraycomp.data.manifest import build_manifest
from xraycomp.data.slice import cut_slice, draw_slice
from xraycomp.data.submission import expected_ids

TABLE = r"""
slug = "with-table"
source = "dataset"
task = "multiclass"
classes = ["b", "a", "c"]
metric = "macro_f1"

[train]
images = "images_*/images"
labels = "labels.csv"
image_column = "Image"
label_column = "Finding"

[test]
images = "test"

[patient]
column = "Patient"

[submission]
sample = "sample.csv"
suffix = true

[submission.columns]
file = "id"
name = "label_name"
p = "probability:a"
"""


@pytest.mark.parametrize("slug", [slug for slug in built_in_slugs() if slug != "phantom"])
def test_stand_ins_can_be_drawn_for_every_built_in_competition(tmp_path: Path, slug: str) -> None:
    competition = load_competition(slug)
    n_train = draw_slice(competition, tmp_path, 9, 5, size=16)
    manifest = build_manifest(competition, tmp_path)
    counts = manifest["label"].value_counts()
    assert {counts[name] for name in competition.classes} == {n_train // len(competition.classes)}
    assert n_train >= 9
    assert (manifest["split"] == "test").sum() == 5
    assert len(expected_ids(competition, tmp_path)) == 5


def test_stand_ins_follow_a_table_and_a_sample(tmp_path: Path) -> None:
    competition = parse_competition(TABLE, "mine.toml")
    assert draw_slice(competition, tmp_path, 6, 4, size=16) == 6
    manifest = build_manifest(competition, tmp_path)
    assert list(manifest["label"][:3]) == ["b", "a", "c"]
    assert manifest["patient"][:6].is_unique
    assert expected_ids(competition, tmp_path)[:2] == ["test_0.png", "test_1.png"]


def test_a_pattern_that_no_made_up_name_fits_is_refused(tmp_path: Path) -> None:
    text = TABLE.replace('column = "Patient"', "pattern = '^(scan[A-Z]+)_'")
    with pytest.raises(UserError, match="No stand-in images can be drawn for with-table"):
        draw_slice(parse_competition(text, "mine.toml"), tmp_path, 6, 4)


def test_a_slice_cuts_table_and_sample_to_its_images(
    tmp_path: Path, draw: Callable[..., Path]
) -> None:
    competition = parse_competition(TABLE, "mine.toml")
    root, cut = tmp_path / "whole", tmp_path / "cut"
    rows = []
    for index in range(60):
        label = "bac"[0 if index < 50 else 1 + index % 2]  # b is common, a and c are rare
        draw(root / f"images_{index % 3}" / "images" / f"i{index}.png", seed=index)
        rows.append({"Age": index, "Image": f"i{index}.png", "Finding": label, "Patient": index})
    pd.DataFrame(rows[::-1]).to_csv(root / "labels.csv", index=False)
    for index in range(9):
        draw(root / "test" / f"t{index}.png", seed=100 + index)
    ids = [f"t{index}.png" for index in (3, 1, 8, 0, 7, 2, 4, 5, 6)]
    sample = pd.DataFrame({"file": ids, "name": "b", "p": 0.5})
    sample.to_csv(root / "sample.csv", index=False)
    before = sorted(path.stat().st_mtime_ns for path in root.rglob("*"))
    assert cut_slice(competition, root, cut, 24, 4) == 8 + 5 + 5
    assert sorted(path.stat().st_mtime_ns for path in root.rglob("*")) == before
    manifest = build_manifest(competition, cut)
    train = manifest[manifest["split"] == "train"]
    assert train["label"].value_counts().to_dict() == {"b": 8, "a": 5, "c": 5}
    whole = {row["Image"].removesuffix(".png"): row for row in rows}
    for image, label, patient in zip(train["image"], train["label"], train["patient"], strict=True):
        assert (label, patient) == (whole[image]["Finding"], str(whole[image]["Patient"]))
    assert expected_ids(competition, cut) == ids[:4]
    assert sorted(manifest["image"][manifest["split"] == "test"]) == ["t0", "t1", "t3", "t8"]
    assert len(list(cut.rglob("*.png"))) == 18 + 4
