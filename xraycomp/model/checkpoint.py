"""Checkpoints: a run's state and its best weights, into files and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xraycomp.console.errors import UserError
from xraycomp.data.files import atomic_path
from xraycomp.model.config import TrainConfig
from xraycomp.model.distributed import from_main
from xraycomp.model.run import RunFolder
from xraycomp.model.state import Progress, TrainState, stage_optimizer, start_state
from xraycomp.model.stem import GrayModel
from xraycomp.model.weights import weights_in
from xraycomp.model.zoo import build_model


def save_state(state: TrainState, config: TrainConfig, run: RunFolder) -> None:
    """Write ``checkpoint.pt``: everything that is needed to go on; `restore_state` reads it."""
    content = {
        **_network(state.model, config),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "scaler": state.scaler.state_dict(),
        "ema": state.ema.state_dict() if state.ema else None,
        "swa": state.swa.state_dict() if state.swa else None,
        "swa_epochs": state.swa_epochs,
        "epoch": state.epoch,
        "stage": state.stage,
        "stage_start": state.stage_start,
        "progress": vars(state.progress),
        "best": state.best,
        "best_epoch": state.best_epoch,
        "rng": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }
    save_checkpoint(run.checkpoint, content)


def save_best(model: GrayModel, epoch: int, config: TrainConfig, run: RunFolder) -> None:
    """Write ``best.pt``: a network and what is needed to use it, for `load_best`; ``epoch`` is the
    one that it comes from, counted from 1, or 0 where there was no whole one yet."""
    save_checkpoint(run.best, {**_network(model, config), "epoch": epoch})


def _network(model: GrayModel, config: TrainConfig) -> dict[str, Any]:
    mean, std = model.rgb or (model.mean, model.std)
    return {
        "model": model.state_dict(),
        "mean": mean,
        "std": std,
        "classes": list(model.classes),
        "config": config.to_json(),
    }


def load_best(run: RunFolder, device: torch.device) -> GrayModel:
    """The network of a run's ``best.pt``, on the device; the main process alone reads the run.

    Raises ``UserError`` for a damaged file and for one of other classes or another architecture.
    """
    config, competition, saved = from_main(
        lambda: (run.config(), run.competition(), read_checkpoint(run.best))
    )
    found = saved["classes"]
    if tuple(found) != competition.classes:
        raise UserError(
            f"{run.best} was trained on the classes {', '.join(found)}, not on "
            f"{', '.join(competition.classes)}. Use the checkpoint of this run."
        )
    model = build_model(config, competition, weights_in(saved, str(run.best)))
    return model.to(device).to(memory_format=torch.channels_last)


def resume_state(
    run: RunFolder, config: TrainConfig, n_train: int, device: torch.device
) -> TrainState:
    """The network and all that trains it, as the run's ``checkpoint.pt`` has them; the main process
    alone reads the run.

    Raises ``UserError`` for a damaged checkpoint, and for one of other settings.
    """
    competition, saved = from_main(lambda: (run.competition(), read_checkpoint(run.checkpoint)))
    where = str(run.checkpoint)
    model = build_model(config, competition, weights_in(saved, where))
    state = start_state(model, n_train, config, device)
    restore_state(state, saved, config, where)
    return state


def restore_state(
    state: TrainState, saved: dict[str, Any], config: TrainConfig, where: str
) -> None:
    """Put a checkpoint's values into ``state``. Raises ``UserError`` where they do not fit."""
    try:
        state.stage, state.stage_start = saved["stage"], saved["stage_start"]
        last = len(config.training_stages()) - 1  # where the run has come to its end
        state.optimizer, state.scheduler = stage_optimizer(
            state.model, config, min(state.stage, last), state.steps
        )
        state.model.load_state_dict(saved["model"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scheduler.load_state_dict(saved["scheduler"])
        state.scaler.load_state_dict(saved["scaler"])
        if state.ema:
            state.ema.load_state_dict(saved["ema"])
        if state.swa:
            state.swa.load_state_dict(saved["swa"])
            state.swa_epochs = saved["swa_epochs"]
        state.epoch = saved["epoch"]
        state.best, state.best_epoch = saved["best"], saved["best_epoch"]
        state.progress = Progress(**saved["progress"])
        torch.set_rng_state(saved["rng"]["cpu"])
        for device, rng in zip(
            range(torch.cuda.device_count()), saved["rng"]["cuda"], strict=False
        ):
            torch.cuda.set_rng_state(rng, device)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"{where} is a checkpoint of another model or configuration and cannot be continued "
            "with this one. Train anew."
        ) from error


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to ``path``, whole or not at all."""
    with atomic_path(path) as temporary:
        try:
            torch.save(dict(content), temporary)
        except RuntimeError as error:
            # torch's zip writer reports a full disk as an internal error of its own.
            raise OSError(28, "No space left on device", str(path)) from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what ``save_checkpoint`` wrote, without running any code that the file may hold.

    Raises ``UserError`` for a missing, cut-off or foreign file.
    """
    if not path.is_file():
        raise UserError(f"There is no checkpoint {path}. The run stopped before it had saved one.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in zip, pickle or tensor code
        raise UserError(
            f"{path} ({path.stat().st_size:,} bytes) is damaged, cut off or not a checkpoint. "
            "Bring a whole copy, or train anew."
        ) from error
    if not isinstance(content, dict) or not {"model", "config", "classes"} <= content.keys():
        raise UserError(f"{path} is not a checkpoint of this kit. Check the path.")
    return content
