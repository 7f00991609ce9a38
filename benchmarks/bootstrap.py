"""Bootstrap of every finding's AUROC at the size of the NIH's official test list.

    python benchmarks/bootstrap.py [--images 25596] [--resamples 1000] [--naive 5] [--rounds 3]

Simulated labels as often as the NIH's and probabilities that know something of them. The kit sorts
once and weights (counts and average precision come with it); the naive way is scikit-learn's
roc_auc_score on the drawn images, of which a few resamples are timed and must give the same areas
to 1e-12, for the same draws. Writes benchmarks/results/.
"""

import argparse
import sys
from functools import partial

import numpy as np
from measuring import alternate, print_figures, ratios, spread, stopwatch
from numpy.typing import NDArray
from results import save
from sklearn.metrics import roc_auc_score

from xraycomp.judging.resampling import resample

# Images a finding among 112,120, in the order of the competition's classes (Wang et al., 2017).
COUNTS = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
IMAGES = 112_120
OURS, NAIVE = "xraycomp", "scikit-learn on drawn images"
Array = NDArray[np.float64]


def simulate(images: int) -> tuple[Array, Array]:
    """Targets and probabilities, six decimals as in a table: two arrays of shape (images, 14)."""
    rng = np.random.default_rng(0)
    targets = (rng.random((images, len(COUNTS))) < np.array(COUNTS) / IMAGES).astype(float)
    probs = 1 / (1 + np.exp(2 - rng.normal(size=targets.shape) - 1.2 * targets))
    return targets, probs.round(6)


def ours(targets: Array, probs: Array, resamples: int) -> Array:
    return resample(targets, probs >= 0.5, probs, resamples, np.random.default_rng(0)).auroc


def naive(targets: Array, probs: Array, resamples: int) -> Array:
    """scikit-learn on the images themselves; the same draws."""
    rng, images = np.random.default_rng(0), len(targets)
    areas = []
    for _ in range(resamples):
        drawn = rng.integers(images, size=images)
        areas.append(roc_auc_score(targets[drawn], probs[drawn], average=None))
    return np.array(areas)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=25_596)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--naive", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    given = simulate(args.images)
    expected = naive(*given, args.naive)
    off = float(np.abs(ours(*given, args.naive) - expected).max())
    if off > 1e-12:
        sys.exit(f"The areas are {off:.1e} off what the naive way gives.")

    ways = {OURS: partial(ours, *given, args.resamples), NAIVE: partial(naive, *given, args.naive)}
    seconds = alternate({n: partial(stopwatch, work) for n, work in ways.items()}, args.rounds)
    seconds[NAIVE] = [each * args.resamples / args.naive for each in seconds[NAIVE]]
    table = {
        name: {"seconds": spread(each), "ratio": ratios(seconds[NAIVE], each)}
        for name, each in seconds.items()
    }
    title = f"{args.resamples:,} resamples of {args.images:,} x {len(COUNTS)} AUROCs"
    columns = {"seconds": ("seconds", 1), "ratio": ("times the naive way", 1)}
    print_figures(f"{title}; the naive way from {args.naive}; equal to {off:.0e}", table, columns)
    save("bootstrap", {"largest difference": off, **table})


if __name__ == "__main__":
    main()
