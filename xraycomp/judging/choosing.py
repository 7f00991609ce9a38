"""Which images are worth a heat map, and for which class."""

import itertools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from xraycomp.data.labels import encode_targets
from xraycomp.judging.intervals import BoolArray, FloatArray
from xraycomp.judging.thresholds import hard_labels

BOXED = "boxed"
"""The kind of pairs that are only measured against boxes around findings; the others are shown."""


@dataclass(frozen=True)
class Called:
    """What a network has called some images.

    Its functions choose pairs of image and class: tables with the columns ``image``, ``path``,
    ``label`` (as in the manifest), ``class``, ``kind``, ``prob`` (of the class) and ``called``
    (whether the class was called in that image).
    """

    rows: pd.DataFrame
    """The manifest's rows of the images."""
    probs: FloatArray
    """In 0..1; shape (n_images, n_classes)."""
    classes: tuple[str, ...]
    limits: FloatArray | None
    """From where on findings are called; None: an image is what is most probable."""

    def worth_seeing(
        self, n: int, only: tuple[str, ...], boxes: pd.DataFrame, most_boxed: int | None = None
    ) -> pd.DataFrame:
        """``n`` errors and hits, or where nothing is labelled images as they come, evenly over the
        split; and the images that have ``boxes``, ``most_boxed`` at most.

        only : classes to choose from; (): all
        """
        shown = self.errors_and_hits(n, only)
        if shown.empty:
            asked = self.asked(only)
            shown = asked.iloc[_evenly(len(asked), n)]
        return pd.concat([shown, self.boxed(boxes, only, most_boxed)], ignore_index=True)

    def errors_and_hits(self, n: int, only: tuple[str, ...] = ()) -> pd.DataFrame:
        """The most confident errors and typical hits, ``n`` pairs, about half of them errors.

        An error is a class that was called and is not there, the more confident the farther its
        probability lies above the limit; of findings also, in turns, one that is there and was not
        called, the more confident the farther below. A hit was called and is there; typical is a
        probability near the median of its class's hits, and the classes take turns. The kinds are
        ``error`` and ``hit``; errors come first.
        """
        targets, called = encode_targets(self.rows["label"], self.classes), self._called()
        bounds = np.zeros(len(self.classes)) if self.limits is None else self.limits
        wanted = self._wanted(only)
        right = called & (targets == 1) & wanted
        groups = [(called & (targets == 0) & wanted, (bounds - self.probs) / (1 - bounds + 1e-9))]
        if self.limits is not None:  # else what was not called is the other side of a wrong call
            missed = ~called & (targets == 1) & wanted
            groups.append((missed, (self.probs - bounds) / (bounds + 1e-9)))
        errors, hits = _in_turns(groups), []
        for column in np.flatnonzero(right.any(axis=0)):
            own = right & (np.arange(len(self.classes)) == column)
            hits.append((own, np.abs(self.probs - np.median(self.probs[own]))))
        typical = _in_turns(hits)
        errors = errors[: max(n // 2, n - len(typical))]
        typical = typical[: n - len(errors)]
        kinds = ["error"] * len(errors) + ["hit"] * len(typical)
        chosen = np.array([*errors, *typical], dtype=np.intp)
        return self._pairs(*np.unravel_index(chosen, called.shape)).assign(kind=kinds)

    def asked(self, only: tuple[str, ...] = ()) -> pd.DataFrame:
        """Every image for the classes of ``only``, else for what it was called, or if that is
        nothing for its most probable class. The kind is ``asked``."""
        if only:
            chosen = np.broadcast_to(self._wanted(only), self.probs.shape).copy()
        else:
            chosen, highest = self._called(), hard_labels(self.probs, None)
            chosen = chosen | (highest & ~chosen.any(axis=1, keepdims=True))
        return self._pairs(*np.nonzero(chosen)).assign(kind="asked")

    def boxed(
        self, boxes: pd.DataFrame, only: tuple[str, ...] = (), most: int | None = None
    ) -> pd.DataFrame:
        """The pairs that have ``boxes`` (as `read_boxes` gives them), at most ``most``, evenly over
        the split. The kind is ``boxed``."""
        pairs = boxes[["image", "class"]].drop_duplicates()
        images = pd.Index(self.rows["image"]).get_indexer(pd.Index(pairs["image"]))
        columns = pd.Index(self.classes).get_indexer(pd.Index(pairs["class"]))
        fitting = np.flatnonzero((images >= 0) & self._wanted(only)[columns])
        kept = fitting[_evenly(len(fitting), most if most is not None else len(fitting))]
        return self._pairs(images[kept], columns[kept]).assign(kind=BOXED)

    def _called(self) -> BoolArray:
        return hard_labels(self.probs, self.limits)

    def _wanted(self, only: tuple[str, ...]) -> BoolArray:
        return np.array([not only or name in only for name in self.classes], dtype=bool)

    def _pairs(self, images: NDArray[np.intp], columns: NDArray[np.intp]) -> pd.DataFrame:
        pairs = self.rows[["image", "path", "label"]].iloc[images].reset_index(drop=True)
        return pairs.assign(
            **{"class": np.asarray(self.classes, dtype=object)[columns]},
            prob=self.probs[images, columns],
            called=self._called()[images, columns],
        )


def _in_turns(groups: list[tuple[BoolArray, FloatArray]]) -> list[int]:
    """Flat places of pairs, one of each group in turn; within a group the smallest come first.

    groups : which pairs belong to it, and what they are sorted by
    """
    sorted_groups = []
    for mask, key in groups:
        places = np.flatnonzero(mask)
        sorted_groups.append(places[np.argsort(key.ravel()[places], kind="stable")].tolist())
    turns = itertools.zip_longest(*sorted_groups)
    return [place for turn in turns for place in turn if place is not None]


def _evenly(n_items: int, n: int) -> NDArray[np.intp]:
    """``n`` places evenly over ``n_items``, or all where there are no more."""
    return np.unique(np.linspace(0, max(n_items - 1, 0), min(n, n_items)).astype(np.intp))
