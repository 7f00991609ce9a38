"""One process on all threads against several of the same batch, through the kit's own --devices.

    python benchmarks/scaling.py [--images 512] [--image-size 128] [--batch-size 32] [--rounds 3]

Runs ``python -m xraycomp.train`` for three epochs and takes images a second of the second one on
from its metrics.csv: on the CPU with one process and with two, which share the threads; with 1, 2,
4 and 8 GPUs where there are as many. All see the same batch, of which each process has its share:
on GPUs give one that keeps eight busy, such as --batch-size 512. Writes benchmarks/results/.
"""

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from measuring import NOT_MEASURED, Figures, Run, alternate, draw_images, print_figures, tabulate
from results import save

PROCESSES = {"cpu": (1, 2), "cuda": (1, 2, 4, 8)}
FLAGS = "--competition phantom --epochs 3 --no-keep-duplicates-together --overwrite"


def training(data: Path, flags: list[str], device: str, processes: int) -> Run:
    """Training in ``processes`` processes, which takes so many seconds an image from the second
    epoch on."""
    name = f"{device}-{processes}"
    command = [sys.executable, "-m", "xraycomp.train", *FLAGS.split(), *flags]
    command += ["--data", str(data), "--name", name]
    command += ["--device", device, "--devices", str(processes)]

    def run() -> float:
        done = subprocess.run(command, cwd=data.parent, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        epochs = pd.read_csv(data.parent / "runs" / name / "metrics.csv")
        return float((1 / epochs["images_per_second"][1:]).mean())

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    flags = ["--image-size", str(args.image_size), "--batch-size", str(args.batch_size)]
    available = {"cpu": 2, "cuda": torch.cuda.device_count()}
    table: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as name:
        data = Path(name, "drawn")
        draw_images(data, args.images, 256)
        for device, numbers in PROCESSES.items():
            names = {f"{number} x {device}": number for number in numbers}
            ways = {
                way: partial(training, data, flags, device, number)
                for way, number in names.items()
                if number <= available[device]
            }
            table |= dict.fromkeys(names, NOT_MEASURED)
            table |= tabulate(ways, alternate(ways, args.rounds), 1)
    print_figures(
        f"resnet18, {args.image_size} px, batches of {args.batch_size} in all",
        table,
        {"images_per_second": ("img/s", 1), "ratio": ("times one", 2)},
    )
    save("scaling", table)


if __name__ == "__main__":
    main()
