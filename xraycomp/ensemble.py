"""python -m xraycomp.ensemble: several members -> one table, and what each is worth."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

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

_FOR_TABLES = {"labels", "test", *(field.name for field in fields(Reading))}
"""Flags that say how to read tables, of which runs know everything."""


@dataclass(frozen=True)
class EnsembleConfig(Reading):
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
    method: Method = "mean"
    """mean, weighted (weights with the smallest log loss), rank (mean of ranks), vote (of hard
    labels), max or stack (logistic regression); all of them are shown. What learns from labels is
    cross-fitted for judging and learned on all images for the test table."""
    output: Path | None = None
    """Folder for the ensemble's tables, scores and submission."""
    overwrite: bool = False
    """Replace an ensemble that lies there."""


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
        members = read_member_tables(config.predictions, config.labels, config.test, config)
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
