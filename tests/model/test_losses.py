"""Losses against plain arithmetic and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from xraycomp.model.losses import cross_entropy, inverse_frequency_weights


def plain(logits, targets, smoothing, weights):
    """Mean over images of -sum_k w_k t_k log p_k, t smoothed towards 1/K."""
    count = logits.shape[1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    smoothed = targets * (1 - smoothing) + smoothing / count
    return -(weights * smoothed * log_probs).sum(axis=1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0, 0.1]])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_equals_plain_arithmetic(smoothing, weights, soft):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (20, 4))
    targets = rng.dirichlet(np.ones(4), 20) if soft else np.eye(4)[rng.integers(0, 4, 20)]
    found = cross_entropy(
        torch.tensor(logits),
        torch.tensor(targets, dtype=torch.float32),
        smoothing,
        None if weights is None else torch.tensor(weights),
    )
    wanted = plain(logits, targets, smoothing, np.ones(4) if weights is None else np.array(weights))
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_hard_targets_equal_torch_on_class_indices():
    logits, labels = torch.randn(16, 5), torch.arange(16) % 5
    wanted = torch.nn.CrossEntropyLoss()(logits, labels)
    torch.testing.assert_close(cross_entropy(logits, torch.eye(5)[labels]), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_judged_in_full_precision(dtype):
    logits = torch.tensor([[30.0, 0.0, -30.0], [1.0, 2.0, 3.0]], dtype=dtype)
    found = cross_entropy(logits, torch.eye(3)[[2, 0]])
    assert found.dtype == torch.float32
    wanted = plain(logits.double().numpy(), np.eye(3)[[2, 0]], 0.0, np.ones(3))
    assert found.item() == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("counts", [[5, 5], [100, 10, 1], [7, 300, 20, 20]])
def test_inverse_frequency_weights_equal_scikit_learn(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    wanted = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    found = inverse_frequency_weights(torch.tensor(counts)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found[labels].mean() == pytest.approx(1)
