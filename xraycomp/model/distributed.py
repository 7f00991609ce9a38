"""What processes that train one network together say to each other; nothing to do in a lone one.

Each process has a device of its own and takes its share of every batch. They talk over gloo on the
CPU (what is decided) and, on GPUs, over nccl (gradients and batch norm).
"""

import contextlib
import datetime
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from xraycomp.console.errors import UserError

Value = TypeVar("Value")

_TIMEOUT = datetime.timedelta(hours=1)  # others wait that long while the main process validates


class LostPeerError(Exception):
    """Another of the processes is gone; why, only that one can tell."""


def rank() -> int:
    """The number of this process, from 0; 0 in a lone one."""
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _in_group() else 1


def is_main() -> bool:
    """Whether this is the process that judges, writes files and shows progress."""
    return rank() == 0


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def count_processes(devices: int | None, device: torch.device, batch_size: int) -> int:
    """How many processes are to train: ``devices``, or else one a GPU, and one on anything else.

    Raises ``UserError`` where there are fewer GPUs, or the batch cannot be shared out equally.
    """
    if str(device) == "cuda":  # and not one of them by its number
        most = torch.cuda.device_count()
        processes = devices or most
        if processes > most:
            raise UserError(f"--devices is {processes}, but there are {most} GPUs here.")
    else:
        processes = devices or 1
        if processes > 1 and device.type != "cpu":
            raise UserError(
                f"--devices is {processes}, but --device {device} is one. Use --device cuda or cpu."
            )
    if batch_size % processes:
        raise UserError(
            f"--batch-size {batch_size} cannot be shared equally among {processes} devices. Choose "
            f"a multiple of {processes}, or fewer --devices."
        )
    return processes


@contextlib.contextmanager
def process_group(kind: str, number: int, processes: int, meet: Path) -> Iterator[torch.device]:
    """Join the other processes that the launcher started, and give the device of this one.

    ``kind`` is ``cuda`` or ``cpu``. Where the block fails the group is left as it is, since nccl
    waits for the others before it ends a group: the process has to end itself.
    """
    device = torch.device(kind)
    if kind == "cuda":
        device = torch.device(kind, number)
        torch.cuda.set_device(device)  # before nccl opens anything on a GPU
    with _peers():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo",
            init_method=f"file://{meet}",
            rank=number,
            world_size=processes,
            timeout=_TIMEOUT,
        )
    torch.set_num_threads(max(1, torch.get_num_threads() // world_size()))
    yield device
    dist.destroy_process_group()


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's own distributed errors are RuntimeErrors
        raise LostPeerError(str(error)) from error


def prepare_model(model: nn.Module, kind: str) -> None:
    """Give all processes the main one's weights, and make batch norm see the whole batch.

    Called while ``model`` is still on the CPU. Batch norm over the whole batch is for GPUs alone;
    processes on the CPU each take the statistics of their own share, and the main one's are kept.
    """
    if world_size() == 1:
        return
    with _peers():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
    if kind == "cuda":
        share_batch_norm(model)


def share_batch_norm(model: nn.Module) -> None:
    """Replace batch norm by one over all processes, of the same parameters and state-dict keys."""
    convert: Callable[[nn.Module], nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
    if any(type(module).__module__.startswith("timm.") for module in model.modules()):
        from timm import layers

        # timm's batch norms may hold an activation, which torch's conversion would drop.
        convert = layers.convert_sync_batchnorm  # type: ignore[attr-defined]
    for name, child in model.named_children():
        model.add_module(name, convert(child))


def shard(n_images: int) -> slice:
    """This process's part of a batch of ``n_images``, a multiple of the number of processes."""
    part = n_images // world_size()
    return slice(rank() * part, (rank() + 1) * part)


def seed_share(*place: int) -> None:
    """Seed dropout by its ``place`` in the run and by the process, so that no two draw alike.

    A lone process goes on with the one random state that its checkpoint keeps.
    """
    if world_size() > 1:
        seed = np.random.SeedSequence([*place, rank()]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))


def reduce_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes: the gradient of the whole batch.

    One message an optimizer step, however many parts its batch has. Gradients that overflowed in
    one process then overflow in all, so that the loss scale stays the same everywhere.
    """
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = all_reduce_mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def all_reduce_mean(values: Tensor) -> Tensor:
    """The mean of each value over the processes, the same bits in all; may overwrite ``values``."""
    if world_size() == 1:
        return values
    with _peers():
        dist.all_reduce(values)
    return values.div_(world_size())


def all_reduce_max(value: int) -> int:
    """The largest ``value`` of all processes, known to all: they decide together or wait for ever.

    Over the CPU, so that no GPU is made to wait.
    """
    if world_size() == 1:
        return value
    agreed = torch.tensor(int(value))  # gloo takes no bools everywhere
    with _peers():
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return int(agreed)


def broadcast(value: Value) -> Value:
    """The main process's ``value``, for which the others wait."""
    if world_size() == 1:
        return value
    holder = [value]
    with _peers():
        dist.broadcast_object_list(holder, 0, device=torch.device("cpu"))
    return holder[0]
