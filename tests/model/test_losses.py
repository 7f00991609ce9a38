"""Losses against plain arithmetic and scikit-learn."""

import dataclasses
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.utils.class_weight import compute_class_weight
from torchvision.ops import sigmoid_focal_loss

from xraycomp.console.errors import UserError
from xraycomp.model.config import TrainConfig
from xraycomp.model.losses import (
    LOSSES,
    asymmetric,
    bce,
    check_losses,
    create_loss,
    cross_entropy,
    focal,
    inverse_frequency_weights,
    log_loss,
    prevalence_weights,
)

NAN = float("nan")
FOR_FINDINGS = {
    "bce": bce,
    "weighted_bce": lambda x, t: bce(x, t, torch.tensor([3.0, 0.5, 9.0]), torch.ones(3) / 2),
    "focal": focal,
    "focal of gamma 1/2": lambda x, t: focal(x, t, 0.4, 0.5),
    "asymmetric": asymmetric,
    "asymmetric of gamma 1/2": lambda x, t: asymmetric(x, t, 0.5, 0.5, 0.2),
    "asymmetric without a margin": lambda x, t: asymmetric(x, t, 2.0, 0.0, 0.0),
}
FOR_CLASSES = {
    "cross_entropy": cross_entropy,
    "focal": lambda x, t: cross_entropy(x, t, gamma=2.0),
    "focal of gamma 1/2": lambda x, t: cross_entropy(x, t, gamma=0.5),
}


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


def findings(seed=0, soft=False):
    """Logits of 20 images and 3 findings, their targets, and the same with some unknown."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (20, 3))
    targets = rng.random((20, 3)) if soft else rng.integers(0, 2, (20, 3)).astype(float)
    return logits, targets, np.where(rng.random((20, 3)) < 0.3, np.nan, targets)


def by_hand(name, logits, targets):
    """Each label's loss in plain float64 arithmetic, with the parameters of FOR_FINDINGS."""
    p = 1 / (1 + np.exp(-logits))
    lowered = np.maximum(p - 0.05, 0)
    present, absent = {
        "bce": (-np.log(p), -np.log(1 - p)),
        "weighted_bce": (-np.array([3.0, 0.5, 9.0]) * np.log(p), -0.5 * np.log(1 - p)),
        "focal": (-0.25 * (1 - p) ** 2 * np.log(p), -0.75 * p**2 * np.log(1 - p)),
        "focal of gamma 1/2": (-0.4 * (1 - p) ** 0.5 * np.log(p), -0.6 * p**0.5 * np.log(1 - p)),
        "asymmetric": (-(1 - p) * np.log(p), -(lowered**4) * np.log(1 - lowered)),
        "asymmetric of gamma 1/2": (
            -((1 - p) ** 0.5) * np.log(p),
            -(np.maximum(p - 0.2, 0) ** 0.5) * np.log(1 - np.maximum(p - 0.2, 0)),
        ),
        "asymmetric without a margin": (-np.log(p), -(p**2) * np.log(1 - p)),
    }[name]
    return targets * present + (1 - targets) * absent


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", FOR_FINDINGS)
def test_a_loss_of_findings_equals_plain_arithmetic_over_the_known_labels(name, soft):
    logits, targets, partly = findings(soft=soft)
    for wanted in (targets, partly):
        found = FOR_FINDINGS[name](torch.tensor(logits), torch.tensor(wanted, dtype=torch.float32))
        expected = np.nanmean(by_hand(name, logits, wanted))
        assert found.item() == pytest.approx(expected, rel=1e-5), name


def test_focal_equals_torchvision():
    logits, targets, _ = (torch.tensor(array) for array in findings())
    for alpha, gamma in ((0.25, 2.0), (0.6, 3.5)):
        wanted = sigmoid_focal_loss(logits, targets, alpha, gamma, reduction="mean")
        assert focal(logits, targets, alpha, gamma).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_focal_without_gamma_is_the_weighted_cross_entropy():
    logits, targets, partly = (torch.tensor(array).float() for array in findings())
    alpha = torch.full((3,), 0.3)
    torch.testing.assert_close(
        focal(logits, partly, 0.3, 0.0), bce(logits, partly, alpha, 1 - alpha)
    )
    torch.testing.assert_close(
        focal(logits, targets, 0.5, 0.0),
        torch.nn.BCEWithLogitsLoss()(logits, targets) / 2,
    )


def test_asymmetric_without_margin_and_difference_is_focal():
    logits, _, partly = (torch.tensor(array) for array in findings())
    torch.testing.assert_close(
        asymmetric(logits, partly, 2.0, 2.0, 0.0), 2 * focal(logits, partly, 0.5, 2.0)
    )


def test_weighted_bce_equals_torch_with_its_pos_weight():
    logits, targets, _ = (torch.tensor(array).float() for array in findings())
    weight = torch.tensor([3.0, 0.5, 9.0])
    wanted = torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, targets)
    torch.testing.assert_close(bce(logits, targets, weight), wanted)


@pytest.mark.parametrize("name", FOR_FINDINGS)
def test_what_is_not_known_has_no_gradient_and_changes_nothing(name):
    """The other labels have the gradients that they have where only they are given."""
    logits, _, partly = (torch.tensor(array, dtype=torch.float32) for array in findings())
    logits.requires_grad_()
    FOR_FINDINGS[name](logits, partly).backward()
    unknown = partly.isnan()
    assert unknown.any()
    assert (logits.grad[unknown] == 0).all()
    moved = logits.detach().clone()
    moved[unknown] = 40.0
    moved.requires_grad_()
    FOR_FINDINGS[name](moved, partly).backward()
    assert torch.equal(moved.grad, logits.grad)
    assert (logits.grad[~unknown] != 0).float().mean() > 0.5


@pytest.mark.parametrize("name", FOR_FINDINGS)
def test_images_of_which_nothing_is_known_cost_nothing(name):
    logits = torch.randn(4, 3, requires_grad=True)
    loss = FOR_FINDINGS[name](logits, torch.full((4, 3), NAN))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [50.0, 0.0])
@pytest.mark.parametrize("name", FOR_FINDINGS)
def test_a_loss_of_findings_is_finite_at_any_logit(name, size, dtype):
    logits = torch.tensor([[size, -size, size], [-size, size, -size]], dtype=dtype)
    logits.requires_grad_()
    loss = FOR_FINDINGS[name](logits, torch.tensor([[1.0, 0.0, NAN], [1.0, 0.0, 1.0]]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FOR_CLASSES)
def test_a_loss_of_classes_is_finite_at_any_logit(name, dtype):
    logits = torch.tensor([[50.0, -50.0, 0.0], [0.0, -50.0, 50.0]], dtype=dtype)
    logits.requires_grad_()
    loss = FOR_CLASSES[name](logits, torch.eye(3)[[0, 1]])
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_of_classes_equals_plain_arithmetic(gamma):
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(0, 3, (20, 4)), rng.dirichlet(np.ones(4), 20)
    weights = np.array([0.5, 1.0, 3.0, 0.1])
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    smooth = targets * 0.9 + 0.1 / 4
    wanted = -(weights * smooth * (1 - probs) ** gamma * np.log(probs)).sum(axis=1).mean()
    found = cross_entropy(
        torch.tensor(logits), torch.tensor(targets), 0.1, torch.tensor(weights), gamma
    )
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_both_sides_of_a_finding_weigh_the_same_but_for_the_limit():
    rng = np.random.default_rng(0)
    targets = (rng.random((1000, 4)) < (0.5, 0.1, 0.01, 0.0)).astype(np.float32)
    targets[:200, 1] = np.nan
    pos, neg = (weight.numpy() for weight in prevalence_weights(torch.tensor(targets), 20.0))
    for column in (0, 1):
        known = targets[:, column][~np.isnan(targets[:, column])]
        wanted = compute_class_weight("balanced", classes=np.arange(2), y=known)
        np.testing.assert_allclose([neg[column], pos[column]], wanted, rtol=1e-5)
    assert 1 / (2 * targets[:, 2].mean()) > 20
    assert pos[2] == pos[3] == 20
    np.testing.assert_allclose(neg[2:], 1 / (2 - 2 * targets[:, 2:].mean(axis=0)), rtol=1e-5)


@pytest.mark.parametrize("name", ["auto", "bce", "weighted_bce", "focal", "asymmetric"])
def test_a_configured_loss_of_findings_has_its_settings_and_smooths(name):
    config = TrainConfig(
        loss=name, label_smoothing=0.1, max_weight=1.5, alpha=0.4, gamma=1.5, gamma_neg=3.0
    )
    logits, targets, partly = (torch.tensor(array, dtype=torch.float32) for array in findings())
    soft = partly * 0.9 + 0.05
    wanted = {
        "auto": lambda: bce(logits, soft),
        "bce": lambda: bce(logits, soft),
        "weighted_bce": lambda: bce(logits, soft, *prevalence_weights(targets, 1.5)),
        "focal": lambda: focal(logits, soft, 0.4, 1.5),
        "asymmetric": lambda: asymmetric(logits, soft, 3.0, 1.0, 0.05),
    }[name]()
    loss = create_loss(name, config, targets, "sigmoid")
    torch.testing.assert_close(loss(logits, partly), wanted)


@pytest.mark.parametrize("name", ["auto", "cross_entropy", "focal"])
def test_a_configured_loss_of_classes_has_its_settings(name):
    config = TrainConfig(loss=name, label_smoothing=0.1, gamma=1.5, class_weights=True)
    logits, targets = torch.randn(20, 3), torch.eye(3)[[0] * 12 + [1] * 5 + [2] * 3]
    weights = torch.tensor([20 / 36, 20 / 15, 20 / 9])
    gamma = 1.5 if name == "focal" else 0.0
    torch.testing.assert_close(
        create_loss(name, config, targets, "softmax")(logits, targets),
        cross_entropy(logits, targets, 0.1, weights, gamma),
    )


@pytest.mark.parametrize(
    ("fields", "activation", "sentence"),
    [
        ({"loss": "bce"}, "softmax", "--loss bce does not fit .* one class an image. Use cross_"),
        ({"loss": "weighted_bce"}, "softmax", "--loss weighted_bce does not fit"),
        ({"loss": "asymmetric"}, "softmax", "Use cross_entropy or focal"),
        ({"loss": "cross_entropy"}, "sigmoid", "findings that may occur together. Use bce or weig"),
        ({"class_weights": True}, "sigmoid", "--class-weights .* Use --loss weighted_bce"),
        ({"stages": "all:0.1:2 all:0.1:1:bce"}, "softmax", "--loss bce does not fit"),
    ],
)
def test_a_loss_for_labels_of_another_kind_is_refused(fields, activation, sentence):
    with pytest.raises(UserError, match=sentence):
        check_losses(TrainConfig(**fields), activation)


def test_losses_that_fit_are_taken():
    for name in ("auto", "cross_entropy", "focal"):
        check_losses(TrainConfig(loss=name), "softmax")
    for name in ("auto", "bce", "weighted_bce", "focal", "asymmetric"):
        check_losses(TrainConfig(loss=name), "sigmoid")


def test_the_validation_loss_equals_scikit_learn_over_the_known_labels():
    rng = np.random.default_rng(0)
    _, _, partly = findings()
    probs = rng.random((20, 3))
    known = ~np.isnan(partly)
    wanted = sklearn_log_loss(partly[known], probs[known])
    assert log_loss(partly, probs, "sigmoid") == pytest.approx(wanted)
    labels, probs = rng.integers(0, 3, 20), rng.dirichlet(np.ones(3), 20)
    wanted = sklearn_log_loss(labels, probs)
    assert log_loss(np.eye(3)[labels], probs, "softmax") == pytest.approx(wanted)


def test_every_loss_can_be_chosen_by_its_flag():
    (annotation,) = (item.type for item in dataclasses.fields(TrainConfig) if item.name == "loss")
    made = {name for fitting in LOSSES.values() for name in fitting}
    assert set(get_args(annotation)) == made | {"auto"}
