"""All folds of a split in one manifest, and each fold's own manifest out of it."""

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.data.competition import FOLD, PSEUDO_LABEL
from xraycomp.data.pseudo_labels import leave_out_copies
from xraycomp.data.split import SplitPlan, split_manifest


def part_manifest(
    manifest: pd.DataFrame,
    classes: tuple[str, ...],
    plan: SplitPlan,
    *,
    same_side: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """``manifest`` parted as `split_manifest` does; where ``plan`` is for all folds, with the
    column ``fold``.

    It holds the number of the fold that validates on the image, as text, and nothing for images
    that none does. All images of folds are in the split ``val``, since each is judged by the
    network of its fold, which has not learned it.

    Raises ``UserError`` as `split_manifest` does, for any of the folds.
    """
    if not plan.all_folds:
        split = split_manifest(manifest, classes, plan, same_side=same_side)
        return manifest.assign(split=split)
    fold = pd.Series("", index=manifest.index, dtype=object)
    for number in range(plan.folds):
        each = replace(plan, fold=number)
        split = split_manifest(manifest, classes, each, same_side=same_side)
        fold[split == "val"] = str(number)
    return manifest.assign(split=split.where(fold == "", "val"), **{FOLD: fold})


def fold_manifest(
    manifest: pd.DataFrame, number: int, copies: NDArray[np.int64] | None = None
) -> pd.DataFrame:
    """The manifest of the fold of that number, from that of all folds.

    ``copies`` (int array of shape (n_rows,)) has one number for all copies of an image; pseudo-
    labelled ones of validation images are then left out.
    """
    fold = manifest[FOLD]
    split = manifest["split"].where(fold == "", "train").where(fold != str(number), "val")
    found = manifest.drop(columns=FOLD).assign(split=split)
    if copies is not None and PSEUDO_LABEL in found:
        found = leave_out_copies(found, copies)
    return found


def name_sides(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest with folds in place of splits where images are in one: ``fold 0``."""
    if FOLD not in manifest:
        return manifest
    sides = manifest["split"].where(manifest[FOLD] == "", "fold " + manifest[FOLD])
    return manifest.assign(split=sides)


def unparted(manifest: pd.DataFrame) -> pd.DataFrame:
    """The manifest of a run as it was before its labelled images were parted."""
    split = manifest["split"].where(manifest["split"] != "val", "train")
    return manifest.drop(columns=[FOLD], errors="ignore").assign(split=split)
