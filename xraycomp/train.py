"""python -m xraycomp.train: from a competition's files to a judged run and a submission."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import Stopped
from xraycomp.console.help import HELP_FLAGS, Help
from xraycomp.data.duplicates import count_copies
from xraycomp.data.source import choose_competition
from xraycomp.job.beginning import Job, begin, new_model
from xraycomp.job.finishing import finish, predict_splits
from xraycomp.judging.metrics import epoch_scores
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
from xraycomp.model.engine import fit
from xraycomp.model.head import fit_head
from xraycomp.model.processes import advise, joined, launch
from xraycomp.model.recipes import RECIPES
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.stem import GrayModel

log = logging.getLogger("xraycomp.train")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.train"
HELP = Help(
    examples=(
        "--data chest-xray-4.zip",
        "--competition nih-chest-xrays --data nih.zip --split-by official",
        "--competition chest-xray-4 --help   # with the defaults of its recipe",
    ),
    first=(
        "competition data name resume overwrite recipe arch weights image_size epochs batch_size "
        "lr loss stages split_by seed devices time_limit"
    ),
    groups={
        "Network": "pool head",
        "Feature codes": "codes_epochs codes_passes",
        "Optimization": "optimizer momentum weight_decay schedule warmup_epochs accumulate "
        "clip_grad ema_decay",
        "Loss": "gamma alpha gamma_neg gamma_pos margin max_weight label_smoothing",
        "Rare classes": "weighted_sampling class_weights",
        "Best epoch and thresholds": "monitor patience threshold_criterion sensitivity",
        "Images and augmentation": "resize_size start_size random_crop flip rotation scale shift "
        "brightness contrast erasing mixup tta",
        "Split": "test_fraction val_fraction folds fold keep_duplicates_together",
        "Data": "no_finding_class drop_no_finding min_count skip_broken",
        "Machine": "device workers shuffle_block",
        "Folders": "data_dir runs_dir submissions_dir",
    },
)


def train(config: TrainConfig) -> RunFolder:
    """Do the whole job that ``config`` describes and return the run folder.

    In a process that torchrun has started: together with the others, see `processes.joined`. The
    main one then has the run folder; the others need no more than their machine's copy of the data.

    Raises ``UserError`` for everything that the user can mend, ``Stopped`` when interrupted.
    """
    deadline = deadline_in(config.time_limit)
    with joined():
        device = choose_device(config.device)
        processes = count_processes(config.devices, device, config.batch_size)
        if processes > world_size():
            run: RunFolder = launch(_train, processes, config, device, deadline)
            return run
        return _train(config, device, deadline)


def _train(config: TrainConfig, device: torch.device, deadline: Deadline) -> RunFolder:
    """What each of the processes does, or the lone one."""
    device = own_device(device)
    job, model = begin(config)
    config, run, dataset = job.config, job.run, job.dataset
    to_predict = len(dataset.ids("val")) + len(dataset.ids("test"))
    deadline = replace(deadline, images_after=to_predict * (1 + config.tta))
    with run.log() if is_main() else contextlib.nullcontext():
        if is_main():
            _describe(job, f"{world_size()} devices" if world_size() > 1 else str(device))
        with _resumable(run):
            _fit(job, device, deadline, model)
        best = load_best(run, device)
        tables = predict_splits(job, best)
        if is_main():
            finish(job, best, tables)
    return run


def _describe(job: Job, where: str) -> None:
    counts = job.dataset.manifest["split"].value_counts()
    parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    log.info("%s: %s.", job.source.competition.title, parts)
    log.info(count_copies(job.run.duplicates()))
    log.info(
        "Training %s on %s images of %d px on %s, judged on %s.",
        job.config.arch,
        f"{len(job.dataset.ids('train')):,}",
        job.config.image_size,
        where,
        f"{len(job.dataset.ids('val')):,}",
    )


@contextlib.contextmanager
def _resumable(run: RunFolder) -> Iterator[None]:
    """Say how to go on where training is stopped, or one of its processes dies."""
    again = f"Go on with: {PROG} --resume {run.path}"
    advise(again)
    try:
        yield
    except Stopped as stopped:
        raise Stopped(f"{stopped} {again}", stopped.signal_number) from None


def _fit(job: Job, device: torch.device, deadline: Deadline, model: GrayModel | None) -> None:
    """Train from where the run is: from its checkpoint, or from a new ``model``."""
    config, run, competition = job.config, job.run, job.source.competition
    train_set, val_set = job.dataset.split("train"), job.dataset.split("val")
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
    whole = fit(state, train_set, val_set, config, run, score, deadline)
    if not whole:
        log.info("Go on later with: %s --resume %s", PROG, run.path)


def main(args: Sequence[str]) -> None:
    """Read the flags over what they start from, which some of them name, and train."""
    # A recipe's defaults are for --help to show too, so it is answered once that is known.
    given = [arg for arg in args if arg not in HELP_FLAGS]
    with joined():
        default = from_main(lambda: _defaults(given)) if given or not args else None
        train(parse_flags(TrainConfig, args, prog=PROG, help=HELP, default=default))


class _Unchecked(TrainConfig):
    """Flags that are still without the settings that they start from and have to fit."""

    def __post_init__(self) -> None:
        pass


def _defaults(given: Sequence[str]) -> TrainConfig:
    """A resumed run's own settings, or the recipe of the competition and over it the named one."""
    config = parse_flags(_Unchecked, given, prog=PROG, help=HELP)
    if config.resume:
        # How many devices there are is not the run's, but the machine's.
        saved = RunFolder.open(config.resume).config()
        return replace(saved, time_limit=None, devices=None)
    competition = choose_competition(config.competition, config.data, config.data_dir)
    own = competition.recipe if competition else {}
    where = competition.slug if competition else "the recipe"
    return TrainConfig.from_recipe({**own, **RECIPES[config.recipe]}, where)


if __name__ == "__main__":
    run_command(main)
