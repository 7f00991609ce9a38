"""How good a model is on each part of the images: by view, sex, age, folder, size, brightness."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import COLUMNS, PSEUDO_LABEL, Competition
from xraycomp.data.labels import SEPARATOR
from xraycomp.judging.checks import checked
from xraycomp.judging.intervals import FloatArray
from xraycomp.judging.metrics import judge
from xraycomp.judging.table import aligned, interval, shorten
from xraycomp.judging.thresholds import Thresholds

SLICES = "slices.json"

FIGURES = {"macro_auroc": "macro AUROC", "accuracy": "accuracy", "macro_f1": "macro F1"}

FEWEST = 30
"""A slice of fewer images is not judged: its interval would be wider than any difference."""

MOST_VALUES = 20
"""A column of more values does not part the images into slices, but names them."""

RESAMPLES = 300
"""Fewer than for the whole: a large test set has dozens of slices."""

NOT_GIVEN = "(not given)"

_MOST_NUMBERS = 10  # a column of more different numbers is cut into bands
_MOST_BANDS = 12  # decades, if no more than that: ages; else thirds
_YEARS = r"^(\d+)[Yy]$"  # ages in some versions of the NIH's table, as in DICOM: 058Y


def slice_columns(images: pd.DataFrame, measured: pd.DataFrame | None = None) -> pd.DataFrame:
    """What images can be sliced by: a table of text with a row an image, in the same order.

    Its columns are, by the path, ``folder`` (below the root, without a part that is the label) and
    ``file type``; those of the manifest that ``train.columns`` of the competition names, and the
    ``fold`` of all folds; and, where all images were ``measured``, ``shorter side`` (pixels) and
    ``brightness``, in thirds. Many numbers of the manifest are cut into decades or, if these are
    too many, into thirds. Columns of fewer than 2 or more than `MOST_VALUES` values are left out.

    Parameters
    ----------
    images : rows of a manifest
    measured : as `measure_images` gives it, or nothing
    """
    paths = [PurePosixPath(path) for path in images["path"]]
    labels = [label.split(SEPARATOR) for label in images["label"]]
    folders = [
        "/".join(part for part in path.parent.parts if part not in label)
        for path, label in zip(paths, labels, strict=True)
    ]
    known = (*COLUMNS, PSEUDO_LABEL)
    found = {name: list(images[name]) for name in images.columns if name not in known}
    found = {"folder": folders, "file type": [path.suffix.lower() for path in paths]} | found
    banded = {name: _banded(pd.Series(column, dtype=object)) for name, column in found.items()}
    if measured is not None and images["image"].isin(measured["image"]).all():
        rows = measured.set_index("image").reindex(images["image"]).reset_index(drop=True)
        sides = rows[["width", "height"]].min(axis=1)
        banded["shorter side"] = _banded(sides, most_bands=0)
        banded["brightness"] = _banded(rows["brightness"], most_bands=0)
    return pd.DataFrame(
        {name: column for name, column in banded.items() if 2 <= column.nunique() <= MOST_VALUES},
        index=range(len(images)),
    )


def _banded(column: pd.Series, most_bands: int = _MOST_BANDS) -> pd.Series:
    """The values as text, many numbers as decades, or as thirds where these are too many."""
    text = column.where(column.notna(), "").astype(str).str.strip()
    given = text != ""
    numbers = pd.to_numeric(text.str.replace(_YEARS, r"\1", regex=True), errors="coerce")
    known = numbers[given & numbers.between(-1e9, 1e9)]
    # A few cells that are no numbers do not make a column of ages one of names.
    if known.nunique() > _MOST_NUMBERS and len(known) > 0.9 * given.sum():
        decades = (known // 10 * 10).astype(int)
        few = decades.nunique() <= most_bands
        bands = decades.map(lambda first: f"{first}-{first + 9}") if few else _thirds(known)
        return bands.reindex(text.index, fill_value=NOT_GIVEN)
    return text.where(given, NOT_GIVEN)


def _thirds(numbers: pd.Series) -> pd.Series:
    """Numbers as bands of a third of the images each, or fewer bands where many are alike."""
    low, high = (round(float(cut)) for cut in numbers.quantile([1 / 3, 2 / 3]))
    names = [f"up to {low:,}", f"{low:,} to {high:,}", f"over {high:,}"]
    which = (numbers > low).astype(int) + (numbers > high).astype(int)
    return which.map(dict(enumerate(names)))


def judge_slices(
    competition: Competition,
    targets: ArrayLike,
    probs: ArrayLike,
    judged_on: str,
    columns: pd.DataFrame,
    *,
    thresholds: Thresholds | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Judge the images of each value of each column by themselves, worst macro AUROC first.

    Slices of fewer than `FEWEST` images come last, without figures. A slice may lack some classes,
    and the mean over the others is not of the same height: ``classes`` says how many were judged.

    Parameters
    ----------
    columns : a table of text of n rows, as `slice_columns` gives it
    targets, probs, judged_on, thresholds, resamples : as in `metrics.judge`

    Returns
    -------
    dict, ready for JSON
        ``{"split": judged_on, "classes": int, "fewest": int, "slices": [{"column": str, "value":
        str, "n": int, "classes": int, "figures": {"macro_auroc", "accuracy" and "macro_f1":
        {"value", "low", "high"}}}]}``, None where not defined.

    Raises ``UserError`` for shapes and values that do not fit.
    """
    true, scores = checked(
        targets, probs, competition.classes, one_class=not competition.multilabel
    )
    slices = []
    for name in columns.columns:
        for value in sorted(columns[name].unique()):
            rows = (columns[name] == value).to_numpy()
            found: dict[str, Any] = {"column": name, "value": value, "n": int(rows.sum())}
            found["classes"] = _judged_classes(true[rows])
            if found["n"] < FEWEST:
                found["figures"] = {key: dict.fromkeys(_ENTRY) for key in FIGURES}
            else:
                report = judge(
                    competition,
                    true[rows],
                    scores[rows],
                    judged_on,
                    thresholds=thresholds,
                    resamples=resamples,
                )
                found["figures"] = {key: report["overall"][key] for key in FIGURES}
            slices.append(found)
    classes = _judged_classes(true)
    slices.sort(key=_worst_first)
    return {"split": judged_on, "classes": classes, "fewest": FEWEST, "slices": slices}


_ENTRY = ("value", "low", "high")


def _judged_classes(targets: FloatArray) -> int:
    """How many classes some of the images have and some have not."""
    return int(((targets == 1).any(axis=0) & (targets == 0).any(axis=0)).sum())


def _worst_first(found: dict[str, Any]) -> tuple[bool, float]:
    area = found["figures"]["macro_auroc"]["value"]
    return (area is None, 0.0 if area is None else area)


def worst_slice(judged: dict[str, Any]) -> str:
    """The worst slice of what `judge_slices` returned, in one line."""
    known = [s for s in judged["slices"] if s["figures"]["macro_auroc"]["value"] is not None]
    if not known:
        return "There are no slices that are large enough to be judged."
    worst = known[0]
    return (
        f"Worst of {len(known)} slices: {worst['column']} {worst['value']} "
        f"({worst['n']:,} images), macro AUROC {interval(worst['figures']['macro_auroc'])}."
    )


def check_slices(asked: Sequence[str], columns: Iterable[str]) -> None:
    """Raise ``UserError`` where a column that is ``asked`` for is none of ``columns``."""
    there = list(columns)
    if missing := [name for name in asked if name not in there]:
        raise UserError(
            f"There are no slices by {listing(missing)}: no column of the manifest, or one of "
            f"fewer than 2 or more than {MOST_VALUES} values (there are slices by: "
            f"{listing(there, MOST_VALUES) or 'nothing'}). Columns of the label table are named as "
            "[train.columns] in the competition's TOML."
        )


def format_slices(judged: dict[str, Any], columns: Sequence[str] = ()) -> str:
    """What `judge_slices` returned as text, of all ``columns`` or some; no newline at the end."""
    chosen = [s for s in judged["slices"] if not columns or s["column"] in columns]
    if not chosen:
        return "There are no slices: the images are all of one folder, size and brightness."
    rows = [["slice", "images", "classes", *(f"{name} (95 % CI)" for name in FIGURES.values())]]
    for found in chosen:
        name = f"{found['column']}: {shorten(found['value'])}"
        if found["n"] < judged["fewest"]:
            cells = ["too few to tell"] + [""] * (len(FIGURES) - 1)
        else:
            cells = [interval(found["figures"][key]) for key in FIGURES]
        rows.append([name, f"{found['n']:,}", f"{found['classes']}", *cells])
    legend = (
        f"Worst first. A slice needs {judged['fewest']} images to be judged. classes: how many of "
        f"{judged['classes']} its means are over;\nwith others missing they are of another height. "
        "Of many slices some look bad by luck: mind the intervals."
    )
    table = "\n".join(line.rstrip() for line in aligned(rows).splitlines())
    return f"{table}\n\n{legend}"
