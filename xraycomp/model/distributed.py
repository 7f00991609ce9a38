"""What processes that train one network together say to each other; nothing to do in a lone one.

Each process has a device of its own and takes its share of every batch. They talk over gloo on the
CPU (what is decided) and, on GPUs, over nccl (gradients and batch norm). The one of rank 0, the
main process, judges and has the run folder; the others learn from it what they need.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from xraycomp.console.errors import UserError

Value = TypeVar("Value")


class LostPeerError(Exception):
    """Another of the processes is gone; why, only that one can tell."""


def rank() -> int:
    """The number of this process, from 0; 0 in a lone one."""
    return dist.get_rank() if in_group() else 0


def world_size() -> int:
    """How many processes train together, on all machines."""
    return dist.get_world_size() if in_group() else 1


def is_main() -> bool:
    """Whether this is the process that decides, writes files and shows progress."""
    return rank() == 0


def in_group() -> bool:
    """Whether this process has joined others, see `processes.joined`."""
    return dist.is_available() and dist.is_initialized()


def count_processes(devices: int | None, device: torch.device, batch_size: int) -> int:
    """How many processes are to train: those that have been started, or else ``devices``, or else
    one a GPU, and one on anything else.

    Raises ``UserError`` where another number has been started, where this machine has fewer GPUs,
    and where the batch cannot be shared out equally.
    """
    gpus = torch.cuda.device_count() if str(device) == "cuda" else None  # not one by its number
    if in_group():
        processes, here = world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
        said = f"torchrun has started {here} processes here"
        if devices not in (None, processes):
            raise UserError(
                f"--devices is {devices}, but torchrun has started {processes} processes. Leave "
                "--devices out."
            )
    else:
        processes = here = devices or gpus or 1
        said = f"--devices is {here}"
    if gpus is not None and here > gpus:
        raise UserError(f"{said}, but there are {gpus} GPUs here.")
    if gpus is None and processes > 1 and device.type != "cpu":
        raise UserError(f"{said}, but --device {device} is one. Use --device cuda or cpu.")
    if batch_size % processes:
        raise UserError(
            f"--batch-size {batch_size} cannot be shared equally among {processes} devices. Choose "
            f"a multiple of {processes}, or fewer devices."
        )
    return processes


def own_device(device: torch.device) -> torch.device:
    """What of ``device`` is for this process: of ``cuda`` a GPU each, where several train."""
    if in_group() and str(device) == "cuda":
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextlib.contextmanager
def first_on_its_machine() -> Iterator[None]:
    """Let one process of each machine go through the block, and only then its others, which find
    on the disk what that one has made."""
    first = not in_group() or os.environ["LOCAL_RANK"] == "0"
    if not first:
        all_reduce_max(0)
    yield
    if first:
        all_reduce_max(0)


@contextlib.contextmanager
def _peers() -> Iterator[None]:
    """Tell that others are gone from other errors."""
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
    _share(model.state_dict().values())
    if kind == "cuda":
        share_batch_norm(model)


def share_buffers(model: nn.Module) -> None:
    """Give all processes the main one's batch-norm statistics, so that they judge alike."""
    if world_size() > 1:
        _share(model.buffers())


def _share(tensors: Iterable[Tensor]) -> None:
    with _peers():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


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


def even_share(n_rows: int) -> NDArray[np.int64]:
    """This process's part of ``n_rows`` rows, as many as every other's: the last of the shares go
    on with the first rows again. `gather_rows` puts them together."""
    part = -(-n_rows // world_size())
    every: NDArray[np.int64] = np.resize(np.arange(n_rows), part * world_size())
    return every[rank() * part :][:part]


def gather_rows(rows: NDArray[np.float64], n_rows: int) -> NDArray[np.float64]:
    """All ``n_rows`` rows in their order, the same in all processes, from the `even_share` of each;
    shape (n_rows, ...)."""
    if world_size() == 1:
        return rows
    mine = torch.from_numpy(rows)
    shares = [torch.empty_like(mine) for _ in range(world_size())]
    with _peers():
        dist.all_gather(shares, mine)
    return torch.cat(shares)[:n_rows].numpy()


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
    # As they lie in memory: densely and, as autograd has it, in the order of their parameters,
    # which is the same in all processes. By their dimensions copying takes four times as long.
    rows = [gradient.as_strided((gradient.numel(),), (1,)) for gradient in gradients]
    flat = all_reduce_mean(torch.cat(rows))
    for row, mean in zip(rows, torch.split(flat, [len(row) for row in rows]), strict=True):
        row.copy_(mean)


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


def from_main(function: Callable[[], Value]) -> Value:
    """What ``function`` gives in the main process, which alone calls it; the others wait."""
    return broadcast(function() if is_main() else None)  # type: ignore[return-value]


def broadcast(value: Value) -> Value:
    """The main process's ``value``, for which the others wait."""
    if world_size() == 1:
        return value
    holder = [value]
    with _peers():
        dist.broadcast_object_list(holder, 0, device=torch.device("cpu"))
    return holder[0]
