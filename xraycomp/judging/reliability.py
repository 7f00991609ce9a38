"""How far probabilities are from what they claim: calibration error, Brier score, reliability."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from xraycomp.judging.calibration import Calibration, cross_fitted, fit_temperature
from xraycomp.judging.figures import binary_log_losses, log_losses
from xraycomp.judging.intervals import (
    Estimate,
    FloatArray,
    entries,
    mean_interval,
    percentile,
    ratio,
    wilson,
)
from xraycomp.judging.resampling import draws

BINS = 15


def judge_calibration(
    targets: FloatArray,
    probs: FloatArray,
    judged_on: str,
    calibration: Calibration | None,
    *,
    multilabel: bool,
    resamples: int,
) -> dict[str, Any]:
    """How well probabilities are calibrated, before and after their temperature is set.

    Parameters
    ----------
    targets, probs : as in `calibration.fit_temperature`, n >= 1
    judged_on : says which images these are
    calibration : the temperature; without one it is fitted on these images, and what is said of
        "after" is cross-fitted: each fifth of the images has the temperature of the others, lest
        it be flattered
    resamples : bootstrap resamples of whole images, always the same ones

    Returns
    -------
    dict, ready for JSON
        ``{"temperature": float, "fitted_on": str, "before": {"ece", "brier", "log_loss": entry},
        "after": the same, "reliability": {"before": [bin], "after": [bin]}}``: entries as in
        `metrics.judge`, bins as `reliability` gives them, figures as `calibration_figures` does
    """
    if calibration:
        after = calibration.apply(probs, multilabel=multilabel)
    else:
        fitted = fit_temperature(targets, probs, multilabel=multilabel)
        calibration = Calibration(fitted, judged_on)
        after = cross_fitted(targets, probs, multilabel=multilabel)
    sides = {"before": probs, "after": after}
    return {
        **vars(calibration),
        **{
            side: entries(calibration_figures(targets, given, multilabel, resamples))
            for side, given in sides.items()
        },
        "reliability": {
            side: reliability(targets, given, multilabel) for side, given in sides.items()
        },
    }


def calibration_figures(
    targets: FloatArray, probs: FloatArray, multilabel: bool, resamples: int
) -> dict[str, Estimate]:
    """Expected calibration error, Brier score and log loss, with their 95 % intervals.

    The calibration error is the mean distance between confidence and share in the bins of
    `reliability`, weighted by what they hold (Naeini et al. 2015). The Brier score is the mean
    squared error of known labels (multilabel) or, as scikit-learn has it, of an image's classes
    together, halved where there are two. Log loss is as in `metrics.judge`, and these two have
    1.96 standard errors about them.

    Chance makes the calibration error larger, even of perfect probabilities, and resampling makes
    it larger still. So its interval has reversed percentiles (Davison and Hinkley 1997, §5.2),
    which take the figure to lie above the truth by what the resamples lie above the figure; and it
    begins at 0 where resampled bins differ from these as much as these from what is claimed.

    Parameters
    ----------
    targets, probs : as in `calibration.fit_temperature`
    """
    confidence, right = _claims(targets, probs, multilabel)
    known = ~np.isnan(right)
    rows = np.nonzero(known)[0]
    shape = (BINS, len(right))
    gaps = csr_array(((right - confidence)[known], (_bins(confidence[known]), rows)), shape=shape)
    claims = known.sum(axis=1)
    here = gaps @ np.ones((len(right), 1))
    error, resampled, noise = ratio(np.abs(here).sum(), claims.sum()), [], []
    for _, weights in draws(len(right), resamples, np.random.default_rng(0)):
        drawn, held = gaps @ weights, claims @ weights
        resampled.append(ratio(np.abs(drawn).sum(axis=0), held))
        noise.append(ratio(np.abs(drawn - here).sum(axis=0), held))
    squares = np.square(targets - probs)
    if not multilabel:
        squares = squares.sum(axis=1, keepdims=True) / (2 if probs.shape[1] == 2 else 1)
    losses = binary_log_losses if multilabel else log_losses
    return {
        "ece": _error_interval(error, *(np.concatenate([[], *d]) for d in (resampled, noise))),
        "brier": mean_interval(squares),
        "log_loss": mean_interval(losses(targets, probs)),
    }


def _error_interval(value: FloatArray, resampled: FloatArray, noise: FloatArray) -> Estimate:
    drawn = percentile(value, resampled)
    low, high = np.minimum(2 * value - drawn.high, value), np.maximum(2 * value - drawn.low, value)
    if not np.isnan(low) and value <= np.nanquantile(noise, 0.975):
        low = np.zeros_like(value)
    return Estimate(value, np.maximum(low, 0), np.minimum(high, 1))


def reliability(targets: FloatArray, probs: FloatArray, multilabel: bool) -> list[dict[str, Any]]:
    """What came true of what was claimed, in 15 bins of equal width, without those that are empty.

    What is claimed is the called class of each image, or (multilabel) each finding of which it is
    known whether an image has it, all findings together.

    Returns
    -------
    list of dicts
        ``{"low", "high": float, "n": int, "confidence": float, "share": entry}``: claims of a
        probability above ``low`` and up to ``high``, their mean, and the share that is true, with
        Wilson's interval (as if an image's findings were independent)
    """
    confidence, right = _claims(targets, probs, multilabel)
    known = ~np.isnan(right)
    confidence, right = confidence[known], right[known]
    place = _bins(confidence)
    n, claimed, true = (np.bincount(place, weights, BINS) for weights in (None, confidence, right))
    shares, means = wilson(true, n), ratio(claimed, n)
    return [
        {
            "low": b / BINS,
            "high": (b + 1) / BINS,
            "n": int(n[b]),
            "confidence": float(means[b]),
            "share": shares.at(b).entry(),
        }
        for b in np.flatnonzero(n).tolist()
    ]


def _claims(
    targets: FloatArray, probs: FloatArray, multilabel: bool
) -> tuple[FloatArray, FloatArray]:
    """Confidence of what is claimed, and 1, 0 or NaN for whether it is so: shape (n, 1 or k)."""
    if multilabel:
        return probs, targets
    called = probs.argmax(axis=1)[:, None]
    return np.take_along_axis(probs, called, 1), np.take_along_axis(targets, called, 1)


def _bins(confidence: FloatArray) -> NDArray[np.intp]:
    """The bin of each confidence; one on an edge belongs to the lower."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
