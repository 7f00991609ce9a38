"""Folds that were trained by themselves, anywhere, put together into one run of all folds."""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.competition import PSEUDO_LABEL
from xraycomp.data.duplicates import copy_groups, describe_copies, read_copies
from xraycomp.data.files import atomic_folder, write_json
from xraycomp.data.folds import fold_manifest, name_sides, part_manifest, unparted
from xraycomp.data.labels import UNKNOWN
from xraycomp.model.config import TrainConfig
from xraycomp.model.environment import describe_environment
from xraycomp.model.run import RunFolder, check_free


def merge_folds(paths: Sequence[Path], config: TrainConfig) -> RunFolder:
    """Lay out a run of all folds with copies of those at ``paths``, all of it or nothing.

    Parameters
    ----------
    paths : run folders of single folds, or of all folds, of which those that have begun count
    config : the settings of the whole, see `settings_of_all`; its name and folders say where it is
        to lie, and with ``overwrite`` it replaces what does

    Returns the run; going on with it trains missing folds and judges all.

    Raises ``UserError`` for runs that are no folds, or none of the same training on the same
    images, for a fold that is there twice, and where no new run can lie.
    """
    folds = find_folds(paths)
    first, *others = folds.values()
    path = config.runs_dir / (config.name or "")
    for fold in others:
        _check_same(first, fold)
    manifest, copies = _whole(folds, config), read_copies(first.duplicates(), first.manifest())
    check_free(path, overwrite=config.overwrite)
    with atomic_folder(path) as folder:
        described = describe_copies(copies, name_sides(manifest))
        kept = replace(config, overwrite=False)
        competition, environment = first.competition(), describe_environment()
        RunFolder.create(folder, kept, competition, manifest, described, environment)
        whole = RunFolder(path)
        for number, fold in folds.items():
            own = whole.fold_path(number)
            _copy(fold, folder / own.name)
            settings = replace(
                fold.config(),
                name=own.name,
                resume=None,
                runs_dir=path,
                submissions_dir=path / "submissions",
            )
            write_json(folder / own.name / "config.json", settings.to_json())
        shutil.rmtree(path, ignore_errors=True)
    return whole


def find_folds(paths: Sequence[Path]) -> dict[int, RunFolder]:
    """The folds at ``paths`` by number. Raises ``UserError`` as `merge_folds` does."""
    found: dict[int, RunFolder] = {}
    for run in (RunFolder.open(path) for path in paths):
        config = run.config()
        if not config.folds:
            raise UserError(
                f"{run.path} is no fold: it was trained without --folds and --fold. Leave it out."
            )
        parts = run.folds() if config.fold is None else {config.fold: run}
        begun = {number: fold for number, fold in parts.items() if fold.best.is_file()}
        if not begun:
            raise UserError(
                f"{run.path} has no best.pt: its training has not come so far. Leave it out, or go "
                f"on with: python -m xraycomp.train --resume {run.path}"
            )
        for number, fold in begun.items():
            if number in found:
                raise UserError(
                    f"{found[number].path} and {fold.path} are both fold {number}. Leave one out."
                )
            found[number] = fold
    return dict(sorted(found.items()))


def settings_of_all(fold: RunFolder) -> TrainConfig:
    """The settings of the whole that a fold is one of, without what was only the fold's."""
    default = TrainConfig()
    places = ("name", "resume", "overwrite", "data", "data_dir", "runs_dir", "submissions_dir")
    machine = ("time_limit", "device", "devices", "workers", "track")
    as_default = {name: getattr(default, name) for name in (*places, *machine)}
    return replace(fold.config(), fold=None, **as_default)


def missing_folds(run: RunFolder) -> list[str]:
    """The folds of a run that are not there or not trained to the end, in words."""
    folds = run.folds()
    return [
        f"{number} ({'not finished' if number in folds else 'not there'})"
        for number in range(run.config().folds)
        if number not in folds or not folds[number].finished
    ]


def _check_same(first: RunFolder, other: RunFolder) -> None:
    """Raise ``UserError`` where two folds are not of one training on the same images."""
    where = f"{first.path} and {other.path}"
    if other.competition() != first.competition():
        raise UserError(
            f"{where} are of different competitions, or of other classes. Merge folds of one."
        )
    one, two = first.config(), other.config()
    alike: dict[str, Any] = {"folds": one.folds, "fold": one.fold, "name": one.name}
    two_as_one = replace(two, competition=one.competition, **alike)
    differing = list(one.differing(two_as_one))
    if one.folds != two.folds:
        differing.insert(0, ("folds", one.folds, two.folds))
    if differing:
        name, old, new = differing[0]
        raise UserError(
            f"{where} were trained otherwise: --{name.replace('_', '-')} {old} and {new}. Merge "
            "folds of the same settings."
        )
    tables = [run.manifest() for run in (first, other)]
    same = [table.drop(columns=["split", PSEUDO_LABEL], errors="ignore") for table in tables]
    if not same[0].equals(same[1]):
        raise UserError(
            f"{where} do not have the same images and labels. Merge folds of the same data."
        )


def _whole(folds: Mapping[int, RunFolder], config: TrainConfig) -> pd.DataFrame:
    """The manifest of all folds. Raises ``UserError`` where theirs do not make one."""
    first = next(iter(folds.values()))
    before, classes = unparted(first.manifest()), first.competition().classes
    groups = copy_groups(read_copies(first.duplicates(), first.manifest()), len(before))
    together = groups if config.keep_duplicates_together else None
    whole = part_manifest(before, classes, config.split_plan(), same_side=together)
    if PSEUDO_LABEL in whole:
        whole = whole.assign(**{PSEUDO_LABEL: _all_pseudo_labels(folds)})
    for number, fold in folds.items():
        own = fold.manifest()
        made = fold_manifest(whole, number, groups)[list(own)]
        if not own.astype(object).equals(made.astype(object)):
            raise UserError(
                f"{fold.path} is not fold {number} of the split that its settings and images make "
                "today: it was trained by another version, or with other pseudo-labels. Train it "
                "again."
            )
    return whole


def _all_pseudo_labels(folds: Mapping[int, RunFolder]) -> pd.Series:
    """What any fold has learned of test images: each leaves out copies of its own validation."""
    labels = pd.DataFrame({number: fold.manifest()[PSEUDO_LABEL] for number, fold in folds.items()})
    known = labels.where(labels != UNKNOWN)
    found: pd.Series = known.bfill(axis=1).iloc[:, 0].fillna(UNKNOWN)
    return found


def _copy(fold: RunFolder, destination: Path) -> None:
    """The fold's files, its weights as hard links where possible: they are never changed."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".pt"):
            with contextlib.suppress(OSError):
                os.link(source, target)
                return
        shutil.copyfile(source, target)

    shutil.copytree(fold.path, destination, copy_function=copy)
    for path in (destination, *destination.rglob("*")):
        if not path.name.endswith(".pt"):
            path.chmod(0o755 if path.is_dir() else 0o644)  # attached outputs are read-only
