"""What the sections of a run's page show, but for its judgement: from files to plain values.

Each function gives None where its file is not there; the page then says which command writes it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from xraycomp.data.folds import name_sides
from xraycomp.data.labels import UNKNOWN, encode_targets
from xraycomp.data.pseudo_labels import count_pseudo_labels
from xraycomp.judging.shortcuts import SHORTCUTS
from xraycomp.judging.slices import SLICES
from xraycomp.pages.charts import Plot, axes, line
from xraycomp.pages.run_files import (
    EVALUATE,
    RESUME,
    TRAIN,
    RunFiles,
    damaged,
    entry,
    read_json,
)

SLICE_FIGURES = {"macro_auroc": "macro AUROC", "accuracy": "accuracy", "macro_f1": "macro F1"}
SHOWN = 20
"""Rows of a list that may be long."""
_SPLITS = ("train", "val", "test")


def settings(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and default of every setting, as a person would write them."""
    return [(name, plain(value), plain(defaults.get(name))) for name, value in config.items()]


def plain(value: Any) -> str:
    """A setting's value as a person would write it."""
    if value is None or (isinstance(value, str | list | tuple) and not value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def environment(run: RunFiles) -> list[tuple[str, str]]:
    """Versions, commit and hardware."""
    path = run.path / "environment.json"
    if not path.is_file():
        return []
    content = read_json(path, TRAIN)
    content["gpus"] = ", ".join(map(str, content.get("gpus") or [])) or "none"
    names = {"threads": "CPU threads", "gpus": "GPUs"}
    return [(names.get(name, name), plain(value)) for name, value in content.items()]


def counts(run: RunFiles) -> dict[str, Any]:
    """How many images of each class each split has."""
    manifest, classes = run.manifest, run.competition.classes
    splits = [name for name in _SPLITS if (manifest["split"] == name).any()]
    rows: dict[str, list[int]] = {name: [] for name in classes}
    others: dict[str, list[int]] = {"none of these": [], "not labelled": []}
    patients: list[int] = []
    for split in splits:
        part = manifest[manifest["split"] == split]
        with damaged(run.path / "manifest.csv", TRAIN):
            targets = encode_targets(part["label"], classes)
        for name, count in zip(classes, np.nansum(targets, axis=0), strict=True):
            rows[name].append(int(count))
        others["none of these"].append(int((targets == 0).all(axis=1).sum()))
        others["not labelled"].append(int((part["label"] == UNKNOWN).sum()))
        patients.append(part["patient"][part["patient"] != ""].nunique())
    with damaged(run.path / "manifest.csv", TRAIN):
        pseudo = count_pseudo_labels(manifest, classes)
    return {
        "pseudo": pseudo.pop("", 0),
        "pseudo_classes": list(pseudo.items()),
        "splits": splits,
        "rows": [*rows.items(), *((k, v) for k, v in others.items() if any(v))],
        "images": [int((manifest["split"] == split).sum()) for split in splits],
        "patients": patients if any(patients) else None,
    }


def leaks(run: RunFiles) -> dict[str, Any] | None:
    """Copies of images within and between splits, and patients on both sides."""
    columns = ["kind", "image_a", "label_a", "split_a", "image_b", "label_b", "split_b"]
    copies = run.table("duplicates.csv", columns)
    if copies is None:
        return None
    found: dict[str, dict[str, int]] = {}
    for row in copies:
        one, other = sorted((row["split_a"], row["split_b"]))
        where = f"within {one}" if one == other else f"between {one} and {other}"
        found.setdefault(where, {"exact": 0, "near": 0})
        found[where][row["kind"]] = found[where].get(row["kind"], 0) + 1
    across = [row for row in copies if row["split_a"] != row["split_b"]]
    known = name_sides(run.manifest[run.manifest["patient"] != ""])
    sides = known.groupby("patient")["split"].nunique()
    return {
        "copies": len(copies),
        "where": sorted(found.items(), key=lambda item: (not item[0].startswith("b"), item[0])),
        "across": across,
        "patients": len(sides),
        "shared": int((sides > 1).sum()),
    }


def training(run: RunFiles) -> list[dict[str, Any]]:
    """The courses of training, each with its plots: of the head alone where it came first."""
    found = []
    for folder, title in (("head", "The head alone"), (".", "The whole network")):
        epochs = run.epochs(folder)
        if epochs is not None and len(epochs):
            path = run.path / folder / "metrics.csv"
            with damaged(path, TRAIN):
                found.append({"title": title, **_course(epochs, str(run.config["monitor"]))})
    return found


_CURVES = {"val_auroc": "macro AUROC", "val_macro_f1": "macro F1", "val_accuracy": "accuracy"}


def _course(epochs: pd.DataFrame, monitor: str) -> dict[str, Any]:
    scores = {name: title for name, title in _CURVES.items() if name in epochs}
    judged = -epochs[monitor] if monitor == "val_loss" else epochs[monitor]
    best = int(np.argmax(judged.fillna(-np.inf)))
    rate, seconds = epochs["images_per_second"], epochs["seconds"]
    return {
        "rows": epochs.to_dict("records"),
        "columns": list(epochs),
        "best": int(epochs["epoch"].iloc[best]),
        "monitor": monitor,
        "minutes": float(seconds.sum() / 60),
        "reading": float(epochs["data_seconds"].sum() / seconds.sum())
        if "data_seconds" in epochs and seconds.sum() > 0
        else None,
        "rate": (float(rate.median()), float(rate.min()), float(rate.max())),
        "plots": [
            _curves("Loss", epochs, {"train_loss": "training", "val_loss": "validation"}),
            _curves("Validation scores", epochs, scores),
            _curves("Seconds an epoch", epochs, {"seconds": "seconds"}, (0,)),
            _curves("Images a second", epochs, {"images_per_second": "images a second"}, (0,)),
        ],
    }


def _curves(
    title: str, epochs: pd.DataFrame, names: Mapping[str, str], from_zero: Sequence[float] = ()
) -> dict[str, Any]:
    """One plot over the epochs; ``from_zero`` is (0,) where heights are to be compared."""
    values = epochs[list(names)].to_numpy(np.float64).ravel()
    # The caption says what is upwards.
    x, y = axes("epoch", epochs["epoch"], "", [*values, *from_zero], whole=True)
    first, last = epochs.iloc[0], epochs.iloc[-1]
    # An average of weights, the last of all, has no training loss.
    known = epochs[list(names)].ffill().iloc[-1]
    told = [
        f"{text} goes from {first[name]:.4g} to {known[name]:.4g}" for name, text in names.items()
    ]
    alt = f"{title} from epoch {first['epoch']:.0f} to {last['epoch']:.0f}: {'; '.join(told)}."
    lines = tuple(
        line(n, x, y, epochs["epoch"], epochs[name], dotted=True) for n, name in enumerate(names)
    )
    legend = list(enumerate(names.values())) if len(names) > 1 else []
    return {"title": title, "plot": Plot(alt, x, y, lines), "legend": legend}


def slices(run: RunFiles, folder: str = "") -> dict[str, Any] | None:
    """Figures of parts of the images judged in the run's ``folder``, worst first."""
    name = f"{folder}{SLICES}"
    content = run.json(name)
    if content is None:
        return None
    with damaged(run.path / name, run.command(EVALUATE)):
        rows = [
            {
                "column": str(row["column"]),
                "value": str(row["value"]),
                "n": int(row["n"]),
                "classes": row.get("classes"),
                "figures": [
                    entry(row["figures"][name]) if name in row["figures"] else None
                    for name in SLICE_FIGURES
                ],
            }
            for row in content["slices"]
        ]
        classes = content.get("classes")
        return {
            "split": str(content["split"]),
            "rows": rows,
            "headings": SLICE_FIGURES.values(),
            "fewest": content.get("fewest"),
            "classes": classes,
            "incomplete": any(row["classes"] != classes for row in rows),
        }


def shortcuts(run: RunFiles) -> dict[str, Any] | None:
    """How well things that are no findings foretell the label."""
    content = run.json(SHORTCUTS, RESUME)
    if content is None:
        return None
    with damaged(run.path / SHORTCUTS, run.command(RESUME)):
        probes = [(str(row["name"]), entry(row["auroc"])) for row in content["probes"]]
        return {"split": str(content["split"]), "probes": probes, "warning": content["warning"]}
