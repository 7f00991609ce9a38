"""Which columns of a probability table and of a label table speak of the same classes."""

import re
from collections import defaultdict
from collections.abc import Collection
from itertools import combinations

import pandas as pd

from xraycomp.console.errors import UserError
from xraycomp.data.label_cells import FLAGS, split_names
from xraycomp.data.labels import UNKNOWN
from xraycomp.data.predictions import SUM_TOLERANCE

_INDEX_COLUMNS = {"label", "labels", "target", "class", "class_id", "diagnosis", "finding", "y"}


def plain(name: str) -> str:
    """A name without what tables spell differently: ``Pleural Thickening``, ``pleural-thickening``.

    >>> plain("Pleural-Thickening")
    'pleural_thickening'
    """
    return re.sub(r"[\W_]+", "_", name.casefold())


def find_columns(
    names: Collection[str], scores: pd.DataFrame, pattern: str = ""
) -> list[dict[str, str]]:
    """Class -> column of its probability, for as many of ``names`` as there are columns of.

    ``pattern`` says what stands before and after a class's name (``pred_{}``); without it what
    fits most of them is taken, columns of probabilities before those of 0 and 1. All that fit
    equally well are returned, one at least.
    """
    if pattern.count("{}") != bool(pattern):
        raise UserError(f"--columns is {pattern!r}; it must hold {{}} once, as in pred_{{}}.")
    found: dict[str, dict[str, str]] = defaultdict(dict)
    if pattern:
        keys = {plain(pattern.replace("{}", name)): name for name in names}
        for column in scores.columns:
            if name := keys.get(plain(column)):
                found[pattern].setdefault(name, column)
    else:
        keys = {plain(name): name for name in names}
        for column in scores.columns:
            words = plain(column).split("_")
            for start, end in combinations(range(len(words) + 1), 2):
                if name := keys.get("_".join(words[start:end])):
                    affix = "_".join([*words[:start], "{}", *words[end:]])
                    found[affix].setdefault(name, column)

    def merit(columns: dict[str, str]) -> tuple[int, int]:
        return len(columns), sum(not is_flags(scores[name]) for name in columns.values())

    merits = [merit(columns) for columns in found.values()]
    fitting = zip(found.values(), merits, strict=True)
    return [columns for columns, reached in fitting if reached == max(merits)] or [{}]


def find_labels(
    truth: pd.DataFrame, scores: pd.DataFrame, separator: str, pattern: str
) -> tuple[str, list[str]]:
    """The column of ``truth`` whose cells name most classes of ``scores``, and all that it names.

    The column is empty where columns of 0 and 1 fit as well; these are then the names.
    """
    found = [("", [name for name in truth.columns if is_flags(truth[name])])]
    found += [(name, names_in(truth[name], separator)) for name in truth.columns]

    def merit(labels: tuple[str, list[str]]) -> tuple[int, bool, int]:
        column, names = labels
        return len(find_columns(names, scores, pattern)[0]), not column, -len(names)

    return max(found, key=merit)


def names_in(column: pd.Series, separator: str) -> list[str]:
    """The different names in a column's cells, in the order of the alphabet."""
    names = {name for cell in column.unique() for name in split_names(cell, separator)}
    return sorted({name.removeprefix(UNKNOWN) for name in names} - {""})


def is_flags(column: pd.Series) -> bool:
    """Whether a column says 0 or 1 (or that it is not known) for each image."""
    # The first cell that is none ends the search, which long columns of probabilities need.
    if not all(cell.strip() in FLAGS for cell in column):
        return False
    return any(FLAGS[cell.strip()] in (0, 1) for cell in column)


def find_indices(truth: pd.DataFrame) -> str:
    """The column of ``truth`` with a usual name that holds class indices; empty without one."""
    usual = [name for name in truth.columns if plain(name) in _INDEX_COLUMNS]
    return next((name for name in usual if is_indices(truth[name])), "")


def is_indices(column: pd.Series) -> bool:
    """Whether a column holds whole numbers only."""
    return bool(column.str.fullmatch(r"\d{1,4}").all())


def complete_sum(chosen: dict[str, str], scores: pd.DataFrame) -> dict[str, str]:
    """``chosen`` and all other columns of numbers in 0..1, where they add up to 1 in each row."""
    numbers = scores.apply(pd.to_numeric, errors="coerce")
    others = numbers.columns[((numbers >= 0) & (numbers <= 1)).all()].difference(
        list(chosen.values()), sort=False
    )
    sums = numbers[[*chosen.values(), *others]].sum(axis=1)
    if ((sums - 1).abs() < SUM_TOLERANCE).all():
        return chosen | {name: name for name in others}
    return chosen
