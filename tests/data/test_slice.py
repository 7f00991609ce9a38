"""Slices: the tables agree with the images, every class is there, for every kind of layout."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.boxes import read_boxes
from xraycomp.data.competition_file import built_in_slugs, load_competition, parse_competition
from xraycomp.data.manifest import build_manifest
from xraycomp.data.phantom import draw_competition
from xraycomp.data.slice import cut_slice
from xraycomp.data.stand_ins import draw_slice
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
    train = manifest[manifest["split"] == "train"]
    counts = train["label"].value_counts()
    assert {counts[name] for name in competition.classes} == {n_train // len(competition.classes)}
    assert n_train >= 9
    has_test = bool(competition.test or competition.train.test_list)
    assert (manifest["split"] == "test").sum() == (5 if has_test else 0)
    if competition.submission:
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


def test_the_smallest_slice_has_an_image_of_every_class(
    tmp_path: Path, draw_tree: Callable[..., Path]
) -> None:
    competition = load_competition("chest-xray-4")
    root = draw_tree(tmp_path / "xray-data", sorted(competition.classes), per_class=3).parent
    (root / "sample_submission.csv").write_text("name,target\ntest_0,0\ntest_1,0\ntest_2,0\n")
    assert cut_slice(competition, root, tmp_path / "cut", 2, 1) == 4
    assert set(build_manifest(competition, tmp_path / "cut")["label"]) >= set(competition.classes)


FINDINGS = """
slug = "findings"
source = "dataset"
task = "multilabel"
classes = ["b", "a", "c"]
metric = "auroc"

[train]
images = "images"
labels = "images.csv"
image_column = "Image"
join = "reports.csv"
join_column = "Report"
train_list = "train.txt"
test_list = "test.txt"

[train.where]
View = "Front"
"""


def test_stand_ins_follow_a_joined_table_with_a_column_a_class_and_lists(tmp_path: Path) -> None:
    competition = parse_competition(FINDINGS, "mine.toml")
    assert draw_slice(competition, tmp_path, 6, 4, size=16) == 6
    manifest = build_manifest(competition, tmp_path)
    assert list(manifest["label"]) == ["b", "a", "c", "b", "a", "c", "b", "a", "c", "b"]
    assert list(manifest["split"]) == ["train"] * 6 + ["test"] * 4


def test_a_slice_of_many_findings_has_each_and_cuts_the_lists(
    tmp_path: Path, draw: Callable[..., Path]
) -> None:
    competition = parse_competition(FINDINGS, "mine.toml")
    root, cut = tmp_path / "whole", tmp_path / "cut"
    for index in range(40):
        draw(root / "images" / f"i{index}.png", seed=index)
    numbers = pd.Series(range(40))
    names, part = "i" + numbers.astype(str) + ".png", numbers < 30
    image_rows = pd.DataFrame({"Image": names, "Report": numbers, "View": "Front"})
    image_rows.loc[39, "View"] = "Side"
    flags = {"b": (numbers % 10 > 0).astype(int), "a": (numbers % 10 == 5).astype(int)}
    reports = pd.DataFrame({"Report": numbers, **flags, "c": numbers % 2})
    image_rows.to_csv(root / "images.csv", index=False)
    reports.to_csv(root / "reports.csv", index=False)
    (root / "train.txt").write_text("\n".join(names[part]))
    (root / "test.txt").write_text("\n".join(names[~part]))
    cut_slice(competition, root, cut, 6, 3)
    whole = build_manifest(competition, root).set_index("image")
    manifest = build_manifest(competition, cut).set_index("image")
    assert manifest["split"].value_counts()["test"] == 3
    assert 4 <= manifest["split"].value_counts()["train"] <= 6
    pd.testing.assert_frame_equal(manifest, whole.loc[manifest.index])
    for name in "bac":
        assert manifest["label"].str.contains(name).any()


def test_a_slice_keeps_the_boxes_around_findings(tmp_path: Path) -> None:
    phantom, root = load_competition("phantom"), tmp_path / "whole"
    draw_competition(root, n_train=30, n_test=2, size=16)
    cut_slice(phantom, root, tmp_path / "cut", 5, 1)
    images = build_manifest(phantom, tmp_path / "cut")["image"]
    boxes = read_boxes(phantom, tmp_path / "cut", images)
    sick = images.str.contains("/") & ~images.str.startswith("normal/")
    assert set(boxes["image"]) == set(images[sick])
