"""Losses on logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy with soft targets.

    ``logits`` and ``targets`` have the shape (batch, n_classes), targets adding up to 1 a row;
    ``class_weights`` has the shape (n_classes,). Computed in float32 whatever the logits are.
    """
    return F.cross_entropy(
        logits.float(), targets, weight=class_weights, label_smoothing=label_smoothing
    )


def inverse_frequency_weights(counts: Tensor) -> Tensor:
    """Class weights of shape (n_classes,) that give every class the same total; their mean over
    images is 1 (scikit-learn's ``balanced``). ``counts``: images a class in the training split."""
    return counts.sum() / (len(counts) * counts.to(torch.float32))
