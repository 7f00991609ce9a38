"""The run folder: what a run is made of, read and written whole.

Nothing here needs torch, which takes seconds to import.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition
from xraycomp.data.competition_file import format_competition, parse_competition
from xraycomp.data.files import (
    atomic_folder,
    check_columns,
    read_table,
    write_csv,
    write_json,
    write_text,
)
from xraycomp.data.predictions import read_predictions
from xraycomp.model.config import TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """One run's files. Every file is written whole or not at all."""

    path: Path

    @classmethod
    def create(
        cls,
        path: Path,
        config: TrainConfig,
        competition: Competition,
        manifest: pd.DataFrame,
        duplicates: pd.DataFrame,
        environment: Mapping[str, Any],
    ) -> "RunFolder":
        """Write what a run starts from, all of it or nothing, in place of what lies at ``path``."""
        with atomic_folder(path) as folder:
            write_json(folder / "config.json", config.to_json())
            write_text(folder / "competition.toml", format_competition(competition))
            write_csv(folder / "manifest.csv", manifest)
            write_csv(folder / "duplicates.csv", duplicates)
            write_json(folder / "environment.json", environment)
            shutil.rmtree(path, ignore_errors=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run. Raises ``UserError`` where ``path`` is none."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is not a run folder (it has no config.json). Check the path.")
        return cls(path)

    @property
    def name(self) -> str:
        """The run's name, which its submission bears too."""
        return self.path.resolve().name

    @property
    def checkpoint(self) -> Path:
        """Everything that is needed to go on training."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The weights of the best epoch, with what is needed to use them."""
        return self.path / "best.pt"

    @property
    def soup(self) -> Path:
        """Of averaged runs: which, and what each step scored; a trained run has no such file."""
        return self.path / "soup.json"

    @property
    def finished(self) -> bool:
        """Whether training has come to its end and all that follows it is written."""
        return self._finished.is_file()

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"

    def mark_finished(self) -> None:
        """Say that nothing is left to do; a run that the time limit cut short is not finished."""
        write_json(self._finished, {"finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})

    def folds(self) -> "dict[int, RunFolder]":
        """The runs of the folds by number, of a run of all folds; none of any other."""
        config = self.config()
        if not config.split_plan().all_folds:
            return {}
        found = [RunFolder(path.parent) for path in self.path.glob("*-fold*/config.json")]
        numbered = {run.config().fold: run for run in found}
        return {number: numbered[number] for number in range(config.folds) if number in numbered}

    def fold_path(self, number: int) -> Path:
        """Where a run of all folds has the run of one."""
        return self.path / f"{self.name}-fold{number}"

    @property
    def whole(self) -> "RunFolder":
        """The run of all folds that this one is a part of, or else itself."""
        around = self.path.parent
        return RunFolder(around) if (around / "config.json").is_file() else self

    def predictions_path(self, split: str) -> Path:
        """The probability table of one split."""
        return self.path / "predictions" / f"{split}.csv"

    @property
    def features_path(self) -> Path:
        """Sizes and brightness of the images, by which results are sliced."""
        return self.path / "features.csv"

    def config(self) -> TrainConfig:
        """The run's configuration."""
        path = self.path / "config.json"
        try:
            return TrainConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged or of another version ({error}).") from error

    def competition(self) -> Competition:
        """The competition as it was when the run began."""
        path = self.path / "competition.toml"
        return parse_competition(path.read_text(encoding="utf-8"), str(path))

    def manifest(self) -> pd.DataFrame:
        """The run's exact split."""
        return read_table(self.path / "manifest.csv")

    def duplicates(self) -> pd.DataFrame:
        """Copies of images that were found when the run began."""
        return read_table(self.path / "duplicates.csv")

    def features(self) -> pd.DataFrame | None:
        """What was measured of the images, see `measure_images`; None where training is not done.

        Of ``image`` and ``split`` the values are text, of the other columns numbers.
        """
        if not self.features_path.is_file():
            return None
        table = read_table(self.features_path)
        numbers = ["width", "height", "brightness"]
        check_columns(table, self.features_path, ["image", "split", *numbers])
        return table.assign(**table[numbers].apply(pd.to_numeric))

    def predictions(self, split: str) -> pd.DataFrame:
        """The run's probability table of ``split``. Raises ``UserError`` where it has none."""
        path = self.predictions_path(split)
        if not path.is_file():
            raise UserError(
                f"There is no {path}, since the run is not finished. Go on with it: python -m "
                f"xraycomp.train --resume {self.whole.path}"
                if not self.finished
                else f"There is no {path}. Write it with: python -m xraycomp.predict --runs "
                f"{self.path} --split {split}"
            )
        return read_predictions(path, self.competition().classes)

    def write_epoch(self, row: Mapping[str, Any]) -> None:
        """Put one epoch's row into ``metrics.csv``, in place of rows of that epoch and later."""
        path = self.path / "metrics.csv"
        # As text: rewriting never changes a digit.
        rows = pd.DataFrame([row]).astype(str)
        if path.is_file():
            before = pd.read_csv(path, dtype=str)
            before = before[before["epoch"].astype(int) < row["epoch"]]
            rows = pd.concat([before, rows])
        write_csv(path, rows)

    def epochs(self) -> pd.DataFrame:
        """``metrics.csv``: one row an epoch."""
        return pd.read_csv(self.path / "metrics.csv")

    @contextlib.contextmanager
    def log(self) -> Iterator[None]:
        """Copy what the kit says to ``train.log``."""
        handler = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger = logging.getLogger("xraycomp")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)
            handler.close()


def check_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise ``UserError`` where no new run can lie at ``path``.

    That is where it holds something, unless that may be overwritten, and where it cannot be
    written to.
    """
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise UserError(
            f"{path} holds an earlier run. Replace it with --overwrite, or give another --name; if "
            f"it is not finished, this goes on with it: python -m xraycomp.train --resume {path}"
        )
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK):
        raise UserError(f"{path} cannot be written to. Choose another folder with --runs-dir.")


def default_name(competition: Competition, config: TrainConfig) -> str:
    """A run name from competition, architecture and time: ``phantom-resnet18-20261121-051203``."""
    arch = config.arch.replace("timm:", "").replace("/", "-")
    return f"{competition.slug}-{arch}-{time.strftime('%Y%m%d-%H%M%S')}"
