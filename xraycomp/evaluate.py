"""python -m xraycomp.evaluate: probabilities + truth -> metrics, ROC curves, confusion matrix."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError, listing
from xraycomp.data.predictions import ID, read_predictions
from xraycomp.model.run import RunFolder
from xraycomp.report.results import write_results
from xraycomp.report.table import format_table

log = logging.getLogger("xraycomp.evaluate")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.evaluate"


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge a run's predictions of a labelled split: metrics.json, roc.png and confusion.png."""

    run: Path
    """The run folder whose competition and labels are used."""
    split: str = "val"
    """The labelled split to judge: val or train."""
    predictions: Path | None = None
    """Another probability table of that split. Default: the run's predictions/<split>.csv."""
    output: Path | None = None
    """Folder for the results. Default: the run folder for its own val predictions."""


def evaluate(config: EvaluateConfig) -> Path:
    """Do what ``config`` describes and return the folder with the results.

    Raises ``UserError`` for a missing split, unlabelled images and images without a prediction.
    """
    run = RunFolder.open(config.run)
    competition = run.competition()
    manifest = run.manifest()
    truth = manifest[manifest["split"] == config.split].set_index("image")["label"]
    if truth.empty or truth.eq("").any():
        raise UserError(f"{run.path} has no labelled split {config.split!r}. Choose val or train.")
    path = config.predictions or run.predictions_path(config.split)
    table = read_predictions(path, competition.classes).set_index(ID)
    if missing := sorted(set(truth.index) - set(table.index)):
        raise UserError(
            f"{path} lacks {len(missing):,} images of the {config.split} split: "
            f"{listing(missing)}. Write it with: python -m xraycomp.predict --runs {run.path} "
            f"--split {config.split}"
        )
    own = config.predictions is None and config.split == "val"
    if config.output is None and not own:
        raise UserError("Say where the results shall go with --output FOLDER.")
    folder = config.output or run.path
    folder.mkdir(parents=True, exist_ok=True)
    labels = pd.Categorical(truth, categories=list(competition.classes)).codes.astype("int64")
    probs = table.loc[truth.index, list(competition.classes)].to_numpy()
    split = run.config().split_plan.describe(config.split, manifest)
    report = write_results(folder, competition, labels, probs, split)
    log.info("\n%s\n", format_table(report))
    log.info("Wrote %s: metrics.json, roc.png, confusion.png.", folder)
    return folder


def main(args: Sequence[str]) -> None:
    """Read the flags and evaluate."""
    evaluate(parse_flags(EvaluateConfig, args, prog=PROG))


if __name__ == "__main__":
    run_command(main)
