"""The shortcut probe finds planted shortcuts, and none where there is none."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.dataset import load_dataset
from xraycomp.data.features import measure_images
from xraycomp.data.manifest import build_manifest
from xraycomp.data.source import Source
from xraycomp.judging import shortcuts
from xraycomp.judging.shortcuts import format_shortcuts, probe_shortcuts

CLASSES = ("covid", "pneumonia", "normal")


def competition(**fields):
    fields = {"task": "multiclass", "classes": CLASSES, "metric": "macro_f1"} | fields
    return Competition("toy", "toy", "dataset", train=Labelled("train", "folders"), **fields)


@pytest.fixture
def probe(tmp_path):
    """Probe 180 noisy films; ``change(pixels, label, rng)`` plants something."""

    def _probe(change=None, findings=False, folds=False):
        rng = np.random.default_rng(0)
        for n in range(180):
            label = CLASSES[n % 3]
            pixels = rng.normal(110, 30, (64, 64)) + rng.normal(0, 20)
            pixels = change(pixels, label, rng) if change else pixels
            path = tmp_path / "train" / label / f"{n:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        task = competition()
        manifest = build_manifest(task, tmp_path)
        manifest["split"] = np.where(np.arange(180) % 3 == 0, "val", "train")
        if folds:
            fold = (np.arange(180) % 3).astype(str)
            manifest = manifest.assign(split="val", fold=fold)
        if findings:
            task = competition(task="multilabel", metric="auroc")
            changed = {"covid": "covid|normal", "pneumonia": "pneumonia|?normal"}
            manifest["label"] = manifest["label"].replace(changed | {"normal": ""})
        dataset = load_dataset(manifest, Source(task, tmp_path, tmp_path), 32)
        found = probe_shortcuts(dataset, measure_images(dataset, tmp_path), "val", resamples=200)
        assert json.loads(json.dumps(found)) == found
        assert (found["split"], found["fitted_on"]) == ("val", 120)
        return found, {probe["name"]: probe["auroc"] for probe in found["probes"]}

    _probe.paths = lambda: sorted((tmp_path / "train").rglob("*.png"))
    return _probe


def with_border(pixels, label, rng):
    if label == "covid":
        pixels[:2] = pixels[:, -2:] = 240
    return pixels


def with_size(pixels, label, rng):
    return pixels[:48, :40] if label == "pneumonia" else pixels[: rng.integers(30, 64)]


def with_brightness(pixels, label, rng):
    return pixels + 40 * (label == "normal")


def test_of_folds_each_image_is_judged_by_what_has_not_learned_it(probe):
    _, by_chance = probe(folds=True)
    # 124 border pixels would tell 180 films apart, had they been learned.
    assert all(0.35 < area["value"] < 0.65 for area in by_chance.values())
    _, planted = probe(with_border, folds=True)
    assert planted["border pixels"]["value"] > 0.75


def test_without_a_shortcut_there_is_no_warning(probe):
    found, areas = probe()
    assert list(areas) == ["border pixels", "image size", "mean brightness", "all three"]
    assert areas["image size"] == {"value": 0.5, "low": None, "high": None}  # all of one size
    assert all(0.3 < area["value"] < 0.7 for area in areas.values())
    assert found["warning"] is None
    assert "\n" not in format_shortcuts(found)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (with_border, "border pixels"),
        (with_size, "image size"),
        (with_brightness, "mean brightness"),
    ],
)
def test_a_planted_shortcut_is_found_and_warned_of(probe, change, name):
    found, areas = probe(change)
    assert areas[name]["low"] > shortcuts.LIMIT
    assert areas["all three"]["low"] > shortcuts.LIMIT
    others = {"border pixels", "image size", "mean brightness"} - {name}
    assert min(areas[other]["value"] for other in others) < areas[name]["value"]
    assert f"{name} {areas[name]['value']:.2f}" in found["warning"]
    assert "\nWARNING: Labels can be told without seeing any finding" in format_shortcuts(found)


def test_findings_are_probed_one_by_one_and_unknown_ones_left_out(probe):
    found, areas = probe(with_border, findings=True)
    assert areas["border pixels"]["low"] > shortcuts.LIMIT
    assert found["warning"]


def test_the_area_is_that_of_a_regression_fitted_on_the_training_split_alone(probe):
    found, areas = probe(with_border)
    pictures = np.stack([np.asarray(Image.open(path)) for path in probe.paths()])
    rows = np.repeat(sorted(CLASSES), 60)
    targets = np.array([rows == name for name in CLASSES]).T
    val = np.arange(180) % 3 == 0
    # Films of 64 px: each of the thumbnail's pixels is the mean of four.
    small = pictures.reshape(180, 32, 2, 32, 2).mean(axis=(2, 4))
    edges = [small[:, 0], small[:, -1], small[:, 1:-1, 0], small[:, 1:-1, -1]]
    ring = np.concatenate(edges, axis=1)
    scaled = (ring - ring[~val].mean(axis=0)) / ring[~val].std(axis=0)
    probs = [
        LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)
        .fit(scaled[~val], target[~val])
        .predict_proba(scaled[val])[:, 1]
        for target in targets.T
    ]
    area = roc_auc_score(targets[val], np.array(probs).T, average="macro")
    # The thumbnails are rounded to whole gray levels.
    assert areas["border pixels"]["value"] == pytest.approx(area, abs=0.01)
    assert found["limit"] == shortcuts.LIMIT


def test_of_many_validation_images_a_sample_is_judged(probe, monkeypatch):
    monkeypatch.setattr(shortcuts, "MOST_JUDGED", 30)
    assert probe()[0]["judged"] == 30
