"""How well a film's border, size or brightness alone tell its label: what may be learned instead.

A network that could tell the hospital, the device or the person who exported the file needs not
look at the chest (Zech et al. 2018; DeGrave, Janizek and Lee 2021).
"""

import math
import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from xraycomp.data.competition import FOLD
from xraycomp.data.dataset import Dataset
from xraycomp.data.features import border_pixels
from xraycomp.data.labels import encode_targets
from xraycomp.judging.figures import class_mean
from xraycomp.judging.intervals import BoolArray, FloatArray, delong, percentile
from xraycomp.judging.resampling import resample

SHORTCUTS = "shortcuts.json"

LIMIT = 0.6
"""A probe whose interval lies above this AUROC is warned of; 0.5 is guessing."""

MOST_JUDGED = 4000
ALL_THREE = "all three"


def probe_shortcuts(
    dataset: Dataset, measured: pd.DataFrame, judged_on: str, *, resamples: int = 1000
) -> dict[str, Any]:
    """Learn the labels from what a film shows outside the chest, and judge that on validation.

    Where the validation split is that of all folds, what judges an image has learned the others.

    Logistic regressions (scaled, classes balanced; one a class) of the training images' border
    pixels, size and mean brightness, and of all three, judged by their macro AUROC on validation
    images, at most 4,000 of each. None of it sees where in the chest something is; but a finding
    may of itself make a film brighter, and a tight crop brings the body to the border.

    Parameters
    ----------
    measured : as `measure_images` gives it
    judged_on : says which images the validation split is
    resamples : of the bootstrap for the intervals

    Returns
    -------
    dict, ready for JSON
        ``{"split": judged_on, "fitted_on": int, "judged": int, "limit": float, "probes": [{"name":
        str, "auroc": {"value", "low", "high"}}], "warning": str | None}``; the numbers are of
        images
    """
    manifest = dataset.manifest
    rows = pd.Index(manifest["image"]).get_indexer(pd.Index(measured["image"]))
    train = (measured["split"] == "train").to_numpy()
    val = np.flatnonzero(measured["split"] == "val")
    if len(val) > MOST_JUDGED:
        val = np.sort(np.random.default_rng(0).choice(val, MOST_JUDGED, replace=False))
    targets = encode_targets(manifest["label"].iloc[rows], dataset.classes).astype(np.float64)
    features = _features(dataset, measured, rows)
    learned_from = [(np.flatnonzero(train), np.ones(len(val), dtype=np.bool_))]
    if FOLD in manifest:
        fold = manifest[FOLD].iloc[rows[val]].to_numpy()
        learned_from = [(val[fold != number], fold == number) for number in np.unique(fold)]
    probes = []
    for name, columns in features.items():
        probs = np.full((len(val), targets.shape[1]), np.nan)
        for fitted, judged in learned_from:
            probs[judged] = _fit(columns[fitted], targets[fitted], columns[val[judged]])
        # A class that no image shows in training could not be learned, and is not judged.
        learned = np.where(np.isnan(probs), np.nan, targets[val])
        scores = np.nan_to_num(probs, nan=0.5)
        drawn = resample(learned, scores > 0.5, scores, resamples, np.random.default_rng(0))
        area = percentile(class_mean(delong(learned, scores).value), class_mean(drawn.auroc))
        probes.append({"name": name, "auroc": area.entry()})
    return {
        "split": judged_on,
        "fitted_on": max(len(fitted) for fitted, _ in learned_from),
        "judged": len(val),
        "limit": LIMIT,
        "probes": probes,
        "warning": _warn(probes),
    }


def _features(dataset: Dataset, measured: pd.DataFrame, rows: Any) -> dict[str, FloatArray]:
    """What each probe sees of every measured image, float arrays of shape (n, ...)."""
    # Squares and the product, so that a size between two others can be told as well.
    curved = PolynomialFeatures(2, include_bias=False)
    features = {
        "border pixels": border_pixels(dataset.cache.thumbnails()[rows]),
        "image size": curved.fit_transform(_standard(measured[["width", "height"]].map(math.log))),
        "mean brightness": curved.fit_transform(_standard(measured[["brightness"]])),
    }
    return features | {ALL_THREE: np.concatenate(list(features.values()), axis=1)}


def _standard(columns: pd.DataFrame) -> FloatArray:
    values: FloatArray = StandardScaler().fit_transform(columns.to_numpy(np.float64))
    return values


def _fit(features: FloatArray, targets: FloatArray, judged: FloatArray) -> FloatArray:
    """Probabilities of every class for the ``judged`` features; NaN where it cannot be learned."""
    probs = np.full((len(judged), targets.shape[1]), np.nan)
    for c, target in enumerate(targets.T):
        known: BoolArray = ~np.isnan(target)
        if len(np.unique(target[known])) < 2:
            continue
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=300)
        )
        with warnings.catch_warnings():
            # Where it has not settled after 300 steps, the ranking has.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[known], target[known])
        probs[:, c] = model.predict_proba(judged)[:, 1]
    return probs


def _warn(probes: list[dict[str, Any]]) -> str | None:
    found = [
        f"{probe['name']} {probe['auroc']['value']:.2f}"
        for probe in probes
        if probe["auroc"]["low"] is not None and probe["auroc"]["low"] > LIMIT
    ]
    if not found:
        return None
    return (
        "Labels can be told without seeing any finding, macro AUROC by "
        f"{', '.join(found)}. A model may have learned where a film comes from instead of what it "
        "shows; look at slices and heat maps before you believe it."
    )


def format_shortcuts(found: dict[str, Any]) -> str:
    """What `probe_shortcuts` returned, in a line, and the warning in another."""
    areas = [
        f"{probe['name']} {probe['auroc']['value']:.3f}"
        for probe in found["probes"]
        if probe["auroc"]["value"] is not None
    ]
    line = f"Macro AUROC of the film's frame alone: {', '.join(areas) or 'not defined'}"
    line += f" (fitted on {found['fitted_on']:,} images, judged on {found['judged']:,})."
    return f"{line}\nWARNING: {found['warning']}" if found["warning"] else line
