"""From settings to a run folder, its images and its network; or back to a run that has begun."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pandas as pd
import torch

from xraycomp.console.errors import UserError
from xraycomp.data.competition import FOLD, PSEUDO_LABEL, Competition
from xraycomp.data.dataset import Dataset, load_dataset
from xraycomp.data.duplicates import copy_groups, describe_copies, find_copies
from xraycomp.data.findings import choose_findings
from xraycomp.data.folds import name_sides, part_manifest
from xraycomp.data.manifest import build_manifest
from xraycomp.data.pseudo_labels import leave_out_copies, read_pseudo_labels
from xraycomp.data.source import Source, choose_competition, has_files, open_source
from xraycomp.judging.metrics import PHANTOMS
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import broadcast, first_on_its_machine, is_main
from xraycomp.model.environment import describe_environment
from xraycomp.model.run import RunFolder, check_free, default_name
from xraycomp.model.state import check_trainable, count_steps
from xraycomp.model.stem import GrayModel
from xraycomp.model.zoo import build_model
from xraycomp.remote.client import connect
from xraycomp.remote.credentials import winning_credential
from xraycomp.remote.download import download

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What one call of `train` works on."""

    config: TrainConfig
    run: RunFolder
    source: Source
    dataset: Dataset


def begin(config: TrainConfig) -> tuple[Job, GrayModel | None]:
    """The run to go on with, or a new one and its network: as the main process has it.

    The others learn from it all but where their machine has the data, which ``config`` says.
    """
    job: Job | None = None
    model = None
    if is_main() and config.resume:
        job = _reopen(config, config.resume)
    elif is_main():
        job, model = _begin_anew(config)
    job = cast(Job, broadcast(job))
    with first_on_its_machine():
        return job if is_main() else _follow(job, config), model


def find_source(config: TrainConfig) -> tuple[TrainConfig, Source]:
    """Find the competition's files, or download them; the settings then name the competition,
    unless it is told by the files alone.

    Raises ``UserError`` as `choose_competition`, `download` and `open_source` do.
    """
    competition = choose_competition(config.competition, config.data, config.data_dir)
    if competition and config.competition is None:
        config = replace(config, competition=competition.slug)
        log.info(_why(competition, config))
    if competition:
        _fetch_missing(competition, config)
    source = open_source(competition, config.data, config.data_dir)
    return config, source


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
    if run.soup.is_file():
        raise UserError(
            f"{path} is an average of runs, which is not trained further. Resume one of those in "
            f"{run.soup}."
        )
    config.check_resumed(run.config(), str(path))
    return _open(config, run, run.competition(), run.manifest())


def _open(
    config: TrainConfig, run: RunFolder, competition: Competition, manifest: pd.DataFrame
) -> Job:
    """A run that has begun, with the images of its manifest as they lie here."""
    _fetch_missing(competition, config)
    source = open_source(competition, config.data, config.data_dir)
    return Job(config, run, source, _load(manifest, source, config))


def _begin_anew(config: TrainConfig) -> tuple[Job, GrayModel]:
    """From nothing to a run folder that holds what the run starts from, and a new network.

    Whatever may be wrong with the settings shows before the folder is made, and what can, before
    the images are decoded, which takes long.
    """
    config, source = find_source(config)
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
    pseudo = _read_pseudo_labels(config, competition, manifest)
    model = new_model(config, competition)
    check_trainable(model, config)
    dataset = _load(manifest, source, config)
    copies = find_copies(dataset.cache)
    parted = _part(dataset.manifest, pseudo, copies, config, competition)
    dataset = replace(dataset, manifest=parted)
    count_steps(_count_learned(dataset), config)
    run = RunFolder.create(
        path,
        config,
        competition,
        dataset.manifest,
        describe_copies(copies, name_sides(dataset.manifest)),
        describe_environment(),
    )
    return Job(config, run, source, dataset), model


def _read_pseudo_labels(
    config: TrainConfig, competition: Competition, manifest: pd.DataFrame
) -> pd.Series | None:
    if config.pseudo_labels is None:
        return None
    return read_pseudo_labels(config.pseudo_labels, competition, manifest, config.pseudo_threshold)


def _part(
    manifest: pd.DataFrame,
    pseudo: pd.Series | None,
    copies: pd.DataFrame,
    config: TrainConfig,
    competition: Competition,
) -> pd.DataFrame:
    """The manifest of the run: parted, and with its pseudo-labels."""
    groups = copy_groups(copies, len(manifest))
    plan, together = config.split_plan(), groups if config.keep_duplicates_together else None
    manifest = part_manifest(manifest, competition.classes, plan, same_side=together)
    if pseudo is None:
        return manifest
    manifest = manifest.assign(**{PSEUDO_LABEL: pseudo})
    return manifest if plan.all_folds else leave_out_copies(manifest, groups)


def _count_learned(dataset: Dataset) -> int:
    """How many images are learned from; of folds, by the one that has the fewest."""
    learned, manifest = len(dataset.learned()), dataset.manifest
    if FOLD not in manifest:
        return learned
    sizes = manifest[FOLD][manifest[FOLD] != ""].value_counts()
    return learned + int(sizes.sum() - sizes.max())


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


def new_model(config: TrainConfig, competition: Competition) -> GrayModel:
    torch.manual_seed(config.seed)  # for the weights that are drawn
    return build_model(config, competition)
