"""What all folds say together: of images that one of them has held out, that one; of others, the
mean of all."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import FOLD
from xraycomp.data.dataset import Dataset
from xraycomp.data.folds import fold_manifest
from xraycomp.data.heat import HeatMaps
from xraycomp.data.predictions import ID, probability_table
from xraycomp.job.explaining import DrawMaps
from xraycomp.model.again import resume_command
from xraycomp.model.checkpoint import load_best
from xraycomp.model.config import TrainConfig
from xraycomp.model.heatmaps import DEFAULT, Method, map_pairs
from xraycomp.model.inference import predict_split
from xraycomp.model.run import RunFolder
from xraycomp.model.stem import GrayModel


def join_tables(
    folds: Mapping[int, RunFolder],
    tables: Mapping[int, pd.DataFrame],
    manifest: pd.DataFrame,
    split: str,
) -> pd.DataFrame:
    """One probability table out of those of all ``folds``, in the order of the manifest.

    For ``val`` it has from each fold the images that it validates on; else it is the mean.

    Raises ``UserError`` where a fold's table lacks some of its images.
    """
    rows = manifest[manifest["split"] == split]
    images, found = list(rows["image"]), []
    for number, table in tables.items():
        wanted = rows["image"][rows[FOLD] == str(number)] if split == "val" else rows["image"]
        indexed = table.set_index(ID)
        if not wanted.isin(indexed.index).all():
            fold = folds[number]
            views = "".join(f" {name}" for name in ("--tta", *fold.config().tta))
            raise UserError(
                f"{fold.predictions_path(split)} lacks {(~wanted.isin(indexed.index)).sum():,} of "
                f"its {len(wanted):,} images. Write it anew with: python -m xraycomp.predict "
                f"--runs {fold.path} --split {split}{views if fold.config().tta else ''}"
            )
        found.append(indexed.loc[wanted])
    classes = tuple(found[0].columns)
    if split == "val":
        probs = pd.concat(found).loc[images].to_numpy(np.float64)
    else:
        probs = np.mean([table.to_numpy(np.float64) for table in found], axis=0)
    return probability_table(images, probs, classes)


def predict_folds(
    run: RunFolder, dataset: Dataset, split: str, device: torch.device, **options: Any
) -> pd.DataFrame:
    """The probability table of one split by the networks of all folds, see `join_tables`.

    ``dataset`` has the images of the run, or any others in a split that is not ``val``; ``options``
    are those of `predict_probs`.

    Raises ``UserError`` where the run lacks a fold.
    """
    folds, tables = all_folds(run), {}
    for number, fold in folds.items():
        held_out = dataset
        if split == "val":
            held_out = replace(dataset, manifest=fold_manifest(dataset.manifest, number))
        model, config = load_best(fold, device), fold.config()
        tables[number] = predict_split(model, held_out, split, config, **options)
    return join_tables(folds, tables, dataset.manifest, split)


def all_folds(run: RunFolder) -> dict[int, RunFolder]:
    """The folds of a run of all folds. Raises ``UserError`` where one is missing."""
    folds = run.folds()
    if missing := [f"{number}" for number in range(run.config().folds) if number not in folds]:
        raise UserError(
            f"{run.path} has no fold {listing(missing, 20)}. Train it with: {resume_command(run)}"
        )
    return folds


def load_networks(folds: Mapping[int, RunFolder]) -> dict[int, GrayModel]:
    """The network of each fold, on the CPU; in all of several processes, of which the main one
    alone reads the runs."""
    return {number: load_best(fold, torch.device("cpu")) for number, fold in folds.items()}


def draw_held_out(
    networks: Mapping[int, GrayModel],
    dataset: Dataset,
    config: TrainConfig,
    device: torch.device,
    method: Method = DEFAULT,
    batch_size: int | None = None,
) -> DrawMaps:
    """Heat maps of the validation images of a run of all folds, each by the network that has not
    learned it; ``networks`` are those of the folds, and ``config`` is as in `map_pairs`."""
    manifest = dataset.manifest[dataset.manifest["split"] == "val"]
    fold_of = dict(zip(manifest["image"], manifest[FOLD], strict=True))

    def draw(pairs: pd.DataFrame) -> HeatMaps:
        numbers, parts = pairs["image"].map(fold_of).to_numpy(), []
        places = []
        for number, model in networks.items():
            rows = np.flatnonzero(numbers == str(number))
            if len(rows):
                options: dict[str, Any] = {"batch_size": batch_size, "desc": f"Explain {number}"}
                one = (model.to(device), dataset, pairs.iloc[rows], config, method)
                parts.append(map_pairs(*one, **options))
                places.append(rows)
        order = np.argsort(np.concatenate(places))
        values = np.concatenate([part.values for part in parts])[order]
        return replace(parts[0], pairs=pairs, values=values)

    return draw
