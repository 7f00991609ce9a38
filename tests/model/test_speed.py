"""What a network costs, against a count by hand."""

import pytest
import torch
from torch import nn

from xraycomp.model.freezing import train_from
from xraycomp.model.speed import Limit, measure_limit, measure_peak
from xraycomp.model.stem import GrayModel


def test_operations_are_counted_forward_and_backward_and_nothing_is_changed():
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 5)
    )
    model = GrayModel(body, "tiny", 0.5, 0.25, 1).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    limit = measure_limit(model, torch.rand(1, 1, 8, 8))
    conv, linear = 2 * 64 * 9 * 4, 2 * 256 * 5
    # Backward again for the weights and, but for the image, for what came in.
    assert limit.flops == 2 * conv + 3 * linear
    assert limit.share(limit.peak / limit.flops) == pytest.approx(1)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_what_is_frozen_costs_no_backward():
    body = nn.Sequential()
    body.add_module("first", nn.Linear(10, 20, bias=False))
    body.add_module("last", nn.Linear(20, 3, bias=False))
    model = GrayModel(body, "tiny", 0.5, 0.25, 1)
    train_from(body, "last")
    limit = measure_limit(model, torch.rand(1, 10))
    assert limit.flops == 2 * 200 + 2 * (2 * 60)
    assert not body.first.training
    assert body.last.training


def test_the_peak_is_measured_once_and_sane():
    peak = measure_peak(torch.device("cpu"))
    assert 1e8 < peak < 1e14
    assert measure_peak(torch.device("cpu")) == peak
    assert Limit(100, 1000.0).share(5) == 0.5
