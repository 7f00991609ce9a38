"""Brings the processes together that train one network, and what ends them to the user.

torchrun starts them, on one machine or on several. On one machine `launch` does too, from within a
script or a notebook: it gives them the environment that torchrun would give. (torchrun's own
``elastic_launch`` brings back errors as text only, and runs the calling script again.)

They leave each other word in the store in which they meet, which outlives them: with torchrun, or
with the process that launched them.
"""

import contextlib
import datetime
import importlib
import logging
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, spawn
from tqdm import tqdm

from xraycomp.console.command import log_to_terminal
from xraycomp.console.errors import UserError
from xraycomp.console.signals import StopRequest, raise_terminated
from xraycomp.model.device import set_up_torch
from xraycomp.model.distributed import LostPeerError, in_group, is_main, world_size

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # what failed is raised
_TIMEOUT = datetime.timedelta(days=1)  # others wait while the main process downloads and decodes
_PATIENCE = datetime.timedelta(seconds=20)  # until the store is taken to be gone
_FAILED = 1  # exit code of a process whose failure the others know of
_HOST = "127.0.0.1"


class DeadProcessError(UserError):
    """One of the processes was killed from outside."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun or `launch` has started, until the block ends.

    Nothing to do in a lone process, and in one that is already among the others.

    The first that fails tells all why, and the others raise that, or ``DeadProcessError`` where one
    was killed; but only one on each machine, and the rest of them end there and then, without a
    word.
    """
    if in_group() or not (dist.is_available() and dist.is_torchelastic_launched()):
        yield
        return
    _join()
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is near without it
        cause = _common_cause(error)
        # Else the process might wait at its end for those that are gone.
        dist.group.WORLD.abort()  # type: ignore[union-attr]
        if cause is error:
            raise
        raise cause from error
    dist.destroy_process_group()


def _join() -> None:
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cpu:gloo,cuda:nccl"
        # Before anything is opened on a GPU; whether there are enough is looked at later.
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except RuntimeError as error:  # torch's own distributed errors are RuntimeErrors
        place, why = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}", str(error)
        raise UserError(
            f"The training processes did not meet at {place} ({why.splitlines()[0]}). Look whether "
            "the machines reach each other."
        ) from error
    set_up_torch()
    torch.set_num_threads(max(1, torch.get_num_threads() // int(os.environ["LOCAL_WORLD_SIZE"])))
    if not is_main():  # once is enough
        warnings.simplefilter("ignore")
        logging.getLogger("xraycomp").setLevel(logging.ERROR)


def _store() -> Any:
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return dist.TCPStore(host, port, timeout=_PATIENCE)  # type: ignore[attr-defined]


def advise(advice: str) -> None:
    """Leave word of what to do should one of the processes die."""
    if in_group() and is_main():
        _store().set("advice", advice)


def _death(what: str, store: Any) -> DeadProcessError:
    advice = store.get("advice").decode() if store.check(["advice"]) else ""
    return DeadProcessError(f"{what} {advice}".strip())


def _common_cause(error: BaseException) -> BaseException:
    """Why the processes fail: the first error that one of them left word of, or else ``error``."""
    lost = isinstance(error, LostPeerError)
    try:
        store = _store()
        if isinstance(error, Exception) and not lost and store.add("failures", 1) == 1:
            store.set("cause", _pickled(error))
        elif lost and store.check(["cause"]):
            error = pickle.loads(store.get("cause"))
        elif lost:
            error = _death(f"Another of the {world_size()} training processes died.", store)
        if store.add(f"said on machine {os.environ.get('GROUP_RANK', 0)}", 1) > 1:
            end()
    except RuntimeError:  # the machine that held the store is gone
        if lost:
            return DeadProcessError("The machine of the main training process is gone.")
    return error


def _pickled(error: Exception) -> bytes:
    """``error`` for other processes, with its traceback as a note."""
    said = "".join(traceback.format_exception(error))
    if not isinstance(error, UserError):
        error.add_note(f"In a training process:\n{said}")
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # many exceptions cannot be made again from what they keep
        content = pickle.dumps(RuntimeError(said))
    return content


def end() -> NoReturn:
    """End without the interpreter's cleaning up, which may wait for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_FAILED)


@dataclass(frozen=True)
class _Job:
    """What a new process has to do."""

    module: str
    function: str
    arguments: tuple[Any, ...]
    processes: int
    port: int  # of the store
    shows_log: bool


def launch(function: Callable[..., Any], processes: int, *arguments: Any) -> Any:
    """Run ``function(*arguments)`` in ``processes`` new processes of this machine, as torchrun
    would, and give what it returns in the main one of them.

    Ctrl-C and SIGTERM are passed on to them, and waited for. The calling script is not run again
    in them, so it needs no ``if __name__ == "__main__"``; ``function`` has to lie in a module.

    Raises what the first process that failed has raised, and ``DeadProcessError`` where one was
    killed. Where one fails the others are ended too.
    """
    module = function.__module__
    if module == "__main__":  # run as python -m <module>
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    shows_log = logging.getLogger("xraycomp").isEnabledFor(logging.INFO)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        _HOST, 0, is_master=True, wait_for_workers=False
    )
    job = _Job(module, function.__qualname__, arguments, processes, store.port, shows_log)
    with StopRequest() as stop:
        with _without_main():
            workers = spawn(_work, (job,), processes, join=False)  # type: ignore[no-untyped-call]
        try:
            told = 0
            while not workers.join(timeout=0.1):
                if stop.signal_number != told:
                    told = stop.signal_number
                    for worker in workers.processes:
                        os.kill(worker.pid, told)
        except ProcessExitedException:
            if store.check(["cause"]):
                raise pickle.loads(store.get("cause")) from None
            if not stop.signal_number:
                raise _death(_which_died(workers), store) from None
        finally:
            for worker in workers.processes:
                worker.kill()
    if stop.signal_number:  # when there was no training to stop: what it does in a lone process
        signal.raise_signal(stop.signal_number)
        raise KeyboardInterrupt
    return pickle.loads(store.get("result"))


def _which_died(workers: ProcessContext) -> str:
    codes = [worker.exitcode for worker in workers.processes]
    for number, code in enumerate(codes, 1):
        if code not in (None, 0, _FAILED):  # the others may already have ended because of it
            how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            return f"Training process {number} of {len(codes)} died ({how})."
    return "The training processes lost each other."


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the calling script, which new processes would run again before anything else."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(number: int, job: _Job) -> None:
    """The whole life of a new process; ends it at once where something goes wrong."""
    # A terminal sends Ctrl-C to its whole group: the launcher alone must get it, and passes it on.
    os.setpgrp()
    signal.signal(signal.SIGTERM, raise_terminated)
    # tqdm's own lock is a semaphore, which a process that ends at once leaves behind.
    tqdm.set_lock(threading.RLock())
    if job.shows_log:
        log_to_terminal()
    os.environ |= {
        **{"TORCHELASTIC_RUN_ID": "xraycomp", "TORCHELASTIC_USE_AGENT_STORE": "True"},
        **{"RANK": str(number), "LOCAL_RANK": str(number), "GROUP_RANK": "0"},
        **{"WORLD_SIZE": str(job.processes), "LOCAL_WORLD_SIZE": str(job.processes)},
        **{"MASTER_ADDR": _HOST, "MASTER_PORT": str(job.port)},
    }
    try:
        with joined():
            result = getattr(importlib.import_module(job.module), job.function)(*job.arguments)
            if is_main():
                _store().set("result", pickle.dumps(result))
    except BaseException:
        end()
