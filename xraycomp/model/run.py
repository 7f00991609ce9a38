"""The run folder: what a run is made of, read and written whole."""

import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torchvision

import xraycomp
from xraycomp.console.errors import UserError
from xraycomp.data.commit import source_commit
from xraycomp.data.competition import Competition
from xraycomp.data.competition_file import format_competition, parse_competition
from xraycomp.data.files import atomic_path, read_table, write_csv, write_json, write_text
from xraycomp.data.predictions import read_predictions
from xraycomp.model.config import TrainConfig


@dataclass(frozen=True)
class RunFolder:
    """One run's files. Every file is written whole or not at all."""

    path: Path

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> "RunFolder":
        """Make sure that the folder is there and may be filled by ``write_setup``.

        Raises ``UserError`` where it holds something, unless ``overwrite``, and where it cannot be
        written to. What it holds is only removed by ``write_setup``.
        """
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            raise UserError(
                f"{path} holds an earlier run. Continue it with --resume {path}, replace it "
                "with --overwrite, or give another --name."
            )
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise UserError(f"{path} cannot be written to. Choose another folder with --runs-dir.")
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

    def predictions_path(self, split: str) -> Path:
        """The probability table of one split."""
        return self.path / "predictions" / f"{split}.csv"

    def write_setup(
        self,
        config: TrainConfig,
        competition: Competition,
        manifest: pd.DataFrame,
        duplicates: pd.DataFrame,
    ) -> None:
        """Empty the folder and write what a run starts from; last ``config.json``, which makes it
        a run."""
        for old in self.path.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
        write_csv(self.path / "duplicates.csv", duplicates)
        write_csv(self.path / "manifest.csv", manifest)
        write_text(self.path / "competition.toml", format_competition(competition))
        write_json(self.path / "environment.json", describe_environment())
        write_json(self.path / "config.json", config.to_json())

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

    def predictions(self, split: str) -> pd.DataFrame:
        """The run's probability table of ``split``."""
        return read_predictions(self.predictions_path(split), self.competition().classes)

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

    def log_to_file(self) -> logging.Handler:
        """Copy what the kit says to ``train.log`` until the handler is removed."""
        handler = logging.FileHandler(self.path / "train.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logging.getLogger("xraycomp").addHandler(handler)
        return handler


def default_name(competition: Competition, config: TrainConfig) -> str:
    """A run name from competition, architecture and time: ``phantom-resnet18-20261121-0512``."""
    arch = config.arch.replace("timm:", "").replace("/", "-")
    return f"{competition.slug}-{arch}-{time.strftime('%Y%m%d-%H%M%S')}"


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        try:
            torch.save(dict(content), temporary)
        except RuntimeError as error:
            # torch's zip writer reports a full disk as an internal error of its own.
            raise OSError(28, "No space left on device", str(path)) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, without running any code that the file may hold.

    Raises ``UserError`` for a missing, cut-off or foreign file.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}. The run stopped before it had saved one.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in zip, pickle or tensor code
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged, cut off or not a checkpoint. "
            "Bring a whole copy, or train anew."
        ) from error
    if not isinstance(content, dict) or not {"model", "config", "classes"} <= content.keys():
        raise UserError(f"{path} is not a checkpoint of this kit. Check the path.")
    return content


def describe_environment() -> dict[str, Any]:
    """What the run depends on besides its configuration: versions, commit, hardware."""
    cuda = torch.cuda.is_available()
    return {
        "xraycomp": xraycomp.__version__,
        "commit": source_commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pandas": pd.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if cuda
        else [],
    }
