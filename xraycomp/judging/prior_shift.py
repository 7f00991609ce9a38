"""Probabilities for images among which classes come in other shares than where they were learned.

What images of a class look like is taken to be the same ("label shift"). Then probabilities that
fit one mix of classes are changed into those of another by the ratio of the shares, and the shares
themselves can be estimated from the probabilities of unlabelled images, by expectation maximisation
(Saerens, Latinne and Decaestecker 2002, Neural Computation 14:21).

That starts from the shares for which the probabilities hold. Those of the training images they are
not: sampling that draws all classes alike, class weights, focal and other losses, smoothed labels
and mixup each move them, and not all by a known amount. So probabilities are first brought onto the
mix of the validation images, whose labels are known: a temperature and a bias for each class, at
which the log loss there is smallest, undo all of that at once. With them the method is hard to beat
(Alexandari, Kundaje and Shrikumar 2020, "bias-corrected temperature scaling").
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import null_space
from scipy.optimize import minimize
from scipy.stats import chi2

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition import Competition
from xraycomp.judging.calibration import BOUNDS, logit_losses, probabilities, to_logits
from xraycomp.judging.checks import checked
from xraycomp.judging.intervals import Estimate, FloatArray, Z
from xraycomp.judging.metrics import judge
from xraycomp.judging.table import aligned, interval

LARGEST_BIAS = 10.0
ROUNDS, TOLERANCE = 10_000, 1e-7


@dataclass(frozen=True)
class Reference:
    """The mix of classes of a run's validation images, and how its probabilities come to fit it."""

    shares: FloatArray
    """Share of the images that have each class, shape (k,); of findings, of the images of which
    that is known, and NaN where these are of one kind only."""
    scale: float
    """By which logits are multiplied."""
    bias: FloatArray
    """What is then added to them, shape (k,)."""
    multilabel: bool

    def apply(self, probs: FloatArray) -> FloatArray:
        """Probabilities (n, k) of images with the validation images' mix of classes.

        Findings without a share stay as they are.
        """
        logits = to_logits(probs, self.multilabel) * self.scale + self.bias
        return np.where(np.isnan(self.shares), probs, probabilities(logits, self.multilabel))


@dataclass(frozen=True)
class Shift:
    """What `reestimate` found."""

    probs: FloatArray
    """The corrected probabilities, shape (n, k)."""
    shares: Estimate
    """The estimated share of each class, shape (k,); NaN as in `Reference`. The intervals, 1.96
    standard errors by the observed information, take what `Reference` says for certain."""
    chance: FloatArray
    """How probable so large a difference of shares is where there is none, by a likelihood-ratio
    test (Saerens et al., §2.3) that takes as much for certain: shape (1,) for all classes together,
    or (k,) for findings."""


def fit_reference(competition: Competition, targets: ArrayLike, probs: ArrayLike) -> Reference:
    """Learn from validation what mix of classes there is, and how probabilities come to fit it.

    Parameters
    ----------
    targets : array of shape (n, k), n >= 1: one 1 a row, else 0; multilabel: any 1, 0 and NaN
        (unknown: left out)
    probs : float array of shape (n, k) in [0, 1]; rows sum to 1 unless multilabel

    Raises
    ------
    UserError
        When shapes or values do not fit, and where each image has one class and some class has no
        image.
    """
    multilabel, class_names = competition.multilabel, competition.classes
    true, scores = checked(targets, probs, class_names, one_class=not multilabel)
    known = ~np.isnan(true)
    has = (true == 1).sum(axis=0)
    both = (has > 0) & (has < known.sum(axis=0))
    if not multilabel and not (has > 0).all():
        missing = [name for name, count in zip(class_names, has, strict=True) if not count]
        raise UserError(
            f"--prior-shift starts from the classes' shares in the validation split, which has no "
            f"image of {listing(missing)}. Leave --prior-shift out."
        )
    shares = np.where(both | (not multilabel), has / np.maximum(known.sum(axis=0), 1), np.nan)
    logits = to_logits(scores, multilabel)
    fitted = known & ~np.isnan(shares)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        scaled = logits * parameters[0] + parameters[1:]
        losses = logit_losses(true, scaled, multilabel)
        slopes = np.where(fitted, probabilities(scaled, multilabel) - true, 0)
        slope = np.concatenate([[(slopes * logits).sum()], slopes.sum(axis=0)])
        counted = losses[fitted] if multilabel else losses
        return float(counted.sum() / len(true)), slope / len(true)

    start = np.concatenate([[1.0], np.zeros(len(shares))])
    bounds = [(1 / BOUNDS[1], 1 / BOUNDS[0]), *[(-LARGEST_BIAS, LARGEST_BIAS)] * len(shares)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return Reference(shares, float(found[0]), found[1:], multilabel)


def reestimate(probs: FloatArray, shares: FloatArray, *, multilabel: bool) -> Shift:
    """Estimate the shares of the classes among these images, and correct the probabilities.

    Expectation (probabilities under the present shares) and maximisation (shares are the mean of
    these) take turns until no share moves by more than 1e-7; each finding is for itself, as two
    classes. The likelihood has one maximum only, which may give a class the share 0.

    Parameters
    ----------
    probs : float array of shape (n, k) in [0, 1], n >= 1, that fit images with these ``shares``
    shares : float array of shape (k,), more than 0, adding up to 1; multilabel: each for itself in
        (0, 1), or NaN, where probabilities stay as they are
    """
    cases = np.stack([1 - probs, probs], axis=-1) if multilabel else probs[:, None]
    prior = np.stack([1 - shares, shares], axis=-1) if multilabel else shares[None]
    ratios = np.ones_like(prior)
    for _ in range(ROUNDS):
        # A mean of probabilities: of each image's, divided by what they then add up to.
        evidence = np.einsum("nmc,mc->nm", cases, ratios)
        moved = ratios * np.einsum("nmc,nm->mc", cases, 1 / evidence) / len(cases) / prior
        still = np.nanmax(np.abs(moved - ratios) * prior, initial=0) < TOLERANCE
        ratios = moved
        if still:
            break
    evidence = np.einsum("nmc,mc->nm", cases, ratios)
    corrected = cases * ratios / evidence[..., None]
    gain = 2 * np.log(evidence).sum(axis=0)
    chance = chi2.sf(gain, prior.shape[1] - 1)
    estimated = ratios * prior
    margin = Z * _standard_errors(cases / prior / evidence[..., None])
    found = (estimated, np.maximum(estimated - margin, 0), np.minimum(estimated + margin, 1))
    mine = (..., 1) if multilabel else (..., 0, slice(None))
    kept = np.where(np.isnan(shares), probs, corrected[mine])
    return Shift(kept, Estimate(*(part[mine] for part in found)), chance)


def _standard_errors(scores: FloatArray) -> FloatArray:
    """Of shares that add up to 1, shape (m, c), by what each image adds to the slope of their log
    likelihood, shape (n, m, c); NaN where the images are too few to tell."""
    free = null_space(np.ones((1, scores.shape[2])))  # in which directions shares can move
    slopes = np.nan_to_num(scores) @ free
    information = np.einsum("nma,nmb->mab", slopes, slopes)
    variances = np.diagonal(free @ np.linalg.pinv(information) @ free.T, axis1=1, axis2=2)
    enough = np.linalg.matrix_rank(information) == free.shape[1]
    return np.where(enough[:, None], np.sqrt(variances), np.nan)


def format_shift(
    class_names: Sequence[str], plain: FloatArray, reference: FloatArray, shift: Shift
) -> str:
    """Lay out what was estimated as aligned plain text: one row a class, no newline at the end.

    Parameters
    ----------
    plain : the probabilities as they would be without correction, shape (n, k)
    reference : the shares of the classes in validation, shape (k,)
    """
    rows = [["class", "validation", "mean probability", "estimated"]]
    for c, name in enumerate(class_names):
        before = ("n/a" if np.isnan(x) else f"{x:.3f}" for x in (reference[c], plain[:, c].mean()))
        rows.append([name, *before, interval(shift.shares.at(c).entry())])
    chance = [f"{x:.3f}" if x >= 0.001 else "below 0.001" for x in shift.chance]
    said = f"The probability of so large a difference where there is none: {chance[0]}."
    if len(chance) == len(class_names):
        chance = [
            "n/a" if np.isnan(x) else text for x, text in zip(shift.chance, chance, strict=True)
        ]
        rows = [[*row, text] for row, text in zip(rows, ["chance", *chance], strict=True)]
        said = "chance: the probability of so large a difference where there is none"
    return (
        f"Shares of the classes among the {len(plain):,} images:\n"
        f"{aligned(rows)}\n"
        "validation: share of that split, which the probabilities are brought to fit\n"
        "mean probability: without correction; estimated: share with it, and 95 % interval\n"
        f"{said}"
    )


def show_shift(
    competition: Competition,
    targets: ArrayLike,
    probs: ArrayLike,
    reference: Reference,
    report: dict[str, Any],
) -> str:
    """Correct the probabilities of labelled images, and lay out what that does to the figures.

    Parameters
    ----------
    targets, probs : as in `metrics.judge`
    report : what that said of them

    Returns
    -------
    str
        What `format_shift` says and a table of figures without and with correction. Findings are
        called by thresholds, which keep their sensitivity and specificity under any mix of classes,
        so only figures of probabilities are shown of them.
    """
    multilabel, plain = competition.multilabel, np.asarray(probs, np.float64)
    shift = reestimate(reference.apply(plain), reference.shares, multilabel=multilabel)
    said, resamples = report["split"], report["resamples"]
    corrected = judge(competition, targets, shift.probs, said, resamples=resamples)
    rows = [["", "without correction", "with"]]
    for name, words in {"accuracy": "accuracy", "macro_f1": "macro F1"}.items():
        if not multilabel:
            rows.append([words, *(interval(one["overall"][name]) for one in (report, corrected))])
    for name, words in {"log_loss": "log loss", "brier": "Brier score", "ece": "ECE"}.items():
        entries = (one["calibration"]["before"][name] for one in (report, corrected))
        rows.append([words, *map(interval, entries)])
    shares = format_shift(competition.classes, plain, reference.shares, shift)
    return f"{shares}\n\n{aligned(rows)}"
