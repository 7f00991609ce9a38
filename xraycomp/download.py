"""python -m xraycomp.download: a competition's or data set's files from Kaggle, checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.remote import download as remote
from xraycomp.remote.client import connect
from xraycomp.remote.doctor import examine

PROG = "python -m xraycomp.download"
HELP = Help(
    examples=("--competition acse4-ml-2020", "--dataset OWNER/SLUG", "--doctor"),
    first="competition dataset data_dir doctor",
)


@dataclass(frozen=True)
class DownloadConfig:
    """Download a competition or a data set from Kaggle and check every file, or find out what is
    wrong with the credentials."""

    competition: str | None = None
    """Slug of a competition, as in kaggle.com/c/SLUG."""
    dataset: str | None = None
    """owner/slug of a data set, as in kaggle.com/datasets/OWNER/SLUG."""
    data_dir: Path = Path("data")
    """Folder for the zip."""
    doctor: bool = False
    """Name every source of credentials, say which one wins, and whether Kaggle accepts it."""


def download(config: DownloadConfig) -> Path:
    """Bring what ``config`` names to its folder and return the checked zip.

    Raises ``UserError`` for everything that Kaggle or the network refuses.
    """
    names = [name for name in (config.competition, config.dataset) if name]
    if len(names) != 1:
        raise UserError(
            "Say what to download: --competition SLUG or --dataset OWNER/SLUG, for example "
            "--competition acse4-ml-2020."
        )
    if config.competition and "/" in config.competition:
        raise UserError(
            f"{config.competition} is no competition's slug. Give the part after kaggle.com/c/, or "
            "use --dataset for a data set."
        )
    if config.dataset and config.dataset.count("/") != 1:
        raise UserError(f"--dataset is {config.dataset}; it must be OWNER/SLUG.")
    path = config.data_dir / f"{names[0].rsplit('/', 1)[-1]}.zip"
    with connect() as kaggle:
        remote.download(kaggle, names[0], path)
    return path


def main(args: Sequence[str]) -> None:
    """Read the flags and download, or examine the credentials."""
    config = parse_flags(DownloadConfig, args, prog=PROG, help=HELP)
    if config.doctor:
        examine()
    else:
        download(config)


if __name__ == "__main__":
    run_command(main)
