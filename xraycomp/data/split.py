"""Split the labelled images into training and validation: stratified, grouped, seeded."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError


def assign_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], fractions: list[float], seed: int
) -> NDArray[np.int64]:
    """Deal images into parts of the given sizes, every class alike, no group in two parts.

    Groups (patients, copies of one image) are stratified by their rarest class, shuffled within
    it and laid in a row; a group falls into the part in which its middle lies. So each class is
    parted to within one group. One sort: linear in practice (a million rows take a second).

    Parameters
    ----------
    labels : int array of shape (n_images,)
        Class index of each image.
    groups : int array of shape (n_images,)
        Images with equal numbers stay together.
    fractions : list of float
        Sizes of the parts, adding up to 1.
    seed : int
        Seed of the shuffle.

    Returns
    -------
    int array of shape (n_images,)
        The part of each image, 0 to ``len(fractions) - 1``.
    """
    counts = np.bincount(labels)
    # The rarest class of a group decides, since it is the one that a split can miss.
    rarity = np.argsort(np.argsort(counts, kind="stable"), kind="stable")
    _, first, group_of, size = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    stratum = np.full(len(first), len(counts), dtype=np.int64)
    np.minimum.at(stratum, group_of, rarity[labels])

    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(stratum[order], kind="stable")]
    sizes, strata = size[order], stratum[order]
    ends = np.cumsum(sizes)
    starts_of_stratum = np.searchsorted(strata, np.arange(len(counts) + 1))
    before = np.concatenate([[0], ends])[starts_of_stratum]
    totals = np.diff(np.concatenate([before, [ends[-1]]]))
    middles = (ends - sizes / 2 - before[strata]) / totals[strata]
    parts_in_order = np.searchsorted(np.cumsum(fractions)[:-1], middles, side="right")
    parts = np.empty(len(first), dtype=np.int64)
    parts[order] = parts_in_order
    _fill_empty_parts(parts, order, strata, len(fractions))
    return parts[group_of]


def _fill_empty_parts(
    parts: NDArray[np.int64], order: NDArray[np.int64], strata: NDArray[np.int64], n_parts: int
) -> None:
    """Give each part a group of every stratum that is large enough, taken from its largest part."""
    for stratum in np.unique(strata):
        members = order[strata == stratum]
        if len(members) < n_parts:
            continue
        for part in range(n_parts):
            held = np.bincount(parts[members], minlength=n_parts)
            if held[part] == 0:
                giver = members[parts[members] == held.argmax()][-1]
                parts[giver] = part


def split_manifest(
    manifest: pd.DataFrame,
    classes: tuple[str, ...],
    *,
    val_fraction: float,
    folds: int = 0,
    fold: int = 0,
    seed: int = 0,
    same_side: NDArray[np.int64] | None = None,
) -> pd.Series:
    """The ``split`` column with the labelled images parted into ``train`` and ``val``.

    ``folds`` > 0 makes ``fold`` of that many equal folds the validation part; else it is
    ``val_fraction`` of the images. Images of one patient, and images with one number in
    ``same_side`` (int array of shape (n_rows,), for copies), stay on one side.

    Raises ``UserError`` for fractions and folds outside their range and for classes that are too
    small to stand on both sides.
    """
    if folds:
        if folds < 2 or not 0 <= fold < folds:
            raise UserError(f"--folds must be at least 2 and --fold one of 0 to {folds - 1}.")
        fractions = [1 / folds] * folds
    elif 0 < val_fraction < 1:
        fractions = [val_fraction, 1 - val_fraction]
    else:
        raise UserError(f"--val-fraction is {val_fraction}; it must lie between 0 and 1.")
    labelled = manifest["split"].eq("train").to_numpy()
    rows = np.flatnonzero(labelled)
    names = manifest["label"].iloc[rows]
    groups = _groups(manifest["patient"].to_numpy(dtype=object), same_side)[rows]
    groups_of_class = pd.Series(groups).groupby(names.to_numpy()).nunique()
    groups_of_class = groups_of_class.reindex(list(classes), fill_value=0)
    smallest, count = groups_of_class.idxmin(), groups_of_class.min()
    if count < len(fractions):
        raise UserError(
            f"The class {smallest} has {count} image(s) or patient(s), too few "
            f"to stand in each of {len(fractions)} parts of the split. Add images or leave it out."
        )
    labels = pd.Categorical(names, categories=list(classes)).codes.astype(np.int64)
    parts = assign_folds(labels, groups, fractions, seed)
    held = parts == (fold if folds else 0)
    for index, name in enumerate(classes):
        # Where patients have images of several classes, one class can be torn off with another.
        if len(np.unique(held[labels == index])) < 2:
            raise UserError(
                f"The class {name} falls on one side of the split only, since its few patients or "
                "copies stay together with images of other classes. Try another --seed or "
                "--val-fraction."
            )
    split = manifest["split"].to_numpy(dtype=object).copy()
    split[rows] = np.where(held, "val", "train")
    return pd.Series(split, index=manifest.index, name="split", dtype=object)


def _groups(
    patients: NDArray[np.object_], same_side: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """One number for all images that share a patient or, through any chain, a copy."""
    alone = np.arange(len(patients))
    codes, _ = pd.factorize(patients)
    by_patient = np.where(patients == "", alone, codes + len(patients))
    if same_side is None:
        return by_patient
    # Imported here: a grouped split without copies needs no graph.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(patients)
    _, patient = np.unique(by_patient, return_inverse=True)
    _, copy = np.unique(same_side, return_inverse=True)
    # Two-sided graph: each image joins its patient's node with its copies' node.
    nodes = patient.max() + 1 + copy.max() + 1
    edges = (np.ones(n, dtype=np.int8), (patient, copy + patient.max() + 1))
    _, component = connected_components(coo_array(edges, shape=(nodes, nodes)), directed=False)
    joined: NDArray[np.int64] = component[patient].astype(np.int64)
    return joined
