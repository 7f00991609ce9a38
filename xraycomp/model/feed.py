"""Brings images to the device that computes, so that it does not wait for them."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xraycomp.data.batches import ImageSet, Rows

_SHARE_OF_FREE_MEMORY = 0.6  # the rest is for larger batches, of validation
_ROWS_AT_A_TIME = 4096
_BATCHES_AHEAD = 3


@dataclass(frozen=True)
class DeviceRows:
    """Images, or codes that stand for them, in the memory of the device."""

    rows: Tensor

    def gather(self, rows: NDArray[np.int64]) -> Tensor:
        """Copy ``rows`` (int array (n,)) into a new tensor of shape (n, ...) on the device."""
        # So small a copy does not wait for the device.
        return self.rows[torch.from_numpy(rows).to(self.rows.device, non_blocking=True)]


def keep_on_device(sets: Sequence[ImageSet], device: torch.device) -> list[ImageSet]:
    """The same sets with their images in the GPU's memory, as far as these fit into what is free.

    To be called after a step of the largest kind, when what it needs has been set aside.
    """
    budget = _SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]
    kept = []
    for images in sets:
        if len(images) and not isinstance(images.cache, DeviceRows):
            first = torch.from_numpy(images.cache.gather(images.rows[:1]))
            needed = len(images) * first.nbytes
            if needed <= budget:
                budget -= needed
                images = _hold(images, first, device)
        kept.append(images)
    return kept


def _hold(images: ImageSet, first: Tensor, device: torch.device) -> ImageSet:
    try:
        held = first.new_empty(len(images), *first.shape[1:], device=device)
    except torch.OutOfMemoryError:  # another process has just taken it
        return images
    for start in range(0, len(images), _ROWS_AT_A_TIME):
        stop = start + _ROWS_AT_A_TIME
        held[start:stop] = torch.from_numpy(images.cache.gather(images.rows[start:stop]))
    return replace(images, cache=DeviceRows(held), rows=np.arange(len(images)))


def feed(
    cache: Rows, batches: Iterable[NDArray[np.int64]], device: torch.device
) -> Iterator[Tensor]:
    """The images at each of the ``batches`` of rows, as blocks on the device.

    On a GPU that does not hold them they are read ahead by a thread and copied beside the work on
    the batches before.
    """
    if isinstance(cache, DeviceRows):
        return map(cache.gather, batches)
    if device.type == "cuda":
        return _read_ahead(cache, batches, device)
    return (torch.from_numpy(cache.gather(rows)) for rows in batches)


def _read_ahead(
    cache: Rows, batches: Iterable[NDArray[np.int64]], device: torch.device
) -> Iterator[Tensor]:
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def load(rows: NDArray[np.int64]) -> tuple[Tensor, torch.cuda.Event]:
        pinned = torch.from_numpy(cache.gather(rows)).pin_memory()
        with torch.cuda.stream(stream):
            return pinned.to(device, non_blocking=True), stream.record_event()

    def take(loading: Future[tuple[Tensor, torch.cuda.Event]]) -> Tensor:
        block, copied = loading.result()
        present = torch.cuda.current_stream(device)
        present.wait_event(copied)
        block.record_stream(present)  # or its memory could be taken for the next copy too early
        return block

    # A thread begins with the first GPU as its own.
    with ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(device,)) as pool:
        loading: deque[Future[tuple[Tensor, torch.cuda.Event]]] = deque()
        for rows in batches:
            loading.append(pool.submit(load, rows))
            if len(loading) > _BATCHES_AHEAD:
                yield take(loading.popleft())
        while loading:
            yield take(loading.popleft())
