"""The members of an ensemble: several runs, or tables from anywhere, brought to the same images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import Competition
from xraycomp.data.digests import sha256_file
from xraycomp.data.duplicates import copy_groups, read_copies
from xraycomp.data.image_ids import image_key
from xraycomp.data.matching import Reading, match_unlabelled
from xraycomp.data.predictions import ID, read_predictions
from xraycomp.data.split import join_groups
from xraycomp.job.evidence import Evidence, read_split, read_tables
from xraycomp.judging.comparison import same_images
from xraycomp.judging.thresholds import (
    NO_THRESHOLD,
    THRESHOLDS,
    Criterion,
    Thresholds,
    choose_thresholds,
    named_criterion,
)
from xraycomp.model.run import RunFolder


@dataclass(frozen=True)
class Members:
    """What m members say of n labelled images that none of them has learned, and of test images."""

    competition: Competition
    names: tuple[str, ...]
    files: tuple[tuple[Path, ...], ...]
    """The tables of each member."""
    images: list[str]
    targets: NDArray[np.float64]
    """1, 0 and NaN (unknown), shape (n, k)."""
    probs: NDArray[np.float64]
    """In 0..1, shape (m, n, k)."""
    groups: NDArray[np.int64]
    """Which images are of one patient or copies of each other, shape (n,)."""
    judged_on: str
    """Says which images these are."""
    limits: NDArray[np.float64] | None = None
    """From where on each member calls each finding in images without labels, shape (m, 1, k); None:
    an image has one class."""
    criterion: Criterion = "f1"
    """By which thresholds are chosen."""
    test_images: tuple[str, ...] = ()
    """Empty where not all members predict the same."""
    test_probs: NDArray[np.float64] | None = None
    """Shape (m, n_test, k)."""
    remarks: tuple[str, ...] = ()
    """What the user should know of how they were read."""
    run: RunFolder | None = None
    """The first of them, where they are runs: it knows the competition and the test labels."""

    def described(self) -> list[dict[str, Any]]:
        """Names, files and the SHA-256 of these, ready for JSON."""
        return [
            {
                "name": name,
                "files": [{"path": str(path), "sha256": sha256_file(path)} for path in paths],
            }
            for name, paths in zip(self.names, self.files, strict=True)
        ]


def read_runs(paths: Sequence[Path]) -> Members:
    """Runs, judged on the validation images that all of them have held out.

    Raises ``UserError`` for fewer than two, for other classes, where no image is held out by all,
    and where labels differ.
    """
    runs = [RunFolder.open(path) for path in _several(paths, "runs")]
    found = [read_split(run, "val") for run in runs]
    competition, names = found[0].competition, _names(paths)
    for run, one in zip(runs, found, strict=True):
        if one.competition.classes != competition.classes:
            raise UserError(
                f"{run.path} and {runs[0].path} have different classes. An ensemble is of members "
                "with the same."
            )
    images, targets, probs = _in_common(
        [str(path) for path in paths],
        found,
        "No image is held out by all of these runs, so nothing can judge them together. Train them "
        "with the same --seed and --val-fraction, or each with --folds.",
    )
    judged_on, remarks = found[0].judged_on, []
    if any(len(one.images) > len(images) or one.judged_on != judged_on for one in found):
        judged_on = f"validation images that all {len(runs)} runs have held out"
        remarks.append(f"{len(images):,} images are held out by all runs; the others are not used.")
    first = runs[0]
    settings, multilabel = first.config(), competition.multilabel
    test_images, test_probs, said = _test_split(runs, competition)
    limits = np.stack([_limits(run, competition) for run in runs])[:, None] if multilabel else None
    return Members(
        competition,
        names,
        tuple(_run_files(run, len(test_images) > 0) for run in runs),
        images,
        targets,
        probs,
        _groups(first, images),
        judged_on,
        limits=limits,
        criterion=named_criterion(settings.threshold_criterion, settings.sensitivity),
        test_images=test_images,
        test_probs=test_probs,
        remarks=(*remarks, *said),
        run=first,
    )


def read_member_tables(
    predictions: Sequence[Path], labels: Path, test: Sequence[Path], reading: Reading
) -> Members:
    """Tables of probabilities from anywhere, and one of labels; ``test``: each member's table of
    unlabelled images, or none.

    Every image is for itself, and the limits are chosen on the labelled ones. Raises ``UserError``
    where the tables do not fit each other.
    """
    _several(predictions, "tables")
    if test and len(test) != len(predictions):
        raise UserError(
            f"--test names {len(test)} tables and --predictions {len(predictions)}. Give one of "
            "each member, in the same order."
        )
    found: list[Evidence] = []
    for path in predictions:
        fixed = reading if not found else replace(reading, classes=found[0].competition.classes)
        found.append(read_tables(path, labels, fixed))
    competition = found[0].competition
    if any(one.competition.multilabel for one in found):
        competition = replace(competition, task="multilabel")
    images, targets, probs = _in_common(
        [str(path) for path in predictions],
        [replace(one, images=_short(one.images)) for one in found],
        "No image is in all of these tables. Predict the same images with each member.",
    )
    # How each of them reads the labels, in one sentence where all read them alike.
    remarks = list(dict.fromkeys(one.remarks[-1] for one in found))
    if len(remarks) > 1:
        remarks = [
            f"{path}: {one.remarks[-1]}" for path, one in zip(predictions, found, strict=True)
        ]
    counts = [len(one.images) for one in found]
    if max(counts) > len(images):
        fewest = predictions[int(np.argmin(counts))]
        remarks.append(
            f"{len(images):,} images are in all tables ({fewest} has {min(counts):,}, another "
            f"{max(counts):,}); the others are not used."
        )
    test_images: list[str] = []
    test_probs = None
    if test:
        test_images, test_probs = match_unlabelled(test, competition.classes, reading)
    limits = None
    if competition.multilabel:
        chosen = [choose_thresholds(targets, one, competition.classes, "").limits for one in probs]
        limits = np.stack(chosen)[:, None]
    return Members(
        competition,
        _names(predictions),
        tuple(zip(predictions, test, strict=True)) if test else tuple((p,) for p in predictions),
        images,
        targets,
        probs,
        np.arange(len(images)),
        found[0].judged_on,
        limits=limits,
        test_images=tuple(test_images),
        test_probs=test_probs,
        remarks=tuple(remarks),
    )


def _several(paths: Sequence[Path], what: str) -> Sequence[Path]:
    if len(paths) < 2:
        raise UserError(f"An ensemble needs two {what} at least; {len(paths)} was given.")
    if len(set(map(Path.resolve, paths))) < len(paths):
        raise UserError(f"One of the {what} is named twice. Name each once.")
    return paths


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    """What to call members: the last part of each path, or all of it where that is not unique."""
    short = [path.resolve().name for path in paths]
    return tuple(short if len(set(short)) == len(short) else map(str, paths))


def _short(images: list[str]) -> list[str]:
    """Ids without folders, which one table may have and another not; with, where needed."""
    short = [image_key(name, folders=False) for name in images]
    return short if len(set(short)) == len(short) else images


def _in_common(
    names: Sequence[str], found: Sequence[Evidence], sentence: str
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """The images that all have, in the order of the first; targets (n, k), probabilities (m, n, k).

    Raises ``UserError`` with the ``sentence`` where there is none, and where labels differ.
    """
    shared = set(found[0].images).intersection(*(one.images for one in found))
    images = [name for name in found[0].images if name in shared]
    if not images:
        raise UserError(sentence)
    places = [pd.Index(one.images).get_indexer(pd.Index(images)) for one in found]
    targets = [one.targets[rows] for one, rows in zip(found, places, strict=True)]
    for name, other in zip(names[1:], targets[1:], strict=True):
        same_images((names[0], name), (images, images), (targets[0], other))
    probs = [one.probs[rows] for one, rows in zip(found, places, strict=True)]
    return images, targets[0].astype(np.float64), np.stack(probs).astype(np.float64)


def _groups(run: RunFolder, images: list[str]) -> NDArray[np.int64]:
    """One number for all images that share a patient or a known copy."""
    manifest = run.manifest()
    copies = copy_groups(read_copies(run.duplicates(), manifest), len(manifest))
    groups = join_groups(manifest["patient"].to_numpy(object), copies)
    # An id may stand for a training image and for a test image too.
    held = (manifest["split"] == "val").to_numpy()
    places = pd.Index(manifest[ID][held]).get_indexer(pd.Index(images))
    found: NDArray[np.int64] = groups[held][places]
    return found


def _limits(run: RunFolder, competition: Competition) -> NDArray[np.float64]:
    if (run.path / THRESHOLDS).is_file():
        return Thresholds.read(run.path, competition.classes).limits
    return np.full(len(competition.classes), NO_THRESHOLD)


def _test_split(
    runs: Sequence[RunFolder], competition: Competition
) -> tuple[tuple[str, ...], NDArray[np.float64] | None, list[str]]:
    """Images and probabilities of the test split, and why there are none where some have one."""
    lacking = [run.path for run in runs if not run.predictions_path("test").is_file()]
    if lacking:
        some = len(lacking) < len(runs)
        said = f"Nothing is predicted of the test split: {lacking[0]} has no predictions of it."
        return (), None, [said] if some else []
    tables = [read_predictions(run.predictions_path("test"), competition.classes) for run in runs]
    images, probs = list(tables[0][ID]), []
    for run, table in zip(runs, tables, strict=True):
        if apart := sorted(set(images) ^ set(table[ID])):
            said = (
                f"Nothing is predicted of the test split: {len(apart):,} images ({listing(apart)}) "
                f"are in that of {runs[0].path} or of {run.path} only."
            )
            return (), None, [said]
        classes = list(competition.classes)
        probs.append(table.set_index(ID).loc[images, classes].to_numpy(np.float64))
    return tuple(images), np.stack(probs), []


def _run_files(run: RunFolder, test: bool) -> tuple[Path, ...]:
    return tuple(run.predictions_path(split) for split in (("val", "test") if test else ("val",)))
