"""An exported network in whole numbers: weights and activations in 8 bits, ranges from images."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xraycomp.model.export_onnx import INPUT, require

_QUANTIZED = (
    *("Conv", "Gemm", "MatMul", "Add", "Mul", "Concat"),
    *("Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool"),
)
"""What is worth 8 bits. Not the sigmoid of attention pooling, whose weights are divided by their
mean: the smallest would all become 0."""


def quantize(onnx_path: Path, path: Path, images: NDArray[np.uint8]) -> None:
    """Write the network at ``onnx_path``, which `export_onnx` wrote, in 8 bits to ``path``.

    Weights are int8 with a scale for each channel, activations uint8 between the smallest and the
    largest that these images show (static quantisation, Jacob et al. 2018). Entropy and percentiles
    in place of those ended up at the same ranges or were no better. What comes before and after the
    network stays as it is.

    Parameters
    ----------
    images : uint8 of shape (n, height, width), n >= 1: films of the kind that is to be judged

    Raises ``UserError`` where onnx or onnxruntime is not installed.
    """
    require("onnx", "onnxruntime")
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Films(CalibrationDataReader):  # type: ignore[misc]  # it comes without types
        def __init__(self) -> None:
            self._rest: Iterator[NDArray[np.uint8]] = iter(images[:, None])

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            film = next(self._rest, None)
            return None if film is None else {INPUT: film}

    whole = onnx.load(onnx_path)
    with _quiet():
        quantize_static(
            whole,
            path,
            Films(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_QUANTIZED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[node.name for node in whole.graph.node if _in_network(node)],
            calibrate_method=CalibrationMethod.MinMax,
        )
    small = onnx.load(path)
    del small.metadata_props[:]
    small.metadata_props.extend(onnx.load(onnx_path).metadata_props)
    onnx.save(small, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let onnxruntime neither advise what was done at export, nor set up logging for everybody."""
    disabled, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logging.root.handlers[:] = handlers


def _in_network(node: object) -> bool:
    """Whether a node came out of ``Edge.model``, as the exporter notes it."""
    notes = {note.key: note.value for note in node.metadata_props}  # type: ignore[attr-defined]
    return "'model'" in notes.get("pkg.torch.onnx.name_scopes", "")
