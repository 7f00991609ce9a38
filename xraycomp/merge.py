"""python -m xraycomp.merge: folds that were trained by themselves -> one run of all folds."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.job.merging import find_folds, merge_folds, missing_folds, settings_of_all
from xraycomp.job.training import train
from xraycomp.model.run import RunFolder

log = logging.getLogger("xraycomp.merge")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.merge"
HELP = Help(
    examples=(
        "--runs runs/k-v1 runs/k-v2 runs/k-v3 --name k",
        "--runs runs/k-v* --name k --data nih.zip",
    ),
    first="runs name overwrite data",
    groups={
        "Machine": "device workers",
        "Folders": "data_dir runs_dir submissions_dir",
    },
)


@dataclass(frozen=True)
class MergeConfig:
    """Put folds that were trained by themselves (train --folds 5 --fold 2), here or on Kaggle,
    together into one run, as if train --folds 5 had trained them."""

    runs: tuple[Path, ...]
    """Run folders of the folds."""
    name: str
    """Name of the run that they become."""
    overwrite: bool = False
    """Replace the run folder if it exists."""
    data: Path | None = None
    """The competition's zip or extracted folder. Default: that of the first fold."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1; for heat maps."""
    workers: int | None = None
    """Threads that decode images. Default: all CPUs."""
    data_dir: Path = Path("data")
    """Folder for unpacked data and caches."""
    runs_dir: Path = Path("runs")
    """Folder for run folders."""
    submissions_dir: Path = Path("submissions")
    """Folder for checked submissions."""


def merge(config: MergeConfig) -> RunFolder:
    """Do what ``config`` describes and return the run of all folds.

    Where folds are missing or not trained to the end, it is not judged: going on with the run
    trains them first.

    Raises ``UserError`` for everything that the user can mend.
    """
    if not config.runs:
        raise UserError("No run was given. Name the folds with --runs runs/A runs/B.")
    given = {name: value for name, value in vars(config).items() if name not in ("runs", "data")}
    first = next(iter(find_folds(config.runs).values()))
    settings = replace(settings_of_all(first), **given, data=config.data or first.config().data)
    run = merge_folds(config.runs, settings)
    log.info("Merged %d of %d folds into %s.", len(run.folds()), settings.folds, run.path)
    if missing := missing_folds(run):
        log.info(
            "Fold %s: train what is missing and judge all with: python -m xraycomp.train "
            "--resume %s",
            ", ".join(missing),
            run.path,
        )
        return run
    return train(replace(settings, resume=run.path, overwrite=False))


def main(args: Sequence[str]) -> None:
    """Read the flags and merge."""
    merge(parse_flags(MergeConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
