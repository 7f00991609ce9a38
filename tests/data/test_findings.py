"""Which findings a run learns: the classes, the labels and the competition change together."""

from dataclasses import replace

import pandas as pd
import pytest

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled, Submission
from xraycomp.data.competition_file import FINDINGS_RECIPE, format_competition, parse_competition
from xraycomp.data.findings import choose_findings
from xraycomp.data.manifest import build_manifest

TABLE = Labelled("images", "t.csv", image_column="Image", label_column="Finding", separator="|")
COMPETITION = Competition(
    slug="mine",
    title="mine",
    source="dataset",
    task="multilabel",
    classes=("Nodule", "Mass", "Hernia"),
    metric="auroc",
    train=replace(TABLE, none="Healthy", names={"Lump": "Mass", "Rupture": "Hernia"}),
    recipe=FINDINGS_RECIPE,
)
LABELS = ["Nodule", "Nodule|Mass", "", "Mass|?Hernia", "Hernia", "?", "", "?Nodule|Hernia|?Mass"]


def manifest_of(labels=LABELS):
    content = {"image": [f"i{row}" for row in range(len(labels))], "label": labels}
    return pd.DataFrame({**content, "patient": "", "split": "train"})


def choose(**options):
    competition, manifest = choose_findings(COMPETITION, manifest_of(), **options)
    # A run keeps its competition as a file.
    assert parse_competition(format_competition(competition), "run.toml") == competition
    return competition, manifest


def test_without_a_wish_nothing_changes():
    manifest = manifest_of()
    competition, same = choose_findings(COMPETITION, manifest)
    assert competition is COMPETITION
    assert same is manifest


def test_no_finding_becomes_the_last_class_and_the_normal_one():
    competition, manifest = choose(no_finding_class=True)
    assert competition.classes == ("Nodule", "Mass", "Hernia", "Healthy")
    assert competition.normal == "Healthy"
    assert list(manifest["label"]) == [label or "Healthy" for label in LABELS]


def test_no_finding_has_a_name_where_the_competition_gives_it_none():
    nameless = replace(COMPETITION, train=TABLE)
    competition, manifest = choose_findings(nameless, manifest_of(), no_finding_class=True)
    assert competition.classes[-1] == "No Finding"
    assert (manifest["label"] == "No Finding").sum() == 2


def test_images_without_any_finding_are_left_out_and_unknown_ones_stay(caplog):
    with caplog.at_level("INFO", "xraycomp"):
        competition, manifest = choose(drop_no_finding=True)
    assert competition == COMPETITION
    assert list(manifest["label"]) == [label for label in LABELS if label]
    assert list(manifest.index) == list(range(6))
    assert "Left out 2 images without any finding" in caplog.text


def test_rare_findings_are_left_out_of_classes_and_labels_and_named(caplog):
    manifest = manifest_of([*LABELS, "Nodule", "Mass"])
    with caplog.at_level("INFO", "xraycomp"):
        competition, manifest = choose_findings(COMPETITION, manifest, min_count=3)
    assert competition.classes == ("Nodule", "Mass")
    assert competition.train.names == {"Lump": "Mass"}
    assert parse_competition(format_competition(competition), "run.toml") == competition
    assert list(manifest["label"]) == [
        *("Nodule", "Nodule|Mass", "", "Mass", "", "?", "", "?Nodule|?Mass", "Nodule", "Mass")
    ]
    assert "fewer than 3 images: Hernia (2)" in caplog.text


def test_an_image_with_a_left_out_finding_only_is_not_one_without_any():
    manifest = manifest_of(["Hernia", "", *["Nodule", "Mass"] * 3, "", ""])
    competition, manifest = choose_findings(
        COMPETITION, manifest, no_finding_class=True, min_count=3
    )
    assert competition.classes == ("Nodule", "Mass", "Healthy")
    assert list(manifest["label"][:2]) == ["", "Healthy"]


def test_the_changed_competition_reads_the_same_manifest_from_its_table(tmp_path, draw):
    texts = ["Nodule", "Nodule|Lump", "Healthy", "Rupture|Nodule", "Lump", "Rupture|Lump"]
    for row in range(6):
        draw(tmp_path / f"images/i{row}.png", seed=row)
    table = pd.DataFrame({"Image": [f"i{row}.png" for row in range(6)], "Finding": texts})
    table.to_csv(tmp_path / "t.csv", index=False)
    manifest = build_manifest(COMPETITION, tmp_path)
    assert list(manifest["label"][3:]) == ["Nodule|Hernia", "Mass", "Mass|Hernia"]
    for options in ({"min_count": 3}, {"no_finding_class": True}):
        competition, changed = choose_findings(COMPETITION, manifest, **options)
        assert competition.classes != COMPETITION.classes
        pd.testing.assert_frame_equal(build_manifest(competition, tmp_path), changed)


def test_a_normal_or_positive_class_that_is_left_out_is_no_longer_named():
    named = replace(COMPETITION, normal="Hernia", positive="Mass")
    competition, _ = choose_findings(
        named, manifest_of([*["Mass"] * 3, *["Nodule"] * 3, "Hernia"]), min_count=2
    )
    assert (competition.normal, competition.positive) == ("", "Mass")


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"task": "multiclass"}, {"min_count": 1}, "mine is multiclass; --no-finding-class"),
        ({}, {"no_finding_class": True, "drop_no_finding": True}, "contradict each other"),
        ({}, {"min_count": 9}, r"--min-count 9 leaves 0 of 3 classes of mine.*has 2 of 7 labelled"),
        (
            {"submission": Submission({"id": "id", "h": "probability:Hernia"})},
            {"min_count": 3},
            "leaves out Hernia, which a submission to mine must hold",
        ),
    ],
)
def test_a_wish_that_cannot_be_met_is_told(changes, options, said):
    labels = LABELS if options.get("min_count") != 3 else [*LABELS, "Nodule", "Mass"]
    with pytest.raises(UserError, match=said):
        choose_findings(replace(COMPETITION, **changes), manifest_of(labels), **options)
