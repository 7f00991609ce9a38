"""Averaged weights, and the statistics of batch norm that belong to them.

Stochastic weight averaging: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
Generalization", UAI 2018. Soups of runs: Wortsman et al., "Model Soups", ICML 2022.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from xraycomp.console.errors import Stopped
from xraycomp.console.signals import StopRequest
from xraycomp.data.batches import ImageSet, balanced_weights
from xraycomp.model.checkpoint import save_state
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import Deadline
from xraycomp.model.device import autocast
from xraycomp.model.distributed import all_reduce_max, all_reduce_mean, is_main
from xraycomp.model.epoch import plan_epoch
from xraycomp.model.freezing import train_from
from xraycomp.model.judge import Judge
from xraycomp.model.showing import blocks, own_part, show
from xraycomp.model.state import TrainState
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)


def average_weights(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of state dicts that have the same tensors, computed in float64; of whole numbers,
    batch norm's counters, which nothing reads, the first's."""
    first, *_ = states
    return {
        name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


@torch.no_grad()
def recompute_batch_norm(
    model: GrayModel,
    train: ImageSet,
    config: TrainConfig,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Give the batch norms of ``model`` the mean statistics of one pass over ``train``, in place.

    Those of averaged weights are no average of statistics. The images are shown as training shows
    them, augmented, sampled and mixed: so came the statistics about of all other networks that are
    compared with this one. Batch norms that the last stage froze keep theirs, which the layers
    after them know. Several processes each show their share, and then have the same statistics.

    The random state is as before; ``look`` is called before each batch, and may raise.
    """
    stages = config.training_stages()
    train_from(model.body, stages[-1].layers)
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats
    ]
    if not norms:
        return
    device = next(model.parameters()).device
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
    weights = balanced_weights(train.targets) if config.weighted_sampling else None
    # An epoch after the last: of the full size, and of an order that is known.
    plan = plan_epoch(train, weights, config, sum(stage.epochs for stage in stages), device)
    parts = range(len(train) // config.batch_size)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed)  # for dropout
            shown = zip(parts, blocks(train, plan, parts, config, device), strict=True)
            for part, block in shown:
                look()
                images = show(block, plan, own_part(part, config), config, model)
                with autocast(device):
                    model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for norm in norms:
        for statistic in (norm.running_mean, norm.running_var):
            if statistic is not None:
                statistic.copy_(all_reduce_mean(statistic.clone()))


def finish_swa(
    state: TrainState,
    train: ImageSet,
    judge: Judge,
    deadline: Deadline,
    stop: StopRequest,
    watch: Callable[[Mapping[str, Any]], None] | None,
) -> bool:
    """After the last epoch judge the mean of the last epochs' weights, where they are averaged, as
    one more candidate, and keep it if it is better; False if no time is left for it.

    Its row of ``metrics.csv`` has the next epoch's number. Doing it again, after an interruption,
    comes to the same. Raises ``Stopped`` after Ctrl-C or SIGTERM.
    """
    config = judge.config
    if state.swa is None:
        return True
    if not state.swa_epochs:
        log.info("Training ended before the epochs that --swa-epochs averages.")
        return True
    # It takes a pass over the training images, too.
    each = judge.seconds_per_image or 0.0
    if all_reduce_max(deadline.is_near(len(train) + len(judge.val), each)):
        log.info("No time is left to average the weights of the last epochs.")
        return False

    def look() -> None:
        if number := all_reduce_max(stop.signal_number):
            raise Stopped("Stopped while averaging the last epochs.", number)

    row = _judge_swa(state.swa, state, train, judge, look)
    if is_main():
        judge.run.write_epoch(row)
        save_state(state, config, judge.run)
    if watch:
        watch(row)
    return True


def _judge_swa(
    swa: GrayModel, state: TrainState, train: ImageSet, judge: Judge, look: Callable[[], None]
) -> dict[str, Any]:
    """The candidate's row."""
    began, before = time.monotonic(), abs(state.best)
    recompute_batch_norm(swa, train, judge.config, look)
    scores = judge.scores(swa)
    seconds = time.monotonic() - began
    better = judge.keep_if_better(state, swa, scores, state.epoch)
    log.info(
        "Average of the weights after the last epochs (%d): val loss %.4f, accuracy %.4f, "
        "macro F1 %.4f, AUROC %.4f (%.1f s); %s, the best %s was %.4f.",
        state.swa_epochs,
        scores["val_loss"],
        scores["val_accuracy"],
        scores["val_macro_f1"],
        scores["val_auroc"],
        seconds,
        "kept" if better else "not kept",
        judge.config.monitor,
        before,
    )
    return {
        "epoch": state.epoch + 1,
        "stage": state.stage,
        "seconds": round(seconds, 3),
        "data_seconds": 0.0,
        "images_per_second": round(len(train) / seconds, 2),
        "lr": 0.0,
        "train_loss": float("nan"),  # nothing is learned
        **scores,
        "swa_epochs": state.swa_epochs,
    }
