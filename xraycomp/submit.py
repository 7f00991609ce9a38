"""python -m xraycomp.submit: probability table -> checked submission file."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.data.predictions import read_predictions
from xraycomp.data.source import open_source
from xraycomp.data.submission import check_submission, expected_ids, write_submission
from xraycomp.model.run import RunFolder

log = logging.getLogger("xraycomp.submit")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.submit"


@dataclass(frozen=True)
class SubmitConfig:
    """Write submissions/<run>.csv from a probability table, or check a submission file."""

    run: Path
    """The run folder whose competition is meant."""
    predictions: Path | None = None
    """Another probability table of the test set. Default: the run's predictions/test.csv."""
    check: Path | None = None
    """Only check this submission file."""
    output: Path | None = None
    """The submission's path. Default: submissions/<run>.csv."""


def submit(config: SubmitConfig) -> Path:
    """Do what ``config`` describes and return the path of the checked file.

    Raises ``UserError`` for everything that Kaggle would refuse.
    """
    run = RunFolder.open(config.run)
    trained, competition = run.config(), run.competition()
    source = open_source(trained.competition, trained.data, trained.data_dir)
    ids = expected_ids(competition, source.root)
    if config.check:
        if not config.check.is_file():
            raise UserError(f"There is no submission file {config.check}. Check the path.")
        check_submission(config.check, competition, ids)
        log.info("%s is a valid submission of %s rows.", config.check, f"{len(ids):,}")
        return config.check
    table = read_predictions(
        config.predictions or run.predictions_path("test"), competition.classes
    )
    output = config.output or trained.submissions_dir / f"{run.name}.csv"
    write_submission(output, competition, table, ids)
    log.info(
        "Wrote %s: %s rows, checked. Send it with: kaggle competitions submit -c %s -f %s -m %s",
        output,
        f"{len(ids):,}",
        competition.slug,
        output,
        run.name,
    )
    return output


def main(args: Sequence[str]) -> None:
    """Read the flags and write or check a submission."""
    submit(parse_flags(SubmitConfig, args, prog=PROG))


if __name__ == "__main__":
    run_command(main)
