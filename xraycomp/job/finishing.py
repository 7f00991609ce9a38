"""From the best weights to predictions, a judgement, a submission and the page."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.data.features import measure_images
from xraycomp.data.files import write_csv, write_text
from xraycomp.data.predictions import labelled_rows
from xraycomp.data.submission import expected_ids, write_submission
from xraycomp.job.beginning import Job
from xraycomp.job.closer import look_closer
from xraycomp.job.explaining import DrawMaps, explain_validation
from xraycomp.job.page import write_own_page
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.judging.results import Results, write_results
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Criterion, Thresholds, named_criterion
from xraycomp.model.inference import predict_split
from xraycomp.model.run import RunFolder
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)


def predict_splits(job: Job, model: GrayModel) -> dict[str, pd.DataFrame]:
    """The probability table of each split that is not empty."""
    splits = [split for split in ("val", "test") if job.dataset.ids(split)]
    return {
        split: predict_split(model, job.dataset, split, job.config, tta=job.config.tta)
        for split in splits
    }


def finish(
    job: Job, draw: DrawMaps, tables: Mapping[str, pd.DataFrame], *, closer: bool = True
) -> None:
    """Keep the predictions, judge what is labelled, submit the test set; then look closer.

    ``draw`` makes heat maps of validation images, and ``tables`` are the predictions of each split.
    Without ``closer``, which is for one of many runs, slices, shortcuts, doubts and heat maps are
    left to the commands that make them.
    """
    run, competition, files = job.run, job.source.competition, ["config.json"]
    for split, table in tables.items():
        write_csv(run.predictions_path(split), table)
        files.append(f"predictions/{split}.csv")
    judged = _judge(job, tables)
    for each in judged.values():
        files += each.files
    if competition.submission:
        files.append(_submit(job, tables["test"]))
    # What is wanted most is there now, whatever becomes of the rest.
    if closer:
        files += _look_closer(job, draw, tables, judged)
    page = write_own_page(run)
    log.info("All of it on one page, for any browser: %s", page)
    if competition.drawn:
        log.info("These results are for %s.", PHANTOMS)
    log.info("Wrote %s: %s.", run.path, ", ".join([*files, page.name]))


@dataclass(frozen=True)
class _Judged:
    """A labelled split and what was found."""

    folder: Path
    targets: NDArray[np.float32]
    probs: NDArray[np.float64]
    results: Results
    files: list[str]
    """The names of its results in the run."""


def _judge(job: Job, tables: Mapping[str, pd.DataFrame]) -> dict[str, _Judged]:
    """Judge each split of which something is known, validation first."""
    config, run, competition = job.config, job.run, job.source.competition
    manifest, found = job.dataset.manifest, {}
    thresholds: Thresholds | Criterion | None = named_criterion(
        config.threshold_criterion, config.sensitivity
    )
    calibration: Calibration | None = None
    for split, table in tables.items():
        targets, probs = labelled_rows(manifest, split, table, competition.classes)
        if not len(targets):
            continue
        folder = run.path if split == "val" else run.path / split
        judged_on = config.split_plan().describe(split, manifest)
        asked = (folder, competition, targets, probs, judged_on)
        results = write_results(*asked, thresholds=thresholds, calibration=calibration)
        # The test split is called, and calibrated, as validation has chosen.
        thresholds, calibration = results.thresholds, results.calibration
        log.info("\n%s: %s\n\n%s\n", competition.slug, judged_on, format_table(results.report))
        files = _in_run(run, folder, results.files)
        found[split] = _Judged(folder, targets, probs, results, files)
    return found


def _submit(job: Job, table: pd.DataFrame) -> str:
    """Write the submission, into the run and beside all others; return its name in the run."""
    run, competition = job.run, job.source.competition
    ids = expected_ids(competition, job.source.root)
    own, other = run.path / "submission.csv", job.config.submissions_dir / f"{run.name}.csv"
    write_submission(own, competition, table, ids)
    write_text(other, own.read_text(encoding="utf-8"))
    log.info("Checked submission of %s rows: %s", f"{len(ids):,}", other)
    return own.name


def _look_closer(
    job: Job, draw: DrawMaps, tables: Mapping[str, pd.DataFrame], judged: dict[str, _Judged]
) -> list[str]:
    """Slices, shortcuts, doubted labels and heat maps; the names of their files in the run."""
    run, dataset, source = job.run, job.dataset, job.source
    measured = measure_images(dataset, source.root, job.config.workers)
    write_csv(run.features_path, measured)
    files = [run.features_path.name]
    for split, each in judged.items():
        known = (each.targets, each.probs)
        written = look_closer(each.folder, dataset, source, split, known, measured, each.results)
        files += _in_run(run, each.folder, written)
    if "val" in judged:
        thresholds = judged["val"].results.thresholds
        files += explain_validation(job, draw, tables["val"], thresholds)
    return files


def _in_run(run: RunFolder, folder: Path, names: Iterable[str]) -> list[str]:
    return [(folder / name).relative_to(run.path).as_posix() for name in names]
