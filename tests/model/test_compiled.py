"""Compiling is tried where it may pay, and leaves the network as it was whether it is taken or not.

Where no compiler is, the network is not compiled; both outcomes are right here.
"""

import logging

import pytest
import torch
from torch import nn

from xraycomp.model import compiled
from xraycomp.model.compiled import choose_forward


@pytest.fixture
def net(tiny_net):
    net = tiny_net()
    net.body.insert(1, nn.BatchNorm2d(8))
    net.body.insert(2, nn.Dropout(0.5))
    return net.train()


def test_a_short_run_is_not_worth_trying(net, caplog):
    caplog.set_level(logging.INFO)
    assert choose_forward(net, torch.rand(8, 1, 16, 16), steps=10) is net
    assert not caplog.messages


@pytest.mark.parametrize("taken", [True, False])
def test_trying_changes_nothing_and_says_what_was_found(net, caplog, monkeypatch, taken):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(compiled, "_WORTH_TAKING", 1e9 if taken else 0.0)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    images = torch.rand(8, 1, 16, 16)
    random = torch.get_rng_state()
    forward = choose_forward(net, images, steps=10**9)
    said = " ".join(caplog.messages)
    assert "compiling took" in said or "Not compiled" in said
    assert (forward is net) == ("ot compiled" in said)
    assert torch.equal(torch.get_rng_state(), random)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.training
    net.eval()
    torch.testing.assert_close(forward(images), net(images), atol=1e-5, rtol=0)


def test_a_network_that_cannot_be_compiled_is_used_as_it_is(net, caplog, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no C++ compiler\nand a long story")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch, "compile", lambda *args, **options: fail)
    assert choose_forward(net, torch.rand(8, 1, 16, 16), steps=10**9) is net
    assert caplog.messages == ["Not compiled: no C++ compiler."]
