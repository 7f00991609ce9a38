"""Validation: what the candidates of one run score, and which of them is kept."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xraycomp.data.batches import ImageSet
from xraycomp.model.checkpoint import save_best
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import broadcast, is_main
from xraycomp.model.inference import predict_together
from xraycomp.model.losses import log_loss
from xraycomp.model.run import RunFolder
from xraycomp.model.state import TrainState
from xraycomp.model.stem import GrayModel

Score = Callable[[NDArray[np.float32], NDArray[np.float64]], dict[str, float]]
"""Targets and probabilities, both (n, n_classes), to the val_* columns of ``metrics.csv``."""


@dataclass
class Judge:
    """Looks at networks with the validation images of a run."""

    val: ImageSet
    config: TrainConfig
    run: RunFolder
    score: Score
    seconds_per_image: float | None = None
    """Known from the first validation on."""

    def scores(
        self, model: GrayModel, check: Callable[[float], None] = lambda loss: None
    ) -> dict[str, float]:
        """The val_* columns for ``model``; ``check`` is shown the loss first, and may raise."""
        began = time.monotonic()
        probs = predict_together(model, self.val, self.config, desc="Validate")
        self.seconds_per_image = (time.monotonic() - began) / len(self.val)
        val_loss = log_loss(self.val.targets, probs, model.activation)
        check(val_loss)
        # The main process's, to the last bit: all decide by them when to stop.
        return broadcast({"val_loss": val_loss, **self.score(self.val.targets, probs)})

    def value(self, scores: dict[str, float]) -> float:
        """The score that chooses, turned so that more is better."""
        monitor = self.config.monitor
        return -scores["val_loss"] if monitor == "val_loss" else scores[monitor]

    def keep_if_better(
        self, state: TrainState, model: GrayModel, scores: dict[str, float], epoch: int
    ) -> bool:
        """Let ``model`` be the run's best where it is better than what was; ``epoch``, from 0, is
        what it is known by."""
        value = self.value(scores)
        if not value > state.best:
            return False
        state.best, state.best_epoch = value, epoch
        if is_main():
            save_best(model, epoch + 1, self.config, self.run)
        return True
