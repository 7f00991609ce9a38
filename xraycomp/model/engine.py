"""The training loop: one way through it for every network, device and interruption."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import StopRequest
from xraycomp.data.batches import ImageSet, balanced_weights
from xraycomp.model.augment import prepare
from xraycomp.model.averaging import finish_swa
from xraycomp.model.checkpoint import save_best, save_state
from xraycomp.model.compiled import Forward, choose_forward
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import NO_DEADLINE, Deadline
from xraycomp.model.device import autocast, synchronize
from xraycomp.model.distributed import (
    all_reduce_max,
    from_main,
    is_main,
    reduce_gradients,
    seed_share,
    world_size,
)
from xraycomp.model.epoch import EpochPlan, plan_epoch
from xraycomp.model.feed import feed, keep_on_device
from xraycomp.model.freezing import train_from
from xraycomp.model.judge import Judge, Score
from xraycomp.model.loss_reader import LossReader
from xraycomp.model.losses import create_loss
from xraycomp.model.run import RunFolder
from xraycomp.model.showing import blocks, own_part, show
from xraycomp.model.speed import Limit, measure_limit
from xraycomp.model.state import Progress, TrainState, next_stage

log = logging.getLogger(__name__)

Watch = Callable[[Mapping[str, Any]], None]
"""Is shown an epoch's row of ``metrics.csv``; what it raises ends the training."""


def fit(
    state: TrainState,
    train: ImageSet,
    val: ImageSet,
    config: TrainConfig,
    run: RunFolder,
    score: Score,
    deadline: Deadline = NO_DEADLINE,
    watch: Watch | None = None,
) -> bool:
    """Train to the end of the last stage, keeping ``best.pt`` and ``checkpoint.pt`` in ``run``.

    Where several processes train together, all of them call this with the same arguments; the main
    one alone writes.

    Parameters
    ----------
    state : what to go on from; changed in place
    train, val : the images to learn from and to judge by
    score : judges one epoch on the validation set
    deadline : when everything has to be done
    watch : looks at each epoch after its checkpoint is saved

    Returns
    -------
    True if training came to its end, False if the deadline cut it short; then ``best.pt`` is
    there all the same.

    Raises
    ------
    Stopped : after Ctrl-C or SIGTERM, with everything saved
    UserError : if the loss is no longer a finite number
    """
    loop = Loop(state, train, val, config, run, score, deadline)
    with StopRequest() as stop:
        while state.stage < len(loop.stages):
            whole = loop.train_epoch(stop)
            if whole:
                row = loop.finish_epoch()
                if watch:
                    watch(row)
            elif is_main():
                save_state(state, config, run)
            where = f"in epoch {state.epoch + 1} after {state.progress.step} steps"
            where = f"after epoch {state.epoch}" if whole else where
            # Also waits until the main process has saved.
            if number := all_reduce_max(stop.signal_number):
                raise Stopped(f"Stopped {where}.", number)
            if not whole:
                log.info("Time limit reached %s.", where)
                if is_main() and not run.best.is_file():
                    save_best(state.judged, state.best_epoch + 1, config, run)
                return False
        return finish_swa(state, loop.train, loop.judge, deadline, stop, watch)


@dataclass
class Loop:
    """One call of ``fit``: its arguments, what follows from them, and the parts of the loop."""

    state: TrainState
    train: ImageSet
    val: ImageSet
    config: TrainConfig
    run: RunFolder
    score: Score
    deadline: Deadline = NO_DEADLINE

    def __post_init__(self) -> None:
        config = self.config
        self.device = next(self.state.model.parameters()).device
        self.weights = balanced_weights(self.train.targets) if config.weighted_sampling else None
        self.stages = config.training_stages()
        targets = torch.from_numpy(self.train.targets)
        self.losses = [
            create_loss(stage.loss, config, targets.to(self.device), self.state.model.activation)
            for stage in self.stages
        ]
        self.images_per_step = config.batch_size * config.accumulate
        self.forward: Forward = self.state.model
        self.kind = (-1, -1)  # of steps: stage and size
        self.limit: Limit | None = None  # on a GPU, of steps of that kind
        self.judge = Judge(self.val, config, self.run, self.score)

    @property
    def last_epoch(self) -> int:
        """The number of the last epoch, as far as it is known: stages may end early."""
        left = sum(stage.epochs for stage in self.stages[self.state.stage :])
        return self.state.stage_start + left

    def train_epoch(self, stop: StopRequest) -> bool:
        """Train to the end of the epoch; False if stopped before."""
        state, progress = self.state, self.state.progress
        plan = plan_epoch(self.train, self.weights, self.config, state.epoch, self.device)
        began, already = time.monotonic(), progress.seconds
        losses = LossReader()
        train_from(state.model.body, self.stages[state.stage].layers)
        coming = self.blocks(plan)
        with tqdm(
            total=state.steps * self.images_per_step,
            initial=progress.step * self.images_per_step,
            unit="img",
            desc=f"Epoch {state.epoch + 1}/{self.last_epoch}",
            leave=False,
            disable=not is_main(),
        ) as bar:
            while progress.step < state.steps:
                losses.add(self.step(plan, coming))
                if self.kind != (state.stage, plan.draws.size):
                    self.kind = (state.stage, plan.draws.size)
                    synchronize(self.device)
                    first = time.monotonic()
                    log.info("The first step took %.1f s.", first - began)
                    if self.device.type == "cuda":
                        self.settle(plan)
                        coming = self.blocks(plan)  # from wherever the images are now
                        began += time.monotonic() - first
                progress.seconds = already + time.monotonic() - began
                bar.update(self.images_per_step)
                stopping = bool(all_reduce_max(bool(stop.signal_number) or self._time_is_up()))
                last = progress.step == state.steps
                for value in losses.read(everything=stopping or last):
                    self._check_loss(value)
                    progress.loss_sum += value
                if n_read := progress.step - losses.n_unread:
                    bar.set_postfix(loss=f"{progress.loss_sum / n_read:.4f}", refresh=False)
                if stopping and not last:
                    return False
        progress.seconds = already + time.monotonic() - began
        return True

    def settle(self, plan: EpochPlan) -> None:
        """Fit out the GPU for steps like the one that was just done, the first of its kind."""
        config, model, (stage, size) = self.config, self.state.model, self.kind
        self.forward = model
        block = next(feed(self.train.cache, [self.train.rows[:1]], self.device))
        image = prepare(block, config, model.mean, model.std, plan.draws[:1])
        self.limit = measure_limit(model, image)
        if stage + 1 < len(self.stages) or size < config.image_size:
            return  # later steps will need more memory, and compiling anew
        self.train, self.judge.val = keep_on_device((self.train, self.val), self.device)
        if world_size() == 1:  # by trying, several could not agree
            epochs = self.last_epoch - self.state.epoch
            steps = epochs * self.state.steps * config.accumulate
            self.forward = choose_forward(model, image.repeat(config.batch_size, 1, 1, 1), steps)

    def blocks(self, plan: EpochPlan) -> Iterator[Tensor]:
        """This process's share of each part of the epoch's batches that is still to come."""
        first = self.state.progress.step * self.config.accumulate
        parts = range(first, self.state.steps * self.config.accumulate)
        return blocks(self.train, plan, parts, self.config, self.device)

    def step(self, plan: EpochPlan, coming: Iterator[Tensor]) -> Tensor:
        """The epoch's next optimizer step; returns the loss, whose mean over the processes is the
        mean over the known labels of all its images.

        The gradient is that of one batch of them all, however many parts and processes they are
        shared among, for a network without batch norm (which sees one share of one part at a time).
        """
        state, config, number = self.state, self.config, self.state.progress.step
        seed_share(config.seed, state.epoch, number)
        losses = []
        batch = slice(number * self.images_per_step, (number + 1) * self.images_per_step)
        # Parts weigh as much as they have labels: each loss is a mean over known ones.
        labels = max(int(plan.n_known[batch].sum()), 1) / world_size()
        for part in range(number * config.accumulate, (number + 1) * config.accumulate):
            began = time.monotonic()
            block = next(coming)  # (share of the batch, side, side) uint8, or codes: float32
            state.progress.data_seconds += time.monotonic() - began
            mine = own_part(part, config)
            images = show(block, plan, mine, config, state.model)
            with autocast(self.device):
                logits = self.forward(images)  # (share of the batch, n_classes)
            weight = float(plan.n_known[mine].sum() / labels)
            loss = self.losses[state.stage](logits, plan.targets[mine]) * weight
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        reduce_gradients(state.model.parameters())
        if config.clip_grad:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.scheduler.step()
        state.update_average(config.ema_decay)
        state.progress.step += 1
        return torch.stack(losses).sum()

    def _check_loss(self, loss: float) -> None:
        if np.isfinite(loss):
            return
        kept = (
            f"The last good checkpoint is {self.run.checkpoint}"
            if from_main(self.run.checkpoint.is_file)
            else "No checkpoint had been saved yet"
        )
        flag = "rate in --stages" if self.config.stages else "--lr"
        raise UserError(
            f"The loss became {loss} in epoch {self.state.epoch + 1}. {kept}; try a lower "
            f"{flag} than {self.stages[self.state.stage].lr:g}."
        )

    def _time_is_up(self) -> bool:
        each = self.judge.seconds_per_image
        if each is None:  # a guess: three times as fast as training
            progress = self.state.progress
            each = progress.seconds / (progress.step * self.images_per_step) / 3
        return self.deadline.is_near(len(self.val), each)

    def finish_epoch(self) -> dict[str, Any]:
        """Judge the epoch, end the stage if this was its last one, and save the checkpoint; the
        epoch's row."""
        state, config = self.state, self.config
        row = self.judge_epoch()
        state.epoch += 1
        state.progress = Progress()
        into, stage = state.epoch - state.stage_start, self.stages[state.stage]
        if state.stage + 1 == len(self.stages) and into > stage.epochs - config.swa_epochs:
            state.add_to_swa()
        # Each stage has a new beginning to become better from.
        since = state.epoch - max(state.best_epoch, state.stage_start - 1)
        early = bool(config.patience) and since > config.patience
        if into >= stage.epochs:
            next_stage(state, config)
        elif early:
            last = state.stage + 1 == len(self.stages)
            log.info(
                "No better score for %d epochs: %s.",
                config.patience,
                "stopping early" if last else "going on to the next stage",
            )
            next_stage(state, config)
        # Saved after it, so that a run that stops here goes on with the next stage.
        if is_main():
            save_state(state, config, self.run)
        return row

    def judge_epoch(self) -> dict[str, Any]:
        """Validate, write the epoch's row, keep the best weights; the row."""
        state, progress = self.state, self.state.progress
        lr = state.optimizer.param_groups[0]["lr"]
        # The step after the last checked loss may have spoilt a weight.
        scores = self.judge.scores(state.judged, self._check_loss)
        shown = progress.step * self.images_per_step
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "stage": state.stage + 1,
            "seconds": round(progress.seconds, 3),
            "data_seconds": round(progress.data_seconds, 3),
            "images_per_second": round(shown / progress.seconds, 2),
            "lr": lr,
            "train_loss": progress.loss_sum / progress.step,
            **scores,
            **({"swa_epochs": 0} if self.config.swa_epochs else {}),
        }
        used = self.limit and self.limit.share(row["images_per_second"] / world_size())
        if is_main():
            self.run.write_epoch(row)
        better = self.judge.keep_if_better(state, state.judged, scores, state.epoch)
        log.info(
            "Epoch %d/%d: train loss %.4f, val loss %.4f, accuracy %.4f, macro F1 %.4f, "
            "AUROC %.4f%s (%.1f s, %.0f img/s%s, %.1f s for reading images)",
            state.epoch + 1,
            self.last_epoch,
            row["train_loss"],
            scores["val_loss"],
            scores["val_accuracy"],
            scores["val_macro_f1"],
            scores["val_auroc"],
            " *" if better else "",
            progress.seconds,
            row["images_per_second"],
            f", {used:.0%} of the GPU's peak" if used else "",
            progress.data_seconds,
        )
        return row
