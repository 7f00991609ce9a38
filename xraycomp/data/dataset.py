"""A competition's images, decoded and listed, ready to be taken split by split."""

import logging
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from xraycomp.console.errors import UserError, listing
from xraycomp.data.batches import ImageSet
from xraycomp.data.cache import ImageCache, build_cache
from xraycomp.data.competition import PSEUDO_LABEL
from xraycomp.data.labels import encode_targets, is_labelled
from xraycomp.data.source import Source

log = logging.getLogger(__name__)

SKIPPED = "skipped"
"""The split of labelled images that do not decode and were left out on request."""


@dataclass(frozen=True)
class Dataset:
    """A manifest and the cache whose row i is the manifest's row i."""

    manifest: pd.DataFrame
    cache: ImageCache
    classes: tuple[str, ...]

    def split(self, name: str) -> ImageSet:
        """The images of one split; nothing is known of unlabelled test images (NaN)."""
        rows = np.flatnonzero(self.manifest["split"] == name)
        labels = self.manifest["label"].iloc[rows]
        targets = encode_targets(labels, self.classes)
        return ImageSet(self.cache, rows, targets)

    def learned(self) -> ImageSet:
        """The images to learn from: the training split and, with the labels that they were given
        (the manifest's column ``pseudo_label``), test images."""
        if PSEUDO_LABEL not in self.manifest:
            return self.split("train")
        given = self.manifest[PSEUDO_LABEL]
        labels = given.where(is_labelled(given), self.manifest["label"])
        rows = np.flatnonzero((self.manifest["split"] == "train") | is_labelled(given))
        return ImageSet(self.cache, rows, encode_targets(labels.iloc[rows], self.classes))

    def ids(self, name: str) -> list[str]:
        """The image ids of one split, in the order of ``split(name).rows``."""
        return list(self.manifest["image"][self.manifest["split"] == name])


def load_dataset(
    manifest: pd.DataFrame,
    source: Source,
    size: int,
    *,
    workers: int | None = None,
    skip_broken: bool = False,
    read_ahead: int = 0,
) -> Dataset:
    """Decode every image of ``manifest`` to ``size`` pixels, or find that done.

    Labelled images that do not decode get the split ``skipped`` with ``skip_broken``;
    ``read_ahead`` is as in ``ImageCache``.

    Raises ``UserError`` for missing files, for broken labelled images without ``skip_broken`` and
    for broken test images without a label always, since a submission needs them.
    """
    paths = [source.root / path for path in manifest["path"]]
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise UserError(
            f"{len(missing):,} images of the manifest are gone: {listing(missing)}. "
            "Point --data at the whole data."
        )
    cache = build_cache(paths, source.home / "cache", size, workers=workers)
    splits, files = list(manifest["split"]), list(manifest["path"])
    broken = [row for row in cache.broken if splits[row] != SKIPPED]
    if broken:
        names = [f"{files[row]} ({cache.broken[row]})" for row in broken]
        labelled = is_labelled(manifest["label"])
        needed = [row for row in broken if splits[row] == "test" and not labelled[row]]
        tests = [name for name, row in zip(names, broken, strict=True) if row in needed]
        if tests:
            raise UserError(
                f"{len(tests):,} test images do not decode and the submission needs them: "
                f"{listing(tests)}. Download them again."
            )
        if not skip_broken:
            raise UserError(
                f"{len(names):,} images do not decode: {listing(names, 20)}. Download them again, "
                "or leave them out with --skip-broken."
            )
        log.info("Left out %d images that do not decode: %s.", len(names), listing(names, 20))
        manifest = manifest.copy()
        manifest.loc[manifest.index[broken], "split"] = SKIPPED
    cache = replace(cache, read_ahead=read_ahead)
    return Dataset(manifest, cache, source.competition.classes)
