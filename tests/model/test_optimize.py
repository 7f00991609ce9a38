"""Optimizers decay what they should; schedules have their shapes."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD

from xraycomp.model.config import TrainConfig
from xraycomp.model.optimize import create_optimizer, create_scheduler
from xraycomp.model.zoo import create_model

LR = 0.1


def rates(steps_per_epoch=10, **fields):
    """The learning rate of every step of a run, and the one that is left after it."""
    config = TrainConfig(lr=LR, **fields)
    (stage,) = config.training_stages()
    weight = nn.Parameter(torch.ones(1))
    optimizer = SGD([{"params": [weight]}, {"params": [nn.Parameter(torch.ones(1))]}], lr=LR)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler = create_scheduler(optimizer, config, stage, steps_per_epoch)
        seen = []
        for _ in range(config.epochs * steps_per_epoch):
            assert len({group["lr"] for group in optimizer.param_groups}) == 1
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
    return np.array(seen), optimizer.param_groups[0]["lr"]


def optimizer_of(model, **fields):
    config = TrainConfig(**fields)
    return create_optimizer(model, config, config.training_stages()[0])


def cosine(count):
    return LR * (1 + np.cos(np.pi * np.arange(count) / count)) / 2


def test_warm_up_rises_in_equal_steps_and_the_cosine_ends_near_zero():
    found, left = rates(schedule="cosine", epochs=5, warmup_epochs=1.0)
    np.testing.assert_allclose(found[:10], LR * np.arange(1, 11) / 11)
    np.testing.assert_allclose(found[10:], cosine(40), rtol=1e-6)
    assert found[-1] < LR / 500
    assert abs(left) < 1e-9


@pytest.mark.parametrize("epochs", [1, 3])
def test_without_warm_up_the_first_step_has_the_whole_rate(epochs):
    found, _ = rates(schedule="cosine", epochs=epochs, warmup_epochs=0.0)
    np.testing.assert_allclose(found, cosine(10 * epochs), rtol=1e-6)


def test_half_an_epoch_of_warm_up():
    found, _ = rates(schedule="constant", epochs=2, warmup_epochs=0.5)
    np.testing.assert_allclose(found[:5], LR * np.arange(1, 6) / 6)
    np.testing.assert_allclose(found[5:], LR)


def test_step_divides_by_ten_at_half_and_at_three_quarters():
    found, _ = rates(schedule="step", epochs=4, warmup_epochs=0.0)
    np.testing.assert_allclose(found, LR * np.repeat([1, 0.1, 0.01], [20, 10, 10]))


def test_step_counts_from_the_end_of_the_warm_up():
    found, _ = rates(schedule="step", epochs=5, warmup_epochs=1.0)
    np.testing.assert_allclose(found[10:], LR * np.repeat([1, 0.1, 0.01], [20, 10, 10]))


def test_one_cycle_rises_to_the_rate_and_falls_to_nearly_nothing():
    found, left = rates(schedule="onecycle", epochs=10)
    peak = int(found.argmax())
    assert found.max() == pytest.approx(LR, rel=0.01)
    assert 0.25 < peak / len(found) < 0.35
    assert (np.diff(found[: peak + 1]) > 0).all()
    assert (np.diff(found[peak:]) < 0).all()
    assert found[0] < LR / 20
    assert left < LR / 10_000


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "step", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 1.0, 2.5, 50.0])
@pytest.mark.parametrize(("epochs", "steps"), [(1, 1), (1, 2), (1, 7), (2, 1), (3, 5)])
def test_every_schedule_lasts_as_long_as_the_run(schedule, warmup, epochs, steps):
    found, left = rates(steps, schedule=schedule, epochs=epochs, warmup_epochs=warmup)
    assert all(math.isfinite(rate) for rate in (*found, left))
    assert 0 < found.max() <= LR * (1 + 1e-9)


def test_one_cycle_leaves_the_momentum_alone():
    config = TrainConfig(lr=LR, momentum=0.8, schedule="onecycle", epochs=2)
    model = nn.Linear(2, 2)
    (stage,) = config.training_stages()
    optimizer = create_optimizer(model, config, stage)
    scheduler = create_scheduler(optimizer, config, stage, 5)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
        assert {group["momentum"] for group in optimizer.param_groups} == {0.8}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small"])
def test_norms_and_biases_do_not_decay_and_all_other_weights_do(name, arch):
    """Without a gradient, what moves is what decays."""
    model = create_model(arch, 3)
    optimizer = optimizer_of(model, optimizer=name, weight_decay=0.1, lr=0.5)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():  # biases start at 0 and would not show their decay
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.fill_(0.5)
                before[key].fill_(0.5)
    optimizer.step()
    norms = {
        f"{key}.weight" for key, module in model.named_modules() if hasattr(module, "running_mean")
    }
    assert len(norms) > 10
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if not key.endswith("bias")} - norms


def test_sgd_and_adamw_shrink_weights_by_rate_times_decay():
    for name in ("sgd", "adamw"):
        model = nn.Linear(3, 3)
        before = model.weight.detach().clone()
        optimizer = optimizer_of(model, optimizer=name, weight_decay=0.1, lr=0.5)
        model.weight.grad = torch.zeros(3, 3)
        optimizer.step()
        torch.testing.assert_close(model.weight.detach(), before * (1 - 0.5 * 0.1))


def test_the_configured_optimizer_is_made_and_frozen_weights_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = optimizer_of(model, optimizer="sgd", momentum=0.7, lr=0.3)
    assert optimizer.defaults["lr"] == 0.3
    assert optimizer.defaults["momentum"] == 0.7
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model[1].parameters()}
    kinds = {
        name: type(optimizer_of(model, optimizer=name)).__name__
        for name in ("sgd", "adam", "adamw")
    }
    assert kinds == {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}


def test_a_first_step_that_overflows_leaves_no_chance_values_behind():
    """In half precision the loss scale is found by overflowing; the step is then left out."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 3))
    start = {key: value.clone() for key, value in model.state_dict().items()}
    config = TrainConfig(lr=0.1, weight_decay=0.0)
    optimizer = create_optimizer(model, config, config.training_stages()[0])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    inputs = torch.rand(4, 64)

    def step(factor):
        optimizer.zero_grad()
        scaler.scale(model(inputs).square().mean() * factor).backward()
        scaler.step(optimizer)
        scaler.update()

    step(1e30)
    for key, value in model.state_dict().items():
        assert torch.equal(value, start[key])
    scaler.update(1.0)
    gradient = torch.autograd.grad(model(inputs).square().mean(), list(model.parameters()))
    step(1.0)
    for before, value, slope in zip(start.values(), model.parameters(), gradient, strict=True):
        torch.testing.assert_close(value, before - 0.1 * slope)
