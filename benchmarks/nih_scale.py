"""Every part of the kit at the size of ChestX-ray14, on simulated images and labels.

    python benchmarks/nih_scale.py [--images 112120] [--size 64]

Draws films that all differ, in the NIH's own layout (twelve folders, Data_Entry_2017.csv,
patients, official lists; labels as often as the NIH's), then runs each part at an eighth, a half
and all of the size, each size in a process of its own: manifest, cache, leak check, split,
sampler, an epoch of gathers, metrics of the test split. Prints seconds, how the time grows with the
number of images (the exponent of a power law between the two larger sizes: 1 is proportional) and
peak memory. Writes benchmarks/results/.
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
from xraycomp.data.labels import encode_targets
from xraycomp.data.manifest import build_manifest
from xraycomp.data.split import SplitPlan, split_manifest
from xraycomp.report.metrics import epoch_scores, judge

# Images a finding among 112,120, in the order of the competition's classes (Wang et al., 2017).
COUNTS = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
IMAGES, PATIENTS, TEST = 112_120, 30_805, 25_596
FILM = 64  # side of the drawn films in pixels


def draw(root: Path, n: int) -> None:
    """Draw ``n`` films and their tables."""
    competition = load_competition("nih-chest-xrays")
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(n * PATIENTS // IMAGES, size=n))
    has = rng.random((n, len(COUNTS))) < np.array(COUNTS) / IMAGES
    has[: len(COUNTS) * 20] |= np.tile(np.eye(len(COUNTS), dtype=bool), (20, 1))
    names = [f"{i:08}_000.png" for i in range(n)]
    labels = [
        "|".join(np.array(competition.classes)[row]) if row.any() else "No Finding" for row in has
    ]
    for i in tqdm(range(n), unit="img", desc="Draw films"):
        folder = root / f"images_{i * 12 // n + 1:03}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (FILM // 4, FILM // 4), dtype=np.uint8)
        film = np.kron(coarse, np.ones((4, 4), dtype=np.uint8))
        Image.fromarray(film).save(folder / names[i], compress_level=1)
    table = {"Image Index": names, "Finding Labels": labels, "Patient ID": patients}
    pd.DataFrame(table).to_csv(root / "Data_Entry_2017.csv", index=False)
    tested = np.isin(patients, np.unique(patients)[:: IMAGES // TEST])
    for name, rows in (("train_val_list", ~tested), ("test_list", tested)):
        (root / f"{name}.txt").write_text("\n".join(np.array(names)[rows]) + "\n")


def measure(root: Path, size: int) -> dict[str, dict[str, float]]:
    """Run every part on the films in ``root``; seconds, and peak memory up to its end in MB."""
    figures: dict[str, dict[str, float]] = {}

    def part(name: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures[name] = {"seconds": seconds, "peak_mb": peak}
        return result

    competition = load_competition("nih-chest-xrays")
    classes = competition.classes
    manifest = part("manifest", lambda: build_manifest(competition, root))
    paths = [root / path for path in manifest["path"]]
    cache = part(f"cache at {size} px", lambda: build_cache(paths, root / "cache", size))
    part("cache, found again", lambda: build_cache(paths, root / "cache", size))
    part("leak check", lambda: find_copies(cache))
    for plan in (SplitPlan("official"), SplitPlan("chexnet")):
        split = part(
            f"split {plan.split_by}",
            lambda plan=plan: split_manifest(manifest, classes, plan),
        )
    targets = part("targets", lambda: encode_targets(list(manifest["label"]), classes))
    weights = part("sampling weights", lambda: balanced_weights(targets))
    order = part("order of an epoch", lambda: epoch_order(len(targets), weights, 0, 0))
    batches = np.split(order, range(64, len(order), 64))
    part("an epoch of gathers", lambda: deque(map(cache.gather, batches), maxlen=0))
    test = targets[(split == "test").to_numpy()]
    noise = np.random.default_rng(1).normal(size=test.shape)
    probs = 1 / (1 + np.exp(2 - test - noise))
    part("epoch's scores", lambda: epoch_scores(test, probs, multilabel=True))
    part("metrics with intervals", lambda: judge(competition, test, probs, "test split"))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--size", type=int, default=64, help="side of the cached images")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.size)))
        return
    table: dict[int, dict[str, dict[str, float]]] = {}
    for n in (args.images // 8, args.images // 2, args.images):
        with tempfile.TemporaryDirectory() as scratch:
            draw(Path(scratch), n)
            command = [sys.executable, __file__, "--measure", scratch, "--size", str(args.size)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        table[n] = json.loads(done.stdout.splitlines()[-1])
    half, whole = list(table)[1:]
    rows = [["seconds", *(f"{n:,} images" for n in table), "exponent", "peak MB"]]
    for name, figure in table[whole].items():
        times = [table[n][name]["seconds"] for n in table]
        exponent = math.log(times[2] / times[1]) / math.log(whole / half)
        cells = [f"{seconds:.3f}" for seconds in times]
        rows.append([name, *cells, f"{exponent:.2f}", f"{figure['peak_mb']:.0f}"])
    print_table(rows)
    save("nih_scale", {str(n): figures for n, figures in table.items()})


if __name__ == "__main__":
    main()
