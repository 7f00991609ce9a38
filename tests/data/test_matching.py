"""Tables as others write them: every spelling gives the same targets and probabilities."""

import numpy as np
import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.image_ids import image_key
from xraycomp.data.matching import Reading, match_tables, match_unlabelled

NAMES = ["Effusion", "Mass", "Pleural_Thickening"]
IDS = [f"0000{n}_00{n}.png" for n in range(6)]
TARGETS = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0]], float)
PROBS = np.random.default_rng(0).random((6, 3)).round(4)


def finding_labels(targets=TARGETS, none="No Finding"):
    return ["|".join(np.array(NAMES)[row == 1]) or none for row in targets]


@pytest.fixture
def match(tmp_path):
    """Write both tables and match them."""

    def _match(predictions, labels, *, images=None, **reading):
        paths = tmp_path / "P.csv", tmp_path / "L.csv"
        for path, table in zip(paths, (predictions, labels), strict=True):
            pd.DataFrame(table).to_csv(path, index=False)
        if images is not None:
            (tmp_path / "list.txt").write_text("\n".join(images) + "\n")
        image_list = None if images is None else tmp_path / "list.txt"
        return match_tables(*paths, Reading(image_list=image_list, **reading))

    return _match


def predictions(pattern="{}", ids=IDS, **extra):
    columns = {pattern.format(name): PROBS[:, c] for c, name in enumerate(NAMES)}
    return {"image": ids, **columns, **extra}


NIH = {"Image Index": IDS, "Finding Labels": finding_labels(), "Patient ID": range(6)}
FLAGS = {"id": IDS, **{name: TARGETS[:, c].astype(int) for c, name in enumerate(NAMES)}}


def check(found, targets=TARGETS, probs=PROBS, classes=tuple(NAMES)):
    assert found.classes == classes
    np.testing.assert_array_equal(found.targets, targets)
    np.testing.assert_array_equal(found.probs, probs)


@pytest.mark.parametrize("labels", [NIH, FLAGS])
@pytest.mark.parametrize("pattern", ["{}", "pred_{}", "{}_prob", "P({})", "model-1/{}/mean"])
def test_any_prefix_and_suffix(match, pattern, labels):
    found = match(predictions(pattern), labels)
    check(found, classes=tuple(NAMES))
    assert found.multilabel


@pytest.mark.parametrize("labels", [NIH, FLAGS])
@pytest.mark.parametrize(
    "ids",
    [
        [name.removesuffix(".png") for name in IDS],
        [f"images_001/images/{name}" for name in IDS],
        [f"C:\\data\\{name[:-4]}.JPG" for name in IDS],
    ],
)
def test_ids_with_and_without_suffix_and_folders(match, labels, ids):
    check(match(predictions(ids=ids), labels))


def test_rows_in_any_order_extra_columns_and_a_row_counter(match):
    order = np.array([3, 0, 5, 1, 4, 2])
    table = pd.DataFrame(predictions("pred_{}", epoch=7, fold="a", Mass=TARGETS[:, 1].astype(int)))
    table = table.rename(columns={"image": "file name"}).iloc[order]
    table.insert(0, "Unnamed: 0", range(6))
    labels = pd.DataFrame(NIH)
    labels.insert(0, "Unnamed: 0", range(6))
    found = match(table, labels)
    check(found, TARGETS[order], PROBS[order])
    assert "Images are matched by file name and Image Index." in found.remarks
    assert "Columns of P.csv left out: Unnamed: 0, epoch, fold, Mass." in found.remarks


def test_columns_of_both_tables_that_hold_the_same_few_values_name_no_images(match):
    ids = [f"images_001/{name}" for name in IDS]
    found = match(predictions("pred_{}", ids, was_Mass=TARGETS[:, 1].astype(int)), FLAGS)
    check(found)
    assert "Images are matched by image and id." in found.remarks


def test_names_spelt_differently(match):
    names = ("effusion", "MASS", "pleural thickening")
    check(match({"id": IDS, **dict(zip(names, PROBS.T, strict=True))}, NIH))
    run_together = predictions("pred{}")
    check(match(run_together, NIH, columns="pred{}"))
    check(match(run_together, FLAGS, columns="pred{}"))


def test_no_finding_is_a_class_where_it_is_predicted(match):
    found = match(predictions(**{"No Finding": [0.5] * 6}), NIH)
    targets = np.c_[TARGETS, TARGETS.sum(axis=1) == 0]
    check(found, targets, np.c_[PROBS, [0.5] * 6], (*NAMES, "No Finding"))


def test_unknown_labels(match):
    flags = pd.DataFrame(FLAGS).astype(object)
    flags.loc[0, "Mass"], flags.loc[1, "Mass"], flags["Effusion"] = -1, None, TARGETS[:, 0]
    targets = TARGETS.copy()
    targets[:2, 1] = np.nan
    check(match(predictions(), flags), targets)
    manifest = {"image": IDS, "label": ["?Mass|Effusion", "?", *finding_labels(none="")[2:]]}
    targets[1] = np.nan
    check(match(predictions(), manifest), targets)


def test_labels_of_more_images_are_left_out_and_that_is_said(match):
    table = pd.DataFrame(predictions()).iloc[2:5]
    found = match(table, NIH)
    check(found, TARGETS[2:5], PROBS[2:5])
    assert "3 labelled images are not judged." in found.remarks


def test_a_list_says_which_images_are_judged(match):
    found = match(predictions(), NIH, images=[f"images/{IDS[4]}", IDS[1][:-4]])
    check(found, TARGETS[[4, 1]], PROBS[[4, 1]])


def test_classes_are_chosen(match):
    for labels in (NIH, FLAGS):
        found = match(predictions("pred_{}"), labels, classes=("Mass", "Effusion"))
        check(found, TARGETS[:, [1, 0]], PROBS[:, [1, 0]], ("Mass", "Effusion"))


SOFTMAX = PROBS / PROBS.sum(axis=1, keepdims=True)
KINDS = np.array([0, 2, 1, 1, 0, 2])


def softmax(names):
    return {"id": IDS, **{name: SOFTMAX[:, c] for c, name in enumerate(names)}}


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (
            ["covid", "tb", "well"],
            np.array(["covid", "tb", "well"])[KINDS],
            ("covid", "tb", "well"),
        ),
        (["p_covid", "p_tb", "p_well"], KINDS, ("p_covid", "p_tb", "p_well")),
        (["0", "1", "2"], KINDS, ("0", "1", "2")),
        (["prob_0", "prob_1", "prob_2"], KINDS, ("0", "1", "2")),
    ],
)
def test_one_class_an_image_by_name_or_index(match, names, labels, classes):
    found = match(softmax(names), {"name": IDS, "age": range(30, 36), "target": labels})
    np.testing.assert_array_equal(found.targets, np.eye(3)[KINDS])
    np.testing.assert_allclose(found.probs, SOFTMAX)
    assert found.classes == classes
    assert not found.multilabel


def test_a_class_that_no_image_has_is_found_by_the_sum(match):
    labels = np.array(["covid", "tb", "well"])[np.minimum(KINDS, 1)]
    found = match(softmax(["covid", "tb", "well"]), {"id": IDS, "label": labels})
    assert found.classes == ("covid", "tb", "well")
    assert not found.multilabel


def test_one_column_of_zeros_and_ones(match):
    found = match(
        {"id": IDS, "target": PROBS[:, 0]}, {"id": IDS, "target": TARGETS[:, 0].astype(int)}
    )
    assert found.classes == ("target",)
    assert found.multilabel


def twice(table):
    table = pd.DataFrame(table)
    return pd.concat([table, table.iloc[[2]]])


@pytest.mark.parametrize(
    ("table", "labels", "options", "words"),
    [
        (
            twice(predictions()),
            NIH,
            {},
            "P.csv holds 1 images twice in the column image: 00002_002",
        ),
        (predictions(), twice(NIH), {}, "L.csv holds 1 images twice in the column Image Index"),
        (predictions(), pd.DataFrame(NIH)[1:], {}, "L.csv has no row for 1 of 6 images: 00000_000"),
        (predictions(ids=list("abcdef")), NIH, {}, "No column of .*P.csv .* names images of"),
        (pd.DataFrame(predictions()).drop(columns="Mass"), NIH, {}, "P.csv has no column for Mass"),
        (
            pd.DataFrame(predictions()).drop(columns="Mass"),
            FLAGS,
            {},
            "P.csv has no column for Mass",
        ),
        (
            predictions("{}") | predictions("b_{}"),
            NIH,
            {},
            "several columns for Effusion: Eff.*b_E",
        ),
        (predictions(), {"id": IDS, "sex": list("mfmfmf")}, {}, "No column of .*L.csv .* fit the"),
        (
            predictions() | {"Mass": PROBS[:, 0] * 9},
            NIH,
            {},
            "not probabilities in 0..1; Mass is '",
        ),
        (predictions(), NIH, {"label_id": "nr"}, "L.csv has no column nr .columns: Image Index"),
        (predictions(), NIH, {"label_column": "nr"}, "L.csv has no column nr"),
        (predictions(), NIH, {"columns": "pred"}, "--columns is 'pred'; it must hold {} once"),
        (predictions(), NIH, {"columns": "x{}"}, "No column of .*L.csv"),
        (predictions(), NIH, {"images": ["z.png"]}, "P.csv has no row for 1 of 1 images: z"),
        (predictions(), NIH, {"classes": ("Mass", "Rib")}, "P.csv has no column for Rib"),
        (predictions(Rib=0.5), FLAGS, {"classes": ("Rib",)}, "L.csv has no column Rib"),
        (predictions(), {"id": IDS, "label": KINDS}, {}, "do not add up to 1.*--classes"),
        (
            softmax(["a", "b", "c"]),
            {"id": IDS, "label": ["a", "b", "", "a", "c", "c"]},
            {},
            "L.csv, line 4: the label '' of 00002_002.png names 0 classes",
        ),
        (softmax(["a", "b", "c"]), {"id": IDS, "label": KINDS + 1}, {}, "index 3, but there are 3"),
    ],
)
def test_what_does_not_fit_is_one_sentence(match, table, labels, options, words):
    with pytest.raises(UserError, match=words) as caught:
        match(table, labels, **options)
    assert "\n" not in str(caught.value)


def test_missing_tables(tmp_path):
    (tmp_path / "P.csv").write_text("id,a\n")
    with pytest.raises(UserError, match="has no rows"):
        match_tables(tmp_path / "P.csv", tmp_path / "L.csv", Reading())
    (tmp_path / "P.csv").write_text("id,a\n1,0.5\n")
    with pytest.raises(UserError, match="no label table"):
        match_tables(tmp_path / "P.csv", tmp_path / "L.csv", Reading())


def test_image_key_takes_off_the_suffix_of_images_only():
    assert image_key("a/b.c/1.2.840.png") == "a/b.c/1.2.840"
    assert image_key("1.2.840", folders=False) == "1.2.840"
    assert image_key("a\\b.DCM", folders=False) == "b"
    assert image_key("1_IM-0001-1001.dcm.png") == image_key("1_IM-0001-1001.dcm")


def test_tables_without_labels_are_brought_to_the_rows_of_the_first(tmp_path):
    first = pd.DataFrame(predictions())
    other = pd.DataFrame(predictions("pred_{}", [f"images/{name}" for name in IDS], epoch=3))
    paths = tmp_path / "a.csv", tmp_path / "b.csv"
    first.to_csv(paths[0], index=False)
    other.sample(frac=1, random_state=1).to_csv(paths[1], index=False)
    for given in (paths, paths[::-1]):
        images, probs = match_unlabelled(given, NAMES[::-1], Reading())
        places = [IDS.index(f"{name.rpartition('/')[2]}.png") for name in images]
        assert sorted(places) == list(range(6))
        for found in probs:
            np.testing.assert_array_equal(found, PROBS[places][:, ::-1])
    other.iloc[:4].to_csv(paths[1], index=False)
    with pytest.raises(UserError, match=r"not of the same images: 2 are in one of them only"):
        match_unlabelled(paths, NAMES, Reading())
