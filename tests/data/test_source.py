"""Finding a competition's files: zip, folder, data folder, inferred trees, the drawn default."""

import json
import os
import shutil
import zipfile

import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import format_competition, load_competition, parse_competition
from xraycomp.data.dataset import load_dataset
from xraycomp.data.inferred import infer_competition
from xraycomp.data.manifest import build_manifest
from xraycomp.data.source import (
    choose_competition,
    open_source,
)


def pack(folder, archive):
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(folder.rglob("*")):
            target.write(path, path.relative_to(folder).as_posix())
    return archive


def state(folder):
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [folder, *folder.rglob("*")]
    }


@pytest.fixture
def own(tmp_path, draw_tree):
    """A folder of the layout that chest-xray-4 has, beside the data folder."""
    root = tmp_path / "elsewhere"
    classes = ["covid", "pneumonia", "tuberculosis", "normal"]
    draw_tree(root / "xray-data", classes, per_class=2, n_test=2)
    (root / "sample_submission.csv").write_text("name,target\ntest_0,0\ntest_1,0\n")
    return root


def find_source(data, data_dir):
    """What is meant by these files, as train finds it."""
    return open_source(choose_competition(None, data, data_dir), data, data_dir)


def test_a_folder_is_used_where_it_is_and_never_written_into(own, tmp_path):
    before = state(own)
    source = open_source(load_competition("chest-xray-4"), own, tmp_path / "data")
    assert source.root == own
    manifest = build_manifest(source.competition, source.root)
    cache_dir = tmp_path / "data/chest-xray-4/cache"
    load_dataset(manifest, source, 8, workers=1)
    assert any(cache_dir.iterdir())
    assert state(own) == before


def test_a_zip_is_unpacked_into_the_data_folder_and_gives_the_same_manifest(own, tmp_path):
    archive = pack(own, tmp_path / "any name.zip")
    source = open_source(load_competition("chest-xray-4"), archive, tmp_path / "data")
    assert source.root.parent == tmp_path / "data/chest-xray-4/raw"
    expected = build_manifest(source.competition, own)
    assert build_manifest(source.competition, source.root).equals(expected)


@pytest.mark.parametrize("as_zip", [True, False])
def test_data_that_bears_a_built_in_name_is_that_competition(own, tmp_path, as_zip):
    data = own.rename(tmp_path / "chest-xray-4")
    if as_zip:
        data = pack(data, tmp_path / "chest-xray-4.zip")
    competition = find_source(data, tmp_path / "data").competition
    assert competition.classes == ("covid", "pneumonia", "tuberculosis", "normal")


@pytest.mark.parametrize("place", ["chest-xray-4.zip", "chest-xray-4/chest-xray-4.zip"])
def test_a_zip_in_the_data_folder_is_found_and_chosen(own, tmp_path, place):
    archive = tmp_path / "data" / place
    archive.parent.mkdir(parents=True)
    pack(own, archive)
    source = find_source(None, tmp_path / "data")
    assert source.competition.slug == "chest-xray-4"
    assert (source.root / "sample_submission.csv").is_file()
    archive.unlink()
    assert find_source(None, tmp_path / "data").root == source.root


def test_a_new_zip_goes_before_what_an_earlier_one_held_and_without_it_the_newest_is_taken(
    own, tmp_path
):
    archive = tmp_path / "data/chest-xray-4.zip"
    archive.parent.mkdir()
    roots = []
    for version in range(3):
        (own / "sample_submission.csv").write_text(f"name,target\ntest_0,{version}\ntest_1,0\n")
        pack(own, archive)
        roots.append(open_source(load_competition("chest-xray-4"), None, tmp_path / "data").root)
        written = (roots[-1] / "sample_submission.csv").read_text()
        assert written.startswith(f"name,target\ntest_0,{version}\n")
    archive.unlink()
    for newest in roots:
        for root in roots:
            os.utime(root, (2, 2) if root == newest else (1, 1))
        assert open_source(load_competition("chest-xray-4"), None, tmp_path / "data").root == newest


def test_a_run_s_zip_is_opened_again_where_it_was_unpacked(own, tmp_path):
    archive = pack(own, tmp_path / "any name.zip")
    source = open_source(load_competition("chest-xray-4"), archive, tmp_path / "data")
    before = state(tmp_path / "data")
    assert open_source(source.competition, archive, tmp_path / "data") == source
    assert state(tmp_path / "data") == before


def test_extracted_files_in_raw_are_found(own, tmp_path):
    shutil.copytree(own, tmp_path / "data/chest-xray-4/raw")
    source = open_source(load_competition("chest-xray-4"), None, tmp_path / "data")
    assert source.root == tmp_path / "data/chest-xray-4/raw"


def test_several_competitions_in_the_data_folder_ask_for_a_choice(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for slug in ("chest-xray-4", "acse4-ml-2020"):
        (data / f"{slug}.zip").write_bytes(b"")
    with pytest.raises(UserError, match=r"acse4-ml-2020, chest-xray-4.*--competition"):
        choose_competition(None, None, data)
    assert choose_competition("chest-xray-4", None, data).slug == "chest-xray-4"


def test_an_empty_data_folder_means_the_drawn_competition(tmp_path):
    assert choose_competition(None, None, tmp_path / "data").slug == "phantom"


def test_only_the_embedded_competition_can_be_drawn(tmp_path):
    toml = tmp_path / "own.toml"
    drawn = format_competition(load_competition("phantom"))
    toml.write_text(drawn.replace('slug = "phantom"', 'slug = "own"'))
    with pytest.raises(UserError, match="Only phantom can be drawn, not own"):
        open_source(load_competition(str(toml)), None, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_data_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="it downloads what is missing"):
        open_source(load_competition("acse4-ml-2020"), None, tmp_path / "data")
    with pytest.raises(UserError, match="folder with --data"):
        open_source(load_competition("pediatric-pneumonia"), None, tmp_path / "data")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "nothing at"),
        (lambda path: path.mkdir(), "is empty"),
        (lambda path: path.write_text("text"), "neither a folder nor a .zip"),
        (lambda path: (path / "deep/er").mkdir(parents=True), "No image-folder tree"),
    ],
)
def test_data_that_is_no_set_is_refused(tmp_path, make, said):
    make(tmp_path / "given")
    with pytest.raises(UserError, match=said):
        open_source(None, tmp_path / "given", tmp_path / "data")


@pytest.mark.parametrize("below", ["", "pack", "pack/set [v2]*?"])
def test_an_image_folder_tree_is_recognised_and_its_class_order_printed(
    tmp_path, draw_tree, caplog, below
):
    root = tmp_path / "Größe 1"
    draw_tree(root / below, ["zebra", "Normal", "covid"], per_class=2, n_test=2)
    with caplog.at_level("INFO", "xraycomp"):
        source = open_source(None, root, tmp_path / "data")
    assert "0 Normal, 1 covid, 2 zebra" in caplog.text
    competition = source.competition
    assert competition.classes == ("Normal", "covid", "zebra")
    assert competition.normal == "Normal"
    assert competition.task == "multiclass"
    manifest = build_manifest(competition, source.root)
    assert manifest["label"].value_counts().to_dict() == {
        "zebra": 2,
        "Normal": 2,
        "covid": 2,
        "?": 2,
    }
    # A run keeps its competition as text and reads it back later.
    assert parse_competition(format_competition(competition), "competition.toml") == competition


@pytest.mark.parametrize("name", ["train", "_set", "...", "数"])
def test_class_folders_directly_in_the_given_folder_are_a_tree(tmp_path, draw_tree, name):
    root = draw_tree(tmp_path / "drawn", ["b", "a"], per_class=2, n_test=1) / "train"
    root = root.rename(tmp_path / "drawn" / name)
    competition = open_source(None, root, tmp_path / "data").competition
    assert competition.task == "binary"
    assert competition.test == ""
    assert len(build_manifest(competition, root)) == 4
    assert parse_competition(format_competition(competition), "competition.toml") == competition


def test_the_tree_that_is_named_train_is_taken_among_several(tmp_path, draw_tree):
    draw_tree(tmp_path / "set", ["NORMAL", "PNEUMONIA"], per_class=2, n_test=0)
    for split in ("test", "val"):
        shutil.copytree(tmp_path / "set/train", tmp_path / "set" / split)
    competition = infer_competition(tmp_path / "set", "set")
    assert competition.train.images == "train"
    assert competition.test == "test"
    assert (competition.normal, competition.positive) == ("NORMAL", "PNEUMONIA")


def test_one_class_alone_is_no_tree(tmp_path, draw_tree):
    draw_tree(tmp_path / "set", ["covid"], per_class=2, n_test=0)
    with pytest.raises(UserError, match="two classes or more"):
        infer_competition(tmp_path / "set", "set")


@pytest.mark.parametrize(
    ("sample", "columns", "suffix"),
    [
        (None, {"name": "id", "target": "label_index"}, False),
        ("id,label\ntest_0,0\ntest_1,0\n", {"id": "id", "label": "label_index"}, False),
        ("id,label\ntest_0.png,a\ntest_1.png,b\n", {"id": "id", "label": "label_name"}, True),
        (
            "image,b,a\ntest_0,0.5,0.5\n",
            {"image": "id", "b": "probability:b", "a": "probability:a"},
            False,
        ),
    ],
)
def test_the_submission_is_inferred_from_the_sample(tmp_path, draw_tree, sample, columns, suffix):
    root = draw_tree(tmp_path / "set", ["a", "b"], per_class=2, n_test=2)
    if sample:
        (root / "sample_submission.csv").write_text(sample)
    submission = infer_competition(root, "set").submission
    assert json.dumps(dict(submission.columns)) == json.dumps(columns)
    assert submission.suffix is suffix
    assert submission.sample == ("sample_submission.csv" if sample else "")


@pytest.mark.parametrize("content", [b"", "id,größe\n".encode("latin-1")])
def test_a_sample_submission_that_is_no_csv_is_refused(tmp_path, draw_tree, content):
    root = draw_tree(tmp_path / "set", ["a", "b"], per_class=2, n_test=2)
    (root / "sample_submission.csv").write_bytes(content)
    with pytest.raises(UserError, match="not a readable CSV table"):
        infer_competition(root, "set")


def test_a_folder_that_cannot_be_a_class_is_told(tmp_path, draw_tree):
    root = draw_tree(tmp_path, per_class=1, n_test=0)
    (root / "train" / "covid").rename(root / "train" / "covid|flu")
    with pytest.raises(UserError, match=r"the class 'covid\|flu' may hold no \|"):
        infer_competition(root, "mine")
