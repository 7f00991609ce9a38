"""Waiting for something on Kaggle: with growing pauses, a clock, and through network failures."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from xraycomp.remote.client import Unreachable

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

PATIENCE = 1800.0
"""Seconds without any answer until waiting is given up."""
_FIRST_PAUSE = 1.0


def wait_for(
    look: Callable[[], tuple[str, Answer | None]], name: str, poll: float = 60.0
) -> Answer:
    """Look until there is an answer, and return it.

    Parameters
    ----------
    look : gives the present state in a word or two, and the answer once there is one
    name : what is waited for; a new state is logged as ``name: state``
    poll : seconds between two looks at most; pauses grow up to it

    Raises
    ------
    UserError : what ``look`` raises; ``Unreachable`` only after ``PATIENCE`` seconds of it. Ctrl-C
        is let through: waiting changes nothing on Kaggle.
    """
    answered = time.monotonic()
    pause = min(_FIRST_PAUSE, poll)
    said = ""
    with (
        logging_redirect_tqdm([logging.getLogger("xraycomp")]),
        # No clock in a file or a pipe.
        tqdm(bar_format="{desc} [{elapsed}]", desc=name, leave=False, disable=None) as bar,
    ):
        while True:
            try:
                state, answer = look()
                answered = time.monotonic()
                if answer is not None:
                    return answer
            except Unreachable as error:
                if time.monotonic() - answered > PATIENCE:
                    raise
                state = f"no answer ({error.kind}), asking again"
            if state != said:
                log.info("%s: %s", name, state)
                pause = min(_FIRST_PAUSE, poll)
            said = state
            bar.set_description_str(f"{name}: {state}")
            _sleep(pause, bar)
            pause = min(pause * 1.5, poll)


def _sleep(seconds: float, bar: "tqdm[Any]") -> None:
    """Sleep while the clock ticks."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        bar.refresh()
