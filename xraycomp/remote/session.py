"""A run inside a Kaggle session: where things lie, how long it may take, what is left behind."""

import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from xraycomp.console.command import run_command
from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.model.config import TrainConfig
from xraycomp.remote.mounts import find_data, find_file, find_run, is_attached

log = logging.getLogger(__name__)


class Outcome(Protocol):
    """What a job leaves behind: a run, an ensemble of runs, or a study."""

    @property
    def path(self) -> Path:
        """Its folder."""


Job = Callable[..., Outcome]
"""Takes one configuration or several."""

SESSION_MINUTES = 12 * 60.0
MARGIN_MINUTES = 20.0
"""Kept back for the start of the machine and for saving the output."""
MAX_OUTPUT_BYTES = 19_500_000_000
"""Kaggle keeps 20 GB of output."""

_IMPORTED = time.monotonic()


def run_session(job: Job, *configs: TrainConfig) -> None:
    """Call ``job(*configs)``, inside a Kaggle session with what a session needs, and exit.

    On Kaggle the settings that are about places and time are replaced (see ``prepare_session``).
    What goes wrong is one sentence on stderr, and the exit code is not 0; what was saved by then
    stays.
    """

    def main(args: list[str]) -> None:
        if root := session_root():
            _run_on_kaggle(root, job, configs)
        elif args:
            raise UserError(
                f"{sys.argv[0]} takes no flags. Change its settings in the file, or use "
                "python -m xraycomp.train."
            )
        else:
            job(*configs)

    run_command(main)


def session_root() -> Path | None:
    """The folder of a Kaggle session's ``input`` and ``working``; None outside of a session."""
    if "KAGGLE_KERNEL_RUN_TYPE" not in os.environ:
        return None
    return Path(os.environ.get("XRAYCOMP_KAGGLE_ROOT", "/kaggle"))


def _run_on_kaggle(root: Path, job: Job, configs: Sequence[TrainConfig]) -> None:
    working = root / "working"
    rehearsal = bool(os.environ.get("XRAYCOMP_REHEARSAL"))
    if not rehearsal:  # a rehearsal runs wherever the user is
        cuda = any(config.device.startswith("cuda") for config in configs)
        check_gpu(asked=bool(os.environ.get("XRAYCOMP_GPU")) or cuda)
    # What is unpacked or decoded is not worth keeping: outside the working folder.
    with tempfile.TemporaryDirectory(prefix="xraycomp-data-") as scratch:
        configs = [prepare_session(config, root, Path(scratch)) for config in configs]
        if rehearsal:
            images = int(os.environ.get("XRAYCOMP_REHEARSAL_IMAGES", "1000"))
            configs = [shorten(config, images) for config in configs]
        outcome = job(*configs)
    submission = outcome.path / "submission.csv"
    if submission.is_file():
        shutil.copyfile(submission, working / "submission.csv")
        log.info("Submission: %s.", working / "submission.csv")
    check_output_size(working)


def prepare_session(config: TrainConfig, root: Path, scratch: Path) -> TrainConfig:
    """``config`` as a session below ``root`` (``/kaggle``) needs it.

    The competition's files, a weight file and a table of pseudo-labels that are given by their bare
    names are looked for below ``input``; a run of the same name in the output of an attached kernel
    is copied and continued; runs and submissions go to ``working``, all else to ``scratch``; the
    time limit is what is left of the session, unless it is shorter already.

    Raises ``UserError`` for what is not attached, or attached twice.
    """
    inputs, working = root / "input", root / "working"
    data, weights, resume = config.data, config.weights, config.resume
    if not (data and data.exists()):
        data = _find_competition(config.competition, inputs)
    if Path(weights).suffix and not Path(weights).exists():
        weights = str(find_file(inputs, Path(weights).name, skip=data))
    pseudo = config.pseudo_labels
    if pseudo and not pseudo.exists():
        pseudo = find_file(inputs, pseudo.name, skip=data)
    if config.name and (earlier := find_run(inputs, config.name, skip=data)):
        resume = _copy_run(earlier, working / "runs" / config.name)
    return replace(
        config,
        data=data,
        weights=weights,
        pseudo_labels=pseudo,
        resume=resume,
        data_dir=scratch,
        runs_dir=working / "runs",
        submissions_dir=working / "submissions",
        time_limit=_time_limit(config.time_limit),
    )


def _find_competition(competition: str | None, inputs: Path) -> Path | None:
    if competition is None:
        raise UserError(
            "The kernel's settings name no competition. Write competition=... in its script."
        )
    chosen = load_competition(competition)
    if chosen.drawn and not is_attached(inputs, chosen.attached_as):
        return None  # it is drawn on the spot; a rehearsal attaches a few films to save time
    found = find_data(inputs, chosen.attached_as)
    log.info("Data of %s: %s.", chosen.slug, found)
    return found


def _copy_run(earlier: Path, destination: Path) -> Path:
    """The attached run where it can be written to."""
    shutil.copytree(earlier, destination, dirs_exist_ok=True, copy_function=shutil.copyfile)
    for path in (destination, *destination.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)  # what is attached is read-only
    log.info("Continuing the attached run %s in %s.", earlier, destination)
    return destination


def _time_limit(wanted: float | None) -> float:
    """Minutes that are left of the session, or ``wanted`` where that is less."""
    started = float(os.environ.get("XRAYCOMP_STARTED", _IMPORTED))
    left = max(0.1, SESSION_MINUTES - MARGIN_MINUTES - (time.monotonic() - started) / 60)
    return left if wanted is None else min(wanted, left)


def shorten(config: TrainConfig, images: int) -> TrainConfig:
    """``config`` for a rehearsal on ``images`` training images: one epoch of a few minutes, and at
    most two folds."""
    batch_size, accumulate = config.batch_size, config.accumulate
    folds = min(2, config.folds)
    room = images // 4 if folds else images // 2
    if batch_size * accumulate > room:  # else not one whole batch is left after the split
        batch_size, accumulate = max(2, min(batch_size, images // 4)), 1
    return replace(
        config,
        epochs=1,
        # layers:lr:epochs, parted by spaces
        stages=re.sub(r"([^\s:]+:[^\s:]+):\d+", r"\1:1", config.stages),
        codes_epochs=min(1, config.codes_epochs),
        codes_passes=min(1, config.codes_passes),
        batch_size=batch_size,
        accumulate=accumulate,
        folds=folds,
        fold=config.fold and min(1, config.fold),
        # What is rare in a whole data set would be all of the slice.
        min_count=min(config.min_count, images // 100),
        time_limit=10.0,
    )


def check_gpu(*, asked: bool) -> None:
    """Compute something on every GPU, since a GPU that is listed need not work.

    Raises ``UserError`` where ``asked`` and there is none, and where one fails.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked and not count:
        raise UserError(
            "The kernel asks for a GPU and there is none: check that the account is verified by "
            "phone and has GPU hours left (kaggle quota), and that kernel-metadata.json has "
            "enable_gpu true and machine_shape NvidiaTeslaT4."
        )
    for index in range(count):
        try:
            ones = torch.ones(64, 64, device=f"cuda:{index}")
            total = (ones @ ones).sum().item()
            torch.cuda.synchronize(index)
        except Exception as error:  # each driver fails in its own way
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserError(
                f"GPU {index} ({torch.cuda.get_device_name(index)}) does not work with PyTorch "
                f"{torch.__version__} ({reason}). Push with machine_shape NvidiaTeslaT4."
            ) from error
        if total != 64.0**3:
            raise UserError(f"GPU {index} computes wrongly ({total}). Push the kernel again.")
        log.info("GPU %d works: %s.", index, torch.cuda.get_device_name(index))


def check_output_size(working: Path, limit: int = MAX_OUTPUT_BYTES) -> None:
    """Say how large the output is. Raises ``UserError`` above ``limit`` bytes."""
    files = [path for path in working.rglob("*") if path.is_file() and not path.is_symlink()]
    total = sum(path.stat().st_size for path in files)
    log.info("%s holds %.1f MB in %d files.", working, total / 1e6, len(files))
    if total > limit:
        raise UserError(
            f"{working} holds {total / 1e9:.1f} GB and Kaggle keeps 20 GB. Write less there."
        )
