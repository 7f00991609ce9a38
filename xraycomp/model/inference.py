"""Probabilities for images: the same function for validation, test set and folders."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from xraycomp.data.batches import ImageSet
from xraycomp.data.dataset import Dataset
from xraycomp.data.predictions import probability_table
from xraycomp.model.augment import Draws, draw_view, prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.device import autocast
from xraycomp.model.distributed import even_share, gather_rows, is_main, share_buffers
from xraycomp.model.feed import feed
from xraycomp.model.folding import fold_batch_norm
from xraycomp.model.stem import GrayModel
from xraycomp.model.views import VIEWS


def predict_split(
    model: GrayModel, dataset: Dataset, split: str, config: TrainConfig, **options: Any
) -> pd.DataFrame:
    """The probability table of one split; ``options`` are those of `predict_probs`."""
    images, desc = dataset.split(split), f"Predict {split}"
    if next(model.parameters()).device.type == "cpu":
        model = fold_batch_norm(model)
    probs = predict_together(model, images, config, desc=desc, **options)
    return probability_table(dataset.ids(split), probs, dataset.classes)


def predict_together(
    model: GrayModel, images: ImageSet, config: TrainConfig, *, desc: str, **options: Any
) -> NDArray[np.float64]:
    """As `predict_probs`, each of several processes predicting its share; all get all of them."""
    share_buffers(model)
    mine = even_share(len(images))
    share = ImageSet(images.cache, images.rows[mine], images.targets[mine])
    probs = predict_probs(model, share, config, desc=desc if is_main() else None, **options)
    return gather_rows(probs, len(images))


@torch.inference_mode()
def predict_probs(
    model: GrayModel,
    images: ImageSet,
    config: TrainConfig,
    *,
    batch_size: int | None = None,
    tta: Sequence[str] = (),
    desc: str | None = None,
) -> NDArray[np.float64]:
    """Class probabilities of shape (n_images, n_classes), by the network's own activation: rows
    add up to 1 where an image has one class, and each is for itself where it may have several.

    They are computed where the network is. Each image is judged by itself (nothing is learned from
    the batch), so order and batch size change nothing but the last bits. ``tta`` averages over
    each image as it is and the `VIEWS` of these names. ``desc`` names a progress bar; without it
    there is none.
    """
    model.eval()
    batch_size = batch_size or config.judging_batch_size
    device = next(model.parameters()).device
    probs: list[Tensor] = []
    views = [None, *(draw_view(VIEWS[name], config).to(device) for name in tta)]
    with tqdm(total=len(images), unit="img", desc=desc, disable=desc is None, leave=False) as bar:
        batches = np.split(images.rows, range(batch_size, len(images), batch_size))
        for block in feed(images.cache, batches, device):
            each = [_predict(model, block, config, view) for view in views]
            probs.append(torch.stack(each).mean(dim=0))
            bar.update(len(block))
    return torch.cat(probs).cpu().numpy()


def _predict(model: GrayModel, block: Tensor, config: TrainConfig, view: Draws | None) -> Tensor:
    """The probabilities of a block of images, all seen in one way."""
    draws = view and view[torch.zeros(len(block), dtype=torch.long, device=block.device)]
    images = prepare(block, config, model.mean, model.std, draws)
    with autocast(block.device):
        return model.probabilities(model(images.contiguous(memory_format=torch.channels_last)))
