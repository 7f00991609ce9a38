"""Architectures by name, on gray images, with or without pretrained weights."""

import difflib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
import torchvision
from torch import Tensor, nn

from xraycomp.console.errors import UserError
from xraycomp.data.competition import Competition
from xraycomp.model.body import replace_head, replace_pool, split_body
from xraycomp.model.config import Pool, TrainConfig
from xraycomp.model.stem import Channels, GrayModel, fold_stem, gray_mix, stem_convs
from xraycomp.model.weights import WeightFile, bare_names, load_weights, read_weights

# A network from scratch is fed what chest films are: a mean near 0.5, a deviation near 0.25.
SCRATCH_MEAN: Channels = (0.5, 0.5, 0.5)
SCRATCH_STD: Channels = (0.25, 0.25, 0.25)
# Both have side heads for training, and normalise again what ImageNet's statistics normalised.
INCEPTIONS = ("googlenet", "inception_v3")
SIDE_HEADS = ("aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True)
class Architecture:
    """A network as its library builds it, for RGB, and what the library knows of its weights."""

    body: nn.Module
    heads: tuple[str, ...]  # names of the layers that depend on the number of classes
    mean: Channels  # what the ImageNet weights expect
    std: Channels
    url: str | None  # the file of ImageNet weights, if there is one
    is_cached: bool  # whether that file lies on this machine already
    fetch: Callable[[], dict[str, Tensor]]
    ignored: tuple[str, ...] = ()  # beginnings of names in weight files that the network lacks


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
    find = _timm if arch.startswith("timm:") else _torchvision
    found = find(arch, num_classes)
    body, convs = found.body, stem_convs(found.body)
    parts = replace_pool(body, split_body(body, found.heads), pool, num_classes, arch)
    replace_head(body, parts, hidden, num_classes, arch)
    if not convs or any(conv.groups > 1 for conv in convs.values()):
        raise UserError(
            f"{arch} has no plain first convolution that could be made to read gray images; choose "
            "another architecture with --arch."
        )
    if weights == "none":
        mean, std, mix = gray_mix(SCRATCH_MEAN, SCRATCH_STD)
        fold_stem(body, mix)
        return GrayModel(body, arch, mean, std, planes=len(mix), parts=parts)

    if isinstance(weights, str):
        file = _fetch(arch, found) if weights == "imagenet" else read_weights(Path(weights))
    else:
        file = weights
    mean, std, mix = gray_mix(file.mean or found.mean, file.std or found.std)
    stem = file.state.get(f"{next(iter(convs))}.weight")
    is_gray = stem is not None and stem.ndim == 4 and stem.shape[1] in (1, 2)
    if stem is not None and is_gray:  # make room for a stem that was folded before it was saved
        mix = torch.zeros(stem.shape[1], 3)
        fold_stem(body, mix)
    heads = (parts.head,) if parts.head else found.heads
    if pool:
        heads = (*heads, parts.pool)  # attention is learned too
    load_weights(
        body, file.state, arch=arch, source=file.source, heads=heads, ignored=found.ignored
    )
    if not is_gray and not fold_stem(body, mix):
        raise UserError(
            f"{arch} standardises the weights of its first convolution, so that RGB weights cannot "
            "serve gray images; use --weights none or another architecture with --arch."
        )
    return GrayModel(body, arch, mean, std, planes=len(mix), parts=parts)


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
            f"{model.arch} cannot take images of {image_size} pixels a side ({_reason(error)}); "
            "choose another --image-size (most networks are made for 224) or --arch."
        ) from error
    finally:
        for module in training:
            module.training = True


def _torchvision(arch: str, num_classes: int) -> Architecture:
    models = torchvision.models
    names = models.list_models(module=models)
    if arch not in names:
        raise _unknown_name(arch, names, "torchvision classifier", "timm models are timm:<name>")
    # Unnamed, init_weights would warn of a coming change of its default.
    options = {"aux_logits": False, "transform_input": False, "init_weights": True}
    body = models.get_model(
        arch, weights=None, num_classes=num_classes, **(options if arch in INCEPTIONS else {})
    )
    layers = [n for n, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    pretrained = models.get_model_weights(arch).DEFAULT
    preset = pretrained.transforms()
    # What their own transform_input makes of ImageNet's normalisation.
    half = (0.5, 0.5, 0.5)
    mean, std = (half, half) if arch in INCEPTIONS else (tuple(preset.mean), tuple(preset.std))
    file = Path(torch.hub.get_dir(), "checkpoints", _last_part(pretrained.url))
    return Architecture(
        body=body,
        heads=(layers[-1],),
        mean=mean,
        std=std,
        url=pretrained.url,
        is_cached=file.is_file(),
        fetch=lambda: pretrained.get_state_dict(progress=False, check_hash=True),
        ignored=SIDE_HEADS if arch in INCEPTIONS else (),
    )


def _timm(arch: str, num_classes: int) -> Architecture:
    name = arch.removeprefix("timm:")
    try:
        import timm
        from huggingface_hub import hf_hub_url, try_to_load_from_cache
    except ImportError as error:
        raise UserError(
            f"{arch} needs timm, which is not installed: pip install 'xraycomp[models]'."
        ) from error
    base, _, tag = name.partition(".")
    if base not in (names := timm.list_models()):
        raise _unknown_name(name, names, "timm model", "torchvision's models have no timm:")
    if tag and name not in (names := timm.list_pretrained(f"{base}.*")):
        raise _unknown_name(name, names, "set of timm weights", f"timm:{base} takes the default")
    body = timm.create_model(name, num_classes=num_classes)
    config: Any = body.pretrained_cfg
    heads = config["classifier"]
    url, cached = config.get("url"), None
    if hub := config.get("hf_hub_id"):
        file = config.get("hf_hub_filename") or "model.safetensors"
        url, cached = hf_hub_url(hub, file), try_to_load_from_cache(hub, file)
    # A file in the hub's cache is named outright: the hub's client would ask the network first.
    local = {"file": cached} if isinstance(cached, str) else {}

    def fetch() -> dict[str, Tensor]:
        whole = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=local)
        return whole.state_dict()

    return Architecture(
        body=body,
        heads=(heads,) if isinstance(heads, str) else tuple(heads or ()),
        mean=config["mean"],
        std=config["std"],
        url=url or None,
        is_cached=bool(local),
        fetch=fetch,
    )


def _unknown_name(name: str, names: list[str], what: str, hint: str) -> UserError:
    near = difflib.get_close_matches(name.lower(), names)
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    return UserError(f"There is no {what} named {name!r}{meant} ({hint}.)")


def _fetch(arch: str, found: Architecture) -> WeightFile:
    """The library's ImageNet weights, from its cache on this machine or from the internet."""
    if found.url is None:
        raise UserError(
            f"There are no ImageNet weights for {arch}; use --weights none or --weights PATH."
        )
    try:
        if not found.is_cached:
            # Where there is no network the libraries' downloads retry for a minute or hang; this
            # fails at once. An HTTP error is an answer: the download will say what is wrong.
            with suppress(HTTPError):
                urlopen(Request(found.url, method="HEAD"), timeout=10).close()
        return WeightFile(bare_names(found.fetch()), "imagenet")
    except Exception as error:  # networks, proxies and caches fail in too many ways to name
        file = _last_part(found.url)
        raise UserError(
            f"The ImageNet weights of {arch} could not be fetched ({_reason(error)}); download "
            f"{file} from {found.url} where there is internet, bring it here, and use "
            f"--weights PATH/{file}."
        ) from error


def _last_part(url: str) -> str:
    return url.rpartition("/")[2]


def _reason(error: Exception) -> str:
    text = str(getattr(error, "reason", error)).strip()  # URLError wraps the cause
    return text.splitlines()[0] if text else type(error).__name__
