"""The time by which everything must be done, predictions included."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

_SECONDS_TO_WRITE = 10.0  # for plots and files


@dataclass(frozen=True)
class Deadline:
    """When a run has to be over, and what will be left to do when its training stops."""

    at: float = math.inf
    """``time.monotonic()``, which all processes of a machine share."""
    images_after: int = 0
    """How many images will be predicted after training."""

    def is_near(self, images: int, seconds_per_image: float) -> bool:
        """Whether training has to stop now, with ``images`` more to predict than those after it."""
        left = (self.images_after + images) * seconds_per_image + _SECONDS_TO_WRITE
        return time.monotonic() + left > self.at


NO_DEADLINE = Deadline()


def deadline_in(minutes: float | None) -> Deadline:
    """So many minutes from now; never, without any."""
    return NO_DEADLINE if minutes is None else Deadline(time.monotonic() + 60 * minutes)


def share_out(minutes: float | None, jobs: int) -> Iterator[float | None]:
    """The minutes that each of so many jobs may take, one asked for when the one before is over:
    what is then left of ``minutes``, in even shares for those still to come; None without a limit.
    """
    deadline = deadline_in(minutes)
    for waiting in range(jobs, 0, -1):
        left = max(0.1, (deadline.at - time.monotonic()) / 60)
        yield None if minutes is None else left / waiting
