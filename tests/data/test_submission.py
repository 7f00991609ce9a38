"""Submissions: what is written for each kind of competition, and every fault the check finds."""

import numpy as np
import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled, Submission
from xraycomp.data.predictions import probability_table
from xraycomp.data.submission import (
    build_submission,
    check_submission,
    expected_ids,
    write_submission,
)

CLASSES = ("covid", "pneumonia", "normal")
IDS = ["test_0", "test_1", "test_2", "test_10"]
PROBS = np.array([[0.1, 0.2, 0.7], [0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3]])
PREDICTIONS = probability_table(IDS, PROBS, CLASSES)


def competition(columns=None, **changes):
    submission = Submission(columns or {"name": "id", "target": "label_index"}, **changes)
    return Competition(
        slug="mine",
        title="mine",
        source="dataset",
        task="multiclass",
        classes=CLASSES,
        metric="macro_f1",
        train=Labelled("train", "folders"),
        test="test",
        submission=submission,
    )


EVERYTHING = {
    "p(normal)": "probability:normal",
    "id": "id",
    "number": "label_index",
    "name": "label_name",
    "p(covid)": "probability:covid",
}


def test_every_content_of_a_column_is_written_in_the_order_of_the_file(tmp_path):
    path = tmp_path / "submissions/run.csv"
    write_submission(path, competition(EVERYTHING), PREDICTIONS, IDS)
    assert path.read_bytes().decode() == (
        "p(normal),id,number,name,p(covid)\n"
        "0.700000,test_0,2,normal,0.100000\n"
        "0.000000,test_1,0,covid,0.900000\n"
        "0.300000,test_2,1,pneumonia,0.200000\n"
        "0.300000,test_10,0,covid,0.400000\n"
    )
    assert [file.name for file in path.parent.iterdir()] == ["run.csv"]


@pytest.mark.parametrize("suffix", [False, True])
def test_rows_stand_in_the_order_of_the_ids_and_bear_the_suffix_where_wanted(suffix):
    ids = [f"{name}.png" if suffix else name for name in IDS[::-1]]
    table = build_submission(competition(suffix=suffix), PREDICTIONS, ids)
    assert list(table["name"]) == ids
    assert list(table["target"]) == [0, 1, 0, 2]


def test_ids_come_from_the_sample_in_its_order_as_text(tmp_path):
    (tmp_path / "sample.csv").write_text("name,target\n1e3,0\n007,0\nNA,0\n")
    assert expected_ids(competition(sample="sample.csv"), tmp_path) == ["1e3", "007", "NA"]


@pytest.mark.parametrize("suffix", [False, True])
def test_without_a_sample_ids_come_from_the_test_folder_in_natural_order(tmp_path, draw, suffix):
    for n in range(12):
        draw(tmp_path / f"test/test_{n}.png", seed=n)
    end = ".png" if suffix else ""
    assert expected_ids(competition(suffix=suffix), tmp_path) == [
        f"test_{n}{end}" for n in range(12)
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no sample submission"),
        (b"", "not a readable CSV table"),
        (b"id,target\na,0\n", r"columns id, target but mine describes name, target"),
    ],
)
def test_a_sample_that_is_missing_or_not_as_described_is_told(tmp_path, content, said):
    if content is not None:
        (tmp_path / "sample.csv").write_bytes(content)
    with pytest.raises(UserError, match=said):
        expected_ids(competition(sample="sample.csv"), tmp_path)


def test_a_competition_without_a_test_set_has_nothing_to_submit(tmp_path):
    without = Competition("a", "a", "dataset", "binary", ("a", "b"), "auroc", Labelled("t", "f"))
    with pytest.raises(UserError, match="no test set to submit"):
        expected_ids(without, tmp_path)


def test_a_prediction_that_is_lacking_is_named_and_no_file_is_left(tmp_path):
    path = tmp_path / "run.csv"
    with pytest.raises(UserError, match="lack 1 of 4 test images: test_1"):
        write_submission(path, competition(), PREDICTIONS.drop(index=1), IDS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", [None, EVERYTHING])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_prediction_that_is_no_number_is_never_made_a_label(tmp_path, columns, value):
    predictions = PREDICTIONS.copy()
    predictions.loc[2, "pneumonia"] = value
    with pytest.raises(UserError, match="test_2"):
        write_submission(tmp_path / "run.csv", competition(columns), predictions, IDS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_the_check_leaves_the_one_before_it_alone(tmp_path):
    path = tmp_path / "run.csv"
    path.write_text("before")
    predictions = PREDICTIONS.copy()
    predictions.loc[0, "normal"] = 1.5
    columns = {"name": "id", "p": "probability:normal"}
    with pytest.raises(UserError, match=r"run\.csv, line 2: p is '1\.500000'"):
        write_submission(path, competition(columns), predictions, IDS)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("run.csv", "before")]


GOOD = "name,target\ntest_0,2\ntest_1,0\ntest_2,1\ntest_10,0\n"


def checked(tmp_path, content, columns=None):
    path = tmp_path / "given.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    check_submission(path, competition(columns), IDS)


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        GOOD.replace("\n", "\r\n"),  # Kaggle takes Windows line ends, so the check does
        GOOD.replace("test_0", '"test_0"'),
    ],
)
def test_a_good_file_passes(tmp_path, content):
    checked(tmp_path, content)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name,target", "id,target", "header 'id,target'; it must be 'name,target'"),
        ("name,target", "target,name", "header"),
        ("name,target", "name,Target", "header"),
        ("name,target\n", "", "header"),
        (GOOD, "", "header ''"),
        ("test_1,0\n", "", "lacks 1 ids: test_1"),
        ("test_1,0\n", "test_1,0\nextra,0\n", "1 ids that are not asked for: extra"),
        ("test_1,0\n", "test_1,0\ntest_1,0\n", "ids twice: test_1"),
        ("test_1,", "test_9,", "lacks 1 ids: test_1"),
        ("test_0,2\ntest_1,0", "test_1,0\ntest_0,2", "line 2: the ids are not in the order"),
        ("test_2,1", "test_2,3", "line 4: target is '3' but must be an integer from 0 to 2"),
        ("test_2,1", "test_2,-1", "target is '-1'"),
        ("test_2,1", "test_2,1.0", r"target is '1\.0'"),
        ("test_2,1", "test_2,", "target is ''"),
        ("test_2,1", "test_2,nan", "target is 'nan'"),
        ("test_2,1", "test_2,normal", "target is 'normal'"),
        ("test_2,1", "test_2, 1", "target is ' 1'"),
        ("test_2,1", "test_2,1,0.5", "line 4: 2 values"),
        ("test_2,1", "test_2", "line 4: 2 values"),
        ("test_2,1", "test_2;1", "line 4: 2 values"),
        ("test_10,0\n", "test_10,0\n\n", "line 6: 2 values"),
    ],
)
def test_a_fault_is_told_with_its_place(tmp_path, old, new, said):
    assert GOOD.count(old) == 1
    with pytest.raises(UserError, match=said) as caught:
        checked(tmp_path, GOOD.replace(old, new))
    assert "given.csv" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xef\xbb\xbf" + GOOD.encode(), "byte-order mark"),
        (GOOD.encode("utf-16"), "not UTF-8"),
        (GOOD.replace("test_2", "tést_2").encode("latin-1"), r"not UTF-8 text \(byte 31\)"),
        (GOOD.encode() + b'"' + b"x" * 200_000, "not a readable CSV|values"),
    ],
)
def test_a_wrong_encoding_is_told(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        checked(tmp_path, content)


@pytest.mark.parametrize("value", ["", "nan", "inf", "-0.01", "1.01", "high", "0,5"])
def test_a_value_that_is_no_probability_is_told(tmp_path, value):
    content = f"name,p\ntest_0,0\ntest_1,1\ntest_2,{value}\ntest_10,0.5e-3\n"
    with pytest.raises(UserError, match="line 4"):
        checked(tmp_path, content, {"name": "id", "p": "probability:covid"})


@pytest.mark.parametrize("value", ["Covid", "tb", "", "0"])
def test_a_name_that_is_no_class_is_told(tmp_path, value):
    content = f"name,label\ntest_0,covid\ntest_1,{value}\ntest_2,normal\ntest_10,normal\n"
    with pytest.raises(UserError, match=r"line 3: label is .* one of covid, pneumonia, normal"):
        checked(tmp_path, content, {"name": "id", "label": "label_name"})


def test_what_is_written_reads_back_in_pandas(tmp_path):
    path = tmp_path / "run.csv"
    write_submission(path, competition(), PREDICTIONS, IDS)
    table = pd.read_csv(path)
    assert list(table.columns) == ["name", "target"]
    assert table["target"].tolist() == PROBS.argmax(axis=1).tolist()
