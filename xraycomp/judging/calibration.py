"""The temperature at which probabilities mean what they say: fitted, kept with the run, applied.

A temperature works on tables of probabilities as it would on logits: the logarithm of probabilities
that add up to 1, and the log-odds of each that is for itself, are the logits up to what a softmax
or a sigmoid takes no notice of.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax

from xraycomp.console.errors import UserError
from xraycomp.data.files import write_json
from xraycomp.judging.intervals import FloatArray

CALIBRATION = "calibration.json"

FOLDS = 5
BOUNDS = (0.1, 10.0)
"""The temperatures that are tried. Where validation is perfectly right the best would be 0, and
every probability 0 or 1."""
CLOSEST = 5e-7
"""Probabilities count as no closer to 0 and 1 than this: a table has six decimals."""


@dataclass(frozen=True)
class Calibration:
    """The temperature of a run, and where it comes from (Guo et al. 2017)."""

    temperature: float
    """By which logits are divided: above 1 the network is too sure of itself."""
    fitted_on: str
    """The images that it was fitted on, such as ``validation split, by patient, 10 %``."""

    def __str__(self) -> str:
        text = f"temperature {self.temperature:.3f}, fitted on the {self.fitted_on}"
        if self.temperature in BOUNDS:
            text += "; that is as far as is tried, since so few images, or so right ones, set none"
        return text

    def apply(self, probs: FloatArray, *, multilabel: bool) -> FloatArray:
        """Probabilities at this temperature: softmax(log p / T), or sigmoid(logit(p) / T).

        ``probs`` has the shape (n, k) and values in [0, 1]. The order within an image
        (multilabel: within a class) stays.
        """
        return probabilities(to_logits(probs, multilabel) / self.temperature, multilabel)

    def write(self, path: Path) -> None:
        """Write it as JSON, whole or not at all."""
        write_json(path, vars(self))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what ``write`` wrote to this file, or to this folder's ``calibration.json``.

        Raises ``UserError`` where the file is missing or damaged.
        """
        path = path / CALIBRATION if path.is_dir() else path
        again = "Fit it anew with: python -m xraycomp.evaluate --run RUN"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = cls(float(content["temperature"]), str(content["fitted_on"]))
            if not 0 < found.temperature < math.inf:
                raise ValueError(f"the temperature is {found.temperature}")
        except FileNotFoundError:
            raise UserError(f"There is no temperature {path}. {again}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}). {again}") from error
        return found


def to_logits(probs: FloatArray, multilabel: bool) -> FloatArray:
    """Finite logits of the shape of ``probs`` (n, k), which `probabilities` turns back."""
    kept = np.clip(probs, CLOSEST, 1 - CLOSEST)
    logits: FloatArray = logit(kept) if multilabel else np.log(kept)
    return logits


def probabilities(logits: FloatArray, multilabel: bool) -> FloatArray:
    """Sigmoid (multilabel) or softmax of each row of ``logits`` (n, k)."""
    probs: FloatArray = expit(logits) if multilabel else softmax(logits, axis=1)
    return probs


def logit_losses(targets: FloatArray, logits: FloatArray, multilabel: bool) -> FloatArray:
    """Log loss of each image, shape (n, 1), or of each label, shape (n, k), with NaN where the
    target is. Not clipped, hence convex in the logits."""
    losses: FloatArray
    if multilabel:
        missed = np.where(targets > 0.5, -logits, logits)
        losses = np.where(np.isnan(targets), np.nan, np.logaddexp(0, missed))
    else:
        losses = -(targets * log_softmax(logits, axis=1)).sum(axis=1, keepdims=True)
    return losses


def fit_temperature(targets: FloatArray, probs: FloatArray, *, multilabel: bool) -> float:
    """The temperature, within `BOUNDS`, at which these images' log loss is smallest.

    1 where none is better, such as of images of which nothing is known.

    Parameters
    ----------
    targets : float array of shape (n, k): one 1 a row, else 0; multilabel: any 1, 0 and NaN
        (unknown: left out)
    probs : float array of shape (n, k) in [0, 1]
    """
    logits = to_logits(probs, multilabel)
    if not len(logits) or np.isnan(targets).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = logits * math.exp(-log_temperature)
        return float(np.nanmean(logit_losses(targets, scaled, multilabel)))

    least, largest = map(math.log, BOUNDS)
    options = {"bounds": (least, largest), "method": "bounded", "options": {"xatol": 1e-6}}
    inner = float(minimize_scalar(loss, **options).x)
    # The search never arrives at a bound, and wanders where every temperature is as good.
    best = min((inner, least, largest), key=loss)
    if loss(best) > loss(0) - 1e-12:
        return 1.0
    return dict(zip((least, largest), BOUNDS, strict=True)).get(best, math.exp(best))


def cross_fitted(targets: FloatArray, probs: FloatArray, *, multilabel: bool) -> FloatArray:
    """Each fifth of the images at the temperature of the others, so that nothing is flattered.

    Single images are dealt out, not patients: one number, which is all that is learned, tells next
    to nothing of a patient's other films. Parameters as in `fit_temperature`; n >= 1.
    """
    scaled = np.empty_like(probs)
    fold = np.random.default_rng(0).permutation(len(probs)) % FOLDS
    for held_out in np.unique(fold):
        mine = fold == held_out
        fitted = fit_temperature(targets[~mine], probs[~mine], multilabel=multilabel)
        scaled[mine] = Calibration(fitted, "").apply(probs[mine], multilabel=multilabel)
    return scaled
