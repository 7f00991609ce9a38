"""A finished run folder without any training: planted results, drawn films and heat maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.duplicates import describe_copies
from xraycomp.data.files import write_csv, write_json
from xraycomp.data.labels import decode_targets
from xraycomp.data.phantom import expose
from xraycomp.data.predictions import probability_table
from xraycomp.data.thorax import draw_thorax
from xraycomp.judging.results import write_results
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder

CLASSES = ("covid", "<script>alert('x')</script>", "$a_b$", "normal & well")
SIDE = 256


def draw_run(
    path: Path,
    *,
    slug: str = "drawn-demo",
    classes: Sequence[str] = CLASSES,
    n: int = 240,
    strength: float = 2.0,
    seed: int = 0,
    split_seed: int = 0,
    finished: bool = True,
    judged_by_all: bool = False,
    pictures: int = 0,
    **settings: Any,
) -> Path:
    """Write a run folder and return it.

    Parameters
    ----------
    n : images; a fifth of them is validated on, chosen by ``split_seed``
    strength : how well the planted probabilities tell the classes
    judged_by_all : also leave what slices, shortcuts and doubts leave
    pictures : how many films with heat maps to leave, of SIDE pixels
    settings : fields of the training configuration
    """
    rng, task = np.random.default_rng(seed), settings.pop("task", "multiclass")
    competition = Competition(
        slug, "A demo & its <films>", "drawn", task, tuple(classes), "macro_f1",
        Labelled("train", "labels.csv", "id", "label", "|" if task == "multilabel" else ""),
        normal=classes[-1] if task == "multiclass" else "",
    )  # fmt: skip
    config = TrainConfig(competition=slug, name=path.name, seed=split_seed, **settings)
    labels = np.random.default_rng(5)
    if task == "multilabel":
        targets = (labels.random((n, len(classes))) < 0.3).astype(np.float32)
    else:
        targets = np.eye(len(classes), dtype=np.float32)[labels.integers(len(classes), size=n)]
    names = [f"<b>film</b> {i:03}" for i in range(n)]
    split = np.where(np.random.default_rng(split_seed).random(n) < 0.2, "val", "train")
    manifest = pd.DataFrame(
        {
            "image": names,
            "path": names,
            "label": decode_targets(targets, classes),
            "patient": [f"p{i // 2}" for i in range(n)],
            "split": split,
        }
    )
    copies = pd.DataFrame({"a": [0, 2, 4], "b": [1, 3, 5], "kind": ["exact", "near", "near"]})
    environment = {"commit": "0123abcd-dirty", "threads": 2, "gpus": [], "python": "3.11.7"}
    run = RunFolder.create(
        path, config, competition, manifest, describe_copies(copies, manifest), environment
    )
    for epoch in range(1, 4 + 3 * finished):
        run.write_epoch(_epoch(epoch))
    if not finished:
        return path
    logits = strength * targets + rng.normal(size=targets.shape)
    probs = 1 / (1 + np.exp(1 - logits)) if task == "multilabel" else np.exp(logits)
    probs /= 1 if task == "multilabel" else probs.sum(axis=1, keepdims=True)
    val = split == "val"
    write_csv(run.predictions_path("val"), probability_table(
        list(manifest["image"][val]), probs[val], tuple(classes)
    ))  # fmt: skip
    judged_on = config.split_plan().describe("val", manifest)
    write_results(
        path, competition, targets[val], probs[val], judged_on, resamples=50,
        thresholds="f1" if task == "multilabel" else None,
    )  # fmt: skip
    if judged_by_all:
        _leave_judgements(path, judged_on, list(manifest["image"][val]), classes)
    if pictures:
        draw_maps(path / "explain" / "val", names, classes, pictures)
    return path


def entry(value: float, half: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": max(value - half, 0), "high": min(value + half, 1)}


def _epoch(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "stage": 1, "seconds": 12.5 + epoch % 2, "data_seconds": 0.4,
        "images_per_second": 310.5 - epoch, "lr": 0.01 / epoch, "train_loss": 1.4 / epoch,
        "val_loss": 1.5 / epoch + 0.02 * epoch, "val_accuracy": 0.9 - 0.4 / epoch,
        "val_macro_f1": 0.88 - 0.4 / epoch, "val_auroc": float("nan") if epoch == 2 else 0.97,
    }  # fmt: skip


def _leave_judgements(
    path: Path, judged_on: str, images: list[str], classes: Sequence[str]
) -> None:
    slices = [
        {"column": column, "value": value, "n": count, "classes": 3 + count % 2, "figures": {
            "macro_auroc": entry(auroc, 0.04), "accuracy": entry(auroc - 0.1),
            "macro_f1": {"value": None, "low": None, "high": None},
        }}
        for column, value, count, auroc in (
            ("view", "AP & lying", 9, 0.71), ("sex", "F", 101, 0.84), ("sex", "M", 1020, 0.93),
            ("view", "PA", 80, 0.95), ("folder", "<i>images_001</i>", 70, 0.97),
        )
    ]  # fmt: skip
    judged = {"split": judged_on, "classes": 4, "fewest": 9, "slices": slices}
    write_json(path / "slices.json", judged)
    probes = [
        {"name": name, "auroc": entry(auroc)}
        for name, auroc in (
            ("border pixels", 0.81), ("image size", 0.55), ("mean brightness", 0.6),
            ("all three", 0.83),
        )
    ]  # fmt: skip
    warning = "Border pixels alone tell the label: the model may look at them & not at the lungs."
    write_json(path / "shortcuts.json", {"split": judged_on, "probes": probes, "warning": warning})
    doubts = [
        {"image": image, "label": classes[0], "label_prob": 0.01 * i,
         "suggested": classes[1], "suggested_prob": 0.99 - 0.01 * i}
        for i, image in enumerate(images[:30])
    ]  # fmt: skip
    write_csv(path / "label_doubts.csv", pd.DataFrame(doubts))


def draw_maps(folder: Path, images: Sequence[str], classes: Sequence[str], n: int) -> None:
    """Leave n films with noisy heat maps, and their table."""
    folder.mkdir(parents=True)
    rows = []
    for i in range(n):
        rng = np.random.default_rng(i)
        film = expose(draw_thorax(rng, rng, SIDE).density, rng)
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE
        centre = rng.uniform(0.25, 0.75, 2)
        heat = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.02)[..., None]
        red = np.array([255, 60, 0]) * heat * 0.6
        overlay = (film[..., None] * (1 - 0.6 * heat) + red).astype(np.uint8)
        Image.fromarray(film).save(folder / f"{i}-film.png")
        Image.fromarray(overlay).save(folder / f"{i}-map.png")
        rows.append({
            "image": images[i], "class": classes[i % len(classes)],
            "kind": "error" if i % 2 else "hit",
            "label": "|".join(classes) if i % 7 == 5 else classes[(i + i % 2) % len(classes)],
            "prob": 0.99 - 0.01 * i, "outside": "" if i % 5 == 4 else rng.uniform(0, 0.7),
            "film": f"{i}-film.png", "overlay": f"{i}-map.png",
        })  # fmt: skip
    write_csv(folder / "maps.csv", pd.DataFrame(rows))
    part = {"n": 12, "pointing_game": entry(0.75), "iou": entry(0.31), "box_share": 0.08}
    none = {"value": None, "low": None, "high": None}
    empty = {"n": 0, "pointing_game": none, "iou": none, "box_share": None}
    located = {"threshold": 0.5, "all": part, "called": empty, "classes": {classes[1]: part}}
    write_json(folder / "localisation.json", located)
