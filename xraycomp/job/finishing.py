"""From the best weights to predictions, a judgement and a submission."""

import logging

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.boxes import read_boxes
from xraycomp.data.files import write_csv, write_text
from xraycomp.data.predictions import labelled_rows
from xraycomp.data.submission import expected_ids, write_submission
from xraycomp.job.beginning import Job
from xraycomp.job.explaining import call_images, explain_pairs
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.judging.results import write_results
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Criterion, Thresholds
from xraycomp.model.inference import predict_split
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)

_MAPS = 24
_MOST_BOXED = 96
"""How many heat maps are drawn, and how many measured, at the end of training: a few seconds."""


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
    files = ["config.json"]
    thresholds: Thresholds | Criterion | None = config.threshold_criterion
    for split, table in tables.items():
        write_csv(run.predictions_path(split), table)
        files.append(f"predictions/{split}.csv")
        targets, probs = labelled_rows(dataset.manifest, split, table, competition.classes)
        if not len(targets):
            continue
        folder = run.path if split == "val" else run.path / split
        judged_on = config.split_plan().describe(split, dataset.manifest)
        results = write_results(
            folder, competition, targets, probs, judged_on, thresholds=thresholds
        )
        thresholds = results.thresholds  # the test split is called as validation has chosen
        log.info("\n%s: %s\n\n%s\n", competition.slug, judged_on, format_table(results.report))
        files += [(folder / name).relative_to(run.path).as_posix() for name in results.files]
    if "val" in tables:
        files += _explain(job, model, tables["val"], results.thresholds)
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


def _explain(
    job: Job, model: GrayModel, table: pd.DataFrame, thresholds: Thresholds | None
) -> list[str]:
    """Draw heat maps of a few validation images; the files' names, none where there are no maps."""
    source, dataset, split = job.source, job.dataset, "val"
    boxes = read_boxes(source.competition, source.root, dataset.manifest["image"])
    called = call_images(dataset, split, table, thresholds)
    n = max(_MAPS, 2 * len(dataset.classes))  # at least one hit a class
    pairs = called.worth_seeing(n, (), boxes, _MOST_BOXED)
    folder = job.run.path / "explain" / split
    try:
        files = explain_pairs(folder, model, dataset, source, pairs, boxes, job.config, split=split)
    except UserError as error:  # of networks that have no feature map
        log.info("No heat maps are drawn: %s", error)
        return []
    return [f"explain/{split}/{name}" for name in files]
