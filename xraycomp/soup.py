"""python -m xraycomp.soup: several runs of one architecture -> one run of averaged weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.help import Help
from xraycomp.ensembles.souping import make_soup
from xraycomp.model.device import choose_device
from xraycomp.model.run import RunFolder

PROG = "python -m xraycomp.soup"
HELP = Help(
    examples=("--runs runs/A runs/B runs/C --name soup",),
    first="runs name overwrite",
    groups={"Machine": "device", "Folders": "runs_dir submissions_dir"},
)


@dataclass(frozen=True)
class SoupConfig:
    """Average the weights of runs that began from the same pretrained weights (a greedy soup).

    The best run comes first. In the order of their validation scores each of the others is added,
    and stays if the average is no worse with it, by the --monitor of the runs, which must be the
    same. What comes out is a run as any other, for predict, explain and submit; soup.json says what
    stayed.
    """

    runs: tuple[Path, ...]
    """Run folders of one architecture and one validation split."""
    name: str = "soup"
    """Name of the new run folder."""
    overwrite: bool = False
    """Replace the run folder if it exists."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    runs_dir: Path = Path("runs")
    """Folder for run folders."""
    submissions_dir: Path = Path("submissions")
    """Folder for checked submissions."""


def soup(config: SoupConfig) -> RunFolder:
    """Do what ``config`` describes and return the new run.

    Raises ``UserError`` for everything that the user can mend.
    """
    return make_soup(
        config.runs,
        config.name,
        choose_device(config.device),
        runs_dir=config.runs_dir,
        submissions_dir=config.submissions_dir,
        overwrite=config.overwrite,
    )


def main(args: Sequence[str]) -> None:
    """Read the flags and average."""
    soup(parse_flags(SoupConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
