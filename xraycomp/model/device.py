"""The device that computes, and the precision that suits it."""

import contextlib
import ctypes
import os

import joblib
import torch

from xraycomp.console.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # their numbers in malloc.h
_A_GIGABYTE = 1 << 30


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` is ``cuda`` where there is a GPU, else the CPU.

    Raises ``UserError`` for a device that is not there.
    """
    set_up_torch()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        found = torch.zeros(1, device=device).add_(1).device  # only an operation tells if it works
        if found.type == "cuda":
            torch.cuda.set_device(found)  # else streams and events are those of the first GPU
    except Exception as error:  # each backend fails in its own way
        raise UserError(
            f"The device {name!r} cannot be used here. Use --device cpu or auto."
        ) from error
    return device


def set_up_torch() -> None:
    """Let this process compute fast: with no more threads than a container leaves CPUs, which torch
    does not ask for by itself; without numbers too small to matter, which may take a CPU a hundred
    times as long; in memory that is kept from step to step; with the fastest convolutions on a GPU,
    found by trying them."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), joblib.cpu_count()))
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    torch.backends.cudnn.benchmark = True


def _keep_freed_memory() -> None:
    """Let the C library use freed memory again. It would give it back to the system, which then
    clears 150 MB for every step of a ResNet-18: a tenth of the time."""
    with contextlib.suppress(AttributeError, TypeError):  # only the GNU library has such settings
        for setting in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
            ctypes.CDLL(None).mallopt(setting, _A_GIGABYTE)


def autocast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs that compute in it, else float16; float32 on the CPU, where it is faster."""
    if device.type != "cuda":
        return torch.float32
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if bf16 else torch.float16


def autocast(device: torch.device) -> torch.autocast:
    """Lets a network compute in the device's `autocast_dtype`."""
    dtype = autocast_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done all that it was asked to do; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
