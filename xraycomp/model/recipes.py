"""Named recipes: settings that go together, laid over a competition's own."""

from collections.abc import Mapping
from typing import Any, Literal

Recipe = Literal["", "fast", "seed"]
"""The competition's own; one for the shortest time; that of the kit's origin, to compare with."""

_FAST: dict[str, Any] = {
    "arch": "resnet18",
    "image_size": 96,
    "epochs": 6,
    "batch_size": 32,
    "optimizer": "adamw",
    "lr": 0.001,
    "weight_decay": 0.05,
    "schedule": "cosine",
    "label_smoothing": 0.05,
    "ema_decay": 0.99,
}

_SEED: dict[str, Any] = {
    "arch": "resnet18",
    "image_size": 224,
    "batch_size": 32,
    "optimizer": "sgd",
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "label_smoothing": 0.0,
    "clip_grad": 0.0,
    "ema_decay": 0.0,
    "weighted_sampling": True,
    "flip": True,
    "random_crop": False,
    "rotation": 0.0,
    "scale": 0.0,
    "shift": 0.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "erasing": 0.0,
    "mixup": 0.0,
}

RECIPES: Mapping[str, Mapping[str, Any]] = {"": {}, "fast": _FAST, "seed": _SEED}
"""The settings of each `Recipe`, by its name."""
