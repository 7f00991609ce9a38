"""Heat maps of a network: where in a film it sees what speaks for a class.

Grad-CAM (Selvaraju et al., ICCV 2017) weights the channels of a feature map by the mean gradient of
the class's logit; Grad-CAM++ (Chattopadhay et al., WACV 2018) by a mean of the positive gradients
that gives each place its own share. Both work on whole batches.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from xraycomp.console.errors import UserError
from xraycomp.data.dataset import Dataset
from xraycomp.data.heat import HeatMaps
from xraycomp.model.augment import prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.feature_map import FEWEST_CELLS, Layer, find_layer, frozen
from xraycomp.model.feed import feed
from xraycomp.model.pooling import attention_map, pools_by_attention
from xraycomp.model.stem import GrayModel

Method = Literal["gradcam", "gradcam++", "attention"]
DEFAULT: Method = "gradcam++"
"""On layers before the last it points better: on phantoms, with the default ResNet-18 at 64 px, to
the lesion of 99 of 120 images, where Grad-CAM finds 68. On the last layer they are alike."""


def map_layer(model: GrayModel, config: TrainConfig, method: Method = DEFAULT) -> Layer:
    """The feature map that the heat maps of a run's network are of.

    Raises ``UserError`` for a network that has none, and for ``attention`` of one that does not
    pool by it.
    """
    if method == "attention" and not pools_by_attention(model):
        raise UserError(
            "This network does not pool by attention; use --method gradcam, or train one with "
            "--pool attention."
        )
    # Attention is what the pooling sees; the other maps may be of a finer layer.
    fewest = 1 if method == "attention" else FEWEST_CELLS
    return find_layer(model, config.image_size, fewest)


def map_pairs(
    model: GrayModel,
    dataset: Dataset,
    pairs: pd.DataFrame,
    config: TrainConfig,
    method: Method = DEFAULT,
    *,
    batch_size: int | None = None,
    desc: str | None = None,
) -> HeatMaps:
    """The heat map of each image for its class, computed where the network is.

    Parameters
    ----------
    pairs : one row a map, with the columns ``image`` (ids of ``dataset``) and ``class`` (a name)
    batch_size : images at a time; changes the speed, not the result; default: as in training
    desc : names a progress bar; without it there is none

    Raises ``UserError`` for a network that has no feature map, and for ``attention`` of one that
    does not pool by it.
    """
    layer = map_layer(model, config, method)
    batch_size = batch_size or config.batch_size
    device = next(model.parameters()).device
    rows = pd.Index(dataset.manifest["image"]).get_indexer(pd.Index(pairs["image"]))
    classes = pd.Index(dataset.classes).get_indexer(pd.Index(pairs["class"]))
    cuts = range(batch_size, len(rows), batch_size)
    maps = []
    with tqdm(total=len(rows), unit="img", desc=desc, disable=desc is None, leave=False) as bar:
        blocks = feed(dataset.cache, np.split(rows, cuts), device)
        for block, asked in zip(blocks, np.split(classes, cuts), strict=True):
            images = prepare(block, config, model.mean, model.std)
            images = images.contiguous(memory_format=torch.channels_last)
            wanted = torch.from_numpy(asked).to(device)[:, None]
            maps.append(heat_maps(model, images, wanted, layer, method)[:, 0].cpu())
            bar.update(len(block))
    values = torch.cat(maps).numpy()
    return HeatMaps(pairs, values, layer.grid, config.cache_size, config.image_size)


@torch.enable_grad()
def heat_maps(
    model: GrayModel, images: Tensor, classes: Tensor, layer: Layer, method: Method = DEFAULT
) -> Tensor:
    """How strongly each cell of a feature map speaks for a class, for a whole batch at once.

    One forward pass, and for each column of ``classes`` one backward pass, which ends at the
    feature map. In float32 and in evaluation mode, where every image is judged by itself.

    Parameters
    ----------
    images : float tensor (batch, 1, size, size), prepared, on the device of the network
    classes : int64 tensor (batch, k): which classes to explain of each image
    layer : as `map_layer` gives it for the method

    Returns
    -------
    float32 tensor (batch, k, rows, columns) in 0..1, the largest of each map being 1; all 0 where
    nothing speaks for the class. Attention is the same for every class.
    """
    model.eval()
    if method == "attention":
        with torch.no_grad():
            found = attention_map(model, images)
        assert found is not None  # `map_layer` has looked
        return _scaled(found.expand(-1, classes.shape[1], -1, -1))
    features, logits = _features_and_logits(model, images, layer)
    maps = []
    for column in classes.T:
        score = logits.gather(1, column[:, None]).sum()  # an image's gradient is its own score's
        (gradients,) = torch.autograd.grad(score, features, retain_graph=True)
        both = (features.detach(), gradients)
        if layer.channels_last:
            both = (both[0].permute(0, 3, 1, 2), both[1].permute(0, 3, 1, 2))
        maps.append(_METHODS[method](*both))
    return _scaled(torch.stack(maps, dim=1))


def gradcam(features: Tensor, gradients: Tensor) -> Tensor:
    """``relu(sum_k a_k A_k)``, ``a_k`` the mean of the gradient over places (equations 1 and 2).

    features, gradients : (batch, channels, rows, columns); gives (batch, rows, columns)
    """
    weights = gradients.mean(dim=(2, 3))
    return torch.einsum("bc,bchw->bhw", weights, features).relu()


def gradcam_plus_plus(features: Tensor, gradients: Tensor) -> Tensor:
    """The same with ``a_k`` the sum of ``alpha * relu(gradient)`` over places.

    ``alpha = g^2 / (2 g^2 + sum(A_k) g^3)`` (equation 19), for a score that is the exponential of
    the logit: its derivatives are powers of the logit's, but for a factor that is one number an
    image.
    """
    squares = gradients**2
    below = 2 * squares + features.sum(dim=(2, 3), keepdim=True) * gradients**3
    alphas = torch.where(below != 0, squares / torch.where(below != 0, below, 1), 0)
    weights = (alphas * gradients.relu()).sum(dim=(2, 3))
    return torch.einsum("bc,bchw->bhw", weights, features).relu()


_METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
}


def _scaled(maps: Tensor) -> Tensor:
    highest = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(highest > 0, maps / torch.where(highest > 0, highest, 1), 0).float()


def _features_and_logits(model: GrayModel, images: Tensor, layer: Layer) -> tuple[Tensor, Tensor]:
    """The feature map as a leaf of the graph, and the logits that are computed from it."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().clone().requires_grad_())
        return kept[0].clone()  # what works in place must not change the leaf

    hook = model.body.get_submodule(layer.name).register_forward_hook(keep)
    try:
        with frozen(model):
            logits: Tensor = model(images)
    finally:
        hook.remove()
    return kept[0], logits
