"""python -m xraycomp.train: from a competition's files to a judged run and a submission."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.help import HELP_FLAGS, Help
from xraycomp.data.competition import Competition
from xraycomp.data.dataset import Dataset, load_dataset
from xraycomp.data.duplicates import copy_groups, count_copies, describe_copies, find_copies
from xraycomp.data.features import measure_images
from xraycomp.data.files import write_csv, write_text
from xraycomp.data.findings import choose_findings
from xraycomp.data.manifest import build_manifest
from xraycomp.data.predictions import labelled_rows
from xraycomp.data.source import Source, choose_competition, has_files, open_source
from xraycomp.data.split import split_manifest
from xraycomp.data.submission import expected_ids, write_submission
from xraycomp.judging.closer import look_closer
from xraycomp.judging.metrics import PHANTOMS, epoch_scores
from xraycomp.judging.results import write_results
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Criterion, Thresholds
from xraycomp.model.checkpoint import load_best, resume_state
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import Deadline, deadline_in
from xraycomp.model.device import choose_device
from xraycomp.model.distributed import (
    broadcast,
    count_processes,
    first_on_its_machine,
    from_main,
    is_main,
    own_device,
    world_size,
)
from xraycomp.model.engine import fit
from xraycomp.model.environment import describe_environment
from xraycomp.model.head import fit_head
from xraycomp.model.inference import predict_split
from xraycomp.model.processes import advise, joined, launch
from xraycomp.model.recipes import RECIPES
from xraycomp.model.run import RunFolder, check_free, default_name
from xraycomp.model.state import check_trainable, count_steps, start_state
from xraycomp.model.stem import GrayModel
from xraycomp.model.zoo import build_model
from xraycomp.remote.client import connect
from xraycomp.remote.credentials import winning_credential
from xraycomp.remote.download import download

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
        "Best epoch and thresholds": "monitor patience threshold_criterion",
        "Images and augmentation": "resize_size start_size random_crop flip rotation scale shift "
        "brightness contrast erasing mixup tta",
        "Split": "test_fraction val_fraction folds fold keep_duplicates_together",
        "Data": "no_finding_class drop_no_finding min_count skip_broken",
        "Machine": "device workers shuffle_block",
        "Folders": "data_dir runs_dir submissions_dir",
    },
)


@dataclass(frozen=True)
class Job:
    """What one call of `train` works on."""

    config: TrainConfig
    run: RunFolder
    source: Source
    dataset: Dataset


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
    job, model = _start(config)
    config, run, dataset = job.config, job.run, job.dataset
    to_predict = len(dataset.ids("val")) + len(dataset.ids("test"))
    deadline = replace(deadline, images_after=to_predict * (1 + config.tta))
    with run.log() if is_main() else contextlib.nullcontext():
        if is_main():
            _describe(job, f"{world_size()} devices" if world_size() > 1 else str(device))
        with _resumable(run):
            _fit(job, device, deadline, model)
        tables = _predict(job, device)
        if is_main():
            _finish(job, tables)
    return run


def _start(config: TrainConfig) -> tuple[Job, GrayModel | None]:
    """The run to go on with, or a new one and its network: as the main process has it.

    The others learn from it all but where their machine has the data, which ``config`` says.
    """
    job, model = None, None
    if is_main():
        job, model = (_reopen(config, config.resume), None) if config.resume else _begin(config)
    job = cast(Job, broadcast(job))
    with first_on_its_machine():
        return job if is_main() else _follow(job, config), model


def _follow(main: Job, config: TrainConfig) -> Job:
    """The main process's run, with the images that this machine has."""
    here = replace(main.config, data=config.data, data_dir=config.data_dir, workers=config.workers)
    job = _open(here, main.run, main.source.competition, main.dataset.manifest)
    # Named after what the files hold.
    if job.dataset.cache.folder.name != main.dataset.cache.folder.name:
        raise UserError(
            f"The images in {job.source.root} are not those of the main process's machine. Give "
            "every machine the same data."
        )
    return job


def _reopen(config: TrainConfig, path: Path) -> Job:
    """The run at ``path``, to go on with."""
    run = RunFolder.open(path)
    config.check_resumed(run.config(), str(path))
    return _open(config, run, run.competition(), run.manifest())


def _open(
    config: TrainConfig, run: RunFolder, competition: Competition, manifest: pd.DataFrame
) -> Job:
    """A run that has begun, with the images of its manifest as they lie here."""
    _fetch_missing(competition, config)
    source = open_source(competition, config.data, config.data_dir)
    return Job(config, run, source, _load(manifest, source, config))


def _begin(config: TrainConfig) -> tuple[Job, GrayModel]:
    """From nothing to a run folder that holds what the run starts from, and a new network.

    Whatever may be wrong with the settings shows before the folder is made, and what can, before
    the images are decoded, which takes long.
    """
    competition = choose_competition(config.competition, config.data, config.data_dir)
    if competition and config.competition is None:
        config = replace(config, competition=competition.slug)
        log.info(_why(competition, config))
    if competition:
        _fetch_missing(competition, config)
    source = open_source(competition, config.data, config.data_dir)
    path = config.runs_dir / (config.name or default_name(source.competition, config))
    check_free(path, overwrite=config.overwrite)
    competition, manifest = choose_findings(
        source.competition,
        build_manifest(source.competition, source.root),
        no_finding_class=config.no_finding_class,
        drop_no_finding=config.drop_no_finding,
        min_count=config.min_count,
    )
    source = replace(source, competition=competition)
    model = _new_model(config, competition)
    check_trainable(model, config)
    dataset = _load(manifest, source, config)
    copies = find_copies(dataset.cache)
    groups = copy_groups(copies, len(dataset.manifest)) if config.keep_duplicates_together else None
    split = split_manifest(
        dataset.manifest, competition.classes, config.split_plan(), same_side=groups
    )
    dataset = replace(dataset, manifest=dataset.manifest.assign(split=split))
    count_steps(len(dataset.ids("train")), config)
    duplicates = describe_copies(copies, dataset.manifest)
    run = RunFolder.create(
        path, config, competition, dataset.manifest, duplicates, describe_environment()
    )
    return Job(config, run, source, dataset), model


def _why(competition: Competition, config: TrainConfig) -> str:
    """Why it is this competition, where the user has named none."""
    if not competition.drawn:
        where = config.data or f"in {config.data_dir}/"
        return f"{competition.slug} ({where}) is a built-in competition: its class order is used."
    using = f"using the embedded {competition.slug} competition ({PHANTOMS})."
    if credential := winning_credential():
        return (
            f"No competition in {config.data_dir}/: {using} Kaggle credentials are there "
            f"({credential.source}), so --competition acse4-ml-2020 would download the real one."
        )
    return f"No competition in {config.data_dir}/ and no Kaggle credentials: {using}"


def _fetch_missing(competition: Competition, config: TrainConfig) -> None:
    """Download the competition's files where they are not here and credentials are."""
    on_kaggle = competition.dataset or competition.source == "competition"
    absent = config.data is None and not has_files(competition, config.data_dir)
    if on_kaggle and absent and winning_credential():
        path = config.data_dir / f"{competition.slug}.zip"
        with connect() as kaggle:
            download(kaggle, competition.attached_as, path)


def _load(manifest: pd.DataFrame, source: Source, config: TrainConfig) -> Dataset:
    return load_dataset(
        manifest,
        source,
        config.cache_size,
        workers=config.workers,
        skip_broken=config.skip_broken,
        read_ahead=config.shuffle_block,
    )


def _new_model(config: TrainConfig, competition: Competition) -> GrayModel:
    torch.manual_seed(config.seed)  # for the weights that are drawn
    return build_model(config, competition)


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
        model = model or _new_model(config, competition)
        fit_head(model, job.dataset, config, run, score, device, deadline)
    if from_main(run.checkpoint.is_file):
        state = resume_state(run, config, len(train_set), device)
        epoch, step = state.epoch + 1, state.progress.step
        log.info("Continuing %s at epoch %d, step %d.", run.checkpoint, epoch, step)
    else:
        model = model or _new_model(config, competition)
        state = start_state(model, len(train_set), config, device)
    whole = fit(state, train_set, val_set, config, run, score, deadline)
    if not whole:
        log.info("Go on later with: %s --resume %s", PROG, run.path)


def _predict(job: Job, device: torch.device) -> dict[str, pd.DataFrame]:
    """The best weights' probability table of each split that is not empty."""
    model, splits = load_best(job.run, device), [s for s in ("val", "test") if job.dataset.ids(s)]
    return {
        split: predict_split(model, job.dataset, split, job.config, tta=job.config.tta)
        for split in splits
    }


def _finish(job: Job, tables: dict[str, pd.DataFrame]) -> None:
    """Keep the predictions, judge what is labelled, submit the test set."""
    config, run, dataset = job.config, job.run, job.dataset
    competition = job.source.competition
    measured = measure_images(dataset, job.source.root, config.workers)
    write_csv(run.features_path, measured)
    files = ["config.json", "features.csv"]
    thresholds: Thresholds | Criterion | None = config.threshold_criterion
    for split, table in tables.items():
        write_csv(run.predictions_path(split), table)
        files.append(f"predictions/{split}.csv")
        targets, probs = labelled_rows(dataset.manifest, split, table, competition.classes)
        if not len(targets):
            continue
        folder = run.path if split == "val" else run.path / split
        judged_on = config.split_plan().describe(split, dataset.manifest)
        results = write_results(
            folder, competition, targets, probs, judged_on, thresholds=thresholds
        )
        thresholds = results.thresholds  # the test split is called as validation has chosen
        log.info("\n%s: %s\n\n%s\n", competition.slug, judged_on, format_table(results.report))
        closer = look_closer(
            folder, dataset, job.source, split, (targets, probs), measured, results
        )
        names = [*results.files, *closer]
        files += [(folder / name).relative_to(run.path).as_posix() for name in names]
    if competition.submission:
        ids = expected_ids(competition, job.source.root)
        own, submission = run.path / "submission.csv", config.submissions_dir / f"{run.name}.csv"
        write_submission(own, competition, tables["test"], ids)
        write_text(submission, own.read_text(encoding="utf-8"))
        files.append("submission.csv")
        log.info("Checked submission of %s rows: %s", f"{len(ids):,}", submission)
    if competition.drawn:
        log.info("These results are for %s.", PHANTOMS)
    log.info("Wrote %s: %s.", run.path, ", ".join(files))


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
