"""How much longer a training step of this kit takes than the bare model on ready tensors.

    python benchmarks/training_step.py [--image-size 128] [--batch-size 32] [--rounds 9]

All train the same ResNet-18 (gray stem, SGD with momentum) on batches of the same size. The bare
model repeats forward, loss, backward and step on tensors that lie ready, contiguous and
channels_last, in every precision; the kit, in the precision that it takes on this device, gathers
from the cache, warps, smooths, clips and keeps count besides. The peak is the best rate of large
matrix products in the same precision, measured in the same rounds; what a step reaches of it are
the FLOPs of forward and backward. Writes benchmarks/results/.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measuring import (
    NOT_MEASURED,
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
from results import save
from torch.utils.flop_counter import FlopCounterMode

from xraycomp.data.batches import ImageSet
from xraycomp.data.cache import build_cache
from xraycomp.data.phantom import CLASSES
from xraycomp.model.config import TrainConfig
from xraycomp.model.device import autocast_dtype, choose_device
from xraycomp.model.engine import Loop
from xraycomp.model.epoch import plan_epoch
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.zoo import create_model

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MEASURED = {"cpu": ("fp32",), "cuda": ("fp32", "fp16", "bf16")}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
GEMM = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
"""Sides of the matrices whose product is to reach the peak."""


def read_images(folder: Path, config: TrainConfig) -> ImageSet:
    """The drawn images in ``folder``, decoded into a cache beside it, with their labels."""
    paths = sorted(folder.rglob("*.png"))
    labels = [CLASSES.index(path.parent.name) for path in paths]
    cache = build_cache(paths, folder.parent / "cache", config.cache_size)
    return ImageSet(cache, np.arange(len(paths)), np.eye(len(CLASSES), dtype=np.float32)[labels])


def bare_step(
    config: TrainConfig, device: torch.device, dtype: torch.dtype, layout: torch.memory_format
) -> Callable[[], None]:
    """Forward, loss, backward and optimizer step on one batch that lies on the device."""
    state = start_state(create_model(config.arch, len(CLASSES)), config.batch_size, config, device)
    model = state.model.to(memory_format=layout).train()
    images = torch.randn(config.batch_size, 1, config.image_size, config.image_size, device=device)
    images = images.contiguous(memory_format=layout)
    targets = torch.randint(len(CLASSES), (config.batch_size,), device=device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(images), targets)
        scaler.scale(loss).backward()
        scaler.step(state.optimizer)
        scaler.update()
        state.optimizer.zero_grad(set_to_none=True)

    return step


def kit_step(train: ImageSet, config: TrainConfig, device: torch.device) -> Callable[[], None]:
    """A step of the kit's own loop, on the next batch of the epoch's order."""
    state = start_state(create_model(config.arch, len(CLASSES)), len(train), config, device)
    state.model.train()
    loop = Loop(state, train, train, config, RunFolder(Path()), lambda targets, probs: {})
    plan = plan_epoch(train, None, config, 0, device)
    blocks = iter(())

    def step() -> None:
        nonlocal blocks
        if state.progress.step % state.steps == 0:
            state.progress.step = 0
            blocks = loop.blocks(plan)
        loop.step(plan, blocks)

    return step


def matrix_product(side: int, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A product of two square matrices: 2 side^3 FLOPs."""
    a, b = torch.randn(2, side, side, device=device, dtype=dtype)
    return lambda: a @ b


def count_flops(step: Callable[[], None]) -> float:
    """FLOPs of forward and backward of one step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(
    train: ImageSet, config: TrainConfig, precision: str, rounds: int, steps: int
) -> dict[str, Figures]:
    """The steps in one precision, with their shares of the peak, and the peak itself."""
    device, dtype = choose_device("auto"), PRECISIONS[precision]
    names = [f"{precision}, bare, {layout}" for layout in LAYOUTS]
    kit, peak = f"{precision}, xraycomp", f"{precision}, matrix product"
    if precision not in MEASURED[device.type]:
        return dict.fromkeys([*names, kit, peak], NOT_MEASURED)
    bare = [partial(bare_step, config, device, dtype, layout) for layout in LAYOUTS.values()]
    makes = dict(zip(names, bare, strict=True))
    if dtype == autocast_dtype(device):
        makes[kit] = partial(kit_step, train, config, device)
    ways = {name: partial(timed, make, steps) for name, make in makes.items()}
    sides = GEMM[device.type]
    products = {
        str(side): partial(timed, partial(matrix_product, side, dtype, device), steps)
        for side in sides
    }
    seconds = alternate({**ways, **products}, rounds)
    best = [
        max(2 * side**3 / each for side, each in zip(sides, turn, strict=True))
        for turn in zip(*(seconds[str(side)] for side in sides), strict=True)
    ]
    flops = count_flops(bare[0]())
    table = tabulate(ways, seconds, config.batch_size)
    for name, figures in table.items():
        figures["teraflops"] = spread(flops / each / 1e12 for each in seconds[name])
        figures["share_of_peak"] = ratios((flops / each for each in seconds[name]), best)
    table.setdefault(kit, NOT_MEASURED)  # it takes another precision
    return {**table, peak: {"teraflops": spread(each / 1e12 for each in best)}}


def timed(make: Callable[[], Callable[[], object]], times: int) -> Run:
    """Make what is to be done, warm it up, and give the run that times it."""
    work = make()
    for _ in range(2):
        work()
    return stopwatch(work, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="steps a way and round")
    args = parser.parse_args()
    # Convolutions may use TF32 by default; so may the products that they are measured against.
    torch.backends.cuda.matmul.allow_tf32 = True
    config = TrainConfig(image_size=args.image_size, batch_size=args.batch_size)
    table: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as scratch:
        images = 16 * args.batch_size
        train = read_images(draw_images(Path(scratch, "drawn"), images, 256), config)
        for precision in PRECISIONS:
            table |= measure(train, config, precision, args.rounds, args.steps)
    print_figures(
        f"resnet18, {args.image_size} px, batches of {args.batch_size}, {choose_device('auto')}",
        table,
        {
            "seconds": ("s a step", 4),
            "images_per_second": ("img/s", 1),
            "ratio": ("times the first", 3),
            "teraflops": ("TFLOP/s", 3),
            "share_of_peak": ("share of peak", 3),
        },
    )
    save("training_step", table)


if __name__ == "__main__":
    main()
