"""A run of all folds: each trained by itself, then judged as one by what none of them has learned.

The folds are ordinary runs in the folder of the whole. For whatever reads the whole, its validation
split are all images of the folds, each predicted by the network that has not learned it; of other
images it gives the mean of its networks.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import listing
from xraycomp.data.duplicates import copy_groups, describe_copies, read_copies
from xraycomp.data.files import write_csv
from xraycomp.data.folds import fold_manifest
from xraycomp.job.beginning import Job, begin
from xraycomp.job.finishing import finish
from xraycomp.job.held_out import draw_held_out, join_tables, load_networks
from xraycomp.model.again import resume_command
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import share_out
from xraycomp.model.device import choose_device
from xraycomp.model.distributed import from_main, is_main, own_device
from xraycomp.model.environment import describe_environment
from xraycomp.model.processes import joined
from xraycomp.model.run import RunFolder
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)

_SUMMED = ["seconds", "data_seconds"]


def train_folds(
    config: TrainConfig, train: Callable[[TrainConfig], RunFolder], *, closer: bool
) -> RunFolder:
    """Train each fold that is not finished with ``train``, then judge and submit all as one run.

    A time limit is shared out evenly among the folds. Called with ``config.resume``, it goes on
    where it was stopped, and lays out folds that are missing.

    Raises ``UserError`` and ``Stopped`` as training one does.
    """
    began = time.monotonic()
    with joined():
        job, _ = begin(config)
        run = job.run
        with run.log() if is_main() else contextlib.nullcontext():
            folds = from_main(lambda: _lay_out(run, job.config))
            waiting = from_main(lambda: [n for n, fold in folds.items() if not fold.finished])
            done = len(folds) - len(waiting)
            log.info("%s of %s folds are done.", done or "None", len(folds))
            for number, minutes in zip(waiting, _share(config, began, len(waiting)), strict=True):
                log.info("\nFold %s of %s (from 0): %s", number, len(folds), folds[number].path)
                train(_settings(folds[number], job.config, minutes))
            networks = load_networks(folds) if closer else {}
            if is_main():
                _finish(job, folds, networks, closer=closer)
    return run


def _share(config: TrainConfig, began: float, jobs: int) -> Iterator[float | None]:
    """The minutes for each of the folds to come."""
    limit = config.time_limit
    left = None if limit is None else max(0.1, limit - (time.monotonic() - began) / 60)
    return share_out(left, jobs)


def _settings(fold: RunFolder, config: TrainConfig, minutes: float | None) -> TrainConfig:
    """The settings with which a fold of a run of these settings is begun or gone on with: its own,
    and what may be otherwise as the whole has it."""
    saved = from_main(fold.config)
    return replace(
        saved,
        resume=fold.path,
        weights=config.weights,
        data=config.data,
        data_dir=config.data_dir,
        device=config.device,
        devices=config.devices,
        workers=config.workers,
        track=config.track,
        time_limit=minutes,
    )


def _lay_out(run: RunFolder, config: TrainConfig) -> dict[int, RunFolder]:
    """The runs of all folds, those that are missing made of what the whole holds."""
    competition, manifest, found = run.competition(), run.manifest(), run.folds()
    copies = read_copies(run.duplicates(), manifest)
    groups = copy_groups(copies, len(manifest))
    for number in sorted(set(range(config.folds)) - set(found)):
        path = run.fold_path(number)
        own = fold_manifest(manifest, number, groups)
        settings = replace(
            config,
            fold=number,
            name=path.name,
            resume=None,
            overwrite=False,
            runs_dir=run.path,
            submissions_dir=run.path / "submissions",
        )
        found[number] = RunFolder.create(
            path, settings, competition, own, describe_copies(copies, own), describe_environment()
        )
    return dict(sorted(found.items()))


def _finish(
    job: Job,
    folds: Mapping[int, RunFolder],
    networks: Mapping[int, GrayModel],
    *,
    closer: bool,
) -> None:
    """Judge, explain and submit the folds as one run, which is finished if they all are."""
    run, manifest = job.run, job.dataset.manifest
    splits = [split for split in ("val", "test") if job.dataset.ids(split)]
    log.info("\nAll folds as one run:")
    tables = {
        split: join_tables(
            folds,
            {number: fold.predictions(split) for number, fold in folds.items()},
            manifest,
            split,
        )
        for split in splits
    }
    for part in (".", "head"):
        write_mean_course(run.path / part, [fold.path / part for fold in folds.values()])
    device = own_device(choose_device(job.config.device))
    draw = draw_held_out(networks, job.dataset, job.config, device)
    finish(job, draw, tables, closer=closer)
    if unfinished := [f"{number}" for number, fold in folds.items() if not fold.finished]:
        log.info(
            "Not trained to the end: fold %s. Go on with: %s",
            listing(unfinished, len(folds)),
            resume_command(run),
        )
    else:
        run.mark_finished()


def write_mean_course(folder: Path, folds: list[Path]) -> None:
    """Write ``metrics.csv`` of the whole: each epoch's mean over the folds, their seconds added up.

    Only epochs that all folds have been through are there.
    """
    if not all((fold / "metrics.csv").is_file() for fold in folds):
        return
    courses = pd.concat([RunFolder(fold).epochs() for fold in folds])
    epochs = courses.groupby("epoch")
    course = epochs.mean().assign(**{name: epochs[name].sum() for name in _SUMMED})
    course = course[epochs.size() == len(folds)]
    course["stage"] = epochs["stage"].max()
    write_csv(folder / "metrics.csv", course.reset_index()[list(courses)])
