"""Labels for test images, from what networks are sure of (Lee, *Pseudo-label*, 2013)."""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.console.errors import UserError
from xraycomp.data.competition import PSEUDO_LABEL, Competition
from xraycomp.data.labels import UNKNOWN, decode_targets, encode_targets, is_labelled
from xraycomp.data.predictions import ID, read_predictions

log = logging.getLogger(__name__)


def check_allowed(competition: Competition) -> None:
    """Raise ``UserError`` where the competition forbids to learn from its test images."""
    if not competition.pseudo_labels:
        raise UserError(
            f"{competition.slug} does not allow to learn from its test images (pseudo_labels = "
            "false in its TOML). Leave out --pseudo-labels."
        )


def read_pseudo_labels(
    path: Path, competition: Competition, manifest: pd.DataFrame, threshold: float
) -> pd.Series:
    """What the probability table at ``path`` is sure of: the manifest's column ``pseudo_label``.

    Of one class an image, an unlabelled test image gets its most probable class, where that
    reaches ``threshold``. Of findings it gets each that reaches it, lacks each of at most
    1 - ``threshold``, and of the others nothing is known. ``?`` stands for images without any,
    labelled ones among them; else the text is as in the column ``label``.

    Raises ``UserError`` where the competition forbids it, where no test image is without a label,
    where the table holds none of them, and where it is sure of none.
    """
    check_allowed(competition)
    classes = competition.classes
    wanted = (manifest["split"] == "test").to_numpy() & ~is_labelled(manifest["label"])
    if not wanted.any():
        raise UserError(
            f"--pseudo-labels are for test images without labels, and {competition.slug} has none; "
            "labelled ones are for testing alone. Leave it out."
        )
    table = read_predictions(path, classes)
    places = pd.Index(table[ID]).get_indexer(pd.Index(manifest["image"]))
    rows = np.flatnonzero(wanted & (places >= 0))
    if not len(rows):
        raise UserError(
            f"{path} holds none of the {wanted.sum():,} test images of {competition.slug}. Give "
            "--pseudo-labels the predictions of its test split."
        )
    probs = table[list(classes)].to_numpy(np.float64)[places[rows]]
    targets = _sure_of(probs, threshold, multilabel=competition.multilabel)
    sure = ~np.isnan(targets).all(axis=1)
    if not sure.any():
        raise UserError(
            f"{path} is sure of no test image at --pseudo-threshold {threshold}. Lower it, or "
            "leave out --pseudo-labels."
        )
    labels = np.full(len(manifest), UNKNOWN, dtype=object)
    labels[rows[sure]] = decode_targets(targets[sure], classes)
    log.info(
        "Pseudo-labels: %s of %s test images reach %s: %s.",
        f"{sure.sum():,}",
        f"{wanted.sum():,}",
        threshold,
        ", ".join(f"{name} {count:,}" for name, count in _count(targets, classes).items()),
    )
    return pd.Series(labels, index=manifest.index)


def _sure_of(
    probs: NDArray[np.float64], threshold: float, *, multilabel: bool
) -> NDArray[np.float32]:
    """Targets of 1, 0 and NaN (not sure) for probabilities, both of shape (n, n_classes)."""
    if multilabel:
        # What float leaves of 1 - 0.95 is a little more than 0.05.
        absent = np.where(probs <= round(1 - threshold, 9), 0.0, np.nan)
        known: NDArray[np.float32] = np.where(probs >= threshold, 1.0, absent).astype(np.float32)
        return known
    one_each = np.eye(probs.shape[1], dtype=np.float32)
    targets: NDArray[np.float32] = one_each[probs.argmax(axis=1)]
    targets[probs.max(axis=1) < threshold] = np.nan
    return targets


def _count(targets: NDArray[np.float32], classes: tuple[str, ...]) -> dict[str, int]:
    counts = np.nansum(targets, axis=0).astype(int).tolist()
    return dict(zip(classes, counts, strict=True))


def leave_out_copies(manifest: pd.DataFrame, copies: NDArray[np.int64]) -> pd.DataFrame:
    """The manifest without the pseudo-labels of images that are copies of validation images, or of
    the same patients.

    ``copies``, int array of shape (n_rows,), has one number for all copies of an image.
    """
    judged = manifest["split"] == "val"
    patients = set(manifest["patient"][judged]) - {""}
    known = np.isin(copies, np.unique(copies[judged])) | manifest["patient"].isin(patients)
    leaks = is_labelled(manifest[PSEUDO_LABEL]) & known
    if leaks.any():
        log.info(
            "%s pseudo-labelled images are copies of validation images, or of their patients, and "
            "are not learned.",
            f"{leaks.sum():,}",
        )
    return manifest.assign(**{PSEUDO_LABEL: manifest[PSEUDO_LABEL].mask(leaks, UNKNOWN)})


def count_pseudo_labels(manifest: pd.DataFrame, classes: tuple[str, ...]) -> Counter[str]:
    """How many pseudo-labelled images have each class, and under ``""`` how many there are."""
    if PSEUDO_LABEL not in manifest:
        return Counter()
    labels = manifest[PSEUDO_LABEL][is_labelled(manifest[PSEUDO_LABEL])]
    return Counter({"": len(labels), **_count(encode_targets(labels, classes), classes)})
