"""python -m xraycomp.train: from a competition's files to a judged run and a submission."""

import contextlib
import dataclasses
import functools
import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.dataset import Dataset, load_dataset
from xraycomp.data.duplicates import copy_groups, count_copies, describe_copies, find_copies
from xraycomp.data.files import write_csv
from xraycomp.data.findings import choose_findings
from xraycomp.data.manifest import build_manifest
from xraycomp.data.predictions import probability_table
from xraycomp.data.source import (
    DEFAULT_DRAWN,
    Source,
    choose_competition,
    has_files,
    open_source,
)
from xraycomp.data.split import split_manifest
from xraycomp.data.submission import expected_ids, write_submission
from xraycomp.model.body import count_codes
from xraycomp.model.codes import fit_head
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import count_processes, is_main
from xraycomp.model.engine import fit
from xraycomp.model.inference import choose_device, load_best, predict_probs
from xraycomp.model.losses import check_losses
from xraycomp.model.processes import DeadProcessError, launch
from xraycomp.model.run import RunFolder, default_name, read_checkpoint
from xraycomp.model.state import TrainState, restore_state, start_state
from xraycomp.model.stem import GrayModel, activation_for
from xraycomp.model.zoo import check_input_size, create_model
from xraycomp.remote.client import connect
from xraycomp.remote.credentials import winning_credential
from xraycomp.remote.download import download
from xraycomp.report.metrics import epoch_scores
from xraycomp.report.results import (
    PHANTOMS,
    THRESHOLDS,
    keep_thresholds,
    result_files,
    write_results,
)
from xraycomp.report.table import format_table

log = logging.getLogger("xraycomp.train")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.train"
RESUMABLE = {"time_limit", "device", "devices", "workers"}


def train(config: TrainConfig) -> RunFolder:
    """Do the whole job that ``config`` describes and return the run folder.

    Raises ``UserError`` for everything that the user can mend, ``Stopped`` when interrupted.
    """
    deadline = None if config.time_limit is None else time.monotonic() + 60 * config.time_limit
    device = choose_device(config.device)
    processes = count_processes(config.devices, device, config.batch_size)
    # Several processes each make a state of their own; here it is only seen that it can be made.
    state_device = device if processes == 1 else torch.device("cpu")
    name = choose_competition(config.competition, config.data, config.data_dir)
    if config.competition is None and config.data is None and name == DEFAULT_DRAWN:
        log.info(_why_drawn(config))
    config = dataclasses.replace(config, competition=name)
    if name and config.data is None:
        _fetch_missing(name, config)
    source = open_source(name, config.data, config.data_dir)
    check_losses(config, activation_for(multilabel=source.competition.multilabel))
    if config.resume:
        run = RunFolder.open(config.resume)
        # Which findings are classes is for the run's settings to say.
        source = dataclasses.replace(source, competition=run.competition())
        competition = source.competition
        model, saved = _create(config, run, competition.classes, competition.multilabel)
        dataset = _load(run.manifest(), source, config)
        duplicates = None
        state = _start(model, saved, config, run, dataset, state_device)
        if run.checkpoint.is_file():
            epoch, step = state.epoch + 1, state.progress.step
            log.info("Continuing %s at epoch %d, step %d.", run.checkpoint, epoch, step)
    else:
        run_name = config.name or default_name(source.competition, config)
        run = RunFolder.create(config.runs_dir / run_name, overwrite=config.overwrite)
        try:
            source, manifest = _list(source, config)
            competition = source.competition
            # First, since this is where an unknown architecture shows; decoding takes long.
            model, _ = _create(config, run, competition.classes, competition.multilabel, anew=True)
            dataset, duplicates = _prepare(source, manifest, config)
            state = _start(model, None, config, run, dataset, state_device)
        except BaseException:
            with contextlib.suppress(OSError):
                run.path.rmdir()  # only if nothing is in it
            raise
        try:
            run.write_setup(config, source.competition, dataset.manifest, duplicates)
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)  # half a setup is no run
            raise
    handler = run.log_to_file()
    try:
        if duplicates is not None:
            counts = dataset.manifest["split"].value_counts()
            parts = ", ".join(f"{count:,} {split}" for split, count in counts.items())
            log.info("%s: %s.", source.competition.title, parts)
            log.info(count_copies(duplicates))
        log.info(
            "Training %s on %s images of %d px on %s, judged on %s.",
            config.arch,
            f"{len(dataset.split('train')):,}",
            config.image_size,
            next(state.model.parameters()).device if processes == 1 else f"{processes} devices",
            f"{len(dataset.split('val')):,}",
        )
        if config.codes_epochs and not run.checkpoint.is_file():
            train_set, val_set = dataset.split("train"), dataset.split("val")
            score = functools.partial(epoch_scores, multilabel=run.competition().multilabel)
            fit_head(
                state,
                train_set,
                val_set,
                dataset.cache,
                dataset.classes,
                config,
                run,
                score,
                device,
                deadline=deadline,
            )
        if processes == 1:
            _fit(state, config, run, dataset, deadline)
        else:
            with _resume_named(run):
                launch(_fit_share, processes, device.type, config, run, dataset, deadline)
        _finish(config, run, source, dataset, device)
    finally:
        logging.getLogger("xraycomp").removeHandler(handler)
        handler.close()
    return run


def _fetch_missing(name: str, config: TrainConfig) -> None:
    """Download the competition's files where they are not here and credentials are."""
    competition = load_competition(name)
    on_kaggle = competition.dataset or competition.source == "competition"
    if on_kaggle and not has_files(competition, config.data_dir) and winning_credential():
        path = config.data_dir / f"{competition.slug}.zip"
        with connect() as kaggle:
            download(kaggle, competition.attached_as, path)


def _why_drawn(config: TrainConfig) -> str:
    if credential := winning_credential():
        return (
            f"No competition in {config.data_dir}/: using the embedded {DEFAULT_DRAWN} competition "
            f"({PHANTOMS}). Kaggle credentials are there ({credential.source}), so --competition "
            "acse4-ml-2020 would download the real one."
        )
    return (
        f"No competition in {config.data_dir}/ and no Kaggle credentials: using the embedded "
        f"{DEFAULT_DRAWN} competition ({PHANTOMS})."
    )


def _load(manifest: pd.DataFrame, source: Source, config: TrainConfig) -> Dataset:
    return load_dataset(
        manifest,
        source.root,
        source.competition.classes,
        config.data_dir / source.competition.slug / "cache",
        config.cache_size,
        workers=config.workers,
        skip_broken=config.skip_broken,
    )


def _list(source: Source, config: TrainConfig) -> tuple[Source, pd.DataFrame]:
    """List the images and choose the findings: the source with the classes that are left."""
    competition = source.competition
    manifest = build_manifest(competition, source.root)
    competition, manifest = choose_findings(
        competition,
        manifest,
        no_finding_class=config.no_finding_class,
        drop_no_finding=config.drop_no_finding,
        min_count=config.min_count,
    )
    return dataclasses.replace(source, competition=competition), manifest


def _prepare(
    source: Source, manifest: pd.DataFrame, config: TrainConfig
) -> tuple[Dataset, pd.DataFrame]:
    """Decode, look for copies, split. Returns the data and the table of copies."""
    competition = source.competition
    dataset = _load(manifest, source, config)
    copies = find_copies(dataset.cache)
    groups = copy_groups(copies, len(dataset.manifest)) if config.keep_duplicates_together else None
    split = split_manifest(
        dataset.manifest,
        competition.classes,
        config.split_plan,
        same_side=groups,
    )
    manifest = dataset.manifest.assign(split=split)
    described = describe_copies(copies, manifest)
    return dataclasses.replace(dataset, manifest=manifest), described


def _create(
    config: TrainConfig,
    run: RunFolder,
    classes: tuple[str, ...],
    multilabel: bool,
    *,
    anew: bool = False,
) -> tuple[GrayModel, dict[str, Any] | None]:
    """The network, seen to take images of this size, and the checkpoint of ``run`` that it is from;
    ``anew``, or where the run was stopped before its first checkpoint, a new network and None."""
    torch.manual_seed(config.seed)
    saved = None if anew or not run.checkpoint.is_file() else read_checkpoint(run.checkpoint)
    weights = str(run.checkpoint) if saved else config.weights
    model = create_model(config.arch, len(classes), weights, pool=config.pool, hidden=config.head)
    model.activation = activation_for(multilabel=multilabel)
    if config.codes_epochs:
        count_codes(model.body, model.parts, model.arch)
    check_input_size(model, config.image_size)
    return model, saved


def _start(
    model: GrayModel,
    saved: dict[str, Any] | None,
    config: TrainConfig,
    run: RunFolder,
    dataset: Dataset,
    device: torch.device,
) -> TrainState:
    """``model`` and what trains it: new, or as the checkpoint ``saved`` of ``run`` has it."""
    stage = saved.get("stage", 0) if saved else 0
    state = start_state(model, len(dataset.split("train")), config, device, stage)
    if saved:
        restore_state(state, saved, str(run.checkpoint))
    return state


@contextlib.contextmanager
def _resume_named(run: RunFolder) -> Iterator[None]:
    """Say how to go on where one of several processes dies."""
    try:
        yield
    except DeadProcessError as error:
        again = f" Go on with: {PROG} --resume {run.path}" if run.checkpoint.is_file() else ""
        raise UserError(f"{error}{again}") from None


def _fit_share(
    device: torch.device,
    config: TrainConfig,
    run: RunFolder,
    dataset: Dataset,
    deadline: float | None,
) -> None:
    """What each of several processes does; the one that launched them waits."""
    logging.disable()  # the launching process has said this already
    model, saved = _create(config, run, dataset.classes, run.competition().multilabel)
    state = _start(model, saved, config, run, dataset, device)
    logging.disable(logging.NOTSET)
    if is_main():
        run.log_to_file()  # until this process ends
    _fit(state, config, run, dataset, deadline)


def _fit(
    state: TrainState,
    config: TrainConfig,
    run: RunFolder,
    dataset: Dataset,
    deadline: float | None,
) -> None:
    fit(
        state,
        dataset.split("train"),
        dataset.split("val"),
        dataset.classes,
        config,
        run,
        functools.partial(epoch_scores, multilabel=run.competition().multilabel),
        deadline=deadline,
        images_after=len(dataset.ids("test")),
    )


def _finish(
    config: TrainConfig, run: RunFolder, source: Source, dataset: Dataset, device: torch.device
) -> None:
    """Predict with the best weights, judge what is labelled, submit the test set."""
    competition = source.competition
    model = load_best(run.best, dataset.classes, config).to(device)
    model = model.to(memory_format=torch.channels_last)
    files, thresholds = ["config.json"], None
    for part, folder in (("val", run.path), ("test", run.path / "test")):
        images = dataset.split(part)
        if not len(images):
            continue
        probs = predict_probs(
            model, images.cache, images.rows, config, device, tta=config.tta, desc=f"Predict {part}"
        )
        table = probability_table(dataset.ids(part), probs, dataset.classes)
        write_csv(run.predictions_path(part), table)
        files.append(f"predictions/{part}.csv")
        labelled = ~np.isnan(images.targets).all(axis=1)
        if not labelled.any():
            continue
        targets, probs = images.targets[labelled], probs[labelled]
        judged_on = config.split_plan.describe(part, dataset.manifest)
        if part == "val":
            thresholds = keep_thresholds(
                folder, competition, targets, probs, judged_on, config.thresholds
            )
            files += [THRESHOLDS] if thresholds else []
        report = write_results(
            folder, competition, targets, probs, judged_on, thresholds=thresholds
        )
        log.info("\n%s: %s\n\n%s\n", competition.slug, judged_on, format_table(report))
        files += [(folder / name).relative_to(run.path).as_posix() for name in result_files(report)]
    if competition.submission:
        ids = expected_ids(competition, source.root)
        submission = config.submissions_dir / f"{run.name}.csv"
        for path in (run.path / "submission.csv", submission):
            write_submission(path, competition, table, ids)
        files.append("submission.csv")
        log.info("Checked submission of %s rows: %s", f"{len(ids):,}", submission)
    if competition.drawn:
        log.info("These results are for %s.", PHANTOMS)
    log.info("Wrote %s: %s.", run.path, ", ".join(files))


def main(args: Sequence[str]) -> None:
    """Read the flags over the competition's recipe, or over a resumed run's own settings."""
    config = parse_flags(TrainConfig, args, prog=PROG)
    if config.resume:
        train(_resumed(args, config))
        return
    name = choose_competition(config.competition, config.data, config.data_dir)
    if name:
        recipe = load_competition(name).recipe
        config = parse_flags(
            TrainConfig, args, prog=PROG, default=TrainConfig.from_recipe(recipe, name)
        )
    train(config)


def _resumed(args: Sequence[str], config: TrainConfig) -> TrainConfig:
    assert config.resume is not None
    saved = dataclasses.replace(RunFolder.open(config.resume).config(), time_limit=None)
    given = parse_flags(TrainConfig, args, prog=PROG, default=saved)
    for field in dataclasses.fields(TrainConfig):
        old, new = getattr(saved, field.name), getattr(given, field.name)
        if old != new and field.name not in RESUMABLE | {"resume"}:
            raise UserError(
                f"{config.resume} was started with {field.name} {old} and cannot go on with {new}. "
                "Leave the flag out, or train anew."
            )
    return given


if __name__ == "__main__":
    run_command(main)
