"""python -m xraycomp.evaluate: probabilities + truth -> metrics, ROC curves, confusion matrix."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xraycomp.console.command import parse_flags, refuse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.labels import is_labelled
from xraycomp.data.matching import Reading, match_tables
from xraycomp.data.predictions import labelled_rows, read_predictions
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.metrics import judge
from xraycomp.judging.prior_shift import Reference, fit_reference, show_shift
from xraycomp.judging.results import write_results
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Criterion, Thresholds, named_criterion
from xraycomp.model.run import RunFolder

log = logging.getLogger("xraycomp.evaluate")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.evaluate"
HELP = Help(
    examples=(
        "--run runs/NAME",
        "--predictions mean.csv --labels truth.csv --output results/",
    ),
    first="run split predictions labels output thresholds metric intervals",
    groups={
        "Reading the tables": "columns classes label_column prediction_id label_id separator "
        "none task",
        "Images": "image_list split_name",
        "Another mix of classes": "prior_shift",
        "Thresholds": "threshold_criterion sensitivity",
    },
)

_FOR_TABLES = {
    *("image_list", "split_name", "columns", "classes", "label_column", "prediction_id"),
    *("label_id", "separator", "none", "task", "metric"),
}
"""Flags that say how to read tables, of which a run knows everything."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge a run's predictions of a labelled split, or any table of predictions by any labels."""

    run: Path | None = None
    """The run folder whose competition and labels are used."""
    split: str = "val"
    """The labelled split of the run to judge: val, train or test."""
    predictions: Path | None = None
    """Another probability table of that split, or of --labels. Default: the run's own."""
    labels: Path | None = None
    """Without a run: a CSV table that says which classes each image has; in a column of names
    (parted by --separator) or indices, or in a column of 0 and 1 (nothing or -1: unknown) a
    class."""
    image_list: Path | None = None
    """Judge the images that this file names, one a line. Default: all of --predictions."""
    split_name: str = ""
    """What the results call the images. Default: the name of the list, or of the label table."""
    columns: str = ""
    """How the columns of probabilities are called, such as pred_{}. Default: found out."""
    classes: tuple[str, ...] = ()
    """The classes to judge. Default: all that the labels name."""
    label_column: str = ""
    """Column of --labels with class names or indices. Default: found out."""
    prediction_id: str = ""
    """Column of --predictions that names the image. Default: found out."""
    label_id: str = ""
    """Column of --labels that names the image. Default: found out."""
    separator: str = "|"
    """What parts several class names in one cell."""
    none: str = "No Finding"
    """The label of images with none of the classes."""
    task: Literal["auto", "multiclass", "multilabel"] = "auto"
    """Whether each image has just one of the classes. Default: as labels and probabilities say."""
    metric: Literal["auroc", "average_precision", "accuracy", "macro_f1", "log_loss"] = "auroc"
    """The score of a table without a run."""
    thresholds: Path | None = None
    """The thresholds.json at which findings are called. Default: chosen on a run's val split; kept
    for its other splits; 0.5 without a run."""
    threshold_criterion: Literal["", "f1", "youden", "sensitivity"] = ""
    """Choose thresholds anew on these images: for the best F1, the best sensitivity + specificity
    (youden), or the highest that reach --sensitivity. Default: as the run was trained."""
    sensitivity: float = 0.95
    """Share of a finding's images that are to be called, for --threshold-criterion sensitivity."""
    prior_shift: bool = False
    """Also show the figures with probabilities corrected for the mix of classes of these images, as
    predict --prior-shift does; needs a run."""
    intervals: bool = True
    """Give every figure its 95 % interval; without, only where there is a formula, and fast."""
    output: Path | None = None
    """Folder for the results. Default: the run folder for its own val predictions; without a run
    they are only shown."""


@dataclass(frozen=True)
class Evidence:
    """Probabilities and the truth, and how they are judged."""

    competition: Competition
    targets: NDArray[np.floating]
    probs: NDArray[np.floating]
    judged_on: str
    thresholds: Thresholds | Criterion | None
    calibration: Calibration | None
    """None: fitted on these images."""
    folder: Path | None
    """Where the results go; None: they are only shown."""
    remarks: tuple[str, ...] = ()
    reference: Reference | None = None
    """From where probabilities are corrected for another mix of classes, if that is asked for."""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Do what ``config`` describes and return the report.

    Raises ``UserError`` for a missing split, unlabelled images, images without a prediction, and
    tables that do not fit each other.
    """
    wished = config.sensitivity != EvaluateConfig.sensitivity
    if wished and config.threshold_criterion != "sensitivity":
        raise UserError(
            "--sensitivity is for --threshold-criterion sensitivity. Give both, or leave it out."
        )
    if config.run is not None and config.labels is not None:
        raise UserError("Give --run, which has its labels, or --labels, not both.")
    if config.run is not None:
        refuse_flags(config, _FOR_TABLES, "--run, which settles that")
        given = _read_run(config, RunFolder.open(config.run))
    elif config.labels is not None and config.predictions is not None:
        refuse_flags(config, {"split", "prior_shift"}, "--labels")
        given = _read_tables(config, config.predictions, config.labels)
    else:
        raise UserError("Say what to judge: --run RUN, or --predictions P.csv --labels L.csv.")
    asked = (given.competition, given.targets, given.probs, given.judged_on)
    options: dict[str, Any] = {
        "thresholds": given.thresholds,
        "calibration": given.calibration,
        "resamples": 1000 if config.intervals else 0,
    }
    files: tuple[str, ...] = ()
    if given.folder is None:
        report = judge(*asked, **options)
    else:
        results = write_results(given.folder, *asked, **options)
        report, files = results.report, results.files
    for remark in given.remarks:
        log.info(remark)
    log.info("\n%s\n", format_table(report))
    if given.reference:
        shown = (given.competition, given.targets, given.probs, given.reference, report)
        log.info("%s\n", show_shift(*shown))
        if config.split == "val":
            log.info("The correction was fitted on these images: it looks too good on them.\n")
    if files:
        log.info("Wrote %s: %s.", given.folder, ", ".join(files))
    return report


def _read_run(config: EvaluateConfig, run: RunFolder) -> Evidence:
    if config.predictions:
        refuse_flags(config, {"prior_shift"}, "--predictions, since it starts from the run's own")
    competition, manifest, split = run.competition(), run.manifest(), config.split
    if not is_labelled(manifest["label"][manifest["split"] == split]).any():
        raise UserError(f"{run.path} has no labelled split {split!r}. Choose val or train.")
    path = config.predictions or run.predictions_path(split)
    table = read_predictions(path, competition.classes)
    targets, probs = labelled_rows(manifest, split, table, competition.classes)
    folder = config.output
    if folder is None and (config.predictions or split != "val"):
        raise UserError("Say where the results shall go with --output FOLDER.")
    if config.threshold_criterion and split != "val":
        raise UserError(
            f"--threshold-criterion is for the val split; on {split} findings are called as that "
            "one has chosen. Leave it out."
        )
    trained = run.config()
    thresholds = _thresholds(config, competition)
    if split != "val":
        thresholds = thresholds or _read_thresholds(run.path, competition)
    elif not thresholds:
        thresholds = named_criterion(trained.threshold_criterion, trained.sensitivity)
    # What others predict has not the run's temperature.
    own = split != "val" and not config.predictions
    return Evidence(
        competition,
        targets,
        probs,
        judged_on=trained.split_plan().describe(split, manifest),
        thresholds=thresholds,
        calibration=Calibration.read(run.path) if own else None,
        folder=folder or run.path,
        reference=_reference(run) if config.prior_shift else None,
    )


def _reference(run: RunFolder) -> Reference:
    competition = run.competition()
    known = labelled_rows(run.manifest(), "val", run.predictions("val"), competition.classes)
    return fit_reference(competition, *known)


def _read_tables(config: EvaluateConfig, predictions: Path, labels: Path) -> Evidence:
    reading = Reading(
        prediction_id=config.prediction_id,
        label_id=config.label_id,
        label_column=config.label_column,
        columns=config.columns,
        classes=config.classes,
        separator=config.separator,
        none=config.none,
    )
    matched = match_tables(predictions, labels, reading, config.image_list)
    task = config.task
    if task == "auto":
        task = "multilabel" if matched.multilabel else "multiclass"
    competition = Competition(
        slug=labels.stem,
        title=labels.stem,
        source="dataset",
        task=task,
        classes=matched.classes,
        metric=config.metric,
        train=Labelled(images=".", labels=str(labels)),
    )
    return Evidence(
        competition,
        matched.targets,
        matched.probs,
        judged_on=config.split_name or (config.image_list or labels).name,
        thresholds=_thresholds(config, competition),
        calibration=None,
        folder=config.output,
        remarks=matched.remarks,
    )


def _thresholds(config: EvaluateConfig, competition: Competition) -> Thresholds | Criterion | None:
    """What the flags say of thresholds, if anything."""
    if not config.threshold_criterion:
        return _read_thresholds(config.thresholds, competition) if config.thresholds else None
    refuse_flags(config, {"thresholds"}, "--threshold-criterion")
    if not competition.multilabel:
        raise UserError(
            "--threshold-criterion is for findings; here an image has one class and is called the "
            "most probable one. Leave it out."
        )
    if config.run is None and config.output is None:
        raise UserError("Say with --output FOLDER where the chosen thresholds.json shall go.")
    return named_criterion(config.threshold_criterion, config.sensitivity)


def _read_thresholds(path: Path, competition: Competition) -> Thresholds | None:
    return Thresholds.read(path, competition.classes) if competition.multilabel else None


def main(args: Sequence[str]) -> None:
    """Read the flags and evaluate."""
    evaluate(parse_flags(EvaluateConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
