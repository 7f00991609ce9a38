"""From which probability on a finding is called: chosen on validation, kept with the run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike

from xraycomp.console.errors import UserError, listing
from xraycomp.data.files import write_json
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.checks import checked
from xraycomp.judging.intervals import BoolArray, FloatArray, known_rows

THRESHOLDS = "thresholds.json"

NO_THRESHOLD = 0.5
"""At which a finding is called where nothing says better."""


@dataclass(frozen=True)
class Sensitivity:
    """Choose the highest threshold from which on at least this share of a finding's images lie."""

    at_least: float

    def __post_init__(self) -> None:
        """Raise ``UserError`` for what is no share."""
        if not 0 < self.at_least <= 1:
            raise UserError(
                f"--sensitivity is {self.at_least}; it must be more than 0 and at most 1."
            )


CriterionName = Literal["f1", "youden", "sensitivity"]
Criterion = Literal["f1", "youden"] | Sensitivity
"""What a threshold makes largest: F1, or sensitivity + specificity - 1 (Youden 1950); or the
sensitivity that it must reach."""


def named_criterion(name: CriterionName, sensitivity: float) -> Criterion:
    """The criterion of that name; ``sensitivity`` is for the one that wishes for one."""
    return Sensitivity(sensitivity) if name == "sensitivity" else name


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a run's findings, and where they come from."""

    values: dict[str, float]
    """Finding -> probability from which on it is called, in the order of the classes."""
    criterion: Criterion
    judged_on: str
    """The images that they were chosen on, such as ``validation split, by patient, 10 %``."""
    fixed: tuple[str, ...] = field(default=())
    """Findings of which those were of one kind only; theirs is 0.5."""

    @property
    def limits(self) -> FloatArray:
        """The values alone, shape (k,)."""
        return np.array(list(self.values.values()))

    def calibrated(self, calibration: Calibration) -> Self:
        """The thresholds at which calibrated probabilities call what these call of others."""
        moved = calibration.apply(self.limits[None], multilabel=True)[0].tolist()
        return replace(self, values=dict(zip(self.values, moved, strict=True)))

    def __str__(self) -> str:
        if isinstance(self.criterion, Sensitivity):
            name = f"sensitivity of at least {self.criterion.at_least:g}"
        else:
            name = {"f1": "best F1", "youden": "best sensitivity + specificity"}[self.criterion]
        text = f"{name} on the {self.judged_on}"
        if self.fixed:
            text += f"; {NO_THRESHOLD} for {listing(self.fixed, 3)} (one kind only there)"
        return text

    def write(self, path: Path) -> None:
        """Write them as JSON, whole or not at all."""
        if isinstance(self.criterion, Sensitivity):
            criterion = {"criterion": "sensitivity", "sensitivity": self.criterion.at_least}
        else:
            criterion = {"criterion": self.criterion}
        write_json(
            path,
            {
                **criterion,
                "split": self.judged_on,
                "thresholds": self.values,
                "fixed": list(self.fixed),
            },
        )

    @classmethod
    def read(cls, path: Path, class_names: Sequence[str]) -> Self:
        """Read what ``write`` wrote to this file, or to this folder's ``thresholds.json``.

        Raises ``UserError`` where the file is missing or damaged, or holds other classes.
        """
        path = path / THRESHOLDS if path.is_dir() else path
        again = "Choose them anew with: python -m xraycomp.evaluate --run RUN"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            values = {str(k): float(v) for k, v in content["thresholds"].items()}
            name, wished = content["criterion"], content.get("sensitivity")
            if name not in get_args(CriterionName):
                raise ValueError(f"unknown criterion {name}")
            criterion = named_criterion(name, wished)
            found = cls(values, criterion, content["split"], tuple(content["fixed"]))
        except FileNotFoundError:
            raise UserError(f"There are no thresholds {path}. {again}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is damaged ({error}). {again}") from error
        if list(values) != list(class_names):
            raise UserError(f"{path} is for other classes than {listing(class_names, 20)}. {again}")
        return found


def hard_labels(probs: FloatArray, limits: ArrayLike | None) -> BoolArray:
    """What probabilities of shape (n, k) are called; a bool array of that shape.

    Every class from its limit on; without limits the most probable class (the first of equals).
    """
    called: BoolArray
    if limits is None:
        called = probs.argmax(axis=1)[:, None] == np.arange(probs.shape[1])
    else:
        called = probs >= np.asarray(limits)
    return called


def choose_thresholds(
    targets: ArrayLike,
    probs: ArrayLike,
    class_names: Sequence[str],
    judged_on: str,
    criterion: Criterion = "f1",
) -> Thresholds:
    """Choose for each finding the threshold that is best on these images.

    With a wished `Sensitivity` that is the highest that reaches it.

    It lies halfway between two probabilities that occur, so that rounding them does not matter; of
    equally good ones it is the highest. Figures at it are too good on the images that it was chosen
    on.

    Parameters
    ----------
    targets : array of shape (n, k), of 1, 0 and NaN (unknown: left out)
    probs : float array of shape (n, k) in [0, 1]
    class_names : k different names, in the order of the columns
    judged_on : says which images these are

    Raises
    ------
    UserError
        When shapes, values or names do not fit.
    """
    true, scores = checked(targets, probs, class_names)
    values, fixed = {}, []
    for name, (target, score, _) in zip(class_names, known_rows(true, scores), strict=True):
        values[name] = NO_THRESHOLD
        if target.any() and not target.all():
            values[name] = _best(target, score, criterion)
        else:
            fixed.append(name)
    return Thresholds(values, criterion, judged_on, tuple(fixed))


def _best(target: BoolArray, score: FloatArray, criterion: Criterion) -> float:
    levels, level = np.unique(score, return_inverse=True)
    positives = np.bincount(level[target], minlength=len(levels))
    # Called from this level on, by level; the highest first, so that argmax takes it of equals.
    tp = np.cumsum(positives[::-1])
    called = np.cumsum(np.bincount(level, minlength=len(levels))[::-1])
    found, images = tp[-1], len(target)
    if isinstance(criterion, Sensitivity):
        merit = tp >= criterion.at_least * found - 1e-9  # 0.95 * 20 is no whole number
    elif criterion == "f1":
        merit = 2 * tp / (called + found)
    else:
        merit = tp / found - (called - tp) / (images - found)
    # Equal fractions may differ in the last bit.
    place = len(levels) - 1 - int(np.argmax(merit > merit.max() - 1e-12))
    upper, lower = levels[place], levels[place - 1] if place else 0.0
    middle = (upper + lower) / 2
    return float(middle if lower < middle else upper)
