"""From images that are worth looking at to heat maps, and to what these show."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.boxes import read_boxes
from xraycomp.data.dataset import Dataset
from xraycomp.data.heat import HeatMaps
from xraycomp.data.predictions import ID
from xraycomp.data.source import Source
from xraycomp.job.beginning import Job
from xraycomp.judging.choosing import Called
from xraycomp.judging.explanation import looks_outside, write_explanation
from xraycomp.judging.localisation import format_locations
from xraycomp.judging.thresholds import Thresholds
from xraycomp.model.heatmaps import DEFAULT, Method

log = logging.getLogger(__name__)

DrawMaps = Callable[[pd.DataFrame], HeatMaps]
"""Heat maps of pairs of image and class, as `map_pairs` has them."""

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


def explain_maps(
    folder: Path,
    maps: HeatMaps,
    source: Source,
    boxes: pd.DataFrame,
    *,
    split: str,
    method: Method = DEFAULT,
    full_size: bool = False,
) -> tuple[str, ...]:
    """Write heat maps into ``folder``, in place of what lies there, and say what they show.

    Parameters
    ----------
    maps : of the pairs of image and class that `Called` chooses
    source : where the images are
    boxes : as `read_boxes` gives them, by which those of the kind ``boxed`` are measured
    split : what the images are of, and ``method`` how the maps were made, for the report
    full_size : as in `write_explanation`

    Returns the names of the files that were written, without the pictures.
    """
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
    job: Job, draw: DrawMaps, table: pd.DataFrame, thresholds: Thresholds | None
) -> list[str]:
    """Draw heat maps of a few validation images, as training does at its end.

    ``draw`` makes them of pairs of image and class.

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
        files = explain_maps(folder, draw(pairs), source, boxes, split=split)
    except UserError as error:
        log.info("No heat maps are drawn: %s", error)
        return []
    return [f"explain/{split}/{name}" for name in files]
