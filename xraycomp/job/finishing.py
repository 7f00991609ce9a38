"""From the best weights to predictions, a judgement, a submission and the page."""

import logging

import pandas as pd
import torch

from xraycomp.data.files import write_csv, write_text
from xraycomp.data.predictions import labelled_rows
from xraycomp.data.submission import expected_ids, write_submission
from xraycomp.job.beginning import Job
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.judging.page import write_page
from xraycomp.judging.results import write_results
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Criterion, Thresholds
from xraycomp.model.again import train_again
from xraycomp.model.checkpoint import load_best
from xraycomp.model.config import TrainConfig
from xraycomp.model.inference import predict_split

log = logging.getLogger(__name__)


def predict_splits(job: Job, device: torch.device) -> dict[str, pd.DataFrame]:
    """The best weights' probability table of each split that is not empty."""
    model, splits = load_best(job.run, device), [s for s in ("val", "test") if job.dataset.ids(s)]
    return {
        split: predict_split(model, job.dataset, split, job.config, tta=job.config.tta)
        for split in splits
    }


def finish(job: Job, tables: dict[str, pd.DataFrame]) -> None:
    """Keep the predictions, judge what is labelled, submit the test set, write the page."""
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
    if competition.submission:
        ids = expected_ids(competition, job.source.root)
        own, submission = run.path / "submission.csv", config.submissions_dir / f"{run.name}.csv"
        write_submission(own, competition, tables["test"], ids)
        write_text(submission, own.read_text(encoding="utf-8"))
        files.append("submission.csv")
        log.info("Checked submission of %s rows: %s", f"{len(ids):,}", submission)
    page = write_page(run.path, TrainConfig().to_json(), train_again(run))
    files.append(page.name)
    log.info("All of it on one page, for any browser: %s", page)
    if competition.drawn:
        log.info("These results are for %s.", PHANTOMS)
    log.info("Wrote %s: %s.", run.path, ", ".join(files))
