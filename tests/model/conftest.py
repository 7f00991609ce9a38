"""Films that are drawn to real PNG files, and networks small enough to train in a second."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xraycomp.data.batches import ImageSet
from xraycomp.data.cache import build_cache
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model.checkpoint import restore_state
from xraycomp.model.config import TrainConfig
from xraycomp.model.engine import fit
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.stem import GrayModel

ALL_CLASSES = ("top", "below", "none")
PLAIN = {
    "flip": False,
    "rotation": 0.0,
    "scale": 0.0,
    "random_crop": False,
    "brightness": 0.0,
    "contrast": 0.0,
}


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread, so that sums are added up in one order, here and in child processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def draw_film():
    """Draw a film (uint8, square): noise, and a bright disc at the top (0), below (1), or none."""

    def draw(label, rng, size=18):
        y, x = np.mgrid[:size, :size] / size
        film = rng.normal(90, 12, (size, size))
        if label < 2:
            top, left = (0.28, 0.72)[label], rng.uniform(0.35, 0.65)
            film[np.hypot(y - top, x - left) < 0.17] += 110
        return film.clip(0, 255).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def make_set(tmp_path_factory):
    """Write arrays as PNG files and decode them to an ImageSet."""

    def make(films, labels, size):
        folder = tmp_path_factory.mktemp("films")
        paths = [folder / f"film_{row}.png" for row in range(len(films))]
        for path, film in zip(paths, films, strict=True):
            Image.fromarray(film).save(path)
        cache = build_cache(paths, folder / "cache", size, workers=1)
        targets = np.eye(int(max(labels)) + 1, dtype=np.float32)[np.asarray(labels, dtype=int)]
        return ImageSet(cache, np.arange(len(paths)), targets)

    return make


@pytest.fixture(scope="session")
def toy(make_set, draw_film):
    """96 films to learn from and 48 to judge by, three classes alike, 18 px a side."""
    rng = np.random.default_rng(0)
    labels = np.arange(144) % 3
    films = make_set([draw_film(label, rng) for label in labels], labels, 18)
    train, val = (
        ImageSet(films.cache, films.rows[part], films.targets[part])
        for part in (slice(96), slice(96, None))
    )
    return train, val


@pytest.fixture
def plain_config():
    """A configuration for ``toy`` that draws nothing at random; keywords change it."""

    def make(**changes):
        fields = {"image_size": 16, "epochs": 1, "batch_size": 8, "weighted_sampling": False}
        return TrainConfig(**{**PLAIN, **fields, **changes})

    return make


@pytest.fixture
def tiny_net():
    """A network of 16 px images without batch norm and dropout, the same one for every call."""

    def make(classes=3):
        torch.manual_seed(0)
        body = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, classes),
        )
        return GrayModel(body, "tiny", mean=0.5, std=0.25, planes=1)

    return make


@pytest.fixture
def begin(tmp_path, toy, plain_config, tiny_net):
    """Start a run of a tiny network on the toy films; returns (state, its fit, its folder)."""

    def start(name="run", net=None, train=None, val=None, resume_from=None, **changes):
        config = plain_config(**changes)
        run = RunFolder(tmp_path / name)
        films = toy[0] if train is None else train
        judged = toy[1] if val is None else val
        model = net or tiny_net()
        model.classes = ALL_CLASSES[: judged.targets.shape[1]]
        state = start_state(model, len(films), config, torch.device("cpu"))
        if resume_from:
            restore_state(state, resume_from, config, "the checkpoint")

        def go(score=epoch_scores, **options):
            return fit(state, films, judged, config, run, score, **options)

        return state, go, run

    return start
