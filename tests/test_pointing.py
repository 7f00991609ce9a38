"""Heat maps point at the finding: on phantoms, whose lesions are known, with a trained network."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

from xraycomp.data.boxes import boxes_in_pixels, read_boxes
from xraycomp.data.competition_file import load_competition
from xraycomp.data.dataset import Dataset, load_dataset
from xraycomp.data.manifest import build_manifest
from xraycomp.data.phantom import draw_competition
from xraycomp.data.source import Source
from xraycomp.data.split import SplitPlan, split_manifest
from xraycomp.job.explaining import call_images
from xraycomp.judging.localisation import locate
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model.body import BodyParts
from xraycomp.model.config import TrainConfig
from xraycomp.model.engine import fit
from xraycomp.model.heatmaps import map_pairs
from xraycomp.model.inference import predict_split
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.stem import GrayModel

SIZE = 80  # of the films, in pixels


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """The phantoms' competition, smaller, decoded and split."""
    root = tmp_path_factory.mktemp("films")
    draw_competition(root, n_train=1400, n_test=1, size=SIZE)
    competition = load_competition("phantom")
    manifest = build_manifest(competition, root)
    dataset = load_dataset(manifest, Source(competition, root, root / "home"), 73, workers=1)
    split = split_manifest(manifest, competition.classes, SplitPlan(val_fraction=0.15))
    return root, competition, Dataset(manifest.assign(split=split), dataset.cache, dataset.classes)


def local_network(classes):
    """A network that looks at a quarter of the film at once and ends in a map of 16 by 16 cells.

    ResNet-18 would end in 2 by 2 at this size: it knows what, but not where.
    """

    def block(before, after, kernel=3, stride=1):
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())

    torch.manual_seed(0)
    body = nn.Sequential()
    wide = [block(1, 16, 5, 2), block(16, 32, 3, 2), *(block(i, 64) for i in (32, 64, 64))]
    body.add_module("features", nn.Sequential(*wide))
    body.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    body.add_module("flatten", nn.Flatten())
    body.add_module("fc", nn.Linear(64, len(classes)))
    model = GrayModel(body, "local", 0.5, 0.25, 1, BodyParts("avgpool", "fc"))
    model.classes = classes
    return model


def peaks_in_lesions(films, model, called, config, method):
    """Of the sick images that were called correctly, the share whose peak lies in the lesion."""
    root, competition, dataset = films
    boxes = read_boxes(competition, root, dataset.manifest["image"])
    pairs = called.boxed(boxes)
    pairs = pairs[pairs["called"]].reset_index(drop=True)
    maps = map_pairs(model, dataset, pairs, config, method)
    hits = []
    for row, (image, name) in enumerate(zip(pairs["image"], pairs["class"], strict=True)):
        own = boxes[(boxes["image"] == image) & (boxes["class"] == name)]
        corners = boxes_in_pixels(own, competition, SIZE, SIZE)
        hits.append(locate(maps.of_image(row, SIZE, SIZE), SIZE, SIZE, corners).peak_inside)
    return np.mean(hits), len(hits)


def test_the_peak_lies_in_the_lesion_of_a_trained_network_and_not_of_a_random_one(films, tmp_path):
    _, competition, dataset = films
    config = TrainConfig(
        image_size=64,
        epochs=12,
        optimizer="adamw",
        lr=5e-3,
        schedule="onecycle",
        weighted_sampling=False,
        random_crop=False,
        rotation=0.0,
        scale=0.0,
        brightness=0.0,
        contrast=0.0,
    )
    train, val = dataset.split("train"), dataset.split("val")
    model = local_network(competition.classes)
    state = start_state(model, len(train), config, torch.device("cpu"))
    score = functools.partial(epoch_scores, multilabel=False)
    fit(state, train, val, config, RunFolder(tmp_path), score)
    table = predict_split(model, dataset, "val", config)
    called = call_images(dataset, "val", table, None)
    untrained = local_network(competition.classes)
    for method in ("gradcam", "gradcam++"):
        trained, n = peaks_in_lesions(films, model, called, config, method)
        assert n > 100
        assert trained >= 0.9
        # The same images and classes, so that they differ in nothing but the weights.
        by_chance, _ = peaks_in_lesions(films, untrained, called, config, method)
        assert by_chance < 0.4
