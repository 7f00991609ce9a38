"""Architectures by name, on gray images, with or without pretrained weights."""

from pathlib import Path

import torch
from torch import nn

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition
from xraycomp.model.body import BodyParts, replace_head, replace_pool, split_body
from xraycomp.model.config import Pool, TrainConfig
from xraycomp.model.libraries import fetch_weights, find_architecture, first_line
from xraycomp.model.stem import Channels, GrayModel, fold_stem, gray_mix, stem_convs
from xraycomp.model.weights import WeightFile, load_weights, read_weights

# A network from scratch is fed what chest films are: a mean near 0.5, a deviation near 0.25.
SCRATCH_MEAN: Channels = (0.5, 0.5, 0.5)
SCRATCH_STD: Channels = (0.25, 0.25, 0.25)


def build_model(
    config: TrainConfig, competition: Competition, weights: str | WeightFile | None = None
) -> GrayModel:
    """The network of a run's settings, for the classes of its competition.

    ``weights`` take the place of the settings' own. Raises ``UserError`` as `create_model` does.
    """
    model = create_model(
        config.arch,
        len(competition.classes),
        weights or config.weights,
        rgb=config.channels == "rgb",
        pool=config.pool,
        hidden=config.head,
    )
    model.classes = competition.classes
    # Each class is for itself where an image may have several.
    model.activation = "sigmoid" if competition.multilabel else "softmax"
    return model


def create_model(
    arch: str,
    num_classes: int,
    weights: str | WeightFile = "none",
    *,
    rgb: bool = False,
    pool: Pool = "",
    hidden: tuple[int, ...] = (),
) -> GrayModel:
    """Build a classifier of gray images.

    Parameters
    ----------
    arch : a torchvision classifier ("resnet18"), or a timm model as "timm:<name>"
    num_classes : number of logits, >= 1
    weights : "none" draws them from torch's global random state; "imagenet" downloads the
        library's own; anything else is the path of a .pth, .pt or .safetensors file: a state dict,
        a dict with one under "model" or "state_dict", or a checkpoint of this kit; or such a file
        that was read already. The classifier layer is left random where the file has another number
        of classes.
    rgb : whether the stem stays as it is and gets three equal channels; else it is folded
    pool : what takes the place of the network's own pooling; "" leaves it
    hidden : widths of the layers before the classifier's last one, all new; () leaves it

    Returns
    -------
    GrayModel whose logits equal, on gray images, those of the RGB network with the same weights.

    Raises
    ------
    UserError : unknown name, missing extra, weights that cannot be fetched or read, or that belong
        to another architecture; a pooling or head that it cannot take.
    """
    found = find_architecture(arch, num_classes)
    body, convs = found.body, stem_convs(found.body)
    parts = replace_pool(body, split_body(body, found.heads), pool, num_classes, arch)
    replace_head(body, parts, hidden, num_classes, arch)
    plain = convs and all(conv.groups == 1 for conv in convs.values())
    if not plain and not rgb:
        raise UserError(
            f"{arch} has no plain first convolution that could be made to read gray images; choose "
            "another architecture with --arch, or --channels rgb."
        )
    if weights == "none":
        if rgb:
            return _with_rgb_stem(body, arch, SCRATCH_MEAN, SCRATCH_STD, parts)
        mean, std, mix = gray_mix(SCRATCH_MEAN, SCRATCH_STD)
        fold_stem(body, mix)
        return GrayModel(body, arch, mean, std, planes=len(mix), parts=parts)

    if isinstance(weights, str):
        file = fetch_weights(arch, found) if weights == "imagenet" else read_weights(Path(weights))
    else:
        file = weights
    means, stds = file.mean or found.mean, file.std or found.std
    mean, std, mix = gray_mix(means, stds)
    stem = file.state.get(f"{next(iter(convs), None)}.weight")
    is_gray = stem is not None and stem.ndim == 4 and stem.shape[1] in (1, 2)
    if is_gray and rgb:
        raise UserError(
            f"The stem in {file.source} was folded to read gray images; use --channels gray, or "
            "weights whose stem reads RGB."
        )
    if stem is not None and is_gray:  # make room for a stem that was folded before it was saved
        mix = torch.zeros(stem.shape[1], 3)
        fold_stem(body, mix)
    heads = (parts.head,) if parts.head else found.heads
    if pool:
        heads = (*heads, parts.pool)  # attention is learned too
    load_weights(
        body, file.state, arch=arch, source=file.source, heads=heads, ignored=found.ignored
    )
    if rgb:
        return _with_rgb_stem(body, arch, means, stds, parts)
    if not is_gray and not fold_stem(body, mix):
        raise UserError(
            f"{arch} standardises the weights of its first convolution, so that RGB weights cannot "
            "serve gray images; use --channels rgb, --weights none or another architecture with "
            "--arch."
        )
    return GrayModel(body, arch, mean, std, planes=len(mix), parts=parts)


def _with_rgb_stem(
    body: nn.Module, arch: str, means: Channels, stds: Channels, parts: BodyParts
) -> GrayModel:
    mean, std, _ = gray_mix(means, stds)
    return GrayModel(body, arch, mean, std, planes=3, parts=parts, rgb=(means, stds))


def check_input_size(model: GrayModel, image_size: int) -> None:
    """Run two blank images of ``image_size`` pixels a side through ``model``, changing nothing.

    Raises
    ------
    UserError : the architecture cannot take images of this size.
    """
    device = next(model.parameters()).device
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(2, 1, image_size, image_size, device=device))
    except Exception as error:  # each network has its own way to stumble over a size
        raise UserError(
            f"{model.arch} cannot take images of {image_size} pixels a side ({first_line(error)}); "
            "choose another --image-size (most networks are made for 224) or --arch."
        ) from error
    finally:
        for module in training:
            module.training = True
