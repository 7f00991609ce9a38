"""Probabilities for images: the same function for validation, test set and folders."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from xraycomp.console.errors import UserError
from xraycomp.data.batches import Rows
from xraycomp.model.augment import prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.run import read_checkpoint
from xraycomp.model.stem import GrayModel
from xraycomp.model.zoo import create_model


def choose_device(name: str) -> torch.device:
    """``auto`` is the first GPU if there is one that works, else the CPU.

    Raises ``UserError`` for a device that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).add_(1).item()  # only an operation tells that it works
    except Exception as error:  # each backend fails in its own way
        raise UserError(
            f"The device {name!r} cannot be used here. Use --device cpu or auto."
        ) from error
    return device


def autocast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs that compute in it, else float16; float32 on the CPU, where it is faster."""
    if device.type != "cuda":
        return torch.float32
    bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if bf16 else torch.float16


def load_best(path: Path, classes: tuple[str, ...], config: TrainConfig) -> GrayModel:
    """The network of a run's ``best.pt``.

    Raises ``UserError`` for a damaged file and for one of other classes or another architecture.
    """
    saved = read_checkpoint(path)
    found = saved["classes"]
    if tuple(found) != classes:
        raise UserError(
            f"{path} was trained on the classes {', '.join(found)}, not on {', '.join(classes)}. "
            "Use the checkpoint of this run."
        )
    model = create_model(config.arch, len(classes), str(path), pool=config.pool, hidden=config.head)
    model.activation = saved.get("activation", "softmax")
    return model


@torch.inference_mode()
def predict_probs(
    model: GrayModel,
    cache: Rows,
    rows: NDArray[np.int64],
    config: TrainConfig,
    device: torch.device,
    *,
    batch_size: int | None = None,
    tta: bool = False,
    desc: str | None = None,
) -> NDArray[np.float64]:
    """Class probabilities of shape (len(rows), n_classes), by the network's own activation: rows
    add up to 1 where an image has one class, and each is for itself where it may have several.

    Each image is judged by itself (nothing is learned from the batch), so order and batch size
    change nothing but the last bits. ``tta`` averages over each image and its mirror image.
    ``desc`` names a progress bar; without it there is none.
    """
    model.eval()
    batch_size = batch_size or max(config.batch_size, 32)
    dtype = autocast_dtype(device)
    probs: list[Tensor] = []
    with (
        torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        tqdm(total=len(rows), unit="img", desc=desc, disable=desc is None, leave=False) as bar,
    ):
        for start in range(0, len(rows), batch_size):
            block = torch.from_numpy(cache.gather(rows[start : start + batch_size])).to(device)
            images = prepare(block, config, model.mean, model.std)
            images = images.contiguous(memory_format=torch.channels_last)
            views = [images, images.flip(-1)] if tta else [images]
            each = [model.probabilities(model(view)) for view in views]
            probs.append(torch.stack(each).mean(dim=0).cpu())
            bar.update(len(block))
    return torch.cat(probs).numpy()
