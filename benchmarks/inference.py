"""Images a second and latency of ResNet-18 by what computes it: this kit's model and other ways.

    python benchmarks/inference.py [--image-size 224] [--rounds 5]

Batches of 32 (images a second) and single images (milliseconds), on tensors that lie ready, with
one thread, with all, and on the GPU where there is one. All have the same weights, torchvision's
for RGB and the others for one gray channel; what they give is compared with what the kit's model
gives. On the CPU all compute in float32, on the GPU in the kit's precision. Writes
benchmarks/results/.
"""

import argparse
import copy
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import joblib
import torch
import torchvision
from measuring import (
    NOT_MEASURED,
    Figures,
    Run,
    alternate,
    print_figures,
    ratios,
    spread,
    stopwatch,
    tabulate,
)
from results import save
from torch import Tensor

from xraycomp.data.phantom import CLASSES
from xraycomp.model.device import autocast
from xraycomp.model.folding import fold_batch_norm
from xraycomp.model.stem import GrayModel
from xraycomp.model.zoo import create_model

BATCH, SINGLES = 32, 10
Predict = Callable[[], Tensor]
"""Logits of the images that the way was made for."""


def torchvision_rgb(model: GrayModel, images: Tensor, threads: int) -> Predict:
    """torchvision's network on three equal channels, contiguous."""
    weights = model.body.state_dict()
    weights["conv1.weight"] = weights["conv1.weight"].expand(-1, 3, -1, -1) / 3
    rgb = torchvision.models.resnet18(num_classes=len(CLASSES)).to(images.device).eval()
    rgb.load_state_dict(weights)
    copies = images.expand(-1, 3, -1, -1).contiguous()
    return in_torch(rgb.to(memory_format=torch.contiguous_format), copies)


def eager(model: GrayModel, images: Tensor, threads: int) -> Predict:
    """The kit's model as it trains, and predicts on a GPU: one channel, channels_last."""
    return in_torch(model, images.contiguous(memory_format=torch.channels_last))


def folded(model: GrayModel, images: Tensor, threads: int) -> Predict:
    """As the kit predicts on the CPU: batch norm folded into the convolution before it."""
    return in_torch(fold_batch_norm(model), images.contiguous(memory_format=torch.channels_last))


def compiled(model: GrayModel, images: Tensor, threads: int) -> Predict:
    """The same again, compiled for this number of images."""
    if images.device.type == "cpu" and not shutil.which("g++"):
        raise ModuleNotFoundError("torch.compile needs g++")
    body = torch.compile(fold_batch_norm(model), dynamic=False)
    return in_torch(body, images.contiguous(memory_format=torch.channels_last))


def in_torch(network: Callable[[Tensor], Tensor], images: Tensor) -> Predict:
    def predict() -> Tensor:
        with torch.inference_mode(), autocast(images.device):
            return network(images)

    return predict


def onnx_runtime(model: GrayModel, images: Tensor, threads: int) -> Predict:
    """The kit's model, exported and run by onnxruntime."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime
    import onnxscript  # noqa: F401 - the exporter needs it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "model.onnx")
        contiguous = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
        torch.onnx.export(contiguous, (images,), path, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images.numpy()}
    return lambda: torch.from_numpy(session.run(None, given)[0])


def open_vino(model: GrayModel, images: Tensor, threads: int) -> Predict:
    """The kit's model, converted and run by OpenVINO."""
    import openvino

    converted = openvino.convert_model(model, example_input=images, input=tuple(images.shape))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",  # one request at a time, by all threads
    }
    network = openvino.Core().compile_model(converted, "CPU", settings)
    given = images.numpy()
    return lambda: torch.from_numpy(network(given)[0])


ON_GPU = {
    "torchvision, RGB, contiguous": torchvision_rgb,
    "xraycomp, gray, channels_last": eager,
    "xraycomp, batch norm folded": folded,
    "xraycomp, folded and compiled": compiled,
}
ON_CPU = {**ON_GPU, "onnxruntime": onnx_runtime, "OpenVINO": open_vino}


def measure(side: int, device: torch.device, threads: int, rounds: int) -> dict[str, Figures]:
    """Every way on one device."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = create_model("resnet18", len(CLASSES)).to(device).eval()
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 1, side, side, device=device)
    tolerance = 1e-3 if device.type == "cpu" else 5e-2  # half precision

    def way(make: Callable[..., Predict], images: Tensor, times: int) -> Run:
        predict = make(model, images, threads)
        expected = eager(model, images, threads)().float()
        if (off := float((predict().float() - expected).abs().max())) > tolerance:
            sys.exit(f"{make.__name__} is {off:.4f} off what the kit's model gives.")
        return stopwatch(predict, times)

    makes = ON_CPU if device.type == "cpu" else ON_GPU
    many = alternate({n: partial(way, make, images, 1) for n, make in makes.items()}, rounds)
    ones = {n: partial(way, make, images[:1].clone(), SINGLES) for n, make in makes.items()}
    one = alternate(ones, rounds)
    table = tabulate(makes, many, BATCH)
    for name, seconds in one.items():
        table[name]["milliseconds"] = spread(1000 * each for each in seconds)
        table[name]["latency_ratio"] = ratios(one[next(iter(makes))], seconds)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cpus, cpu = joblib.cpu_count(), torch.device("cpu")
    tables = {
        "1 thread": measure(args.image_size, cpu, 1, args.rounds),
        f"all {cpus} threads": measure(args.image_size, cpu, cpus, args.rounds),
        "GPU": measure(args.image_size, torch.device("cuda"), cpus, args.rounds)
        if torch.cuda.is_available()
        else dict.fromkeys(ON_GPU, NOT_MEASURED),
    }
    columns = {
        "images_per_second": (f"img/s, batches of {BATCH}", 1),
        "ratio": ("times the first", 2),
        "milliseconds": ("ms, single images", 2),
        "latency_ratio": ("times as fast", 2),
    }
    for where, table in tables.items():
        print_figures(f"resnet18, {args.image_size} px, {where}", table, columns)
    save("inference", tables)


if __name__ == "__main__":
    main()
