"""From a probability table to a submission file that cannot be rejected."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import PROBABILITY, Competition, Submission
from xraycomp.data.files import atomic_path, read_table, write_csv
from xraycomp.data.manifest import find_images, image_folders
from xraycomp.data.predictions import ID


def expected_ids(competition: Competition, root: Path) -> list[str]:
    """The ids that a submission must hold, in order: the sample's, else the test folder's.

    Raises ``UserError`` where the competition has no test set or the sample is not as described.
    """
    submission = _submission(competition)
    if not submission.sample:
        suffix = submission.suffix
        return [
            (path if suffix else path.with_suffix("")).relative_to(folder).as_posix()
            for folder in image_folders(root, competition.test)
            for path in find_images(folder)
        ]
    path = root / submission.sample
    if not path.is_file():
        raise UserError(f"There is no sample submission {path}. Check the competition's TOML.")
    sample = read_table(path)
    if list(sample.columns) != list(submission.columns):
        raise UserError(
            f"{path} has the columns {listing(list(sample.columns))} but {competition.slug} "
            f"describes {listing(list(submission.columns))}. Correct [submission.columns]."
        )
    return list(sample[submission.id_column])


def build_submission(
    competition: Competition, predictions: pd.DataFrame, ids: list[str]
) -> pd.DataFrame:
    """Fill the submission's columns for ``ids`` from a probability table, in the order of ``ids``.

    Raises ``UserError`` where the table lacks an id or holds a value that is no number.
    """
    submission = _submission(competition)
    by_image = predictions.set_index(ID)
    keys = submission.images_of(ids)
    if missing := [key for key in keys if key not in by_image.index]:
        raise UserError(
            f"The predictions lack {len(missing):,} of {len(ids):,} test images: "
            f"{listing(missing)}."
        )
    classes = list(competition.classes)
    probs = by_image.loc[keys, classes].to_numpy()
    if not np.isfinite(probs).all():
        # argmax would quietly make a label of it.
        first = keys[int((~np.isfinite(probs)).any(axis=1).argmax())]
        raise UserError(f"The predictions hold a value that is no number, for {first}.")
    best = probs.argmax(axis=1)
    table = {}
    for column, content in submission.columns.items():
        if content == "id":
            table[column] = np.asarray(ids, dtype=object)
        elif content == "label_index":
            table[column] = best
        elif content == "label_name":
            table[column] = np.asarray(classes, dtype=object)[best]
        else:
            table[column] = probs[:, classes.index(content.removeprefix(PROBABILITY))]
    return pd.DataFrame(table)


def write_submission(
    path: Path, competition: Competition, predictions: pd.DataFrame, ids: list[str]
) -> None:
    """Write the submission to ``path``; it takes that name only after it passed the check."""
    table = build_submission(competition, predictions, ids)
    with atomic_path(path) as temporary:
        write_csv(temporary, table)
        check_submission(temporary, competition, ids, called=path.name)


def check_submission(
    path: Path, competition: Competition, ids: list[str], called: str | None = None
) -> None:
    """Check a submission file as Kaggle would: header, ids, order, count, values, encoding.

    Raises ``UserError`` with the first thing that is wrong and its line (``called`` is the file's
    name in that message).
    """
    submission = _submission(competition)
    name = called or str(path)
    raw = path.read_bytes()
    if raw.startswith(b"\xef\xbb\xbf"):
        raise UserError(f"{name} starts with a byte-order mark. Save it as plain UTF-8.")
    try:
        lines = list(csv.reader(raw.decode("utf-8").splitlines()))
    except csv.Error as error:
        raise UserError(f"{name} is not a readable CSV table: {error}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from error
    header, rows = (lines[0] if lines else []), lines[1:]
    if header != list(submission.columns):
        raise UserError(
            f"{name} has the header {','.join(header)!r}; it must be "
            f"{','.join(submission.columns)!r}."
        )
    if short := [line for line, row in enumerate(rows, 2) if len(row) != len(header)]:
        raise UserError(f"{name}, line {short[0]}: {len(header)} values are needed in each row.")
    found = [row[header.index(submission.id_column)] for row in rows]
    _check_ids(name, found, ids)
    for column, content in submission.columns.items():
        if content != "id":
            values = [row[header.index(column)] for row in rows]
            _check_values(name, column, content, values, competition.classes)


def _check_ids(name: str, found: list[str], expected: list[str]) -> None:
    if len(set(found)) < len(found):
        repeated = pd.Series(found)
        raise UserError(
            f"{name} holds ids twice: {listing(list(repeated[repeated.duplicated()]))}."
        )
    if missing := sorted(set(expected) - set(found)):
        raise UserError(f"{name} lacks {len(missing):,} ids: {listing(missing)}.")
    if extra := sorted(set(found) - set(expected)):
        raise UserError(
            f"{name} holds {len(extra):,} ids that are not asked for: {listing(extra)}."
        )
    if found != expected:
        line = next(
            i for i, pair in enumerate(zip(found, expected, strict=True), 2) if pair[0] != pair[1]
        )
        raise UserError(f"{name}, line {line}: the ids are not in the order of the sample.")


def _check_values(
    name: str, column: str, content: str, values: list[str], classes: tuple[str, ...]
) -> None:
    if content == "label_index":
        allowed = {str(index) for index in range(len(classes))}
        what = f"an integer from 0 to {len(classes) - 1}"
    elif content == "label_name":
        allowed, what = set(classes), f"one of {listing(classes, 20)}"
    else:
        allowed = {value for value in set(values) if _is_probability(value)}
        what = "a probability from 0 to 1"
    for line, value in enumerate(values, 2):
        if value not in allowed:
            raise UserError(f"{name}, line {line}: {column} is {value!r} but must be {what}.")


def _is_probability(text: str) -> bool:
    try:
        return 0.0 <= float(text) <= 1.0
    except ValueError:
        return False


def _submission(competition: Competition) -> Submission:
    if competition.submission is None:
        raise UserError(
            f"{competition.slug} has no test set to submit. Add [test] and [submission] to its "
            "TOML."
        )
    return competition.submission
