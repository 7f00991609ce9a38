"""A run's own page, written by all who change what it shows."""

from pathlib import Path

from xraycomp.model.again import train_again
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import RunFolder
from xraycomp.pages.page import write_page


def write_own_page(run: RunFolder) -> Path:
    """Write the run's ``report.html`` and return its path.

    Raises ``UserError`` where one of its files is damaged.
    """
    return write_page(run.path, TrainConfig().to_json(), train_again(run))
