"""Every part of the kit at the size of ChestX-ray14, on simulated images and labels.

    python benchmarks/nih_scale.py [--images 112120] [--size 64] [--rows 1000000]

Draws films that all differ, in the NIH's own layout (twelve folders, Data_Entry_2017.csv,
patients, official lists; labels as often as the NIH's), then runs each part at an eighth, a half
and all of the size, each size in a process of its own: manifest, cache, leak check, split,
sampler, an epoch of gathers, metrics of the test split. What goes by rows and not by pixels then
runs on a simulated manifest of a million rows, without films. Prints seconds, how the time grows
with the number of images (the exponent of a power law between the two larger sizes: 1 is
proportional) and peak memory. Writes benchmarks/results/.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measuring import print_table
from PIL import Image
from results import save
from tqdm import tqdm

from xraycomp.data.batches import balanced_weights, epoch_order
from xraycomp.data.cache import build_cache
from xraycomp.data.competition_file import load_competition
from xraycomp.data.duplicates import find_copies
from xraycomp.data.labels import decode_targets, encode_targets
from xraycomp.data.manifest import build_manifest
from xraycomp.data.split import SplitPlan, split_manifest
from xraycomp.judging.metrics import epoch_scores, judge

# Images a finding among 112,120, in the order of the competition's classes (Wang et al., 2017).
COUNTS = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
IMAGES, PATIENTS, TEST = 112_120, 30_805, 25_596
FILM = 64  # side of the drawn films in pixels
BLOCK = 64  # of the orders that go by blocks


Figures = dict[str, dict[str, float]]
"""Part -> its seconds, and the peak memory up to its end in MB."""


class Stopwatch:
    """Runs the parts one by one and keeps their figures."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    def part(self, name: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        self.figures[name] = {"seconds": seconds, "peak_mb": peak}
        return result


def simulate(n: int) -> pd.DataFrame:
    """A manifest of ``n`` images with the NIH's patients, official test list and frequencies."""
    classes = load_competition("nih-chest-xrays").classes
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(n * PATIENTS // IMAGES, size=n))
    has = rng.random((n, len(COUNTS))) < np.array(COUNTS) / IMAGES
    has[: len(COUNTS) * 20] |= np.tile(np.eye(len(COUNTS), dtype=bool), (20, 1))
    names = [f"{i:08}_000.png" for i in range(n)]
    tested = np.isin(patients, np.unique(patients)[:: IMAGES // TEST])
    return pd.DataFrame(
        {
            "image": names,
            "path": [f"images_{i * 12 // n + 1:03}/images/{names[i]}" for i in range(n)],
            "label": decode_targets(has, classes),
            "patient": patients.astype(str),
            "split": np.where(tested, "test", "train"),
        }
    )


def draw(root: Path, manifest: pd.DataFrame) -> None:
    """Draw the films of ``manifest`` and write their tables as the NIH does."""
    rng = np.random.default_rng(0)
    for path in tqdm(manifest["path"], unit="img", desc="Draw films"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (FILM // 4, FILM // 4), dtype=np.uint8)
        film = np.kron(coarse, np.ones((4, 4), dtype=np.uint8))
        Image.fromarray(film).save(root / path, compress_level=1)
    table = {
        "Image Index": manifest["image"],
        "Finding Labels": manifest["label"].replace("", "No Finding"),
        "Patient ID": manifest["patient"],
    }
    pd.DataFrame(table).to_csv(root / "Data_Entry_2017.csv", index=False)
    for name, split in (("train_val_list", "train"), ("test_list", "test")):
        listed = manifest["image"][manifest["split"] == split]
        (root / f"{name}.txt").write_text("\n".join(listed) + "\n")


def measure_films(root: Path, size: int) -> Figures:
    """Run what reads films on those in ``root``, then what goes by rows."""
    watch = Stopwatch()
    competition = load_competition("nih-chest-xrays")
    manifest = watch.part("manifest", lambda: build_manifest(competition, root))
    paths = [root / path for path in manifest["path"]]
    cache = watch.part(f"cache at {size} px", lambda: build_cache(paths, root / "cache", size))
    watch.part("cache, found again", lambda: build_cache(paths, root / "cache", size))
    watch.part("leak check", lambda: find_copies(cache))
    for name, block in (("", 0), (", in blocks", BLOCK)):
        gather = replace(cache, read_ahead=block).gather
        order = epoch_order(len(manifest), None, 0, 0, block)
        batches = np.split(order, range(64, len(order), 64))
        watch.part(f"gathers of an epoch{name}", lambda g=gather, b=batches: deque(map(g, b), 0))
    return watch.figures | measure_rows(manifest)


def measure_rows(manifest: pd.DataFrame) -> Figures:
    """Run what goes by rows, on ``manifest``."""
    watch = Stopwatch()
    competition = load_competition("nih-chest-xrays")
    classes = competition.classes
    plans = {
        "official": SplitPlan("official"),
        "by fraction": SplitPlan(test_fraction=0.2),
        "in 5 folds": SplitPlan(folds=5),
    }
    splits = {
        name: watch.part(f"split {name}", lambda plan=plan: split_manifest(manifest, classes, plan))
        for name, plan in plans.items()
    }
    targets = watch.part("targets", lambda: encode_targets(manifest["label"], classes))
    weights = watch.part("sampling weights", lambda: balanced_weights(targets))
    for name, drawn in (("", None), (", weighted", weights)):
        for where, block in (("", 0), (", in blocks", BLOCK)):
            watch.part(
                f"order of an epoch{name}{where}",
                lambda d=drawn, b=block: epoch_order(len(targets), d, 0, 0, b),
            )
    test = targets[(splits["official"] == "test").to_numpy()]
    noise = np.random.default_rng(1).normal(size=test.shape)
    probs = 1 / (1 + np.exp(2 - test - noise))
    watch.part("scores of the test split", lambda: epoch_scores(test, probs, multilabel=True))
    watch.part("metrics with intervals", lambda: judge(competition, test, probs, "test split"))
    return watch.figures


def show(table: dict[int, Figures]) -> None:
    """Print the figures of several numbers of images."""
    half, whole = list(table)[-2:]
    lines = [["seconds", *(f"{n:,}" for n in table), "exponent", "peak MB"]]
    for name, figure in table[whole].items():
        times = [table[n][name]["seconds"] for n in table]
        exponent = math.log(times[-1] / times[-2]) / math.log(whole / half)
        cells = [f"{seconds:.3f}" for seconds in times]
        lines.append([name, *cells, f"{exponent:.2f}", f"{figure['peak_mb']:.0f}"])
    print_table(lines)


def parts_of(n: int) -> tuple[int, int, int]:
    return n // 8, n // 2, n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--size", type=int, default=64, help="side of the cached images")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows without films")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure-rows", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_films(args.measure, args.size)))
        return
    if args.measure_rows:
        print(json.dumps(measure_rows(simulate(args.measure_rows))))
        return

    def run(*flags: str) -> Figures:
        command = [sys.executable, __file__, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        figures: Figures = json.loads(done.stdout.splitlines()[-1])
        return figures

    films: dict[int, Figures] = {}
    for n in parts_of(args.images):
        with tempfile.TemporaryDirectory() as scratch:
            draw(Path(scratch), simulate(n))
            films[n] = run("--measure", scratch, "--size", str(args.size))
    rows = {n: run("--measure-rows", str(n)) for n in parts_of(args.rows)}
    show(films)
    show(rows)
    save("nih_scale", {"films": films, "rows": rows})


if __name__ == "__main__":
    main()
