"""A network as one ONNX graph: gray films of any size in, calibrated probabilities out."""

import copy
import importlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xraycomp.console.errors import UserError
from xraycomp.model.augment import prepare
from xraycomp.model.config import TrainConfig
from xraycomp.model.folding import fold_batch_norm
from xraycomp.model.libraries import first_line
from xraycomp.model.stem import GrayModel

INPUT, OUTPUT = "images", "probs"
OPSET = 18
"""The first in which ONNX's Resize can smooth what it shrinks."""


class Edge(nn.Module):
    """A run's whole way from a film to probabilities, for `torch.onnx.export`.

    uint8 (batch, height, width) of any size, 0 is black, to float32 (batch, n_classes) in 0..1:
    resized and cropped as the cache is, prepared as for evaluation, at the run's temperature.
    """

    def __init__(self, model: GrayModel, config: TrainConfig, temperature: float) -> None:
        super().__init__()
        self.model = fold_batch_norm(model)
        self.config = config
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        cached = resize_and_crop(images, self.config.cache_size)
        inputs = prepare(cached, self.config, self.model.mean, self.model.std)
        return self.model.probabilities(self.model(inputs) / self.temperature).float()


def resize_and_crop(images: Tensor, size: int) -> Tensor:
    """What `xraycomp.data.decode.resize_and_crop` does to one image, for a batch of one size.

    uint8 (batch, height, width) to uint8 (batch, size, size). Written without a branch, so that it
    can be exported for every size. It may differ from PIL's by one gray level in a few of a hundred
    pixels, since the weights are rounded elsewhere.
    """
    height, width = images.shape[1:]
    shorter = torch.sym_min(height, width)
    # Whole numbers to Python, and to the exporter what they depend on.
    sides: list[Any] = [size * height // shorter, size * width // shorter]
    resized = F.interpolate(images[:, None], sides, mode="bilinear", antialias=True)[:, 0]
    # Picked by number, not sliced: of a slice the exporter would not know how large it is.
    pick = torch.arange(size, device=images.device)
    rows = resized.index_select(1, pick + _corner(sides[0], size))
    return rows.index_select(2, pick + _corner(sides[1], size))


def _corner(side: Any, size: int) -> Any:
    """`xraycomp.data.decode.centre_corner` in whole numbers: halves are rounded to even."""
    half, odd = (side - size) // 2, (side - size) % 2
    return half + odd * (half % 2)


def require(*packages: str) -> None:
    """Raise ``UserError`` where a package of the extra ``export`` is not installed.

    Call it before onnxruntime is imported, which from 1.29 on would tell its maker what it runs.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UserError(
                f"Exporting needs {name}, which is not installed: pip install -e '.[export]'."
            ) from error


def export_onnx(
    model: GrayModel,
    config: TrainConfig,
    temperature: float,
    path: Path,
    metadata: Mapping[str, Any],
) -> None:
    """Write ``model`` with all that comes before and after it to ``path``, as `Edge` computes it.

    Parameters
    ----------
    model : on the CPU or not; it stays as it is
    config : of its run
    temperature : by which logits are divided, > 0
    metadata : name to text, or to what JSON can hold; kept in the file

    Raises ``UserError`` where onnx or onnxscript is not installed, or the network cannot be
    exported.
    """
    require("onnx", "onnxscript")
    network = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    edge = Edge(network, config, temperature).eval()
    # Sides that nothing is equal to by chance, so that none is taken for a constant.
    side = config.cache_size
    example = torch.zeros(2, side + 17, side + 30, dtype=torch.uint8)
    names = {0: "batch", 1: "height", 2: "width"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own, about its own
            program = torch.onnx.export(
                edge,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({k: torch.export.Dim(name) for k, name in names.items()},),
            )
    except Exception as error:  # each network has its own way to be beyond the exporter
        cause: BaseException = error
        while cause.__cause__:  # what is raised says only that it failed, and what to read
            cause = cause.__cause__
        raise UserError(
            f"{model.arch} cannot be exported ({first_line(cause)}); choose another --arch."
        ) from error
    assert program is not None
    program.model.metadata_props.update(
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    )
    program.save(path)
