"""A probability table and a label table, whoever made them, brought to the same images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError, listing
from xraycomp.data.files import read_table
from xraycomp.data.image_ids import listed_images, match_ids
from xraycomp.data.truth import (
    SUM_TOLERANCE,
    Affix,
    affixes,
    count_fits,
    flag_targets,
    index_column,
    index_targets,
    is_flags,
    is_indices,
    is_several,
    label_column,
    name_targets,
    names_in,
    sum_to_one,
    unit_columns,
)


@dataclass(frozen=True)
class Reading:
    """What to believe where tables do not speak for themselves; empty: find it out."""

    prediction_id: str = ""
    """Column of the predictions that names the image."""
    label_id: str = ""
    """Column of the labels that names the image."""
    label_column: str = ""
    """Column of the labels that holds class names or indices."""
    columns: str = ""
    """How the columns of probabilities are called, with {} for the class: pred_{}."""
    classes: tuple[str, ...] = ()
    """The classes to judge."""
    separator: str = "|"
    """What parts several class names in one cell."""
    none: str = "No Finding"
    """The name that stands for none of the classes, unless the predictions have a column of it."""


@dataclass(frozen=True)
class Matched:
    """Targets and probabilities of the same images and classes."""

    classes: tuple[str, ...]
    targets: NDArray[np.float32]
    """1, 0 or NaN (unknown); shape (n_images, n_classes)."""
    probs: NDArray[np.float64]
    """In 0..1, of the same shape."""
    remarks: tuple[str, ...]
    """Sentences on what was taken for what, and what was left out."""

    @property
    def multilabel(self) -> bool:
        """Whether images have several classes, none or unknown ones, or probabilities say so."""
        one = (self.targets.sum(axis=1) == 1).all()  # NaN is not 1
        sums = self.probs.sum(axis=1)
        return len(self.classes) < 2 or not (one and (np.abs(sums - 1) < SUM_TOLERANCE).all())


def match_tables(
    predictions: Path, labels: Path, reading: Reading, image_list: Path | None = None
) -> Matched:
    """Read both tables and find each image's probabilities and labels.

    Every image of ``predictions`` is judged, or with ``image_list`` (a file with one name a line)
    those that it names. Labels of other images are left out, which a remark says.

    Raises ``UserError`` for tables that cannot be read, columns that cannot be told, images that
    are named twice or lack a row in either table, and values that are no probabilities.
    """
    scores, truth = _read(predictions, "prediction"), _read(labels, "label")
    score_ids, truth_ids = match_ids(
        scores, truth, predictions, labels, reading.prediction_id, reading.label_id
    )
    for path, ids in ((predictions, score_ids), (labels, truth_ids)):
        if len(repeated := ids[ids.duplicated()]):
            raise UserError(
                f"{path} holds {len(repeated):,} images twice in the column {ids.name}: "
                f"{listing(list(repeated))}. Leave one row an image."
            )
    wanted = list(score_ids) if image_list is None else listed_images(image_list, score_ids)
    for path, ids in ((predictions, score_ids), (labels, truth_ids)):
        if missing := sorted(set(wanted) - set(ids)):
            raise UserError(
                f"{path} has no row for {len(missing):,} of {len(wanted):,} images: "
                f"{listing(missing)}. Add them, or name the images to judge with --image-list."
            )
    remarks = [f"Images are matched by {score_ids.name} and {truth_ids.name}."]
    if rest := len(truth) - len(wanted):
        remarks.append(f"{rest:,} labelled images are not judged.")
    rows = pd.Index(truth_ids).get_indexer(pd.Index(wanted))
    scores = scores.iloc[pd.Index(score_ids).get_indexer(pd.Index(wanted))]
    columns = [name for name in scores.columns if name != score_ids.name]
    chosen, targets, said = _targets(
        truth.drop(columns=str(truth_ids.name)), rows, scores[columns], predictions, labels, reading
    )
    if ignored := [name for name in columns if name not in set(chosen.values())]:
        remarks.append(f"Columns of {predictions.name} left out: {listing(ignored, 20)}.")
    probs = _probabilities(scores, chosen, predictions, score_ids)
    return Matched(tuple(chosen), targets, probs, (*remarks, said))


def _read(path: Path, kind: str) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"There is no {kind} table {path}. Check the path.")
    table = read_table(path)
    if table.empty:
        raise UserError(f"The {kind} table {path} has no rows.")
    return table


def _targets(
    truth: pd.DataFrame,
    rows: NDArray[np.intp],
    scores: pd.DataFrame,
    predictions: Path,
    labels: Path,
    reading: Reading,
) -> tuple[dict[str, str], NDArray[np.float32], str]:
    """Class -> column of its probability, the targets, and what the labels were taken for.

    All of ``truth`` says which classes there are; the targets are those of its ``rows``.
    """
    given = Affix.of(reading.columns) if reading.columns else None
    flags = [name for name in truth.columns if is_flags(truth[name])]
    if not reading.label_column and count_fits(flags, scores.columns, given):
        names = reading.classes or flags
        if absent := [name for name in names if name not in flags]:
            raise UserError(f"{labels} has no column of 0 and 1 for {listing(absent)}.")
        chosen = _columns_of(names, scores, predictions, reading)
        said = f"Labels are the columns of 0 and 1 in {labels.name}."
        return chosen, flag_targets(truth.iloc[rows], list(chosen)), said

    column = reading.label_column or label_column(truth, scores.columns, reading.separator, given)
    if column is not None and column not in truth.columns:
        raise UserError(
            f"{labels} has no column {column} (columns: {listing(list(truth.columns), 12)})."
        )
    names = names_in(truth[column], reading.separator) if column else []
    if column and count_fits(names, scores.columns, given):
        chosen = _columns_of(names, scores, predictions, reading)
        several = is_several(truth[column], reading.separator, reading.none)
        targets = name_targets(
            truth[column].iloc[rows], list(chosen), reading.separator, reading.none, several
        )
        if not reading.classes and (targets.sum(axis=1) == 1).all():
            # A class that no image has may be missing among the names, but not in the sum.
            others = [name for name in unit_columns(scores) if name not in set(chosen.values())]
            if sum_to_one(scores, [*chosen.values(), *others]):
                chosen |= {name: name for name in others}
                targets = np.pad(targets, ((0, 0), (0, len(others))))
        return chosen, targets, f"Labels are the names in the column {column}."

    column = column or index_column(truth)
    if column is None or not is_indices(truth[column]):
        raise UserError(
            f"No column of {labels} ({listing(list(truth.columns), 12)}) holds labels that fit the "
            f"columns of {predictions} ({listing(list(scores.columns), 12)}). Name it with "
            "--label-column, and say with --columns 'pred_{}' how the columns of probabilities are "
            "called."
        )
    chosen = {name: name for name in unit_columns(scores)}
    if reading.classes:
        chosen = _columns_of(reading.classes, scores, predictions, reading)
    elif not sum_to_one(scores, list(chosen)):
        raise UserError(
            f"The column {column} of {labels} holds class indices, but the columns of "
            f"{predictions} that may be meant ({listing(list(chosen), 12)}) do not add up to 1. "
            "Name the classes in their order with --classes."
        )
    said = ", ".join(f"{index} {name}" for index, name in enumerate(chosen))
    targets = index_targets(truth[column].iloc[rows], len(chosen))
    return chosen, targets, f"Labels are indices in the column {column}: {said}."


def _columns_of(
    names: Sequence[str], scores: pd.DataFrame, predictions: Path, reading: Reading
) -> dict[str, str]:
    """Class -> column of its probability, in the order of the columns or of ``--classes``."""
    columns = list(scores.columns)
    wanted = list(reading.classes or names)
    affix = Affix.of(reading.columns) if reading.columns else _affix(wanted, scores, predictions)
    chosen = affix.columns(wanted, columns)
    if absent := [name for name in wanted if name not in chosen and name != reading.none]:
        raise UserError(
            f"{predictions} has no column for {listing(absent, 20)} (columns: "
            f"{listing(columns, 20)}). Say with --columns 'pred_{{}}' how they are called, or name "
            "the classes to judge with --classes."
        )
    if reading.classes:
        return chosen
    return dict(sorted(chosen.items(), key=lambda pair: columns.index(pair[1])))


def _affix(names: Sequence[str], scores: pd.DataFrame, predictions: Path) -> Affix:
    """The affix that finds the most classes; columns of probabilities before those of 0 and 1."""
    merits = {}
    for affix, count in affixes(names, scores.columns).items():
        found = affix.columns(names, scores.columns)
        merits[affix] = (count, sum(not is_flags(scores[column]) for column in found.values()))
    best = [affix for affix, merit in merits.items() if merit == max(merits.values())]
    if len(best) > 1:
        name = next(name for name in names if best[0].columns([name], scores.columns))
        several = [affix.columns([name], scores.columns).get(name, "") for affix in best]
        raise UserError(
            f"{predictions} has several columns for {name}: {listing(sorted(several))}. Say which "
            "with --columns, as in --columns 'pred_{}'."
        )
    return best[0] if best else Affix("", "")


def _probabilities(
    scores: pd.DataFrame, chosen: dict[str, str], path: Path, ids: pd.Series
) -> NDArray[np.float64]:
    numbers = scores[list(chosen.values())].apply(pd.to_numeric, errors="coerce")
    wrong = ~((numbers >= 0) & (numbers <= 1))
    if wrong.any(axis=None):
        row = int(wrong.any(axis=1).to_numpy().argmax())
        column = str(wrong.columns[int(wrong.iloc[row].to_numpy().argmax())])
        raise UserError(
            f"{path} holds {int(wrong.any(axis=1).sum()):,} rows whose values are not "
            f"probabilities in 0..1; {column} is {scores[column].iloc[row]!r} for "
            f"{ids[scores.index[row]]}."
        )
    probs: NDArray[np.float64] = numbers.to_numpy(dtype=np.float64)
    return probs
