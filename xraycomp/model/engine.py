"""The training loop: one way through it for every network, device and interruption."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import StopRequest
from xraycomp.data.batches import ImageSet, balanced_weights, epoch_order, whole_batches
from xraycomp.model.augment import mix, prepare
from xraycomp.model.checkpoint import save_best, save_state
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import NO_DEADLINE, Deadline
from xraycomp.model.device import autocast
from xraycomp.model.distributed import (
    all_reduce_max,
    all_reduce_mean,
    broadcast,
    from_main,
    is_main,
    reduce_gradients,
    seed_share,
    shard,
    world_size,
)
from xraycomp.model.freezing import train_from
from xraycomp.model.inference import predict_together
from xraycomp.model.losses import create_loss, log_loss
from xraycomp.model.run import RunFolder
from xraycomp.model.state import Progress, TrainState, next_stage

log = logging.getLogger(__name__)

Score = Callable[[NDArray[np.float32], NDArray[np.float64]], dict[str, float]]
"""Targets and probabilities, both (n, n_classes), to the val_* columns of ``metrics.csv``."""

_STEPS_BETWEEN_CHECKS = 16  # reading the loss makes a GPU wait, so it is not done every step


def fit(
    state: TrainState,
    train: ImageSet,
    val: ImageSet,
    config: TrainConfig,
    run: RunFolder,
    score: Score,
    deadline: Deadline = NO_DEADLINE,
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
                loop.finish_epoch()
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
                    save_best(state, config, run)
                return False
    return True


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
        self.targets = torch.from_numpy(self.train.targets).to(self.device)
        self.known = np.count_nonzero(~np.isnan(self.train.targets), axis=1)
        self.stages = config.training_stages()
        self.losses = [
            create_loss(stage.loss, config, self.targets, self.state.model.activation)
            for stage in self.stages
        ]
        self.images_per_step = config.batch_size * config.accumulate
        # Known from the first validation on.
        self.predict_seconds_per_image: float | None = None

    @property
    def last_epoch(self) -> int:
        """The number of the last epoch, as far as it is known: stages may end early."""
        left = sum(stage.epochs for stage in self.stages[self.state.stage :])
        return self.state.stage_start + left

    def train_epoch(self, stop: StopRequest) -> bool:
        """Train to the end of the epoch; False if stopped before."""
        state, progress = self.state, self.state.progress
        order = epoch_order(len(self.train), self.weights, self.config.seed, state.epoch)
        began, already = time.monotonic(), progress.seconds
        pending: list[Tensor] = []
        train_from(state.model.body, self.stages[state.stage].layers)
        with tqdm(
            total=state.steps * self.images_per_step,
            initial=progress.step * self.images_per_step,
            unit="img",
            desc=f"Epoch {state.epoch + 1}/{self.last_epoch}",
            leave=False,
            disable=not is_main(),
        ) as bar:
            for positions in whole_batches(order, self.images_per_step, start=progress.step):
                pending.append(self.step(positions))
                progress.step += 1
                progress.seconds = already + time.monotonic() - began
                bar.update(self.images_per_step)
                stopping = bool(all_reduce_max(bool(stop.signal_number) or self._time_is_up()))
                last = progress.step == state.steps
                if stopping or last or len(pending) == _STEPS_BETWEEN_CHECKS:
                    self._check_losses(pending)
                    bar.set_postfix(loss=f"{progress.loss_sum / progress.step:.4f}")
                if stopping and not last:
                    return False
        progress.seconds = already + time.monotonic() - began
        return True

    def step(self, positions: NDArray[np.int64]) -> Tensor:
        """One optimizer step on the training images at ``positions``; returns the loss, whose mean
        over the processes is the mean over the known labels of all these images.

        The gradient is that of one batch of them all, however many parts and processes they are
        shared among, for a network without batch norm (which sees one part at a time) and without
        mixup (which mixes within a part).

        Every process prepares the whole batch, so that they all draw the same, and learns from its
        share.
        """
        state, config = self.state, self.config
        seed_share(config.seed, state.epoch, state.progress.step)
        losses = []
        # Parts weigh as much as they have labels: each loss is a mean over known ones.
        labels = max(int(self.known[positions].sum()), 1) / world_size()
        for part, batch in enumerate(whole_batches(positions, config.batch_size)):
            began = time.monotonic()
            # (batch, side, side) uint8, or codes: (batch, n_features) float32
            block = torch.from_numpy(self.train.cache.gather(self.train.rows[batch]))
            block = block.to(self.device, non_blocking=True)
            state.progress.data_seconds += time.monotonic() - began
            # Seeded by its place in the run: a resumed run draws what an uninterrupted one does.
            generator = np.random.default_rng([config.seed, state.epoch, state.progress.step, part])
            images = prepare(block, config, state.model.mean, state.model.std, generator)
            targets = self.targets[torch.from_numpy(batch).to(self.device)]  # (batch, n_classes)
            if config.mixup:
                images, targets = mix(images, targets, config.mixup, generator)
            mine = shard(len(batch))
            images, targets = images[mine], targets[mine]
            images = images.contiguous(memory_format=torch.channels_last)
            with autocast(self.device):
                logits = state.model(images)  # (share of the batch, n_classes)
            weight = float(self.known[batch[mine]].sum() / labels)
            loss = self.losses[state.stage](logits, targets) * weight
            state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        reduce_gradients(state.model.parameters())
        if config.clip_grad:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_grad, foreach=True)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.scheduler.step()
        if state.ema:
            state.ema.update_parameters(state.model)
        return torch.stack(losses).sum()

    def _check_losses(self, pending: list[Tensor]) -> None:
        for loss in all_reduce_mean(torch.stack(pending)).tolist():
            self._check_loss(loss)
            self.state.progress.loss_sum += loss
        pending.clear()

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
        each = self.predict_seconds_per_image
        if each is None:  # a guess: three times as fast as training
            progress = self.state.progress
            each = progress.seconds / (progress.step * self.images_per_step) / 3
        return self.deadline.is_near(len(self.val), each)

    def finish_epoch(self) -> None:
        """Judge the epoch, end the stage if this was its last one, and save the checkpoint."""
        state, config = self.state, self.config
        self.judge_epoch()
        state.epoch += 1
        state.progress = Progress()
        # Each stage has a new beginning to become better from.
        since = state.epoch - max(state.best_epoch, state.stage_start - 1)
        early = bool(config.patience) and since > config.patience
        if state.epoch - state.stage_start >= self.stages[state.stage].epochs:
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

    def judge_epoch(self) -> None:
        """Validate, write the epoch's row, keep the best weights."""
        state, progress, monitor = self.state, self.state.progress, self.config.monitor
        lr = state.optimizer.param_groups[0]["lr"]
        scores = self.validate()
        shown = progress.step * self.images_per_step
        row = {
            "epoch": state.epoch + 1,
            "stage": state.stage + 1,
            "seconds": round(progress.seconds, 3),
            "data_seconds": round(progress.data_seconds, 3),
            "images_per_second": round(shown / progress.seconds, 2),
            "lr": lr,
            "train_loss": progress.loss_sum / progress.step,
            **scores,
        }
        if is_main():
            self.run.write_epoch(row)
        value = -scores["val_loss"] if monitor == "val_loss" else scores[monitor]
        if value > state.best:
            state.best, state.best_epoch = value, state.epoch
            if is_main():
                save_best(state, self.config, self.run)
        log.info(
            "Epoch %d/%d: train loss %.4f, val loss %.4f, accuracy %.4f, macro F1 %.4f, "
            "AUROC %.4f%s (%.1f s, %.0f img/s)",
            state.epoch + 1,
            self.last_epoch,
            row["train_loss"],
            scores["val_loss"],
            scores["val_accuracy"],
            scores["val_macro_f1"],
            scores["val_auroc"],
            " *" if state.best_epoch == state.epoch else "",
            progress.seconds,
            row["images_per_second"],
        )

    def validate(self) -> dict[str, float]:
        """The val_* columns for the network that is judged."""
        began = time.monotonic()
        probs = predict_together(self.state.judged, self.val, self.config, desc="Validate")
        self.predict_seconds_per_image = (time.monotonic() - began) / len(self.val)
        val_loss = log_loss(self.val.targets, probs, self.state.model.activation)
        self._check_loss(val_loss)  # the step after the last checked loss may have spoilt a weight
        # The main process's, to the last bit: all decide by them when to stop.
        return broadcast({"val_loss": val_loss, **self.score(self.val.targets, probs)})
