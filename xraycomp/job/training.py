"""The main job: from a configuration to a trained, judged run and a submission."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from xraycomp.console.errors import Stopped
from xraycomp.data.duplicates import count_copies
from xraycomp.data.pseudo_labels import count_pseudo_labels
from xraycomp.job.beginning import Job, begin, new_model
from xraycomp.job.finishing import finish, predict_splits
from xraycomp.job.folds import train_folds
from xraycomp.job.tracking import Tracker, check_tracker, final_figures, tracking
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model.again import resume_command
from xraycomp.model.checkpoint import load_best, resume_state
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import Deadline, deadline_in
from xraycomp.model.device import choose_device
from xraycomp.model.distributed import (
    count_processes,
    from_main,
    is_main,
    own_device,
    world_size,
)
from xraycomp.model.engine import Watch, fit
from xraycomp.model.head import fit_head
from xraycomp.model.heatmaps import map_pairs
from xraycomp.model.processes import advise, joined, launch
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)


def train(config: TrainConfig, watch: Watch | None = None, *, closer: bool = True) -> RunFolder:
    """Do the whole job that ``config`` describes and return the run folder.

    ``watch`` is shown each epoch's row of ``metrics.csv`` once its checkpoint is there, and may end
    the training by raising; it is for a lone process, and shown those of all folds in turn, where
    the job is several. ``closer`` is as in `finish`.

    In a process that torchrun has started: together with the others, see `processes.joined`. The
    main one then has the run folder; the others need no more than their machine's copy of the data.

    Raises ``UserError`` for everything that the user can mend, ``Stopped`` when interrupted.
    """
    check_tracker(config)
    if config.split_plan().all_folds:
        each = functools.partial(train, watch=watch, closer=False)
        return train_folds(config, each, closer=closer)
    deadline = deadline_in(config.time_limit)
    with joined():
        device = choose_device(config.device)
        processes = count_processes(config.devices, device, config.batch_size)
        if processes > world_size():
            run: RunFolder = launch(_train, processes, config, device, deadline, closer)
            return run
        return _train(config, device, deadline, closer, watch)


def _train(
    config: TrainConfig,
    device: torch.device,
    deadline: Deadline,
    closer: bool,
    watch: Watch | None = None,
) -> RunFolder:
    """What each of the processes does, or the lone one."""
    device = own_device(device)
    job, model = begin(config)
    config, run, dataset = job.config, job.run, job.dataset
    to_predict = len(dataset.ids("val")) + len(dataset.ids("test"))
    deadline = replace(deadline, images_after=to_predict * (1 + len(config.tta)))
    with (
        run.log() if is_main() else contextlib.nullcontext(),
        tracking(run, config, job.source.competition.slug) as tracker,
    ):
        if is_main():
            _describe(job, f"{world_size()} devices" if world_size() > 1 else str(device))
        with _resumable(run):
            whole = _fit(job, device, deadline, model, _both(tracker, watch))
        best = load_best(run, device)
        tables = predict_splits(job, best)
        if is_main():
            draw = functools.partial(map_pairs, best, dataset, config=config, desc="Explain")
            finish(job, draw, tables, closer=closer)
            tracker.final(final_figures(run))
            if whole:
                run.mark_finished()
    return run


def _both(tracker: Tracker, watch: Watch | None) -> Watch:
    """Shows a row to the tracker, and then to ``watch``, which may end the training."""

    def see(row: Mapping[str, Any]) -> None:
        tracker.epoch(row)
        if watch:
            watch(row)

    return see


def _describe(job: Job, where: str) -> None:
    counts = job.dataset.manifest["split"].value_counts()
    parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    log.info("%s: %s.", job.source.competition.title, parts)
    log.info(count_copies(job.run.duplicates()))
    pseudo = count_pseudo_labels(job.dataset.manifest, job.dataset.classes)[""]
    log.info(
        "Training %s on %s images%s of %d px on %s, judged on %s.",
        job.config.arch,
        f"{len(job.dataset.learned()):,}",
        f" ({pseudo:,} of them pseudo-labelled)" if pseudo else "",
        job.config.image_size,
        where,
        f"{len(job.dataset.ids('val')):,}",
    )


@contextlib.contextmanager
def _resumable(run: RunFolder) -> Iterator[None]:
    """Say how to go on where training is stopped, or one of its processes dies."""
    again = f"Go on with: {resume_command(run)}"
    advise(again)
    try:
        yield
    except Stopped as stopped:
        raise Stopped(f"{stopped} {again}", stopped.signal_number) from None


def _fit(
    job: Job,
    device: torch.device,
    deadline: Deadline,
    model: GrayModel | None,
    watch: Watch | None,
) -> bool:
    """Train from where the run is: from its checkpoint, or from a new ``model``; whether to the
    end."""
    config, run, competition = job.config, job.run, job.source.competition
    train_set, val_set = job.dataset.learned(), job.dataset.split("val")
    score = functools.partial(epoch_scores, multilabel=competition.multilabel)
    if config.codes_epochs and not from_main(run.checkpoint.is_file):
        model = model or new_model(config, competition)
        fit_head(model, job.dataset, config, run, score, device, deadline)
    if from_main(run.checkpoint.is_file):
        state = resume_state(run, config, len(train_set), device)
        epoch, step = state.epoch + 1, state.progress.step
        log.info("Continuing %s at epoch %d, step %d.", run.checkpoint, epoch, step)
    else:
        model = model or new_model(config, competition)
        state = start_state(model, len(train_set), config, device)
    whole = fit(state, train_set, val_set, config, run, score, deadline, watch)
    if not whole:
        log.info("Go on later with: %s", resume_command(run))
    return whole
