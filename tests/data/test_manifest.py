"""The manifest of folder trees and label tables, and every way in which they can be wrong."""

import dataclasses

import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition import COLUMNS, Competition, Labelled
from xraycomp.data.competition_file import load_competition
from xraycomp.data.manifest import build_manifest, find_images, list_folder


def folders(**changes):
    fields = {
        "slug": "mine",
        "title": "mine",
        "source": "dataset",
        "task": "multiclass",
        "classes": ("covid", "pneumonia", "normal"),
        "metric": "macro_f1",
        "train": Labelled("train", "folders"),
        "test": "test",
    }
    return Competition(**{**fields, **changes})


def table(**changes):
    train = Labelled("images", "labels.csv", image_column="Image", label_column="Finding")
    return folders(**{"train": train, "test": "", **changes})


@pytest.fixture
def tabled(tmp_path, draw):
    """Six images in one folder; ``write`` their rows to the label table."""
    for n in range(6):
        draw(tmp_path / "images" / f"x_{n}.png", n % 3, seed=n)

    def write(**columns):
        labels = ["covid", "pneumonia", "normal"] * 2
        names = [f"x_{n}.png" for n in range(6)]
        content = pd.DataFrame({"Image": names, "Finding": labels, **columns})
        content.to_csv(tmp_path / "labels.csv", index=False)
        return content

    return write


def test_folders_give_labels_and_the_test_folder_none(tmp_path, draw_tree):
    manifest = build_manifest(folders(), draw_tree(tmp_path, per_class=2, n_test=2))
    assert list(manifest.columns) == list(COLUMNS)
    assert manifest.to_dict("list") == {
        "image": [
            *("covid/image_0", "covid/image_1", "normal/image_0", "normal/image_1"),
            *("pneumonia/image_0", "pneumonia/image_1", "test_0", "test_1"),
        ],
        "path": [
            *("train/covid/image_0.png", "train/covid/image_1.png"),
            *("train/normal/image_0.png", "train/normal/image_1.png"),
            *("train/pneumonia/image_0.png", "train/pneumonia/image_1.png"),
            *("test/test_0.png", "test/test_1.png"),
        ],
        "label": ["covid", "covid", "normal", "normal", "pneumonia", "pneumonia", "?", "?"],
        "patient": [""] * 8,
        "split": ["train"] * 6 + ["test"] * 2,
    }


def test_of_test_images_without_a_label_nothing_is_known_where_images_may_have_none(tmp_path, draw):
    for n in range(3):
        draw(tmp_path / "images" / f"x_{n}.png", n)
        draw(tmp_path / "test" / f"test_{n}.png", n)
    labels = pd.DataFrame({"Image": ["x_0", "x_1", "x_2"], "Finding": ["covid", "normal", ""]})
    labels.loc[1, "Finding"] = "pneumonia|normal"
    labels.to_csv(tmp_path / "labels.csv", index=False)
    train = Labelled(
        "images", "labels.csv", image_column="Image", label_column="Finding", separator="|"
    )
    manifest = build_manifest(folders(task="multilabel", train=train), tmp_path)
    assert list(manifest["label"]) == ["covid", "pneumonia|normal", "", "?", "?", "?"]


def test_images_in_folders_within_a_class_are_of_that_class(tmp_path, draw_tree, draw):
    root = draw_tree(tmp_path, per_class=1, n_test=1)
    draw(root / "train/covid/normal/image_9.png")
    manifest = build_manifest(folders(), root).set_index("image")
    assert manifest.loc["covid/normal/image_9", "label"] == "covid"


def test_test_images_stand_in_natural_order(tmp_path, draw_tree):
    manifest = build_manifest(folders(), draw_tree(tmp_path, per_class=1, n_test=21))
    names = manifest["image"][manifest["split"] == "test"]
    assert list(names) == [f"test_{n}" for n in range(21)]


def test_columns_of_the_table_that_are_asked_for_stand_in_the_manifest(tmp_path, tabled, draw):
    tabled(Projection=["PA", "AP"] * 3, Age=["058Y", "", "7", "NA", "61", "61"])
    draw(tmp_path / "test" / "test_0.png")
    train = dataclasses.replace(table().train, columns={"age": "Age", "view": "Projection"})
    manifest = build_manifest(table(train=train, test="test"), tmp_path)
    assert list(manifest.columns) == [*COLUMNS, "age", "view"]
    assert list(manifest["age"]) == ["058Y", "", "7", "NA", "61", "61", ""]
    assert list(manifest["view"]) == ["PA", "AP"] * 3 + [""]
    assert list(manifest["split"]) == ["train"] * 6 + ["test"]


def test_hidden_files_and_files_that_are_no_images_are_left_out(tmp_path, draw_tree, draw, caplog):
    root = draw_tree(tmp_path, per_class=1, n_test=1)
    expected = build_manifest(folders(), root)
    draw(root / "train/covid/.image_9.png")
    draw(root / "train/covid/.ipynb_checkpoints/image_0-checkpoint.png")
    draw(root / "train/.ipynb_checkpoints/image_0-checkpoint.png")
    draw(root / "test/__MACOSX/test_0.png")
    (root / "train/covid/Thumbs.db").write_bytes(b"\0")
    (root / "test/notes.txt").write_text("no image")
    with caplog.at_level("INFO", "xraycomp"):
        pd.testing.assert_frame_equal(build_manifest(folders(), root), expected)
    assert "Thumbs.db" in caplog.text
    assert "notes.txt" in caplog.text


def test_a_folder_named_like_a_hidden_one_above_the_data_hides_nothing(tmp_path, draw):
    draw(tmp_path / ".cache/__MACOSX/set/1.png")
    assert [path.name for path in find_images(tmp_path / ".cache/__MACOSX/set")] == ["1.png"]


@pytest.mark.parametrize("suffix", [".PNG", ".jpeg", ".JPG", ".tif", ".bmp", ".webp", ".gif"])
def test_images_are_known_by_their_suffix_in_any_case(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert [path.name for path in find_images(tmp_path)] == [f"a{suffix}"]


def test_the_class_folders_may_be_the_root_itself(tmp_path, draw_tree):
    root = draw_tree(tmp_path, per_class=1, n_test=0) / "train"
    manifest = build_manifest(folders(train=Labelled(".", "folders"), test=""), root)
    assert list(manifest["path"]) == [f"{name}/image_0.png" for name in sorted(folders().classes)]


def test_a_class_without_a_folder_is_named(tmp_path, draw_tree):
    root = draw_tree(tmp_path, ["covid", "normal"], per_class=1)
    with pytest.raises(UserError, match="has no folder for pneumonia"):
        build_manifest(folders(), root)


def test_a_class_whose_folder_is_empty_is_named(tmp_path, draw_tree):
    root = draw_tree(tmp_path, ["covid", "normal"], per_class=1)
    (root / "train/pneumonia").mkdir()
    with pytest.raises(UserError, match="has no images of pneumonia"):
        build_manifest(folders(), root)


def test_a_folder_without_a_class_is_named(tmp_path, draw_tree):
    root = draw_tree(tmp_path, ["covid", "normal", "pneumonia", "tb"], per_class=1)
    with pytest.raises(UserError, match=r"no class of mine: tb\. Classes: covid, pneumonia"):
        build_manifest(folders(), root)


def test_an_image_beside_the_class_folders_is_named(tmp_path, draw_tree, draw):
    draw(draw_tree(tmp_path, per_class=1) / "train/loose.png")
    with pytest.raises(UserError, match=r"no label: train/loose\.png"):
        build_manifest(folders(), tmp_path)


@pytest.mark.parametrize(("missing", "said"), [("train", "folder train in"), ("test", "test in")])
def test_a_missing_folder_is_named_with_the_folders_that_are_there(
    tmp_path, draw_tree, missing, said
):
    root = draw_tree(tmp_path, per_class=1)
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(UserError, match=said) as caught:
        build_manifest(folders(), root)
    assert "elsewhere" in str(caught.value)


def test_two_files_of_one_id_are_refused(tmp_path, draw_tree, draw):
    root = draw_tree(tmp_path, per_class=1)
    draw(root / "test/test_0.jpg")
    with pytest.raises(UserError, match=r"more than one file \(test_0\)"):
        build_manifest(folders(), root)


def test_the_pediatric_pattern_finds_the_patient_of_each_name(tmp_path, draw):
    names = {
        "PNEUMONIA/person17_bacteria_53.jpeg": "person17",
        "PNEUMONIA/person1_virus_6.jpeg": "person1",
        "NORMAL/IM-0115-0001.jpeg": "IM-0115",
        "NORMAL/NORMAL2-IM-0927-0001.jpeg": "IM-0927",
        "NORMAL/NORMAL2-IM-0927-0001-0002.jpeg": "IM-0927",
    }
    for name in names:
        draw(tmp_path / "chest_xray/train" / name)
    draw(tmp_path / "chest_xray/test/1.jpeg")
    manifest = build_manifest(load_competition("pediatric-pneumonia"), tmp_path)
    found = dict(zip(manifest["path"], manifest["patient"], strict=True))
    assert found.pop("chest_xray/test/1.jpeg") == ""
    assert found == {f"chest_xray/train/{name}": patient for name, patient in names.items()}


def test_a_file_name_without_a_patient_is_named(tmp_path, draw_tree):
    with pytest.raises(UserError, match=r"no patient in 3 file names: train/covid/image_0\.png"):
        build_manifest(
            folders(patient_pattern=r"^(p\d+)_"), draw_tree(tmp_path, per_class=1, n_test=0)
        )


def test_a_table_gives_labels_and_patients_and_leaves_out_images_it_does_not_name(
    tmp_path, tabled, draw, caplog
):
    content = tabled(Patient=["7", "7", "8", "", "9", "NA"])
    draw(tmp_path / "images/extra.png")
    with caplog.at_level("INFO", "xraycomp"):
        manifest = build_manifest(table(patient_column="Patient"), tmp_path)
    assert list(manifest["path"]) == [f"images/{name}" for name in content["Image"]]
    assert list(manifest["label"]) == list(content["Finding"])
    assert list(manifest["patient"]) == ["7", "7", "8", "", "9", "NA"]
    assert "1 images have no row" in caplog.text


def test_a_table_may_name_images_without_their_suffix_and_in_any_order(tmp_path, tabled):
    tabled(Image=["x_5", "x_4", "x_3", "x_2", "x_1", "x_0"])
    manifest = build_manifest(table(), tmp_path)
    assert list(manifest["path"]) == [f"images/x_{n}.png" for n in (5, 4, 3, 2, 1, 0)]
    assert list(manifest["label"]) == ["covid", "pneumonia", "normal"] * 2


def test_a_table_may_name_images_by_their_path(tmp_path, tabled, draw):
    for n in range(6):
        draw(tmp_path / "images" / f"p{n}" / "view.png", seed=n)
    tabled(Image=[f"p{n}/view.png" for n in range(6)])
    manifest = build_manifest(table(), tmp_path)
    assert list(manifest["path"]) == [f"images/p{n}/view.png" for n in range(6)]


def test_a_name_in_the_table_that_fits_two_files_is_refused(tmp_path, tabled, draw):
    tabled()
    draw(tmp_path / "images/second/x_3.png")
    with pytest.raises(UserError, match=r"x_3\.png"):
        build_manifest(table(), tmp_path)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"Image": [f"x_{n}.png" for n in (0, 1, 2, 3, 4, 9)]}, r"have no file in .*: x_9\.png"),
        ({"Image": [f"x_{n}.png" for n in (0, 1, 2, 3, 4, 0)]}, r"1 images twice: x_0\.png"),
        ({"Image": [*(f"x_{n}.png" for n in range(5)), "x_0"]}, "x_0"),
        (
            {"Finding": ["covid", "tb", "normal"] * 2},
            r"labels\.csv, line 3: the label 'tb' of x_1\.png is not one of the classes",
        ),
        ({"Finding": ["covid", "", "normal"] * 2}, "line 3: the label '' of"),
        ({"Finding": ["covid", "normal", "normal"] * 2}, "no image of pneumonia"),
    ],
)
def test_a_wrong_table_is_told_with_the_place(tmp_path, tabled, columns, said):
    tabled(**columns)
    with pytest.raises(UserError, match=said):
        build_manifest(table(), tmp_path)


def test_a_table_without_a_column_names_it_and_those_that_are_there(tmp_path, tabled):
    tabled()
    with pytest.raises(UserError, match=r"no column Patient \(columns: Image, Finding\)"):
        build_manifest(table(patient_column="Patient"), tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b'Image,Finding\n"x_0.png,covid\n', "Image,Finding\nü,covid".encode("latin-1")]
)
def test_a_table_that_is_no_csv_is_refused(tmp_path, tabled, content):
    tabled()
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match="not a readable CSV table"):
        build_manifest(table(), tmp_path)


def test_a_missing_table_is_named(tmp_path, tabled):
    with pytest.raises(UserError, match=r"no label table .*labels\.csv"):
        build_manifest(table(), tmp_path)


def test_a_file_name_that_is_no_utf_8_is_refused(tmp_path, draw_tree):
    root = draw_tree(tmp_path, per_class=1)
    image = root / "test/test_0.png"
    try:
        image.rename(root / "test/test_\udcff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(UserError, match="UTF-8"):
        build_manifest(folders(), root)


def test_any_folder_and_any_one_image_can_be_listed(tmp_path, draw):
    for name in ("b/2.png", "b/10.png", "a.png"):
        draw(tmp_path / "new" / name)
    manifest = list_folder(tmp_path / "new")
    assert list(manifest["image"]) == ["a", "b/2", "b/10"]
    assert set(manifest["split"]) == {"predict"}
    assert list(list_folder(tmp_path / "new/b/2.png")["image"]) == ["2"]
    with pytest.raises(UserError, match="no images at"):
        list_folder(tmp_path / "nowhere")
