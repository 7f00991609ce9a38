"""What a training did, for the ecosystem's own clients: TensorBoard, Weights & Biases.

Both are optional, and imported by nothing but the classes here.
"""

import contextlib
import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from xraycomp.console.errors import UserError
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import is_main
from xraycomp.model.run import RunFolder

log = logging.getLogger(__name__)


class Tracker:
    """Takes note of a run; this one of nothing."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch's row of ``metrics.csv``; replaces what was said of that epoch and later."""

    def final(self, figures: Mapping[str, float]) -> None:
        """What the run's best weights were found to be worth, by name."""

    def close(self, *, failed: bool) -> None:
        """Nothing more will come, since all is done or something ``failed``."""


class _TensorBoard(Tracker):
    """Event files in the run's folder ``tensorboard``."""

    def __init__(self, run: RunFolder, config: TrainConfig) -> None:
        self._folder = run.path / "tensorboard"
        self._settings = _plain(config)
        self._writer: Any = None

    def _open(self, first: int | None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            # What an interrupted run has told of this epoch and later is told anew.
            make: Any = SummaryWriter
            self._writer = make(str(self._folder), purge_step=first)
        return self._writer

    def epoch(self, row: Mapping[str, Any]) -> None:
        writer = self._open(row["epoch"])
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row["epoch"])
        writer.flush()

    def final(self, figures: Mapping[str, float]) -> None:
        named = {f"final/{name}": value for name, value in figures.items()}
        self._open(None).add_hparams(self._settings, named, run_name=".")

    def close(self, *, failed: bool) -> None:
        if self._writer is not None:
            self._writer.close()


class _WandB(Tracker):
    """A Weights & Biases run in the run's folder ``wandb``: offline, for ``wandb sync``, unless the
    variable WANDB_MODE says otherwise."""

    def __init__(self, run: RunFolder, config: TrainConfig, project: str) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        # The last part of its folders' names; the same one goes on with the same record.
        known = sorted((run.path / "wandb").glob("*run-*-*"))
        self._run: Any = wandb.init(
            project=project,
            name=run.name,
            id=known[-1].name.rpartition("-")[2] if known else None,
            resume="allow" if known else None,
            dir=str(run.path),
            config=_plain(config),
            mode=mode,
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._run.log(_numbers(row), step=row["epoch"])

    def final(self, figures: Mapping[str, float]) -> None:
        self._run.summary.update({f"final/{name}": value for name, value in figures.items()})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def check_tracker(config: TrainConfig) -> None:
    """Raise ``UserError`` where the client of ``config.track`` is not installed."""
    if config.track and importlib.util.find_spec(config.track) is None:
        raise UserError(
            f"--track {config.track} needs {config.track}, which is not installed: "
            "pip install -e '.[track]'."
        )


@contextlib.contextmanager
def tracking(run: RunFolder, config: TrainConfig, project: str) -> Iterator[Tracker]:
    """The tracker that the settings name, in the main process; it is closed whatever happens."""
    tracker = Tracker()
    if is_main() and config.track == "tensorboard":
        tracker = _TensorBoard(run, config)
    elif is_main() and config.track == "wandb":
        tracker = _WandB(run, config, project)
    if is_main() and config.track:
        log.info("Tracked by %s: %s", config.track, run.path / config.track)
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.close(failed=failed)


def final_figures(run: RunFolder) -> dict[str, float]:
    """The overall figures of a judged run's ``metrics.json``; none where it was not judged."""
    path = run.path / "metrics.json"
    if not path.is_file():
        return {}
    overall = json.loads(path.read_text(encoding="utf-8"))["overall"]
    return {
        name: figure["value"] for name, figure in overall.items() if figure["value"] is not None
    }


def _plain(config: TrainConfig) -> dict[str, Any]:
    """The settings as what both clients take: numbers, text, yes and no."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in config.to_json().items()
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Without what is not known of a row (NaN)."""
    return {name: value for name, value in row.items() if name != "epoch" and value == value}
