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
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from tqdm import tqdm

from xraycomp.console.command import log_to_terminal
from xraycomp.console.errors import UserError
from xraycomp.data.files import atomic_path
from xraycomp.model.distributed import LostPeerError, is_main, process_group

_LOCALHOST = "127.0.0.1"
_SECONDS_TO_SAVE = 300  # after Ctrl-C, for a validation and a checkpoint
_SECONDS_FOR_THE_CAUSE = 5.0  # until the launcher must have seen which process died first
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)  # by torch's launcher


class DeadProcessError(UserError):
    """One of the processes was killed from outside."""


@dataclass(frozen=True)
class _Job:
    """What a new process has to do."""

    module: str
    function: str
    arguments: tuple[Any, ...]
    kind: str  # of device: cuda or cpu
    folder: Path  # for what went wrong
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
    # Read by torch where it can wait for more than half a minute.
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_SAVE))
    with (
        tempfile.TemporaryDirectory(prefix="xraycomp-") as folder,
        _handlers_kept(),
        _without_log(),
        _without_main(),
    ):
        job = _Job(module, function.__qualname__, arguments, kind, Path(folder), shows_log)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{_LOCALHOST}:0",  # any free port
            local_addr=_LOCALHOST,
            max_restarts=0,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        stopped_by = 0
        cause: BaseException | None = None
        try:
            elastic_launch(config, _work)(job)
        except SignalException as error:
            stopped_by = error.sigval
            cause = _first_error(job.folder)
            if isinstance(cause, LostPeerError):  # the signal ended the other before this one
                cause = None
        except ChildFailedError as error:
            cause = _first_error(job.folder)
            killed = error.get_first_failure()[1].exitcode < 0
            if cause is None or (killed and isinstance(cause, LostPeerError)):
                cause = _death(error, processes)
    if cause:
        raise cause
    if stopped_by:  # when there was no training to stop: what the signal does in a lone process
        signal.raise_signal(stopped_by)
        raise KeyboardInterrupt


def _first_error(folder: Path) -> BaseException | None:
    """What the first process that failed left: what later ones left may follow from it."""
    left = sorted(folder.glob("*.error"), key=lambda path: path.stat().st_mtime_ns)
    if not left:
        return None
    error: BaseException = pickle.loads(left[0].read_bytes())
    return error


def _death(error: ChildFailedError, processes: int) -> DeadProcessError:
    number, failure = error.get_first_failure()
    how = f"exit code {failure.exitcode}"
    if failure.exitcode < 0:
        how = f"killed by {signal.Signals(-failure.exitcode).name}"
    return DeadProcessError(f"Training process {number + 1} of {processes} died ({how}).")


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Put the signal handlers back that torch's launcher replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # as one that was not set from Python is
                signal.signal(number, handler)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Keep torch's launcher from logging tracebacks: what went wrong is raised."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the calling script, which new processes would run again before anything else."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(job: _Job) -> None:
    """The whole life of a new process; ends it at once where something goes wrong."""
    # A terminal sends Ctrl-C to its whole group: the launcher alone must get it, and passes it on.
    os.setpgrp()
    signal.signal(signal.SIGTERM, _terminate)
    # tqdm's own lock is a semaphore, which a process that ends at once leaves behind.
    tqdm.set_lock(threading.RLock())
    try:
        function = getattr(importlib.import_module(job.module), job.function)
        with process_group(job.kind) as device:
            if not is_main():
                warnings.simplefilter("ignore")  # once is enough
            elif job.shows_log:
                log_to_terminal()
            function(device, *job.arguments)
    except (KeyboardInterrupt, _Terminated):
        _end()
    except LostPeerError as error:
        # The launcher ends this process as soon as it has seen which one died, and of what.
        _answer_signals_with(signal.SIG_DFL)
        time.sleep(_SECONDS_FOR_THE_CAUSE)
        _leave(error, job.folder)
        _end()
    except Exception as error:
        _answer_signals_with(signal.SIG_IGN)  # the end is near without them
        _leave(error, job.folder)
        _end()


def _answer_signals_with(handler: signal.Handlers) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


class _Terminated(BaseException):
    """SIGTERM, where nobody waits for it as training does."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _leave(error: Exception, folder: Path) -> None:
    """Write ``error`` where the launcher looks for it, with its traceback as a note."""
    said = "".join(traceback.format_exception(error))
    if not isinstance(error, UserError):
        error.add_note(f"In a training process:\n{said}")
    try:
        content = pickle.dumps(error)
        pickle.loads(content)
    except Exception:  # many exceptions cannot be made again from what they keep
        content = pickle.dumps(RuntimeError(said))
    with atomic_path(folder / f"{os.getpid()}.error") as path:
        path.write_bytes(content)


def _end() -> NoReturn:
    """End without the interpreter's cleaning up, which may wait for processes that are gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
