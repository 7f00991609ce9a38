"""From the best weights to predictions, a judgement and a submission."""

import logging

import pandas as pd

from xraycomp.data.features import measure_images
from xraycomp.data.files import write_csv, write_text
from xraycomp.data.predictions import labelled_rows
from xraycomp.data.submission import expected_ids, write_submission
from xraycomp.job.beginning import Job
from xraycomp.job.explaining import explain_validation
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.closer import look_closer
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.judging.results import write_results
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Criterion, Thresholds, named_criterion
from xraycomp.model.inference import predict_split
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)


def predict_splits(job: Job, model: GrayModel) -> dict[str, pd.DataFrame]:
    """The probability table of each split that is not empty."""
    splits = [split for split in ("val", "test") if job.dataset.ids(split)]
    return {
        split: predict_split(model, job.dataset, split, job.config, tta=job.config.tta)
        for split in splits
    }


def finish(job: Job, model: GrayModel, tables: dict[str, pd.DataFrame]) -> None:
    """Keep the predictions, judge what is labelled, explain some images, submit the test set."""
    config, run, dataset = job.config, job.run, job.dataset
    competition = job.source.competition
    measured = measure_images(dataset, job.source.root, config.workers)
    write_csv(run.features_path, measured)
    files = ["config.json", "features.csv"]
    thresholds: Thresholds | Criterion | None = named_criterion(
        config.threshold_criterion, config.sensitivity
    )
    calibration: Calibration | None = None
    for split, table in tables.items():
        write_csv(run.predictions_path(split), table)
        files.append(f"predictions/{split}.csv")
        targets, probs = labelled_rows(dataset.manifest, split, table, competition.classes)
        if not len(targets):
            continue
        folder = run.path if split == "val" else run.path / split
        judged_on = config.split_plan().describe(split, dataset.manifest)
        asked = (folder, competition, targets, probs, judged_on)
        results = write_results(*asked, thresholds=thresholds, calibration=calibration)
        # The test split is called, and calibrated, as validation has chosen.
        thresholds, calibration = results.thresholds, results.calibration
        log.info("\n%s: %s\n\n%s\n", competition.slug, judged_on, format_table(results.report))
        closer = look_closer(
            folder, dataset, job.source, split, (targets, probs), measured, results
        )
        names = [*results.files, *closer]
        files += [(folder / name).relative_to(run.path).as_posix() for name in names]
    if "val" in tables:
        files += explain_validation(job, model, tables["val"], results.thresholds)
    if competition.submission:
        ids = expected_ids(competition, job.source.root)
        own, submission = run.path / "submission.csv", config.submissions_dir / f"{run.name}.csv"
        write_submission(own, competition, tables["test"], ids)
        write_text(submission, own.read_text(encoding="utf-8"))
        files.append("submission.csv")
        log.info("Checked submission of %s rows: %s", f"{len(ids):,}", submission)
    if competition.drawn:
        log.info("These results are for %s.", PHANTOMS)
    log.info("Wrote %s: %s.", run.path, ", ".join(files))
