"""The time by which everything must be done, predictions included."""

import math
import time
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
