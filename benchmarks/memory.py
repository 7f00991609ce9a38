"""Peak memory of a whole run against the number of images.

    python benchmarks/memory.py [--images 1000 4000 16000]

Draws competitions of several sizes, runs ``python -m xraycomp.train`` on each in a process of its
own (cached at 256 px, 64 KiB an image; trained for one epoch at 32 px so that it is quick) and
prints the peak resident memory of each. Writes benchmarks/results/.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from measuring import print_table
from results import save

from xraycomp.data.phantom import draw_competition

FLAGS = "--competition phantom --image-size 32 --resize-size 256 --epochs 1 --batch-size 64"


def peak_bytes(n_images: int, scratch: Path) -> int:
    """Train on ``n_images`` drawn images and return the process's peak resident memory."""
    data = scratch / f"images-{n_images}"
    draw_competition(data, n_train=n_images, n_test=100, size=64)
    command = [sys.executable, "-m", "xraycomp.train", *FLAGS.split(), "--data", str(data)]
    with (scratch / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=scratch, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit((scratch / "log.txt").read_text())
    return usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 4000, 16000])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        peaks = {n_images: peak_bytes(n_images, Path(scratch)) for n_images in args.images}
    first = peaks[args.images[0]]
    rows = [
        (f"{n:,}", f"{n * 256 * 256 / 1e6:,.0f}", f"{peak / 1e6:,.0f}", f"{peak / first:.2f}")
        for n, peak in peaks.items()
    ]
    print_table([("images", "decoded MB", "peak MB", "times the first"), *rows])
    save("memory", peaks)


if __name__ == "__main__":
    main()
