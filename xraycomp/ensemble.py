"""python -m xraycomp.ensemble: several members -> one table, and what each is worth."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xraycomp.console.command import parse_flags, refuse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.data.matching import Reading
from xraycomp.ensembles.ensembling import Ensemble, check_output, ensemble
from xraycomp.ensembles.member_tables import read_member_tables, read_runs
from xraycomp.judging.combining import Method

log = logging.getLogger("xraycomp.ensemble")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.ensemble"
HELP = Help(
    examples=(
        "--runs runs/A runs/B runs/C --output ensembles/NAME",
        "--runs runs/A runs/B --method weighted --output ensembles/NAME",
        "--predictions a.csv b.csv --labels truth.csv --test a_test.csv b_test.csv --output NAME",
    ),
    first="runs predictions labels test method output overwrite",
    groups={
        "Reading the tables": "image_list columns classes label_column prediction_id label_id "
        "separator none task metric split_name",
    },
)

_FOR_TABLES = {
    *(
        "labels",
        "test",
        "image_list",
        "columns",
        "classes",
        "label_column",
        "prediction_id",
        "label_id",
    ),
    *("separator", "none", "task", "metric", "split_name"),
}
"""Flags that say how to read tables, of which runs know everything."""


@dataclass(frozen=True)
class EnsembleConfig:
    """Combine the predictions of several runs, or of tables from anywhere, and say what every way
    of combining them, and every member, is worth."""

    runs: tuple[Path, ...] = ()
    """Run folders, two or more; judged on the images that all of them have held out."""
    predictions: tuple[Path, ...] = ()
    """Without runs: probability tables of the same images, two or more."""
    labels: Path | None = None
    """With --predictions: a CSV table that says which classes each image has, as evaluate reads
    it."""
    test: tuple[Path, ...] = ()
    """With --predictions: each member's table of unlabelled images, in the same order."""
    image_list: Path | None = None
    """With --predictions: a file that names the images to judge, one a line. Default: all that the
    tables have."""
    method: Method = "mean"
    """mean, weighted (weights with the smallest log loss), rank (mean of ranks), vote (of hard
    labels), max or stack (logistic regression); all of them are shown. What learns from labels is
    cross-fitted for judging and learned on all images for the test table."""
    output: Path | None = None
    """Folder for the ensemble's tables, scores and submission."""
    overwrite: bool = False
    """Replace an ensemble that lies there."""

    columns: str = ""
    """How the columns of probabilities are called, such as pred_{}. Default: found out."""
    classes: tuple[str, ...] = ()
    """The classes to combine. Default: all that the labels name."""
    label_column: str = ""
    """Column of --labels with class names or indices. Default: found out."""
    prediction_id: str = ""
    """Column of the predictions that names the image. Default: found out."""
    label_id: str = ""
    """Column of --labels that names the image. Default: found out."""
    separator: str = "|"
    """What parts several class names in one cell."""
    none: str = "No Finding"
    """The label of images with none of the classes."""
    task: Literal["auto", "multiclass", "multilabel"] = "auto"
    """Whether each image has just one of the classes. Default: as labels and probabilities say."""
    metric: Literal["auroc", "average_precision", "accuracy", "macro_f1", "log_loss"] = "auroc"
    """The score of tables without a run."""
    split_name: str = ""
    """What the results call the images. Default: the name of the label table."""


def combine(config: EnsembleConfig) -> Ensemble:
    """Do what ``config`` describes and return the ensemble.

    Raises ``UserError`` for members that do not fit each other, and an output that is taken.
    """
    if config.output is None:
        raise UserError("Say where the ensemble shall go with --output ensembles/NAME.")
    check_output(config.output, overwrite=config.overwrite)
    if config.runs:
        refuse_flags(config, {"predictions", *_FOR_TABLES}, "--runs, which settle that")
        members = read_runs(config.runs)
    elif config.predictions and config.labels:
        reading = Reading(
            prediction_id=config.prediction_id,
            label_id=config.label_id,
            label_column=config.label_column,
            columns=config.columns,
            classes=config.classes,
            separator=config.separator,
            none=config.none,
        )
        members = read_member_tables(
            config.predictions,
            config.labels,
            config.test,
            reading,
            image_list=config.image_list,
            name=config.split_name,
            task=config.task,
            metric=config.metric,
        )
    else:
        raise UserError(
            "Say what to combine: --runs RUN RUN, or --predictions A.csv B.csv --labels L.csv."
        )
    return ensemble(members, config.output, method=config.method, overwrite=config.overwrite)


def main(args: Sequence[str]) -> None:
    """Read the flags and combine."""
    combine(parse_flags(EnsembleConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
