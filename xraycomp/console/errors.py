"""The one exception for everything a user can cause and mend."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one plain sentence (or two short ones): what was wrong, where, and what to do
    next. Commands print it on stderr without a traceback and exit with a code that is not 0.
    """


def listing(names: list[str], limit: int = 5) -> str:
    """Join ``names`` for a sentence, cut after ``limit`` with the number left out."""
    shown = ", ".join(names[:limit])
    rest = len(names) - limit
    return f"{shown} and {rest:,} more" if rest > 0 else shown
