"""The one exception for everything a user can cause and mend."""

from collections.abc import Sequence
from typing import Self


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one plain sentence (or two short ones): what was wrong, where, and what to do
    next. Commands print it on stderr without a traceback and exit with ``exit_code``.
    """

    exit_code = 1


class Stopped(UserError):  # noqa: N818 - a wish that was carried out, not an error
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved what is needed to go on.

    The exit code is the shell's own for that signal: 128 + its number.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        """Make pickling call ``__init__`` with both of its arguments."""
        return type(self), (str(self), self.signal_number)


def listing(names: Sequence[str], limit: int = 5) -> str:
    """Join ``names`` for a sentence, cut after ``limit`` with the number left out."""
    shown = ", ".join(names[:limit])
    rest = len(names) - limit
    return f"{shown} and {rest:,} more" if rest > 0 else shown
