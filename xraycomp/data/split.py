"""Split the labelled images into training, validation and test: stratified, grouped, seeded."""

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError
from xraycomp.data.labels import encode_targets, is_labelled, rarity

log = logging.getLogger(__name__)

CHEXNET = (0.2, 0.1)
"""CheXNet's shares for test and validation, the rest being for training (Rajpurkar et al., 2017);
its own lists were not published."""


@dataclass(frozen=True)
class SplitPlan:
    """How the labelled images are parted; results bear what ``describe`` says of it.

    Raises ``UserError`` for values outside their range.
    """

    split_by: str = "fraction"
    """``fraction``, ``official`` (the official test list is the test split) or ``chexnet``."""
    test_fraction: float = 0.0
    val_fraction: float = 0.1
    folds: int = 0
    """More than 0: ``fold`` of that many equal folds is the validation split."""
    fold: int | None = None
    """None: all of them, each in its turn."""
    seed: int = 0
    drop_no_finding: bool = False
    """Whether images without any finding were left out before, which results must say."""

    @property
    def all_folds(self) -> bool:
        """Whether each fold is to be the validation split in its turn."""
        return self.folds > 0 and self.fold is None

    @property
    def fractions(self) -> tuple[float, float]:
        """Shares of all labelled images for test and validation (of the others, if official)."""
        if self.split_by == "chexnet":
            return CHEXNET
        return (0.0 if self.split_by == "official" else self.test_fraction), self.val_fraction

    def __post_init__(self) -> None:
        test, val = self.fractions
        if self.fold and not self.folds:
            raise UserError(f"--fold {self.fold} is one of --folds, which is not given. Give both.")
        if self.folds and self.folds < 2:
            raise UserError(f"--folds is {self.folds}; it must be at least 2, or 0 for none.")
        if self.folds and not 0 <= (self.fold or 0) < self.folds:
            raise UserError(f"--fold is {self.fold}; it must be one of 0 to {self.folds - 1}.")
        if not self.folds and not 0 < val < 1:
            raise UserError(f"--val-fraction is {val}; it must lie between 0 and 1.")
        if not 0 <= test < 1 or (not self.folds and test + val >= 1):
            raise UserError(
                f"--test-fraction is {test}; it must be at least 0 and leave images for training "
                "beside --val-fraction."
            )
        if self.split_by != "fraction" and self.test_fraction:
            raise UserError(
                f"--test-fraction {self.test_fraction} and --split-by {self.split_by} contradict "
                "each other, since that has a test split of its own. Choose --test-fraction 0 or "
                "--split-by fraction."
            )

    def describe(self, split: str, manifest: pd.DataFrame) -> str:
        """What to call the images of one split (train, val or test) of ``manifest`` in results.

        For instance ``validation split, by patient, 10 %, seed 0`` or ``official test split``.
        """
        found = ", images with findings only" if self.drop_no_finding else ""
        if split == "train":
            return f"training split (seen in training){found}"
        if split not in ("val", "test"):
            return f"{split} split"
        if split == "test" and self.split_by == "official":
            return f"official test split{found}"
        test, val = self.fractions
        name = "test split" if split == "test" else "validation split"
        if self.all_folds and split == "val":
            name = f"out-of-fold validation over {self.folds} folds"
        if self.split_by == "official":
            name += " of the official training list"
        by = "by patient" if manifest["patient"].ne("").any() else "by image"
        share = f", {100 * (test if split == 'test' else val):g} %"
        if self.folds and split == "val":
            share = "" if self.all_folds else f", fold {self.fold} of {self.folds}"
        paper = " as in CheXNet (70/10/20)" if self.split_by == "chexnet" else ""
        return f"{name}, {by}{share}{paper}, seed {self.seed}{found}"


def assign_folds(
    targets: NDArray[np.float32], groups: NDArray[np.int64], fractions: list[float], seed: int
) -> NDArray[np.int64]:
    """Deal images into parts of the given sizes, every class alike, no group in two parts.

    Groups (patients, copies of one image) are stratified by their rarest class, shuffled within
    it and laid in a row; a group falls into the part in which its middle lies. So each class is
    parted to within one group. One sort: linear in practice (a million rows take a second).

    Parameters
    ----------
    targets : float array of shape (n_images, n_classes)
        1 for the classes of each image; others, and unknown ones (NaN), do not count.
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
    _, first, group_of, size = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    # The rarest class of a group decides, since it is the one that a split can miss. Groups in
    # which no image has any come last.
    n_strata = targets.shape[1] + 1
    stratum = np.full(len(first), n_strata - 1, dtype=np.int64)
    np.minimum.at(stratum, group_of, rarity(targets))

    order = np.random.default_rng(seed).permutation(len(first))
    order = order[np.argsort(stratum[order], kind="stable")]
    sizes, strata = size[order], stratum[order]
    ends = np.cumsum(sizes)
    starts_of_stratum = np.searchsorted(strata, np.arange(n_strata))
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
    plan: SplitPlan,
    *,
    same_side: NDArray[np.int64] | None = None,
) -> pd.Series:
    """The ``split`` column with the labelled images parted into ``train``, ``val`` and ``test``.

    Images of one patient, and images with one number in ``same_side`` (int array of shape
    (n_rows,), for copies), stay in one split; only the official test list is taken as it is. Which
    images are for testing does not depend on the fold and the validation split.

    Raises ``UserError`` for a test split beside the test images of a competition, a missing
    official list, and classes that are too small to stand in each split.
    """
    split = manifest["split"].to_numpy(dtype=object).copy()
    known = is_labelled(manifest["label"])
    listed = known & (split == "test")
    test_fraction, val_fraction = plan.fractions
    if plan.split_by == "official" and not listed.any():
        raise UserError(
            "--split-by official needs an official test list, and this competition has none. "
            "Choose another --split-by, or name the list as train.test_list in the competition's "
            "TOML."
        )
    if test_fraction and (~known & (split == "test")).any():
        raise UserError(
            "This competition has test images of its own, so there can be no test split of the "
            "labelled ones. Leave out --test-fraction, and choose --split-by fraction."
        )
    if plan.split_by != "official":
        split[listed] = "train"
    elif shared := set(manifest["patient"][split == "test"]) & set(
        manifest["patient"][split == "train"]
    ) - {""}:
        log.warning(
            "%s patients have images in the official test list and in the training list.",
            f"{len(shared):,}",
        )
    rows = np.flatnonzero(split == "train")
    targets = encode_targets(manifest["label"].iloc[rows], classes)
    groups = join_groups(manifest["patient"].to_numpy(dtype=object), same_side)[rows]
    _check_sizes(targets, groups, classes, (plan.folds or 2) + (test_fraction > 0))
    if test_fraction:
        held = assign_folds(targets, groups, [test_fraction, 1 - test_fraction], plan.seed) == 0
        _check_sides(targets, held, classes)
        split[rows[held]] = "test"
        rows, targets, groups = rows[~held], targets[~held], groups[~held]
        val_fraction /= 1 - test_fraction
    fractions = [1 / plan.folds] * plan.folds if plan.folds else [val_fraction, 1 - val_fraction]
    held = assign_folds(targets, groups, fractions, plan.seed) == (plan.fold if plan.folds else 0)
    _check_sides(targets, held, classes)
    split[rows[held]] = "val"
    return pd.Series(split, index=manifest.index, name="split", dtype=object)


def _check_sizes(
    targets: NDArray[np.float32], groups: NDArray[np.int64], classes: tuple[str, ...], n_parts: int
) -> None:
    counts = [len(np.unique(groups[column == 1])) for column in targets.T]
    smallest = int(np.argmin(counts))
    if counts[smallest] < n_parts:
        raise UserError(
            f"The class {classes[smallest]} has {counts[smallest]} image(s) or patient(s), too few "
            f"to stand in each of {n_parts} parts of the split. Add images, ask for fewer --folds, "
            "or leave the class out (--min-count, where images have several)."
        )


def _check_sides(
    targets: NDArray[np.float32], held: NDArray[np.bool_], classes: tuple[str, ...]
) -> None:
    for name, column in zip(classes, targets.T, strict=True):
        # Where patients have images of several classes, one class can be torn off with another.
        if len(np.unique(held[column == 1])) < 2:
            raise UserError(
                f"The class {name} falls on one side of the split only, since its few patients or "
                "copies stay together with images of other classes. Try another --seed or "
                "--val-fraction."
            )


def join_groups(
    patients: NDArray[np.object_], same_side: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """One number for all images that share a patient or, through any chain, a copy; shape (n,).

    ``patients`` are the names of n images' patients, "" where it is unknown; ``same_side`` has one
    number a group of copies, as from `copy_groups`, or is None: patients alone.
    """
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
