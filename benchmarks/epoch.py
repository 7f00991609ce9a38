"""One whole epoch from files on disk, the second or later: this kit against the usual loops.

    python benchmarks/epoch.py [--images 256] [--image-size 128] [--batch-size 32] [--rounds 5]

All train ResNet-18 with SGD and momentum, on the same PNG, as many steps of the same batch, each
in the way and precision that its documentation advises for the device, with random crops and
mirror images at least (the kit also rotates and changes tones), workers kept from epoch to epoch,
and channels_last where there is an option for it (the reference loop of torchvision has none). The
peers read with as many workers as there are CPUs, and where the CPUs train too also with none.
Ways that own their loop train two epochs a round and the second counts, as their own clock has it.
Each way has a process of its own. The kit decodes once before its first epoch, which is a row of
its own; what it could reach is the bare model's steps on ready tensors. Writes benchmarks/results/.
"""

import argparse
import tempfile
from functools import partial
from itertools import count
from pathlib import Path

import joblib
import torch
from measuring import Run, alternate, apart, draw_images, print_figures, ratios, stopwatch, tabulate
from peers import Job, fastai_learner, lightning_trainer, timm_script, torchvision_reference
from results import save
from training_step import bare_step, read_images

from xraycomp.data.batches import ImageSet
from xraycomp.data.cache import build_cache
from xraycomp.data.phantom import CLASSES
from xraycomp.judging.metrics import epoch_scores
from xraycomp.model.config import TrainConfig
from xraycomp.model.device import choose_device
from xraycomp.model.engine import fit
from xraycomp.model.run import RunFolder
from xraycomp.model.state import start_state
from xraycomp.model.zoo import create_model

PEERS = {
    "torchvision, reference": torchvision_reference,
    "timm, gray": timm_script,
    "Lightning": lightning_trainer,
    "fastai": fastai_learner,
}


def kit_fit(job: Job, train: ImageSet, runs: Path) -> Run:
    """The kit's own training, with its checkpoints and its validation around what counts."""
    choose_device("auto")  # as a run does, for what it sets
    every = len(train) // job.config.batch_size
    val = ImageSet(train.cache, train.rows[::every], train.targets[::every])
    numbers = count()

    def run() -> float:
        folder = RunFolder(runs / str(next(numbers)))
        folder.path.mkdir(parents=True)
        state = start_state(
            create_model(job.config.arch, len(CLASSES)), len(train), job.config, job.device
        )
        fit(state, train, val, job.config, folder, epoch_scores)
        return float(folder.epochs()["seconds"].iloc[-1])

    return run


def kit_decoding(job: Job, caches: Path) -> Run:
    """What the kit does once, on all CPUs: every file into a new cache."""
    paths, numbers = sorted(job.folder.rglob("*.png")), count()
    return stopwatch(lambda: build_cache(paths, caches / str(next(numbers)), job.config.cache_size))


def ready_tensors(job: Job, images: int) -> Run:
    """As many steps of the bare model, in the kit's layout and precision."""
    choose_device("auto")  # as a run does, for what it sets
    step = bare_step(job.config, job.device, job.dtype, torch.channels_last)
    return stopwatch(lambda: [step() for _ in range(images // job.config.batch_size)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256, help="cut to whole batches")
    parser.add_argument("--png-size", type=int, default=299, help="side of the files in pixels")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", help="of the peers' loaders")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    images = args.images // args.batch_size * args.batch_size
    config = TrainConfig(image_size=args.image_size, batch_size=args.batch_size, epochs=2)
    ready = "bare model, ready tensors"
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder = draw_images(scratch / "drawn", images, args.png_size)
        device = choose_device("auto")
        # All advise as many as CPUs; where these train too, the same CPUs are asked twice.
        workers = args.workers or [*([0] if device.type == "cpu" else []), joblib.cpu_count()]
        ways = {
            f"{peer}, {number} workers": partial(make, Job(folder, config, number, device))
            for peer, make in PEERS.items()
            for number in workers
        }
        job = Job(folder, config, 0, device)
        train = read_images(folder, config)
        ways |= {
            "xraycomp": partial(kit_fit, job, train, scratch / "runs"),
            "xraycomp, decoding once": partial(kit_decoding, job, scratch / "caches"),
            ready: partial(ready_tensors, job, images),
        }
        seconds = alternate({way: partial(apart, make) for way, make in ways.items()}, args.rounds)
    table = tabulate(ways, seconds, images)
    for way, each in seconds.items():
        table[way]["share_of_ready"] = ratios(seconds[ready], each)
    print_figures(
        f"An epoch of {images} PNG of {args.png_size} px, resnet18 at {args.image_size} px, "
        f"batches of {args.batch_size}, {job.device}, {job.dtype}",
        table,
        {
            "seconds": ("s", 2),
            "images_per_second": ("img/s", 1),
            "ratio": ("times the first", 2),
            "share_of_ready": ("share of ready tensors", 2),
        },
    )
    save("epoch", table)


if __name__ == "__main__":
    main()
