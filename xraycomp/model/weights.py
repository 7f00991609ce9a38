"""Weight files: read without trusting them, loaded whole or not at all."""

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xraycomp.console.errors import UserError, listing
from xraycomp.model.stem import Channels

log = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".safetensors")
# What wraps a network leaves its name in front of every key: DataParallel, torch.compile, ours.
WRAPPERS = ("module.", "_orig_mod.", "body.", "model.")
# torchvision's files of DenseNet weights are older than the names of its layers (norm.1 is norm1).
DENSENET_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a weight file by name, and the normalisation that it states, if any."""

    state: dict[str, Tensor]
    source: str
    """What messages call it."""
    mean: Channels | None = None
    std: Channels | None = None


def read_weights(path: Path) -> WeightFile:
    """Read a .pth, .pt or .safetensors file without running any code that it may hold.

    Raises
    ------
    UserError : no such file, an unsupported suffix, a file that is damaged or holds no weights.
    """
    suffixes = ", ".join(SUFFIXES)
    if not path.is_file():
        raise UserError(
            f"There is no weight file {path}; --weights takes none, imagenet or the path of a file "
            f"({suffixes})."
        )
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no weight file by its name; --weights reads {suffixes}.")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return weights_in(content, str(path))


def weights_in(content: Any, source: str) -> WeightFile:
    """The weights in what a file held: a state dict, or a dict with one under "model" or
    "state_dict" and perhaps its ``mean`` and ``std``.

    Raises ``UserError`` where it holds none; ``source`` names it.
    """
    state: Any = content if isinstance(content, Mapping) else {}
    mean = std = None
    for key in ("model", "state_dict"):
        if isinstance(state.get(key), Mapping):
            mean, std = state.get("mean"), state.get("std")
            state = state[key]
            break
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{source} holds no tensors by name; save the state_dict() of the network and give "
            "that."
        )
    return WeightFile(bare_names(tensors), source, _channels(mean), _channels(std))


def load_weights(
    body: nn.Module,
    state: Mapping[str, Tensor],
    *,
    arch: str,
    source: str,
    heads: tuple[str, ...],
    ignored: tuple[str, ...] = (),
) -> None:
    """Load ``state`` into ``body``, all of it but a classifier of another number of classes.

    Parameters
    ----------
    body : network whose own tensors decide what must be there
    state : tensors by the names that the network has for them
    arch, source : what the network and the weights are called in messages
    heads : names of the parts that stay as they are, whole, where the file has other ones or none
    ignored : beginnings of names that the network may lack

    Raises
    ------
    UserError : a tensor is missing, left over or of another shape. ``body`` is then of no use.
    """
    own = body.state_dict()
    given = {k: v for k, v in state.items() if not k.startswith(ignored)}
    fitting = {key for key in own if key in given and given[key].shape == own[key].shape}
    new: set[str] = set()
    for head in heads:
        inside = {key for key in own if key.startswith(f"{head}.")}
        if not inside <= fitting:  # half a head is none
            new |= inside
            given = {k: v for k, v in given.items() if not k.startswith(f"{head}.")}
    fitting -= new
    given = OrderedDict(given)
    # Without versions torch takes the file for an old one and adapts old names where it finds them;
    # only MNASNet, the network itself (""), insists on one.
    given._metadata = {"": {"version": 2}}  # type: ignore[attr-defined]
    try:
        result = body.load_state_dict(given, strict=False)
        belongs = not result.unexpected_keys and set(result.missing_keys) <= new
    except RuntimeError:  # a shape differs
        belongs = False
    if not belongs:
        raise UserError(
            f"The weights in {source} do not belong to {arch}: {len(fitting)} of its {len(own)} "
            f"tensors match, {len(given.keys() - fitting)} of the file are left over; name the "
            "architecture that they were made for with --arch, or another file with --weights."
        )
    log.info(
        "%s: %d of %d tensors loaded from %s; new: %s",
        arch,
        len(own) - len(new),
        len(own),
        source,
        listing(sorted(new)) or "none",
    )


def bare_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` under the names that the network would use itself, today and unwrapped."""
    for prefix in WRAPPERS * 2:  # they may be nested
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {DENSENET_LAYER.sub(r"\1\2", key): value for key, value in state.items()}


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in zip, pickle or tensor code
        if "Unsupported global" in str(error):
            raise UserError(
                f"{path} holds more than tensors and plain values, so it is not opened; save the "
                "state_dict() of the network and give that file."
            ) from error
        raise _damaged(path) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(
            f"{path} needs safetensors, which is not installed: pip install 'xraycomp[models]'."
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path) from error


def _damaged(path: Path) -> UserError:
    return UserError(
        f"{path} ({path.stat().st_size:,} bytes) is cut off, damaged or not a weight file; copy or "
        "download it again."
    )


def _channels(value: Any) -> Channels | None:
    """A checkpoint's mean or std, one number or three, as one a channel."""
    if isinstance(value, int | float):
        return (float(value),) * 3
    if isinstance(value, list | tuple) and len(value) == 3:
        red, green, blue = (float(channel) for channel in value)
        return red, green, blue
    return None
