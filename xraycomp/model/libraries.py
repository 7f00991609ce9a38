"""Networks as torchvision and timm build them, and their ImageNet weights."""

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
from torch.nn.modules.batchnorm import _BatchNorm

from xraycomp.console.errors import UserError
from xraycomp.model.stem import Channels
from xraycomp.model.weights import WeightFile, bare_names

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


def find_architecture(arch: str, num_classes: int) -> Architecture:
    """Build a torchvision classifier, or a timm model as ``timm:<name>``, with random weights.

    Raises ``UserError`` for an unknown name, and where timm is not installed.
    """
    return (_timm if arch.startswith("timm:") else _torchvision)(arch, num_classes)


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
    _hasten_statistics(body)
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


def _hasten_statistics(body: nn.Module) -> None:
    """Let batch norms take over at least a tenth of each batch's statistics, as most networks do
    and all of timm's.

    With the hundredth of torchvision's MobileNetV3, or less of its MNASNet, they need thousands of
    steps to become those of the weights, and until then validation sees another network.
    """
    for module in body.modules():
        if isinstance(module, _BatchNorm) and module.momentum is not None:
            module.momentum = max(module.momentum, 0.1)


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


def fetch_weights(arch: str, found: Architecture) -> WeightFile:
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
            f"The ImageNet weights of {arch} could not be fetched ({first_line(error)}); download "
            f"{file} from {found.url} where there is internet, bring it here, and use "
            f"--weights PATH/{file}."
        ) from error


def _last_part(url: str) -> str:
    return url.rpartition("/")[2]


def first_line(error: BaseException) -> str:
    """What an error of another library says, for a sentence."""
    text = str(getattr(error, "reason", error)).strip()  # URLError wraps the cause
    return text.splitlines()[0] if text else type(error).__name__
