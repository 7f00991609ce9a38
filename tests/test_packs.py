"""The built-in competitions on real images, where ``XRAYCOMP_PACKS`` names a folder with them."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from xraycomp.data.cache import build_cache
from xraycomp.data.competition_file import load_competition
from xraycomp.data.duplicates import copy_groups, find_copies
from xraycomp.data.findings import choose_findings
from xraycomp.data.labels import encode_targets
from xraycomp.data.manifest import build_manifest
from xraycomp.data.source import open_source
from xraycomp.data.split import SplitPlan, split_manifest
from xraycomp.data.submission import expected_ids
from xraycomp.train import main


def pack(name: str) -> Path:
    """The path of a data pack; skips the test where it is absent."""
    folder = os.environ.get("XRAYCOMP_PACKS")
    if not folder:
        pytest.skip("XRAYCOMP_PACKS is not set: no real images here")
    path = Path(folder, "data", name)
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def test_the_whole_job_runs_on_the_sample_of_acse4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pack("acse4-ml-2020-sample.zip")
    monkeypatch.chdir(tmp_path)
    flags = ["--image-size", "32", "--epochs", "1", "--batch-size", "4", "--val-fraction", "0.25"]
    main(["--competition", "acse4-ml-2020", "--data", str(data), "--name", "real", *flags])
    manifest = pd.read_csv("runs/real/manifest.csv", keep_default_na=False)
    assert manifest["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4}
    submission = pd.read_csv("submissions/real.csv")
    test_ids = list(manifest["image"][manifest["split"] == "test"])
    assert list(submission.columns) == ["name", "target"]
    assert list(submission["name"]) == test_ids
    probs = pd.read_csv("runs/real/predictions/test.csv").set_index("image").loc[test_ids]
    # Index order as the competition has it, not as an image folder would.
    assert list(probs.columns) == ["covid", "lung_opacity", "pneumonia", "normal"]
    assert list(submission["target"]) == list(probs.to_numpy().argmax(axis=1))


def test_chest_xray_4_has_no_copies_and_its_ids_are_those_of_the_sample(tmp_path: Path) -> None:
    source = open_source(load_competition("chest-xray-4"), pack("chest-xray-4.zip"), tmp_path)
    manifest = build_manifest(source.competition, source.root)
    assert manifest["split"].value_counts().to_dict() == {"train": 2599, "test": 1000}
    ids = expected_ids(source.competition, source.root)
    assert ids == [f"test_{index}" for index in range(1000)]
    assert set(ids) == set(manifest["image"][manifest["split"] == "test"])
    cache = build_cache([source.root / path for path in manifest["path"]], tmp_path / "cache", 64)
    assert cache.broken == {}
    assert find_copies(cache).empty


def test_pediatric_pneumonia_keeps_patients_and_copies_on_one_side(tmp_path: Path) -> None:
    source = open_source(
        load_competition("pediatric-pneumonia"), pack("pediatric-pneumonia.zip"), tmp_path
    )
    manifest = build_manifest(source.competition, source.root)
    labelled = (manifest["split"] == "train").to_numpy()
    assert labelled.sum() == 5232
    assert manifest["patient"][labelled].ne("").all()
    assert manifest["label"].value_counts()[["NORMAL", "PNEUMONIA"]].tolist() == [1349, 3883]
    cache = build_cache([source.root / path for path in manifest["path"]], tmp_path / "cache", 64)
    copies = find_copies(cache)
    assert (copies["kind"] == "exact").sum() == 32
    groups = copy_groups(copies, len(manifest))
    split = split_manifest(
        manifest, source.competition.classes, SplitPlan(val_fraction=0.1), same_side=groups
    ).to_numpy()
    patients = manifest["patient"].to_numpy()
    val, train = split == "val", split == "train"
    assert not set(patients[val]) & set(patients[train])
    assert not set(groups[val]) & set(groups[train])
    assert np.isclose(val.sum() / labelled.sum(), 0.1, atol=0.01)


def test_the_nih_set_splits_by_its_official_lists_and_by_patient(tmp_path: Path) -> None:
    source = open_source(load_competition("nih-chest-xrays"), pack("nih-chest-xrays.zip"), tmp_path)
    competition = source.competition
    manifest = build_manifest(competition, source.root)
    assert manifest["split"].value_counts().to_dict() == {"train": 1396, "test": 307}
    assert manifest["patient"].nunique() == 1613
    targets = encode_targets(list(manifest["label"]), competition.classes)
    assert (targets.sum(axis=1) == 0).sum() == 692
    counts = dict(zip(competition.classes, targets.sum(axis=0).astype(int), strict=True))
    assert (counts["Infiltration"], counts["Nodule"], counts["Hernia"]) == (309, 141, 22)
    for plan in (SplitPlan("official"), SplitPlan("chexnet")):
        split = split_manifest(manifest, competition.classes, plan)
        assert (split.groupby(manifest["patient"]).nunique() == 1).all()
        for part in ("train", "val", "test"):
            assert targets[split == part].sum(axis=0).min() >= 2
        official = np.array_equal(split == "test", manifest["split"] == "test")
        assert official == (plan.split_by == "official")
    chosen, _ = choose_findings(competition, manifest, min_count=50)
    assert set(competition.classes) - set(chosen.classes) == {"Pneumonia", "Edema", "Hernia"}
