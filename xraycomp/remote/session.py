"""A run inside a Kaggle session: where things lie, how long it may take, what is left behind."""

import dataclasses
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from xraycomp.console.command import run_command
from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.remote.mounts import find_data, find_file, find_run, is_attached

log = logging.getLogger(__name__)

Config = TypeVar("Config", bound=Any)

SESSION_MINUTES = 12 * 60.0
MARGIN_MINUTES = 20.0
"""Kept back for the start of the machine and for saving the output."""
MAX_OUTPUT_BYTES = 19_500_000_000
"""Kaggle keeps 20 GB of output."""
MAY_DIFFER = {"resume", "overwrite", "time_limit", "device", "devices", "workers"}
"""What a continued run may have otherwise than when it began; places are another matter."""
_PLACES = {"data", "data_dir", "runs_dir", "submissions_dir"}
_BY_NAME = {"weights", "competition"}  # may be paths, whose folder differs from session to session

_IMPORTED = time.monotonic()


class Run(Protocol):
    """What a training function returns."""

    @property
    def path(self) -> Path:
        """The run folder."""


def run_session(train: Callable[[Config], Run], config: Config) -> None:
    """Call ``train(config)``, inside a Kaggle session with what a session needs, and exit.

    ``config`` is a frozen dataclass such as the training configuration; on Kaggle those of its
    fields that are about places and time are replaced (see ``prepare_session``). What goes wrong
    is one sentence on stderr, and the exit code is not 0; what was saved by then stays.
    """

    def main(args: list[str]) -> None:
        if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
            _run_on_kaggle(train, config)
        elif args:
            raise UserError(
                f"{sys.argv[0]} takes no flags. Change its settings in the file, or use "
                "python -m xraycomp.train."
            )
        else:
            train(config)

    run_command(main)


def _run_on_kaggle(train: Callable[[Config], Run], config: Config) -> None:
    root = Path(os.environ.get("XRAYCOMP_KAGGLE_ROOT", "/kaggle"))
    working = root / "working"
    rehearsal = bool(os.environ.get("XRAYCOMP_REHEARSAL"))
    if not rehearsal:  # a rehearsal runs wherever the user is
        check_gpu(asked=_asks_for_gpu(config))
    # What is unpacked or decoded is not worth keeping: outside the working folder.
    with tempfile.TemporaryDirectory(prefix="xraycomp-data-") as scratch:
        config = prepare_session(config, root, Path(scratch))
        if rehearsal:
            config = shorten(config, int(os.environ.get("XRAYCOMP_REHEARSAL_IMAGES", "1000")))
        run = train(config)
    submission = run.path / "submission.csv"
    if submission.is_file():
        shutil.copyfile(submission, working / "submission.csv")
        log.info("Submission: %s.", working / "submission.csv")
    check_output_size(working)


def prepare_session(config: Config, root: Path, scratch: Path) -> Config:
    """``config`` as a session below ``root`` (``/kaggle``) needs it.

    The competition's files and a weight file that is given by its bare name are looked for below
    ``input``; a run of the same name in the output of an attached kernel is copied and continued;
    runs and submissions go to ``working``, all else to ``scratch``; the time limit is what is left
    of the session, unless it is shorter already.

    Raises ``UserError`` for what is not attached, or attached twice, and for a run that was begun
    with other settings.
    """
    has = {field.name for field in dataclasses.fields(config)}
    inputs, working = root / "input", root / "working"
    changes: dict[str, Any] = {
        "data_dir": scratch,
        "runs_dir": working / "runs",
        "submissions_dir": working / "submissions",
        "time_limit": _time_limit(getattr(config, "time_limit", None)),
    }
    data = getattr(config, "data", None)
    if {"competition", "data"} <= has and not (data and data.exists()):
        data = changes["data"] = _find_competition(config.competition, inputs)
    weights = getattr(config, "weights", None)
    if weights and Path(weights).suffix and not Path(weights).exists():
        changes["weights"] = str(find_file(inputs, Path(weights).name, skip=data))
    if "resume" in has and getattr(config, "name", None):
        earlier = find_run(inputs, config.name, skip=data)
        if earlier:
            changes["resume"] = _continue_run(config, earlier, working / "runs" / config.name)
    return dataclasses.replace(config, **{key: changes[key] for key in changes.keys() & has})


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


def _continue_run(config: Any, earlier: Path, destination: Path) -> Path:
    try:
        saved = json.loads((earlier / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{earlier} has no readable config.json, so it cannot be continued ({error}). Detach "
            "that kernel's output, or give this run another name."
        ) from error
    given = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    for name, new in given.items():
        if name in MAY_DIFFER | _PLACES or name not in saved:
            continue
        old = saved[name]
        if name in _BY_NAME and isinstance(old, str) and isinstance(new, str):
            old, new = Path(old).name, Path(new).name
        if old != new:
            raise UserError(
                f"The attached run {earlier} was started with {name} {old} and cannot go on with "
                f"{new}. Restore that setting, or give this run another name."
            )
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


def shorten(config: Config, images: int) -> Config:
    """``config`` for a rehearsal on ``images`` training images: one epoch of a few minutes."""
    has = {field.name for field in dataclasses.fields(config)}
    changes: dict[str, Any] = {"epochs": 1, "time_limit": 10.0}
    if stages := getattr(config, "stages", ""):  # layers:lr:epochs, parted by spaces
        changes["stages"] = re.sub(r"([^\s:]+:[^\s:]+):\d+", r"\1:1", stages)
    for name in ("codes_epochs", "codes_passes"):
        changes[name] = min(1, getattr(config, name, 0))
    per_step = getattr(config, "batch_size", 1) * getattr(config, "accumulate", 1)
    if per_step > images // 2:  # else not one whole batch is left after the split
        changes |= {"accumulate": 1, "batch_size": max(2, min(config.batch_size, images // 4))}
    return dataclasses.replace(config, **{key: changes[key] for key in changes.keys() & has})


def _asks_for_gpu(config: Any) -> bool:
    device = str(getattr(config, "device", ""))
    return bool(os.environ.get("XRAYCOMP_GPU")) or device.startswith("cuda")


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
