"""Ctrl-C and SIGTERM as a wish that long work looks at when it can stop well."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets ``signal_number``; a second one raises.

    Does nothing outside the main thread, where Python delivers no signals.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number = 0
        self._previous: list[object] = []

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = [signal.signal(number, self._note) for number in self.SIGNALS]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in zip(self.SIGNALS, self._previous, strict=False):
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number:
            raise KeyboardInterrupt
        self.signal_number = number


class Terminated(BaseException):
    """SIGTERM, where nobody waits for it as training does."""


def raise_terminated(number: int, frame: FrameType | None) -> None:
    """The handler that lets SIGTERM end a process as Ctrl-C does."""
    raise Terminated
