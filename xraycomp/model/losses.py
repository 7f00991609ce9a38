"""Losses on logits, in float32 whatever the logits are.

Single-label (softmax): targets of shape (batch, n_classes) add up to 1 a row. Findings (sigmoid):
each target is for itself, in 0..1, or NaN where it is not known whether the image has the finding;
such a label costs nothing, has no gradient, and does not count in the mean.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from xraycomp.console.errors import UserError
from xraycomp.model.config import TrainConfig

Loss = Callable[[Tensor, Tensor], Tensor]
"""Logits and targets, both (batch, n_classes), to their mean loss."""

_SMALLEST = 1e-8  # powers below 1 have no finite slope at 0


def check_losses(config: TrainConfig, activation: str) -> None:
    """Raise ``UserError`` where a loss of ``config`` is not for this kind of labels.

    ``activation`` is ``softmax`` (one class an image) or ``sigmoid`` (any of the findings).
    """
    kind = "one class an image" if activation == "softmax" else "findings that may occur together"
    for stage in config.training_stages():
        if stage.loss != "auto" and stage.loss not in LOSSES[activation]:
            raise UserError(
                f"--loss {stage.loss} does not fit this competition, which has {kind}. Use "
                f"{' or '.join(LOSSES[activation])}."
            )
    if config.class_weights and activation == "sigmoid":
        raise UserError(
            "--class-weights is for competitions with one class an image. Use --loss weighted_bce."
        )


def create_loss(name: str, config: TrainConfig, targets: Tensor, activation: str) -> Loss:
    """The loss called ``name``, with its settings from ``config``, smoothing the labels.

    ``targets``, of shape (n_images, n_classes), are those of the training split, from which alone
    the weights of classes and findings come.
    """
    fitting = LOSSES[activation]
    make = fitting[next(iter(fitting)) if name == "auto" else name]
    return make(config, targets)


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    gamma: float = 0.0,
) -> Tensor:
    """Mean cross-entropy with soft targets, or with ``gamma`` > 0 the focal loss of a softmax.

    ``logits`` and ``targets`` have the shape (batch, n_classes), targets adding up to 1 a row;
    ``class_weights`` has the shape (n_classes,). The focal loss multiplies the term of each class
    by (1 - its probability) ** gamma (Lin et al. 2017).
    """
    if gamma == 0:
        return F.cross_entropy(
            logits.float(), targets, weight=class_weights, label_smoothing=label_smoothing
        )
    log_probs = logits.float().log_softmax(dim=1)
    targets = targets * (1 - label_smoothing) + label_smoothing / targets.shape[1]
    if class_weights is not None:
        targets = targets * class_weights
    modulation = (1 - log_probs.exp()).clamp(min=_SMALLEST) ** gamma
    return -(targets * modulation * log_probs).sum(dim=1).mean()


def bce(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    neg_weight: Tensor | None = None,
) -> Tensor:
    """Mean binary cross-entropy over the known labels.

    ``pos_weight`` and ``neg_weight``, of shape (n_classes,), multiply the loss of findings that are
    there and that are not.
    """
    x = logits.float()
    present = -F.logsigmoid(x) * (1 if pos_weight is None else pos_weight)
    absent = -F.logsigmoid(-x) * (1 if neg_weight is None else neg_weight)
    return _known_mean(targets, present, absent)


def focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean focal loss over the known labels (Lin et al. 2017).

    The cross-entropy of a finding that is there times alpha * (1 - p) ** gamma, of one that is not
    times (1 - alpha) * p ** gamma. Soft targets mix both.
    """
    x = logits.float()
    log_p, log_q = F.logsigmoid(x), F.logsigmoid(-x)
    present = -alpha * torch.exp(gamma * log_q) * log_p
    absent = (alpha - 1) * torch.exp(gamma * log_p) * log_q
    return _known_mean(targets, present, absent)


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    margin: float = 0.05,
) -> Tensor:
    """Mean asymmetric loss over the known labels (Ridnik et al. 2021).

    The focal loss with an exponent for either side; probabilities of findings that are not there
    are lowered by ``margin`` first, so that those below it cost nothing.
    """
    x = logits.float()
    present = -torch.exp(gamma_pos * F.logsigmoid(-x)) * F.logsigmoid(x)
    lowered = (x.sigmoid() - margin).clamp(min=_SMALLEST)
    # log(1 - max(p - margin, 0)); by logarithms it stays finite where p rounds to 1.
    log_margin = torch.full((), margin, device=x.device).log()  # a tensor() would wait for a GPU
    log_rest = torch.logaddexp(F.logsigmoid(-x), log_margin).clamp(max=0)
    absent = -(lowered**gamma_neg) * log_rest
    return _known_mean(targets, present, absent)


def _known_mean(targets: Tensor, present: Tensor, absent: Tensor) -> Tensor:
    """Mix both sides' losses by the targets, and take the mean where they are no NaN."""
    known = ~targets.isnan()
    soft = targets.nan_to_num(0.0)
    losses = torch.where(known, soft * present + (1 - soft) * absent, 0.0)
    return losses.sum() / known.sum().clamp(min=1)


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """Class weights of shape (n_classes,) that give every class the same total; their mean over
    images is 1 (scikit-learn's ``balanced``). ``counts``: images a class in the training split."""
    return counts.sum() / (len(counts) * counts.to(torch.float32))


def prevalence_weights(targets: Tensor, largest: float) -> tuple[Tensor, Tensor]:
    """``pos_weight`` and ``neg_weight``, both (n_classes,), under which the images that have a
    finding weigh as much as those that do not, as in CheXNet (Rajpurkar et al. 2017).

    The weights are half the inverse of either side's share of the known labels in ``targets``
    (n_images, n_classes), so that their mean over these is 1, and are at most ``largest``; a side
    that does not occur at all gets that weight.
    """
    known = (~targets.isnan()).sum(dim=0)
    present = targets.nan_to_num(0.0).sum(dim=0)
    pos_weight, neg_weight = (
        (known / (2 * count)).nan_to_num(largest).clamp(max=largest)
        for count in (present, known - present)
    )
    return pos_weight, neg_weight


def _single(config: TrainConfig, targets: Tensor, gamma: float) -> Loss:
    weights = inverse_frequency_weights(targets.sum(dim=0)) if config.class_weights else None
    return lambda logits, soft: cross_entropy(logits, soft, config.label_smoothing, weights, gamma)


def _findings(config: TrainConfig, loss: Loss) -> Loss:
    # Half of what is taken from a label goes to each of its two sides.
    share = config.label_smoothing
    return lambda logits, soft: loss(logits, soft * (1 - share) + share / 2)


def _weighted_bce(config: TrainConfig, targets: Tensor) -> Loss:
    weights = prevalence_weights(targets, config.max_weight)
    return _findings(config, lambda logits, soft: bce(logits, soft, *weights))


LOSSES: dict[str, dict[str, Callable[[TrainConfig, Tensor], Loss]]] = {
    "softmax": {
        "cross_entropy": lambda config, targets: _single(config, targets, 0.0),
        "focal": lambda config, targets: _single(config, targets, config.gamma),
    },
    "sigmoid": {
        "bce": lambda config, targets: _findings(config, bce),
        "weighted_bce": _weighted_bce,
        "focal": lambda config, targets: _findings(
            config, lambda logits, soft: focal(logits, soft, config.alpha, config.gamma)
        ),
        "asymmetric": lambda config, targets: _findings(
            config,
            lambda logits, soft: asymmetric(
                logits, soft, config.gamma_neg, config.gamma_pos, config.margin
            ),
        ),
    },
}
"""What makes each loss, by the kind of probability that it is for; the first is ``auto``."""


def log_loss(targets: NDArray[np.float32], probs: NDArray[np.float64], activation: str) -> float:
    """The unweighted loss of probabilities, for validation: log loss of the true class, or mean
    binary cross-entropy over the known labels.

    Both arrays have the shape (n_images, n_classes). NaN where nothing is known.
    """
    likelihood = probs if activation == "softmax" else np.where(targets > 0.5, probs, 1 - probs)
    counted = targets > 0.5 if activation == "softmax" else ~np.isnan(targets)
    return float(-np.log(np.maximum(likelihood[counted], np.finfo(float).tiny)).mean())
