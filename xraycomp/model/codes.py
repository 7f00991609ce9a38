"""Feature codes: what a frozen body gives for each image, computed once and kept on disk."""

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import StopRequest
from xraycomp.data.batches import ImageSet
from xraycomp.data.cache import ImageCache
from xraycomp.data.files import atomic_path
from xraycomp.model.augment import draw, prepare
from xraycomp.model.body import count_codes
from xraycomp.model.config import TrainConfig
from xraycomp.model.deadline import NO_DEADLINE, Deadline
from xraycomp.model.device import autocast, autocast_dtype
from xraycomp.model.feed import feed
from xraycomp.model.stem import GrayModel

log = logging.getLogger(__name__)

_FORMAT = 2  # part of every key: raise it when codes are computed or laid out otherwise


@dataclass(frozen=True)
class CodeCache:
    """Codes on disk, read like images.

    The file is a plain array of shape (1 + passes, n_images, n_features), dtype float32: first the
    codes of the images as they are judged, then those of each augmented pass.
    """

    path: Path

    @cached_property
    def codes(self) -> NDArray[np.float32]:
        """The array, mapped from the file."""
        mapped: NDArray[np.float32] = np.load(self.path, mmap_mode="r")
        return mapped

    def gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Copy ``rows`` (int array (n,)), counted through all passes, to (n, n_features)."""
        passes, n_images, n_features = self.codes.shape
        block: NDArray[np.float32] = self.codes.reshape(passes * n_images, n_features)[rows]
        return block


def build_codes(
    model: GrayModel,
    cache: ImageCache,
    rows: NDArray[np.int64],
    config: TrainConfig,
    deadline: Deadline = NO_DEADLINE,
) -> CodeCache:
    """Compute the codes of the images ``rows`` of ``cache``, or find that this was done before.

    The file beside ``cache`` is named after all that codes depend on: the images, the weights that
    come before the head, sizes and, where there are ``config.codes_passes``, seed and augmentation.
    Images are augmented as in training, so about half of each pass is mirrored.

    Parameters
    ----------
    model : its body in evaluation; the head has no say
    rows : int array of shape (n_images,); row i of the codes belongs to image rows[i]
    deadline : when to give up

    Raises
    ------
    Stopped : after Ctrl-C or SIGTERM; UserError : at the deadline, and where the head is not
        linear. Nothing half done is kept.
    """
    n_features = count_codes(model.body, model.parts, model.arch)
    dtype = autocast_dtype(next(model.parameters()).device)
    key = _key(model, rows, config, dtype)
    path = cache.folder.with_name(f"{cache.folder.name}-codes-{key}.npy")
    found = path.is_file()
    began = time.monotonic()
    if not found:
        shape = (1 + config.codes_passes, len(rows), n_features)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        # Written and not mapped: on a full disk a mapping would kill the process.
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            _write_codes(file.write, model, cache, rows, config, deadline)
    log.info(
        "Codes: %s features of %s images, augmented passes: %d; %s (%s).",
        f"{n_features:,}",
        f"{len(rows):,}",
        config.codes_passes,
        "found" if found else f"computed in {time.monotonic() - began:.1f} s",
        path,
    )
    return CodeCache(path)


@torch.inference_mode()
def _write_codes(
    write: Callable[[bytes], object],
    model: GrayModel,
    cache: ImageCache,
    rows: NDArray[np.int64],
    config: TrainConfig,
    deadline: Deadline,
) -> None:
    model.eval()
    device, batch_size = next(model.parameters()).device, config.judging_batch_size
    entering: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor]) -> None:
        entering.append(args[0])

    hook = model.body.get_submodule(model.parts.head).register_forward_pre_hook(keep)
    passes = 1 + config.codes_passes
    try:
        with (
            StopRequest() as stop,
            tqdm(total=passes * len(rows), unit="img", desc="Codes", leave=False) as bar,
        ):
            parts = np.split(np.arange(len(rows)), range(batch_size, len(rows), batch_size))
            for number in range(passes):
                generator = np.random.default_rng([config.seed, number])
                draws = draw(len(rows), config, generator, config.image_size).to(device)
                blocks = feed(cache, (rows[part] for part in parts), device)
                for part, block in zip(parts, blocks, strict=True):
                    # The first pass sees the images as they are judged.
                    drawn = draws[slice(part[0], part[-1] + 1)] if number else None
                    images = prepare(block, config, model.mean, model.std, drawn)
                    with autocast(device):
                        model(images.contiguous(memory_format=torch.channels_last))
                    write(entering.pop().float().cpu().numpy().tobytes())
                    bar.update(len(block))
                    if stop.signal_number:
                        raise Stopped("Stopped while computing codes.", stop.signal_number)
                    if time.monotonic() > deadline.at:
                        raise UserError(
                            f"The time limit was reached with {bar.n:,} of {bar.total:,} codes "
                            "computed, and none of them are kept. Give a longer --time-limit."
                        )
    finally:
        hook.remove()


def code_sets(
    codes: CodeCache, rows: NDArray[np.int64], train: ImageSet, val: ImageSet
) -> tuple[ImageSet, ImageSet]:
    """``train`` and ``val`` as sets of codes; every augmented pass adds the training set once more.

    ``rows`` are the images that ``codes`` was built from, in ascending order.
    """
    passes, n_images, _ = codes.codes.shape
    first = np.searchsorted(rows, train.rows)
    shown = np.concatenate([number * n_images + first for number in range(passes)])
    return (
        ImageSet(codes, shown, np.tile(train.targets, (passes, 1))),
        ImageSet(codes, np.searchsorted(rows, val.rows), val.targets),
    )


def _key(model: GrayModel, rows: NDArray[np.int64], config: TrainConfig, dtype: torch.dtype) -> str:
    """A digest of all that codes depend on besides the images."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in model.body.state_dict().items():
        if not name.startswith(f"{model.parts.head}."):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().view(-1).numpy().tobytes())
    settings: list[object] = [_FORMAT, dtype, model.arch, model.mean, model.std, config.pool]
    settings += [config.image_size, config.laplacian, config.codes_passes]
    if config.codes_passes:
        names = ("flip", "rotation", "scale", "shift", "random_crop", "brightness", "contrast")
        settings += [getattr(config, name) for name in (*names, "erasing", "seed")]
    digest.update(repr(settings).encode())
    digest.update(rows.tobytes())
    return digest.hexdigest()
