"""Chooses whether to compile a network: by trying it, where a run is long enough for it to pay."""

import logging
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from xraycomp.model.device import autocast, synchronize
from xraycomp.model.libraries import first_line
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)

Forward = Callable[[Tensor], Tensor]

_WORTH_TRYING = 600.0  # seconds: compiling takes a minute or two, and a gain is 10 to 40 %
_WORTH_TAKING = 0.95  # of the time without
_ROUNDS = 5


def choose_forward(model: GrayModel, images: Tensor, steps: int) -> Forward:
    """``model`` itself, or a compiled form of it that shares its weights, whichever trains faster.

    It is measured forward and backward on ``images`` (a batch, as training gives it), and only
    where the ``steps`` that are still to come take longer than compiling does. The network is left
    as it was, batch norm and random state included.
    """
    buffers = [buffer.clone() for buffer in model.buffers()]
    devices = [images.device] if images.is_cuda else []
    try:
        with torch.random.fork_rng(devices):
            eager = _seconds(model, images)
            if eager * steps < _WORTH_TRYING:
                return model
            compiled: Forward = torch.compile(model, dynamic=False)
            began = time.monotonic()
            try:
                found = _seconds(compiled, images)
            except Exception as error:  # a compiler may be missing, or not know the network
                log.info("Not compiled: %s.", first_line(getattr(error, "inner_exception", error)))
                return model
            took = time.monotonic() - began - _ROUNDS * found
            log.info(
                "A step takes %.1f ms, compiled %.1f ms (compiling took %.0f s): %s.",
                1000 * eager,
                1000 * found,
                took,
                "compiled" if found < _WORTH_TAKING * eager else "not compiled",
            )
            return compiled if found < _WORTH_TAKING * eager else model
    finally:
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        for parameter in model.parameters():
            parameter.grad = None


def _seconds(forward: Forward, images: Tensor) -> float:
    """Median time of a forward and backward pass, after two that are not counted."""
    found = []
    for number in range(_ROUNDS + 2):
        synchronize(images.device)
        began = time.monotonic()
        with autocast(images.device):
            logits = forward(images)
        logits.float().square().mean().backward()  # type: ignore[no-untyped-call]
        synchronize(images.device)
        if number > 1:
            found.append(time.monotonic() - began)
    return statistics.median(found)
