"""A CSV table of labels: joined, filtered and read into the labels that the manifest holds."""

import logging
from pathlib import Path

import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import Competition, Labelled
from xraycomp.data.files import check_columns, read_table
from xraycomp.data.label_cells import label_columns, read_targets
from xraycomp.data.labels import decode_targets

log = logging.getLogger(__name__)


def read_label_table(competition: Competition, root: Path) -> tuple[pd.DataFrame, int]:
    """The rows of the competition's label table that are used, and how many it has in all.

    The columns are ``name`` (as the table names the image), ``label``, ``patient``, ``split``
    (``test`` for the images of the official test list) and those of ``train.columns``, each as in
    the manifest.

    Raises ``UserError`` for missing files and columns, images named twice, labels that are no
    class, a class without an image, and lists that do not fit the table.
    """
    train, path = competition.train, root / competition.train.labels
    table = _read(path)
    if train.join:
        table = _join(table, path, train, root / train.join)
    needed = [train.image_column, *label_columns(train, competition.classes), *train.where]
    needed += [competition.patient_column] if competition.patient_column else []
    check_columns(table, path, needed)
    if lost := sorted(set(train.columns.values()) - set(table.columns)):
        log.info("%s has no column %s: results are not sliced by it.", path, listing(lost))
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
    classes = list(competition.classes)
    found = read_targets(table, path, train, classes, multilabel=competition.multilabel)
    targets = pd.DataFrame(found, table.index, classes)
    if competition.multilabel:
        used, what = targets.notna().any(axis=1), "of which nothing is known"
    else:
        used, what = targets.any(axis=1), "with none of the classes"
    if not used.all():
        log.info("%s images %s are left out.", f"{(~used).sum():,}", what)
    if absent := [name for name in classes if not (targets[name] == 1).any()]:
        raise UserError(f"{path} has no image of {listing(absent)}, a class of {competition.slug}.")
    rows = pd.DataFrame(
        {
            "name": table[train.image_column],
            "label": decode_targets(found, classes),
            "patient": table[competition.patient_column] if competition.patient_column else "",
            "split": splits[table.index],
            **{name: table.get(column, "") for name, column in train.columns.items()},
        },
        dtype=object,
    )
    return rows.loc[used].reset_index(drop=True), n_rows


def _read(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except FileNotFoundError:
        raise UserError(f"There is no label table {path}. Check --data.") from None


def _join(table: pd.DataFrame, path: Path, train: Labelled, other_path: Path) -> pd.DataFrame:
    """``table`` with the columns of the second table, row by row as before."""
    key, other = train.join_column, _read(other_path)
    check_columns(table, path, [key])
    check_columns(other, other_path, [key])
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
