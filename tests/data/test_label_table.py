"""Label tables in the layouts of the public sets, and every way in which they can be wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition import COLUMNS
from xraycomp.data.competition_file import load_competition, parse_competition
from xraycomp.data.label_table import read_label_table
from xraycomp.data.labels import encode_targets
from xraycomp.data.manifest import build_manifest

NIH = load_competition("nih-chest-xrays")
# The header as the NIH wrote it: two of the columns' names hold a comma.
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
NODULE = """
slug = "nih-nodule"
source = "dataset"
task = "binary"
classes = ["No Finding", "Nodule"]
normal = "No Finding"
metric = "auroc"
positive = "Nodule"

[train]
images = "images_*/images"
labels = "Data_Entry_2017.csv"
image_column = "Image Index"
label_column = "Finding Labels"
separator = "|"
others = "ignore"
train_list = "train_val_list.txt"
test_list = "test_list.txt"

[patient]
column = "Patient ID"
"""
FLAGS = """
slug = "flags"
source = "dataset"
task = "multilabel"
classes = ["Edema", "Pleural Effusion", "Mass"]
metric = "auroc"

[train]
images = "images"
labels = "train.csv"
image_column = "Path"

[train.names]
Effusion = "Pleural Effusion"
"""


@pytest.fixture
def nih(tmp_path: Path, draw: Callable[..., Path]) -> Callable[..., Path]:
    """Write a set in the NIH's layout: one image of each finding, two of several, one of none."""

    def write(**changed: str) -> Path:
        labels = ["No Finding", "Hernia|Mass|Infiltration", *NIH.classes, "Nodule|Mass"]
        lines = [NIH_HEADER]
        for row, label in enumerate(labels):
            name = f"{row:08d}_000.png"
            draw(tmp_path / f"images_{row % 12 + 1:03d}" / "images" / name, seed=row)
            label = changed.get(f"label_{row}", label)
            lines.append(f"{name},{label},0,{row // 2},58,M,PA,2682,2749,0.143,0.143")
        names = [f"{row:08d}_000.png" for row in range(len(labels))]
        files = {
            "Data_Entry_2017.csv": "\n".join(lines) + "\n",
            "train_val_list.txt": "\n".join(names[:12]),
            "test_list.txt": "\n".join(names[12:]),
        }
        for file, text in files.items():
            (tmp_path / file).write_text(changed.get(file, text))
        return tmp_path

    return write


def test_the_nih_set_has_its_14_findings_in_its_own_order_and_spelling():
    assert len(NIH.classes) == 14
    assert NIH.classes[:3] == ("Atelectasis", "Cardiomegaly", "Effusion")
    assert NIH.classes[-2:] == ("Pleural_Thickening", "Hernia")
    assert NIH.multilabel


def test_the_nih_set_loads_from_its_folders_table_and_lists(nih):
    manifest = build_manifest(NIH, nih())
    assert manifest["label"][:3].tolist() == ["", "Infiltration|Mass|Hernia", "Atelectasis"]
    assert list(manifest["path"][:2]) == [
        "images_001/images/00000000_000.png",
        "images_002/images/00000001_000.png",
    ]
    assert list(manifest["patient"][:4]) == ["0", "0", "1", "1"]
    assert list(manifest["split"]) == ["train"] * 12 + ["test"] * 5
    assert list(manifest.columns) == [*COLUMNS, "view", "sex", "age"]
    assert manifest[["view", "sex", "age"]].drop_duplicates().values.tolist() == [["PA", "M", "58"]]
    targets = encode_targets(list(manifest["label"]), NIH.classes)
    assert np.array_equal(targets[2:16], np.eye(14))


def test_a_table_without_the_columns_to_slice_by_serves_all_the_same(nih, caplog):
    root = nih()
    path = root / "Data_Entry_2017.csv"
    table = pd.read_csv(path, dtype=str).drop(columns=["View Position", "Patient Age"])
    table.to_csv(path, index=False)
    with caplog.at_level("INFO", "xraycomp"):
        manifest = build_manifest(NIH, root)
    assert set(manifest["view"]) == set(manifest["age"]) == {""}
    assert set(manifest["sex"]) == {"M"}
    assert f"{path} has no column Patient Age, View Position: results are not sliced" in caplog.text


def test_nodule_against_no_finding_is_a_trial_with_one_label_an_image(nih, caplog):
    competition = parse_competition(NODULE, "nodule.toml")
    with caplog.at_level("INFO", "xraycomp"):
        manifest = build_manifest(competition, nih())
    assert list(manifest["label"]) == ["No Finding", "Nodule", "Nodule"]
    assert list(manifest["image"]) == ["00000000_000", "00000007_000", "00000016_000"]
    assert list(manifest["split"]) == ["train", "train", "test"]
    assert "14 images with none of the classes are left out" in caplog.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label_3": "Cardiomegally"}, r"line 5: the label 'Cardiomegally' of 00000003_000\.png"),
        ({"label_3": "Mass|mass"}, r"line 5: the label 'Mass\|mass' .* not one of the classes"),
        ({"label_15": "", "label_1": "Mass"}, "no image of Hernia"),
        ({"label_9": "Mass", "label_1": "Mass"}, "no image of Pneumothorax"),
        ({"test_list.txt": "00000012_000.png"}, "4 images of .* stand neither in train_val_list"),
        ({"test_list.txt": "00000003_000.png"}, r"test_list\.txt names 1 images of train_val_list"),
        ({"test_list.txt": "99.png"}, r"1 images of .* have no row in .*: 99\.png"),
    ],
)
def test_a_wrong_nih_set_is_told_with_the_place(nih, changed, said):
    with pytest.raises(UserError, match=said):
        build_manifest(NIH, nih(**changed))


def test_a_missing_list_and_a_missing_image_are_named(nih):
    root = nih()
    (root / "images_004/images/00000003_000.png").unlink()
    with pytest.raises(UserError, match=r"1 images .* have no file in .*: 00000003_000\.png"):
        build_manifest(NIH, root)
    (root / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"There is no list .*test_list\.txt"):
        build_manifest(NIH, root)


def flags_of(tmp_path: Path, rows: list[str], task: str = "multilabel") -> pd.Series:
    competition = parse_competition(FLAGS.replace("multilabel", task), "flags.toml")
    text = "\n".join(["Path,Mass,Age,Edema,Effusion", *rows])
    (tmp_path / "train.csv").write_text(text)
    table, n_rows = read_label_table(competition, tmp_path)
    assert n_rows == text.count("\n")
    return table["label"]


def test_a_column_a_class_holds_1_0_and_nothing_or_minus_1_for_unknown(tmp_path, caplog):
    rows = ["a,1,40,0,1", "b,,41,1.0,-1", "c,0,42,0.0,0", "d,-1.0,43,,-1", "e,-1,44,0,1"]
    with caplog.at_level("INFO", "xraycomp"):
        labels = flags_of(tmp_path, rows)
    first = ["Pleural Effusion|Mass", "Edema|?Pleural Effusion|?Mass"]
    assert list(labels) == [*first, "", "Pleural Effusion|?Mass"]
    assert "1 images of which nothing is known are left out" in caplog.text
    targets = encode_targets(list(labels), ("Edema", "Pleural Effusion", "Mass"))
    nan = np.nan
    expected = [[0, 1, 1], [1, nan, nan], [0, 0, 0], [0, 1, nan]]
    assert np.array_equal(targets, np.array(expected, dtype=np.float32), equal_nan=True)


def test_a_column_a_class_can_hold_the_one_label_of_an_image(tmp_path):
    labels = flags_of(tmp_path, ["a,1,40,0,0", "b,0,41,1,0", "c,0,42,0,1"], "multiclass")
    assert list(labels) == ["Mass", "Edema", "Pleural Effusion"]


@pytest.mark.parametrize(
    ("row", "task", "said"),
    [
        ("d,2,1,0,0", "multilabel", "line 5: the label '0,0,2' of d holds a value that is not 1"),
        ("d,yes,1,0,0", "multilabel", "'0,0,yes' of d"),
        ("d,1,1,1,0", "multiclass", "the label '1,0,1' of d names 2 classes, where an image must"),
        ("d,0,1,0,0", "multiclass", "names 0 classes"),
        ("d,-1,1,0,0", "multiclass", "is unknown, where an image must"),
    ],
)
def test_a_wrong_value_in_a_column_is_told_with_its_line(tmp_path, row, task, said):
    with pytest.raises(UserError, match=said):
        flags_of(tmp_path, ["a,1,40,0,0", "b,0,41,1,0", "c,0,42,0,1", row], task)


def test_labels_that_are_no_class_are_ignored_on_request(tmp_path):
    text = FLAGS.replace('"Path"', '"Path"\nlabel_column = "Age"\nseparator = ";"\nnone = "normal"')
    strict = parse_competition(text, "flags.toml")
    table = "Path,Age\na,Edema; Mass\nb,Effusion\nc,normal\nd,\n"
    (tmp_path / "train.csv").write_text(table)
    rows, _ = read_label_table(strict, tmp_path)
    assert list(rows["label"]) == ["Edema|Mass", "Pleural Effusion", "", ""]
    (tmp_path / "train.csv").write_text(table + "e,Edema;Fracture\nf,Fracture\n")
    with pytest.raises(UserError, match=r"line 6: the label 'Edema;Fracture' of e"):
        read_label_table(strict, tmp_path)
    lenient = parse_competition(text.replace("none =", 'others = "ignore"\nnone ='), "flags.toml")
    rows, _ = read_label_table(lenient, tmp_path)
    # An image may have none of the classes, so f stays.
    assert list(rows["label"][4:]) == ["Edema", ""]


OPENI = load_competition("openi-nodule")


@pytest.fixture
def openi(tmp_path: Path, draw: Callable[..., Path]) -> Callable[..., Path]:
    """Write a set in the layout of ``raddar/chest-xrays-indiana-university``, with its columns."""
    problems = [
        *["normal", "normal", "Nodule", "Nodule;Cardiomegaly", "Cardiomegaly;Pulmonary Artery"],
        *["Calcified Granuloma", "normal", "Nodule"],
    ]

    def write(**changed: pd.DataFrame) -> Path:
        reports, projections = [], []
        for uid, problem in enumerate(problems, start=1):
            mesh = "normal" if problem == "normal" else f"{problem.replace(';', '/lung;')}/left"
            texts = {"image": "Xray Chest PA and Lateral", "indication": "Pain, cough"}
            said = {"comparison": "", "findings": 'The "heart" is\nnormal.', "impression": "None."}
            reports.append({"uid": uid, "MeSH": mesh, "Problems": problem, **texts, **said})
            for view, projection in ((1001, "Frontal"), (2001, "Lateral")):
                name = f"{uid}_IM-{uid:04d}-{view}.dcm.png"
                draw(tmp_path / "images/images_normalized" / name, seed=uid)
                projections.append({"uid": uid, "filename": name, "projection": projection})
        tables = {
            "indiana_reports": pd.DataFrame(reports),
            "indiana_projections": pd.DataFrame(projections),
        }
        for name, content in {**tables, **changed}.items():
            content.to_csv(tmp_path / f"{name}.csv", index=False)
        return tmp_path

    return write


def test_openi_gives_frontal_views_with_normal_or_nodule_and_the_report_as_patient(openi, caplog):
    with caplog.at_level("INFO", "xraycomp"):
        manifest = build_manifest(OPENI, openi())
    assert list(manifest["image"]) == [f"{n}_IM-{n:04d}-1001.dcm" for n in (1, 2, 3, 4, 7, 8)]
    labels = ["Normal", "Normal", "Nodule", "Nodule", "Normal", "Nodule"]
    assert list(manifest["label"]) == labels
    assert list(manifest["patient"]) == ["1", "2", "3", "4", "7", "8"]
    assert set(manifest["split"]) == {"train"}
    assert "8 images whose projection is not Frontal are left out" in caplog.text
    assert "2 images with none of the classes are left out" in caplog.text


def test_openi_without_an_image_or_a_table_is_refused(openi):
    root = openi()
    (root / "images/images_normalized/3_IM-0003-1001.dcm.png").unlink()
    with pytest.raises(UserError, match=r"1 images .* have no file in .*: 3_IM-0003-1001"):
        build_manifest(OPENI, root)
    (root / "indiana_reports.csv").unlink()
    with pytest.raises(UserError, match=r"no label table .*indiana_reports\.csv"):
        build_manifest(OPENI, root)


@pytest.mark.parametrize(
    ("reports", "said"),
    [
        ({"uid": [1, 2, 2], "Problems": "normal"}, r"1 rows whose uid is there already: 2"),
        ({"uid": [1, 2, 3], "Problems": "normal"}, r"no row for 5 values of uid in .*: 4, 5"),
        ({"number": [1, 2], "Problems": "normal"}, r"indiana_reports\.csv has no column uid"),
        ({"uid": range(1, 9), "MeSH": "normal"}, "has no column Problems"),
        ({"uid": range(1, 9), "Problems": "normal"}, "no image of Nodule"),
        (
            {"uid": range(1, 9), "Problems": ["normal;Nodule"] + ["normal", "Nodule"] * 3 + ["x"]},
            r"line 2: the label 'normal;Nodule' of 1_IM-0001-1001\.dcm\.png names 2 classes",
        ),
    ],
)
def test_wrong_openi_reports_are_told_with_the_place(openi, reports, said):
    with pytest.raises(UserError, match=said):
        build_manifest(OPENI, openi(indiana_reports=pd.DataFrame(reports)))


def test_openi_without_frontal_views_is_refused(openi):
    names = [f"{n}_IM-{n:04d}-1001.dcm.png" for n in range(1, 9)]
    views = pd.DataFrame({"uid": range(1, 9), "filename": names, "projection": "frontal"})
    with pytest.raises(UserError, match="has no row whose projection is Frontal"):
        build_manifest(OPENI, openi(indiana_projections=views))


def test_official_lists_are_read_by_name_where_rows_are_left_out(nih):
    # The rows before the first of the test list are left out, so that no row is where it was.
    text = NODULE.replace("[train]", '[train]\nwhere = { "View Position" = ["PA"] }')
    root = nih()
    table = pd.read_csv(root / "Data_Entry_2017.csv")
    table.loc[:8, "View Position"] = "AP"
    table.loc[[9, 10, 16], "Finding Labels"] = ["No Finding", "Nodule", "No Finding"]
    table.loc[15, "Finding Labels"] = "Nodule"
    table.to_csv(root / "Data_Entry_2017.csv", index=False)
    rows, n_rows = read_label_table(parse_competition(text, "nodule.toml"), root)
    assert n_rows == 17
    assert list(rows["name"]) == [f"{row:08d}_000.png" for row in (9, 10, 15, 16)]
    assert list(rows["split"]) == ["train", "train", "test", "test"]


def test_a_label_that_is_no_class_is_told_with_its_line_where_rows_are_left_out(nih):
    text = NODULE.replace("[train]", '[train]\nwhere = { "View Position" = ["PA"] }')
    root = nih(label_7="No Finding|Nodule")
    table = pd.read_csv(root / "Data_Entry_2017.csv")
    table.loc[1:4, "View Position"] = "AP"
    table.to_csv(root / "Data_Entry_2017.csv", index=False)
    with pytest.raises(UserError, match=r"csv, line 9: .* of 00000007_000\.png names 2 classes"):
        read_label_table(parse_competition(text, "nodule.toml"), root)


def test_reports_in_another_order_and_of_other_images_change_nothing(openi):
    expected = build_manifest(OPENI, openi())
    path = openi() / "indiana_reports.csv"
    reports = pd.read_csv(path)
    more = reports.tail(1).assign(uid=99, Problems="Nodule")
    pd.concat([more, reports[::-1]]).to_csv(path, index=False)
    pd.testing.assert_frame_equal(build_manifest(OPENI, path.parent), expected)
