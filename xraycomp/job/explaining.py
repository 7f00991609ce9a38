"""From images that are worth looking at to heat maps, and to what these show."""

import logging
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.boxes import read_boxes
from xraycomp.data.dataset import Dataset
from xraycomp.data.predictions import ID
from xraycomp.data.source import Source
from xraycomp.job.beginning import Job
from xraycomp.judging.choosing import Called
from xraycomp.judging.explanation import looks_outside, write_explanation
from xraycomp.judging.localisation import format_locations
from xraycomp.judging.thresholds import Thresholds
from xraycomp.model.config import TrainConfig
from xraycomp.model.heatmaps import DEFAULT, Method, map_pairs
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)

_MAPS = 24
_MOST_BOXED = 96
"""How many heat maps are drawn, and how many measured, at the end of training: a few seconds."""


def call_images(
    dataset: Dataset, split: str, table: pd.DataFrame, thresholds: Thresholds | None
) -> Called:
    """What a network has called the images of a split, by its probability table.

    Raises ``UserError`` where the table lacks some of them.
    """
    rows = dataset.manifest[dataset.manifest["split"] == split]
    places = pd.Index(table[ID]).get_indexer(pd.Index(rows["image"]))
    if (places < 0).any():
        raise UserError(
            f"The predictions lack {(places < 0).sum():,} of {len(rows):,} images of the {split} "
            f"split. Write them with: python -m xraycomp.predict --runs RUN --split {split}"
        )
    probs = table[list(dataset.classes)].to_numpy()[places]
    return Called(rows, probs, dataset.classes, thresholds.limits if thresholds else None)


def explain_pairs(
    folder: Path,
    model: GrayModel,
    dataset: Dataset,
    source: Source,
    pairs: pd.DataFrame,
    boxes: pd.DataFrame,
    config: TrainConfig,
    *,
    split: str,
    method: Method = DEFAULT,
    batch_size: int | None = None,
    full_size: bool = False,
) -> tuple[str, ...]:
    """Write heat maps into ``folder``, in place of what lies there, and say what they show.

    Parameters
    ----------
    model : the network, where it is to compute
    source : where the images of ``dataset`` are
    pairs : of image and class, as `Called` chooses them
    boxes : as `read_boxes` gives them, by which those of the kind ``boxed`` are measured
    config : of the run
    split : what ``pairs`` are of, for the report
    method, batch_size : as in `map_pairs`
    full_size : as in `write_explanation`

    Returns the names of the files that were written, without the pictures.

    Raises ``UserError`` as `map_pairs` does.
    """
    maps = map_pairs(model, dataset, pairs, config, method, batch_size=batch_size, desc="Explain")
    found = write_explanation(
        folder,
        maps,
        source.competition,
        source.root,
        boxes,
        full_size=full_size,
        split=split,
        method=method,
    )
    if found.locations:
        log.info("\n%s\n", format_locations(found.locations))
    log.info(looks_outside(found.maps))
    return found.files


def explain_validation(
    job: Job, model: GrayModel, table: pd.DataFrame, thresholds: Thresholds | None
) -> list[str]:
    """Draw heat maps of a few validation images, as training does at its end.

    Returns the names of the files in the run; none where the network has no feature map or the
    boxes cannot be read, which is no reason to lose what was trained.
    """
    source, dataset, split = job.source, job.dataset, "val"
    called = call_images(dataset, split, table, thresholds)
    n = max(_MAPS, 2 * len(dataset.classes))  # at least one hit a class
    folder = job.run.path / "explain" / split
    try:
        boxes = read_boxes(source.competition, source.root, dataset.manifest["image"])
        pairs = called.worth_seeing(n, (), boxes, _MOST_BOXED)
        files = explain_pairs(folder, model, dataset, source, pairs, boxes, job.config, split=split)
    except UserError as error:
        log.info("No heat maps are drawn: %s", error)
        return []
    return [f"explain/{split}/{name}" for name in files]
