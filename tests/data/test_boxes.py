"""Boxes around findings, as the NIH and the phantoms list them."""

import numpy as np
import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.boxes import boxes_in_pixels, read_boxes
from xraycomp.data.competition_file import format_competition, load_competition, parse_competition

# As the NIH's own file is: a header that its commas take apart, and empty columns.
NIH = """\
Image Index,Finding Label,Bbox [x,y,w,h],,,
00013118_008.png,Atelectasis,225.08,547.02,86.78,79.19,,,
00014716_007.png,Infiltrate,686.1,131.54,185.49,313.49,,,
00014716_007.png,Infiltrate,100.0,131.54,85.5,313.49,,,
00099999_000.png,Mass,1.0,2.0,3.0,4.0,,,
00013118_008.png,Something,1.0,2.0,3.0,4.0,,,
"""


def test_the_file_of_the_nih(tmp_path):
    competition = load_competition("nih-chest-xrays")
    (tmp_path / "BBox_List_2017.csv").write_text(NIH)
    images = pd.Series(["00013118_008", "00014716_007", "00000001_000"])
    boxes = read_boxes(competition, tmp_path, images)
    assert list(boxes["image"]) == ["00013118_008", "00014716_007", "00014716_007"]
    assert list(boxes["class"]) == ["Atelectasis", "Infiltration", "Infiltration"]
    # Its coordinates are of 1024 px, whatever the size of the copy at hand.
    found = boxes_in_pixels(boxes.iloc[:1], competition, 256, 512)
    assert np.allclose(found, [[225.08 / 4, 547.02 / 2, 311.86 / 4, 626.21 / 2]])


def test_the_lesions_of_the_phantoms(tmp_path):
    competition = load_competition("phantom")
    text = "image,finding,x,y,width,height\np0001_1.png,nodule,10,20,30,40\n"
    (tmp_path / "lesions.csv").write_text(text)
    boxes = read_boxes(competition, tmp_path, pd.Series(["normal/p0000_1", "nodule/p0001_1"]))
    assert list(boxes["image"]) == ["nodule/p0001_1"]
    assert boxes_in_pixels(boxes, competition, 128, 128).tolist() == [[10, 20, 40, 60]]


def test_without_a_file_there_are_no_boxes(tmp_path):
    images = pd.Series(["a"])
    for slug in ("phantom", "chest-xray-4"):
        boxes = read_boxes(load_competition(slug), tmp_path, images)
        assert boxes.empty
        assert list(boxes["image"]) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,finding,x,y,w,h\na.png,nodule,1,2,3,x\n", "1 boxes that are not four .* line 2"),
        ("image,finding,x,y\na.png,nodule,1,2\n", "has 4 columns"),
    ],
)
def test_a_table_that_is_no_table_of_boxes_is_refused(tmp_path, text, said, match):
    (tmp_path / "lesions.csv").write_text(text)
    with pytest.raises(UserError) as refusal:
        read_boxes(load_competition("phantom"), tmp_path, pd.Series(["a"]))
    match(said, str(refusal.value))


def test_the_competitions_file_keeps_what_it_says_of_boxes():
    competition = load_competition("nih-chest-xrays")
    assert competition.boxes.size == 1024
    assert parse_competition(format_competition(competition), "again") == competition


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('tabel = "b.csv"', "unknown key boxes.tabel; did you mean boxes.table"),
        ("size = 1024", "the key boxes.table is missing"),
        ('table = "b.csv"\nsize = "big"', "boxes.size must be a number of pixels"),
        ('table = "../b.csv"', "boxes.table = .* must lie below"),
    ],
)
def test_what_a_competition_says_wrongly_of_boxes_is_refused(line, said, match):
    text = format_competition(load_competition("chest-xray-4")) + f"\n[boxes]\n{line}\n"
    with pytest.raises(UserError) as refusal:
        parse_competition(text, "mine.toml")
    match(said, str(refusal.value))
