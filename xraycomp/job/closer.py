"""A closer look at a judged split: its slices, its films' frames, its labels."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.data.dataset import Dataset
from xraycomp.data.files import write_json
from xraycomp.data.predictions import labelled_images
from xraycomp.data.source import Source
from xraycomp.judging.doubts import doubt_labels, format_doubts, write_doubts
from xraycomp.judging.results import Results
from xraycomp.judging.shortcuts import SHORTCUTS, format_shortcuts, probe_shortcuts
from xraycomp.judging.slices import SLICES, judge_slices, slice_columns, worst_slice

log = logging.getLogger(__name__)


def look_closer(
    folder: Path,
    dataset: Dataset,
    source: Source,
    split: str,
    judged: tuple[NDArray[np.floating], NDArray[np.floating]],
    measured: pd.DataFrame,
    results: Results,
) -> list[str]:
    """Write ``slices.json``; of validation also ``shortcuts.json`` and the doubted labels.

    Parameters
    ----------
    folder : where the results of the split lie
    split : val or test, with labels
    judged : targets and probabilities, as `labelled_rows` gives them
    measured : as `measure_images` gives it
    results : of `write_results`, of the same images

    Returns the names of the files that were written, and says in a few lines what is in them.
    """
    competition, (targets, probs) = source.competition, judged
    images = labelled_images(dataset.manifest, split, competition.classes)
    judged_on, slice_by = results.report["split"], slice_columns(images, measured)
    slices = judge_slices(
        competition, targets, probs, judged_on, slice_by, thresholds=results.thresholds
    )
    write_json(folder / SLICES, slices)
    log.info(worst_slice(slices))
    if split != "val":
        return [SLICES]
    shortcuts = probe_shortcuts(dataset, measured, judged_on)
    write_json(folder / SHORTCUTS, shortcuts)
    log.info(format_shortcuts(shortcuts))
    ids, one_class = list(images["image"]), not competition.multilabel
    doubts = doubt_labels(ids, targets, probs, competition.classes, one_class=one_class)
    log.info("%s\n", format_doubts(doubts, 3))
    paths = dict(zip(ids, (source.root / path for path in images["path"]), strict=True))
    title = f"{competition.slug}: labels to look at again, {judged_on}"
    written = write_doubts(folder, doubts, paths, title, results.report["note"])
    return [SLICES, SHORTCUTS, *written]
