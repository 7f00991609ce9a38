"""The files of a run folder as a page needs them; one that is damaged is one plain sentence."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition
from xraycomp.data.competition_file import parse_competition
from xraycomp.data.files import check_columns, read_table
from xraycomp.data.split import SplitPlan

Entry = dict[str, float | None]
"""A figure and its 95 % interval: ``value``, ``low``, ``high``; None where not defined."""

EVALUATE = "python -m xraycomp.evaluate --run {run}"
DOUBT = "python -m xraycomp.evaluate --doubts {run}"
EXPLAIN = "python -m xraycomp.explain --run {run}"
REPORT = "python -m xraycomp.report {run}"
RESUME = "python -m xraycomp.train --resume {run}"
TRAIN = "python -m xraycomp.train"
"""What writes a run's files; ``RunFiles.command`` puts the run in."""


@dataclass(frozen=True)
class RunFiles:
    """What a run starts from, read; the rest of its files are read where they are shown."""

    path: Path
    config: Mapping[str, Any]
    competition: Competition
    manifest: pd.DataFrame

    @classmethod
    def read(cls, path: Path) -> "RunFiles":
        """Read a run folder. Raises ``UserError`` where it is none, or is damaged."""
        if not (path / "config.json").is_file():
            raise UserError(f"{path} is not a run folder (it has no config.json). Check the path.")
        for name in ("competition.toml", "manifest.csv"):
            if not (path / name).is_file():
                raise UserError(f"{path} has lost its {name}. Train again with: {TRAIN}")
        config = read_json(path / "config.json", TRAIN)
        with damaged(path / "competition.toml", TRAIN):
            text = (path / "competition.toml").read_text(encoding="utf-8")
        competition = parse_competition(text, str(path / "competition.toml"))
        manifest = read_table(path / "manifest.csv")
        check_columns(manifest, path / "manifest.csv", ["image", "label", "patient", "split"])
        return cls(path, config, competition, manifest)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.path.resolve().name

    @property
    def folds(self) -> int:
        """How many folds the run is the whole of; 0 for any other run."""
        return int(self.config.get("folds") or 0) if self.config.get("fold") is None else 0

    def describe_split(self, split: str) -> str:
        """What results call the images of one split, by the run's own settings."""
        plan = {
            key: self.config[key] for key in SplitPlan.__dataclass_fields__ if key in self.config
        }
        with damaged(self.path / "config.json", TRAIN):
            return SplitPlan(**plan).describe(split, self.manifest)

    @property
    def quoted(self) -> str:
        """The folder as a command line has it."""
        return shlex.quote(str(self.path))

    def command(self, text: str) -> str:
        """A command's text with this run in it."""
        return text.format(run=self.quoted)

    def json(self, name: str, again: str = EVALUATE) -> dict[str, Any] | None:
        """A JSON file of the run; None where there is none. ``again`` would write it anew."""
        path = self.path / name
        return read_json(path, self.command(again)) if path.is_file() else None

    def table(self, name: str, columns: list[str]) -> list[dict[str, str]] | None:
        """The rows of a CSV file of the run, as text; None where there is none."""
        path = self.path / name
        if not path.is_file():
            return None
        table = read_table(path)
        check_columns(table, path, columns)
        return table[columns].to_dict("records")  # type: ignore[return-value]

    def epochs(self, folder: str = ".") -> pd.DataFrame | None:
        """``metrics.csv`` as numbers, one row an epoch; None where no epoch has ended."""
        path = self.path / folder / "metrics.csv"
        if not path.is_file():
            return None
        table = read_table(path)
        check_columns(
            table, path, ["epoch", "seconds", "images_per_second", "train_loss", "val_loss"]
        )
        with damaged(path, TRAIN):
            return pd.DataFrame({name: pd.to_numeric(table[name]) for name in table})


def read_json(path: Path, again: str) -> dict[str, Any]:
    """The object in a JSON file; ``again`` is the command that writes it anew.

    Raises ``UserError`` where it holds something else.
    """
    with damaged(path, again):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} in place of an object")
    return content


@contextlib.contextmanager
def damaged(path: Path, again: str) -> Iterator[None]:
    """Say in one sentence that a file is damaged, where what it holds is not what it should."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        told = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{path} is damaged or of another version ({told}). Write it again with: {again}"
        ) from error


def entry(content: Mapping[str, Any]) -> Entry:
    """A figure as it stands in a results file. Raises ``KeyError`` or ``TypeError``."""
    return {
        key: None if content[key] is None else float(content[key])
        for key in ("value", "low", "high")
    }


def ends(figure: Entry) -> list[float]:
    """Both ends of a figure's interval; the figure itself, which must be defined, without one."""
    value = figure["value"]
    assert value is not None
    low, high = figure["low"], figure["high"]
    return [value if low is None else low, value if high is None else high]
