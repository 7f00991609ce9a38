"""Starts the processes that train together, and brings what ends them back to the one that asks."""

import contextlib
import importlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from torch.multiprocessing.spawn import ProcessExitedException, spawn
from tqdm import tqdm

from xraycomp.console.command import log_to_terminal
from xraycomp.console.errors import UserError
from xraycomp.console.signals import StopRequest, Terminated, raise_terminated
from xraycomp.model.distributed import LostPeerError, is_main, process_group

logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # what failed is raised
_SECONDS_FOR_THE_CAUSE = 5.0  # until the launcher must have seen which process died first


class DeadProcessError(UserError):
    """One of the processes was killed from outside."""


@dataclass(frozen=True)
class _Job:
    """What a new process has to do."""

    module: str
    function: str
    arguments: tuple[Any, ...]
    kind: str  # of device: cuda or cpu
    processes: int
    folder: Path  # where they meet, and for what went wrong
    shows_log: bool


def launch(function: Callable[..., None], processes: int, kind: str, *arguments: Any) -> None:
    """Run ``function(device, *arguments)`` in ``processes`` new processes, each on its own device.

    Ctrl-C and SIGTERM are passed on to them, and waited for. The calling script is not run again
    in them, so it needs no ``if __name__ == "__main__"``; ``function`` has to lie in a module.

    Raises what the first process that failed has raised, and ``DeadProcessError`` where one was
    killed. Where one fails the others are ended too.
    """
    module = function.__module__
    if module == "__main__":  # run as python -m <module>
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    shows_log = logging.getLogger("xraycomp").isEnabledFor(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="xraycomp-") as name, StopRequest() as stop:
        folder = Path(name)
        job = _Job(module, function.__qualname__, arguments, kind, processes, folder, shows_log)
        with _without_main():
            workers = spawn(_work, (job,), processes, join=False)  # type: ignore[no-untyped-call]
        try:
            told = 0
            while not workers.join(timeout=0.1):
                if stop.signal_number != told:
                    told = stop.signal_number
                    for worker in workers.processes:
                        os.kill(worker.pid, told)
        except ProcessExitedException as error:
            left = folder / f"{error.error_index}.error"
            if left.is_file():
                raise pickle.loads(left.read_bytes()) from None
            if not stop.signal_number:
                raise _death(error, processes) from None
        finally:
            for worker in workers.processes:
                worker.kill()
    if stop.signal_number:  # when there was no training to stop: what it does in a lone process
        signal.raise_signal(stop.signal_number)
        raise KeyboardInterrupt


def _death(error: ProcessExitedException, processes: int) -> DeadProcessError:
    how = f"killed by {error.signal_name}" if error.signal_name else f"exit code {error.exit_code}"
    return DeadProcessError(
        f"Training process {error.error_index + 1} of {processes} died ({how})."
    )


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
    try:
        function = getattr(importlib.import_module(job.module), job.function)
        with process_group(job.kind, number, job.processes, job.folder / "meet") as device:
            if not is_main():
                warnings.simplefilter("ignore")  # once is enough
            elif job.shows_log:
                log_to_terminal()
            function(device, *job.arguments)
    except (KeyboardInterrupt, Terminated):
        _end()
    except LostPeerError as error:
        # The launcher ends this process as soon as it has seen which one died, and of what.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_SECONDS_FOR_THE_CAUSE)
        _leave(error, job.folder / f"{number}.error")
    except Exception as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is near without it
        _leave(error, job.folder / f"{number}.error")


def _leave(error: Exception, path: Path) -> NoReturn:
    """Write ``error`` where the launcher looks for it, with its traceback as a note, and end."""
    said = "".join(traceback.format_exception(error))
    if not isinstance(error, UserError):
        error.add_note(f"In a training process:\n{said}")
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # many exceptions cannot be made again from what they keep
        content = pickle.dumps(RuntimeError(said))
    path.write_bytes(content)
    _end()


def _end() -> NoReturn:
    """End without the interpreter's cleaning up, which may wait for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
