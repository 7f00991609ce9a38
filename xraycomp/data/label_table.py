"""A CSV table of labels: joined, filtered and read into the labels that the manifest holds."""

import logging
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.files import read_table
from xraycomp.data.labels import SEPARATOR, UNKNOWN

log = logging.getLogger(__name__)

_CELL = "\0"
"""Parts the cells of one row where they are read as one text."""
_MARKS = {"1": "", "1.0": "", "0": None, "0.0": None, "": UNKNOWN, "-1": UNKNOWN, "-1.0": UNKNOWN}
"""What stands in a class's column -> what goes before its name in the label, or None for none."""


def read_label_table(competition: Competition, root: Path) -> tuple[pd.DataFrame, int]:
    """The rows of the competition's label table that are used, and how many it has in all.

    The columns are ``name`` (as the table names the image), ``label``, ``patient`` and ``split``
    (``test`` for the images of the official test list), each as in the manifest.

    Raises ``UserError`` for missing files and columns, images named twice, labels that are no
    class, a class without an image, and lists that do not fit the table.
    """
    train, path = competition.train, root / competition.train.labels
    table = _read(path)
    if train.join:
        table = _join(table, path, train, root / train.join)
    columns = _label_columns(competition)
    needed = [train.image_column, *columns, *train.where]
    needed += [competition.patient_column] if competition.patient_column else []
    _check_columns(table, path, needed)
    n_rows = len(table)
    names = table[train.image_column].astype(object)
    repeated = names[names.duplicated()]
    if len(repeated):
        raise UserError(f"{path} names {len(repeated):,} images twice: {listing(list(repeated))}.")
    splits = _read_lists(train, root, names, path)
    for column, values in train.where.items():
        kept = table[column].isin(values)
        if not kept.any():
            raise UserError(f"{path} has no row whose {column} is {listing(values)}. Check --data.")
        if not kept.all():
            others = f"{len(kept) - kept.sum():,}"
            log.info("%s images whose %s is not %s are left out.", others, column, listing(values))
        table = table[kept]
    rows = pd.DataFrame(
        {
            "name": table[train.image_column],
            "label": _labels(table, columns, competition, path),
            "patient": table[competition.patient_column] if competition.patient_column else "",
            "split": splits[table.index],
        },
        dtype=object,
    )
    without = rows["label"].isna()
    if without.any():
        what = "of which nothing is known" if competition.multilabel else "with none of the classes"
        log.info("%s images %s are left out.", f"{without.sum():,}", what)
        rows = rows[~without]
    present = set(rows["label"])
    if competition.multilabel:
        present = {name for text in present for name in text.split(SEPARATOR)}
    if absent := [name for name in competition.classes if name not in present]:
        raise UserError(f"{path} has no image of {listing(absent)}, a class of {competition.slug}.")
    return rows.reset_index(drop=True), n_rows


def _read(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except FileNotFoundError:
        raise UserError(f"There is no label table {path}. Check --data.") from None


def _check_columns(table: pd.DataFrame, path: Path, needed: list[str]) -> None:
    if missing := [column for column in needed if column not in table.columns]:
        raise UserError(
            f"{path} has no column {listing(missing)} (columns: "
            f"{listing(list(table.columns), 12)})."
        )


def _join(table: pd.DataFrame, path: Path, train: Labelled, other_path: Path) -> pd.DataFrame:
    """``table`` with the columns of the second table, row by row as before."""
    key, other = train.join_column, _read(other_path)
    _check_columns(table, path, [key])
    _check_columns(other, other_path, [key])
    repeated = other[key][other[key].duplicated()]
    if len(repeated):
        raise UserError(
            f"{other_path} has {len(repeated):,} rows whose {key} is there already: "
            f"{listing(list(repeated))}."
        )
    lost = table[key][~table[key].isin(other[key])].unique()
    if len(lost):
        raise UserError(
            f"{other_path} has no row for {len(lost):,} values of {key} in {path}: "
            f"{listing(list(lost))}."
        )
    new = [column for column in other.columns if column == key or column not in table.columns]
    return table.merge(other[new], on=key, how="left")


def _read_lists(train: Labelled, root: Path, names: pd.Series, path: Path) -> pd.Series:
    """The split of each row by the official lists: ``train`` where there are none."""
    splits = pd.Series("train", index=names.index, dtype=object)
    if not train.test_list:
        return splits
    seen: dict[str, str] = {}
    for file, split in ((train.train_list, "train"), (train.test_list, "test")):
        try:
            listed = (root / file).read_text(encoding="utf-8").split()
        except FileNotFoundError:
            raise UserError(f"There is no list {root / file}. Check --data.") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{root / file} is not UTF-8 text ({error.reason}).") from error
        if twice := [name for name in listed if seen.setdefault(name, split) != split]:
            raise UserError(
                f"{root / file} names {len(twice):,} images of {train.train_list} again: "
                f"{listing(twice)}."
            )
    if lost := sorted(set(seen) - set(names)):
        raise UserError(
            f"{len(lost):,} images of {train.train_list} and {train.test_list} have no row in "
            f"{path}: {listing(lost)}."
        )
    unlisted = names[~names.isin(list(seen))]
    if len(unlisted):
        raise UserError(
            f"{len(unlisted):,} images of {path} stand neither in {train.train_list} nor in "
            f"{train.test_list}: {listing(list(unlisted))}."
        )
    return names.map(seen).astype(object)


def _label_columns(competition: Competition) -> list[str]:
    """The label column, or the column of each class in index order."""
    if competition.train.label_column:
        return [competition.train.label_column]
    called = {name: column for column, name in competition.train.names.items()}
    return [called.get(name, name) for name in competition.classes]


def _labels(
    table: pd.DataFrame, columns: list[str], competition: Competition, path: Path
) -> pd.Series:
    """The manifest's label of each row, None for a row to be left out."""
    read = _read_names if competition.train.label_column else _read_flags
    texts = [_CELL.join(cells) for cells in zip(*(table[name] for name in columns), strict=True)]
    labels: dict[str, str | None] = {}
    for row, text in enumerate(texts):
        if text in labels:  # a large table has few different ones
            continue
        try:
            labels[text] = _join_names(read(text, competition), competition)
        except ValueError as error:
            image = table[competition.train.image_column].iloc[row]
            raise UserError(
                f"{path}, line {table.index[row] + 2}: the label {text.replace(_CELL, ',')!r} of "
                f"{image} {error}."
            ) from None
    return pd.Series([labels[text] for text in texts], index=table.index, dtype=object)


def _read_names(text: str, competition: Competition) -> list[str]:
    """The classes that one text names, in index order; ``ValueError`` says what is wrong."""
    train, classes = competition.train, competition.classes
    parts = text.split(train.separator) if train.separator else [text]
    found = {train.names.get(part, part) for part in map(str.strip, parts)}
    if competition.multilabel:
        # The text for none can be a class too: an option of a run makes it one.
        found -= {"", train.none} - set(classes)
    known = [name for name in classes if name in found]
    if len(known) < len(found) and train.others != "ignore":
        raise ValueError(f"is not a class of {competition.slug} ({listing(classes, 20)})")
    return known


def _read_flags(text: str, competition: Competition) -> list[str]:
    """The classes whose cells hold 1, and with a mark those that are unknown."""
    found = []
    for name, value in zip(competition.classes, text.split(_CELL), strict=True):
        if value.strip() not in _MARKS:
            raise ValueError("holds a value that is not 1, 0, -1 or nothing")
        mark = _MARKS[value.strip()]
        if mark is not None:
            found.append(mark + name)
    if competition.multilabel and set(found) == {UNKNOWN + name for name in competition.classes}:
        return [UNKNOWN]
    return found


def _join_names(names: list[str], competition: Competition) -> str | None:
    """The label, or None where it says nothing; ``ValueError`` says what is wrong."""
    if competition.multilabel:
        return None if names == [UNKNOWN] else SEPARATOR.join(names)
    if not names and competition.train.others == "ignore":
        return None
    if len(names) != 1 or names[0] not in competition.classes:
        what = "is unknown" if len(names) == 1 else f"names {len(names)} classes"
        raise ValueError(f"{what}, where an image must have one of {competition.slug}")
    return names[0]
