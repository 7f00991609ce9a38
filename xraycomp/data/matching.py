"""A probability table and a label table, whoever made them, brought to the same images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError, listing
from xraycomp.data.class_columns import (
    complete_sum,
    find_columns,
    find_indices,
    find_labels,
    is_indices,
    names_in,
)
from xraycomp.data.competition import Labelled
from xraycomp.data.files import check_columns
from xraycomp.data.id_columns import Table, listed_images, read_tables
from xraycomp.data.label_cells import read_targets
from xraycomp.data.predictions import SUM_TOLERANCE, check_probabilities


@dataclass(frozen=True)
class Reading:
    """What to believe where tables do not speak for themselves; empty: find it out.

    Commands that read such tables have these as their flags.
    """

    image_list: Path | None = None
    """Judge the images that this file names, one a line. Default: all that are predicted."""
    split_name: str = ""
    """What the results call the images. Default: the name of the list, or of the label table."""
    columns: str = ""
    """How the columns of probabilities are called, such as pred_{}. Default: found out."""
    classes: tuple[str, ...] = ()
    """The classes to judge. Default: all that the labels name."""
    label_column: str = ""
    """Column of --labels with class names or indices. Default: found out."""
    prediction_id: str = ""
    """Column of --predictions that names the image. Default: found out."""
    label_id: str = ""
    """Column of --labels that names the image. Default: found out."""
    separator: str = "|"
    """What parts several class names in one cell."""
    none: str = "No Finding"
    """The label of images with none of the classes."""
    task: Literal["auto", "multiclass", "multilabel"] = "auto"
    """Whether each image has just one of the classes. Default: as labels and probabilities say."""
    metric: Literal["auroc", "average_precision", "accuracy", "macro_f1", "log_loss"] = "auroc"
    """The score that counts, of a table without a run."""


@dataclass(frozen=True)
class Matched:
    """Targets and probabilities of the same images and classes."""

    classes: tuple[str, ...]
    targets: NDArray[np.float32]
    """1, 0 or NaN (unknown); shape (n_images, n_classes)."""
    probs: NDArray[np.float64]
    """In 0..1, of the same shape."""
    images: list[str]
    """Of which images they are."""
    remarks: tuple[str, ...]
    """Sentences on what was taken for what, and what was left out."""

    @property
    def multilabel(self) -> bool:
        """Whether images have several classes, none or unknown ones, or probabilities say so."""
        one = (self.targets.sum(axis=1) == 1).all()  # NaN is not 1
        sums = self.probs.sum(axis=1)
        return len(self.classes) < 2 or not (one and (np.abs(sums - 1) < SUM_TOLERANCE).all())


def match_tables(predictions: Path, labels: Path, reading: Reading) -> Matched:
    """Read both tables and find each image's probabilities and labels.

    Every image of ``predictions`` is judged, or those that ``reading.image_list`` names. Labels of
    other images are left out, which a remark says.

    Raises ``UserError`` for tables that cannot be read, columns that cannot be told, images that
    are named twice or lack a row in either table, and values that are no probabilities.
    """
    scores, truth = read_tables(predictions, labels, reading.prediction_id, reading.label_id)
    listed = reading.image_list
    wanted = listed_images(listed, scores.keys) if listed else list(scores.keys)
    for table in (scores, truth):
        if missing := sorted(set(wanted) - set(table.keys)):
            raise UserError(
                f"{table.path} has no row for {len(missing):,} of {len(wanted):,} images: "
                f"{listing(missing)}. Add them, or name the images to judge with --image-list."
            )
    score_rows, truth_rows = (
        pd.Index(table.keys).get_indexer(pd.Index(wanted)) for table in (scores, truth)
    )
    judged = replace(scores, rows=scores.rows.iloc[score_rows].drop(columns=str(scores.keys.name)))
    chosen, targets, said = _read_labels(judged, truth, truth_rows, reading)
    remarks = [f"Images are matched by {scores.keys.name} and {truth.keys.name}."]
    if rest := len(truth.rows) - len(wanted):
        remarks.append(f"{rest:,} labelled images are not judged.")
    if ignored := [name for name in judged.rows.columns if name not in set(chosen.values())]:
        remarks.append(f"Columns of {predictions.name} left out: {listing(ignored, 20)}.")
    probs = check_probabilities(judged.rows, list(chosen.values()), predictions, scores.keys)
    return Matched(tuple(chosen), targets, probs, wanted, (*remarks, said))


def match_unlabelled(
    paths: Sequence[Path], classes: Sequence[str], reading: Reading
) -> tuple[list[str], NDArray[np.float64]]:
    """Probabilities of the same images by several tables, without labels.

    Returns the images as the first table names them, and the probabilities of ``classes``, of shape
    (n_tables, n_images, n_classes).

    Raises ``UserError`` as `match_tables` does, and for tables that are not of the same images.
    """
    wanted, probs = replace(reading, classes=tuple(classes)), []
    images: list[str] = []
    for path in paths:
        first, other = read_tables(paths[0], path, reading.prediction_id, reading.prediction_id)
        if apart := sorted(set(first.keys) ^ set(other.keys)):
            raise UserError(
                f"{paths[0]} and {path} are not of the same images: {len(apart):,} are in one of "
                f"them only ({listing(apart)}). Predict the same images with each member."
            )
        chosen = _choose((), other, wanted)
        values = check_probabilities(other.rows, list(chosen.values()), path, other.keys)
        probs.append(values[pd.Index(other.keys).get_indexer(pd.Index(first.keys))])
        # The first time the table is matched with itself: with folders where it has them.
        images = images or list(first.keys)
    return images, np.stack(probs)


def _read_labels(
    scores: Table, truth: Table, places: NDArray[np.intp], reading: Reading
) -> tuple[dict[str, str], NDArray[np.float32], str]:
    """Class -> column of its probability, the targets, and what the labels were taken for.

    All of ``truth`` says which classes there are; the targets are of its rows at ``places``.
    """
    column, pattern, image = reading.label_column, reading.columns, str(truth.keys.name)
    others = truth.rows.drop(columns=image)
    if column:
        check_columns(truth.rows, truth.path, [column])
        names = names_in(truth.rows[column], reading.separator)
    else:
        column, names = find_labels(others, scores.rows, reading.separator, pattern)
    rows = truth.rows.iloc[places]
    if not find_columns(names, scores.rows, pattern)[0]:
        column = reading.label_column or find_indices(others)
        chosen, called = _choose_by_index(column, scores, truth, reading)
        train = Labelled("", "", image, column, names=called)
        targets = read_targets(rows, truth.path, train, list(chosen), multilabel=False)
        said = ", ".join(f"{index} {name}" for index, name in enumerate(chosen))
        return chosen, targets, f"Labels are indices in the column {column}: {said}."
    chosen = _choose(names, scores, reading)
    if not column:
        check_columns(truth.rows, truth.path, chosen)
        train = Labelled("", "", image)
        targets = read_targets(rows, truth.path, train, list(chosen), multilabel=True)
        return chosen, targets, f"Labels are the columns of 0 and 1 in {truth.path.name}."
    cells, none = truth.rows[column], reading.none
    several = bool(
        cells.str.contains(reading.separator, regex=False).any() or (cells == none).any()
    )
    if not several and not reading.classes:
        # A class that no image has may be missing among the names, but not in the sum.
        chosen = complete_sum(chosen, scores.rows)
    train = Labelled("", "", image, column, reading.separator, none)
    every = list(dict.fromkeys([*chosen, *names]))
    targets = read_targets(rows, truth.path, train, every, multilabel=several)
    return chosen, targets[:, : len(chosen)], f"Labels are the names in the column {column}."


def _choose(names: Sequence[str], scores: Table, reading: Reading) -> dict[str, str]:
    """Class -> column of its probability, in the order of the columns or of ``--classes``."""
    columns, wanted = list(scores.rows.columns), reading.classes or names
    fitting = find_columns(wanted, scores.rows, reading.columns)
    if len(fitting) > 1:
        name = next(iter(fitting[0]))
        several = sorted(found[name] for found in fitting if name in found)
        raise UserError(
            f"{scores.path} has several columns for {name}: {listing(several)}. Say which "
            "with --columns, as in --columns 'pred_{}'."
        )
    chosen = fitting[0]
    if absent := [name for name in wanted if name not in chosen and name != reading.none]:
        raise UserError(
            f"{scores.path} has no column for {listing(absent, 20)} (columns: "
            f"{listing(columns, 20)}). Say with --columns 'pred_{{}}' how they are called, or name "
            "the classes to judge with --classes."
        )
    order = (
        wanted if reading.classes else sorted(chosen, key=lambda name: columns.index(chosen[name]))
    )
    return {name: chosen[name] for name in order if name in chosen}


def _choose_by_index(
    column: str, scores: Table, truth: Table, reading: Reading
) -> tuple[dict[str, str], dict[str, str]]:
    """Class -> column of its probability, and what the label ``column`` calls each class."""
    if not column or not is_indices(truth.rows[column]):
        raise UserError(
            f"No column of {truth.path} ({listing(list(truth.rows.columns), 12)}) holds labels "
            f"that fit the columns of {scores.path} ({listing(list(scores.rows.columns), 12)}). "
            "Name it with --label-column, and say with --columns 'pred_{}' how the columns of "
            "probabilities are called."
        )
    chosen = _choose((), scores, reading) if reading.classes else complete_sum({}, scores.rows)
    if not chosen:
        raise UserError(
            f"The column {column} of {truth.path} holds class indices, but the columns of "
            f"{scores.path} ({listing(list(scores.rows.columns), 12)}) that are numbers in 0..1 "
            "do not add up to 1. Name the classes in their order with --classes."
        )
    indices = {cell: int(cell) for cell in truth.rows[column].unique()}
    if (highest := max(indices.values())) >= len(chosen):
        raise UserError(
            f"The column {column} of {truth.path} holds the class index {highest}, but there are "
            f"{len(chosen)} columns of probabilities (0 to {len(chosen) - 1})."
        )
    names = list(chosen)
    return chosen, {cell: names[index] for cell, index in indices.items()}
