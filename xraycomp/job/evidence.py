"""What is to be judged: probabilities and the truth, of a run or of any two tables."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.labels import is_labelled
from xraycomp.data.matching import Reading, match_tables
from xraycomp.data.predictions import labelled_images, labelled_rows, read_predictions
from xraycomp.data.source import open_source
from xraycomp.judging.prior_shift import Reference, fit_reference
from xraycomp.judging.slices import slice_columns
from xraycomp.model.run import RunFolder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evidence:
    """Probabilities of n images, and the truth."""

    competition: Competition
    images: list[str]
    """The n image ids."""
    targets: NDArray[np.floating]
    """1, 0 and NaN (unknown), shape (n, n_classes)."""
    probs: NDArray[np.floating]
    """In 0..1, of that shape."""
    judged_on: str
    """Says which images these are."""
    remarks: tuple[str, ...] = ()
    """What the user should know of how tables were read."""
    slice_by: pd.DataFrame | None = None
    """What a run's images can be sliced by, one row an image."""


def read_split(run: RunFolder, split: str, predictions: Path | None = None) -> Evidence:
    """What a run, or another table, predicts of a labelled split.

    Raises ``UserError`` where the split has no labels, or the table lacks some of its images.
    """
    competition, manifest = run.competition(), run.manifest()
    if not is_labelled(manifest["label"][manifest["split"] == split]).any():
        raise UserError(f"{run.path} has no labelled split {split!r}. Choose val or train.")
    if predictions is None:
        table = run.predictions(split)
    else:
        table = read_predictions(predictions, competition.classes)
    targets, probs = labelled_rows(manifest, split, table, competition.classes)
    images = labelled_images(manifest, split, competition.classes)
    return Evidence(
        competition,
        list(images["image"]),
        targets,
        probs,
        judged_on=run.config().split_plan().describe(split, manifest),
        slice_by=slice_columns(images, run.features()),
    )


def read_reference(run: RunFolder) -> Reference:
    """The mix of classes that a run's probabilities are brought to fit: validation's."""
    competition = run.competition()
    known = labelled_rows(run.manifest(), "val", run.predictions("val"), competition.classes)
    return fit_reference(competition, *known)


def read_tables(predictions: Path, labels: Path, reading: Reading) -> Evidence:
    """What a table of probabilities says of images whose labels are in another.

    Raises ``UserError`` where the tables do not fit each other.
    """
    matched = match_tables(predictions, labels, reading)
    task = reading.task
    if task == "auto":
        task = "multilabel" if matched.multilabel else "multiclass"
    competition = Competition(
        slug=labels.stem,
        title=labels.stem,
        source="dataset",
        task=task,
        classes=matched.classes,
        metric=reading.metric,
        train=Labelled(images=".", labels=str(labels)),
    )
    return Evidence(
        competition,
        matched.images,
        matched.targets,
        matched.probs,
        judged_on=reading.split_name or (reading.image_list or labels).name,
        remarks=matched.remarks,
    )


def find_films(runs: Sequence[RunFolder]) -> dict[str, Path] | None:
    """The files of the runs' images by image id; None, with a word in the log, where they are not
    here."""
    found: dict[str, Path] = {}
    for run in runs:
        config, manifest = run.config(), run.manifest()
        try:
            source = open_source(run.competition(), config.data, config.data_dir)
        except UserError as error:
            log.info("The doubts are listed without their films: %s", error)
            return None
        paths = [source.root / path for path in manifest["path"]]
        found |= dict(zip(manifest["image"], paths, strict=True))
    return found
