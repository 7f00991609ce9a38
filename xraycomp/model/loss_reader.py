"""Reads the losses of training steps without making a GPU wait for them."""

import torch
from torch import Tensor

from xraycomp.model.distributed import all_reduce_mean

_STEPS_A_WINDOW = 16


class LossReader:
    """A window of losses is sent to the CPU when it is full, and read when the next one is."""

    def __init__(self) -> None:
        self.window: list[Tensor] = []
        self.sent: list[tuple[Tensor, torch.cuda.Event | None]] = []
        self.n_unread = 0

    def add(self, loss: Tensor) -> None:
        """Keep the loss of a step, a scalar on the device."""
        self.window.append(loss)
        self.n_unread += 1
        if len(self.window) == _STEPS_A_WINDOW:
            self._send()

    def read(self, *, everything: bool) -> list[float]:
        """Those that have arrived and were not read yet, as means over the processes."""
        if everything and self.window:
            self._send()
        found = []
        while len(self.sent) > (not everything):
            losses, arrived = self.sent.pop(0)
            if arrived:
                arrived.synchronize()
            found += losses.tolist()
        self.n_unread -= len(found)
        return found

    def _send(self) -> None:
        losses = all_reduce_mean(torch.stack(self.window))
        arrived = None
        if losses.is_cuda:
            stream = torch.cuda.current_stream(losses.device)
            losses = losses.to("cpu", non_blocking=True)
            arrived = stream.record_event()
        self.sent.append((losses, arrived))
        self.window.clear()
