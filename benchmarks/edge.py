"""What one film costs at the edge: torch, compiled or not, and the exported files, float and int8.

    python benchmarks/edge.py [--run runs/A] [--image-size 224] [--film-size 1024] [--rounds 7]

Single films (milliseconds) and batches of 32 (images a second) on one thread, from gray films of
--film-size to calibrated probabilities: all resize, normalise and divide by a temperature. Also how
long a network takes from its file to be ready; compiled, that is until its first answer. The
network is the run's, or one with random weights; the films are drawn, so that the ranges of int8
are of drawn films, too: what int8 costs in accuracy, python -m xraycomp.export measures. Writes
benchmarks/results/edge.json.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measuring import (
    Figures,
    Run,
    alternate,
    draw_images,
    print_figures,
    ratios,
    spread,
    stopwatch,
    tabulate,
)
from numpy.typing import NDArray
from results import save

from xraycomp.data.competition_file import load_competition
from xraycomp.data.decode import load_gray, resize_and_crop
from xraycomp.model.checkpoint import load_best, save_checkpoint
from xraycomp.model.config import TrainConfig
from xraycomp.model.export_int8 import quantize
from xraycomp.model.export_onnx import Edge, export_onnx
from xraycomp.model.export_session import Infer, open_session
from xraycomp.model.run import RunFolder
from xraycomp.model.zoo import build_model

BATCH, SINGLES, SHOWN = 32, 10, 16
TEMPERATURE = 0.8
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Network:
    """One network in all its files."""

    run: RunFolder
    onnx: Path
    int8: Path

    def eager(self) -> Infer:
        """As the kit predicts on the CPU, batch norm folded."""
        return self._in_torch(lambda edge: edge)

    def compiled(self) -> Infer:
        """The same, compiled for the size that it is first shown."""
        if not shutil.which("g++"):
            raise ModuleNotFoundError("torch.compile needs g++")
        return self._in_torch(lambda edge: torch.compile(edge, dynamic=False))

    def _in_torch(self, change: Callable[[Edge], Callable[..., torch.Tensor]]) -> Infer:
        model = load_best(self.run, CPU)
        network = change(Edge(model, self.run.config(), TEMPERATURE).eval())

        def infer(films: NDArray[np.uint8]) -> NDArray[np.float32]:
            with torch.inference_mode():
                return network(torch.from_numpy(films)).numpy()

        return infer

    def onnx_runtime(self) -> Infer:
        """The exported file."""
        return open_session(self.onnx)

    def eight_bits(self) -> Infer:
        """The file in 8 bits."""
        return open_session(self.int8)


WAYS = {
    "torch": Network.eager,
    "torch, compiled": Network.compiled,
    "onnxruntime": Network.onnx_runtime,
    "onnxruntime, int8": Network.eight_bits,
}


def write_files(run: RunFolder, folder: Path, films: NDArray[np.uint8]) -> Network:
    network = Network(run, folder / "model.onnx", folder / "model.int8.onnx")
    model, config = load_best(run, CPU), run.config()
    export_onnx(model, config, TEMPERATURE, network.onnx, {})
    quantize(network.onnx, network.int8, films)
    return network


def draw_run(folder: Path, arch: str, image_size: int) -> RunFolder:
    """A run that was never trained."""
    config, competition = TrainConfig(arch=arch, image_size=image_size), load_competition("phantom")
    none = pd.DataFrame()
    run = RunFolder.create(folder, config, competition, none, none, {})
    torch.manual_seed(0)
    model = build_model(config, competition)
    content = {"model": model.state_dict(), "mean": model.mean, "std": model.std}
    content |= {"classes": list(model.classes), "config": config.to_json()}
    save_checkpoint(run.best, content)
    return run


def measure(network: Network, film: NDArray[np.uint8], rounds: int) -> dict[str, Figures]:
    """Every way, on one film and on a batch of it."""
    expected = network.eager()(film[None])

    def way(load: Callable[[Network], Infer], count: int, times: int) -> Run:
        films, infer = np.repeat(film[None], count, axis=0), load(network)
        # Drawn films through a drawn network say little, but a wrong file would be far off.
        assert np.abs(infer(films) - expected).max() < 0.2
        return stopwatch(partial(infer, films), times)

    def loading(load: Callable[[Network], Infer]) -> Run:
        def run() -> float:
            began = time.perf_counter()
            torch.compiler.reset()
            infer = load(network)
            if load is Network.compiled:
                infer(film[None])
            return time.perf_counter() - began

        return run

    many = alternate({n: partial(way, load, BATCH, 1) for n, load in WAYS.items()}, rounds)
    one = alternate({n: partial(way, load, 1, SINGLES) for n, load in WAYS.items()}, rounds)
    ready = {n: partial(loading, load) for n, load in WAYS.items() if load is not Network.compiled}
    loads = alternate(ready, rounds)
    if "torch, compiled" in one:  # which takes a minute
        loads["torch, compiled"] = [loading(Network.compiled)()]
    table = tabulate(WAYS, many, BATCH)
    for name, seconds in one.items():
        table[name]["milliseconds"] = spread(1000 * each for each in seconds)
        table[name]["latency_ratio"] = ratios(one["torch"], seconds)
        table[name]["over_onnxruntime"] = ratios(one["onnxruntime"], seconds)
        table[name]["load_milliseconds"] = spread(1000 * each for each in loads[name])
    sizes = dict(zip(WAYS, (network.run.best,) * 2 + (network.onnx, network.int8), strict=True))
    for name, path in sizes.items():
        table[name]["megabytes"] = spread([path.stat().st_size / 1e6])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--arch", default="resnet18", help="of a network with random weights")
    parser.add_argument(
        "--image-size", type=int, default=224, help="of a network with random weights"
    )
    parser.add_argument("--film-size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        # Else it would be told how long it takes to find what was compiled before.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(scratch, "compiled"))
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
        if args.run:
            run = RunFolder.open(args.run)
        else:
            run = draw_run(Path(scratch, "drawn"), args.arch, args.image_size)
        config = run.config()
        drawn = sorted(draw_images(Path(scratch, "films"), SHOWN, args.film_size).rglob("*.png"))
        grays = [load_gray(path) for path in drawn]
        cached = np.stack([np.asarray(resize_and_crop(g, config.cache_size)) for g in grays])
        network = write_files(run, Path(scratch), cached)
        table = measure(network, np.array(grays[0]), args.rounds)
    columns = {
        "milliseconds": ("ms, single films", 2),
        "latency_ratio": ("times as fast", 2),
        "images_per_second": (f"img/s, batches of {BATCH}", 1),
        "ratio": ("times as fast ", 2),
        "load_milliseconds": ("ms to load", 0),
    }
    title = f"{config.arch}, {config.image_size} px, films of {args.film_size} px, 1 thread"
    print_figures(title, table, columns)
    save("edge", {title: table})


if __name__ == "__main__":
    main()
