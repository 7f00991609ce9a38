"""How long the recipe ``fast`` takes to be as good as the kit's origin, over several seeds.

    python benchmarks/time_to_accuracy.py --competition chest-xray-4 --data chest-xray-4.zip

``seed`` is the recipe of the kit's origin: ResNet-18 from scratch at 224 px, SGD with momentum at a
constant rate, cross-entropy, weighted sampling, centre crop and horizontal flip. Both train until
their macro F1 on the same validation split has reached the target, ``fast`` at most through its
own schedule. The time is that of training, as ``metrics.csv`` has it. On the CPU as many runs as
there are cores train at a time, each on one of them; on a GPU one after the other. Writes
benchmarks/results/.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import pandas as pd
from measuring import print_figures, spread
from results import save

RECIPES = {"seed": ["--epochs", "1000"], "fast": []}


def minutes_to(target: float, command: list[str], run: Path, threads: int) -> float:
    """Train until the target is reached; minutes of training that it took, or infinity."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with run.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while True:
            done = process.poll() is not None
            minutes = minutes_so_far(target, run / "metrics.csv")
            if minutes is not None or done:
                process.kill()
                return float("inf") if minutes is None else minutes
            time.sleep(1)


def minutes_so_far(target: float, table: Path) -> float | None:
    if not table.is_file():
        return None
    epochs = pd.read_csv(table)
    reached = epochs.index[epochs["val_macro_f1"] >= target]
    return float(epochs["seconds"][: reached[0] + 1].sum() / 60) if len(reached) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competition", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", type=float, default=0.80, help="macro F1 on validation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    at_once = joblib.cpu_count() if args.device == "cpu" else 1
    threads = 1 if args.device == "cpu" else joblib.cpu_count()
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(at_once) as pool:
        common = ["--competition", args.competition, "--data", str(args.data.resolve())]
        common += ["--data-dir", f"{scratch}/data", "--runs-dir", scratch, "--device", args.device]
        common += ["--submissions-dir", scratch]
        waiting = {}
        for name, flags in RECIPES.items():
            for seed in range(args.seeds):
                run = Path(scratch, f"{name}-{seed}")
                command = [sys.executable, "-m", "xraycomp.train", *common, "--recipe", name]
                command += ["--name", run.name, "--seed", str(seed), *flags]
                waiting[name, seed] = pool.submit(minutes_to, args.target, command, run, threads)
        minutes = {key: task.result() for key, task in waiting.items()}
    table = {
        name: {"minutes": spread(minutes[name, seed] for seed in range(args.seeds))}
        for name in RECIPES
    }
    table["seed / fast"] = {
        "ratio": spread(minutes["seed", s] / minutes["fast", s] for s in range(args.seeds))
    }
    print_figures(
        f"{args.competition}: training to a validation macro F1 of {args.target:g}, "
        f"{args.seeds} seeds, {at_once} runs at a time on {threads} thread(s) each",
        table,
        {"minutes": ("minutes", 1), "ratio": ("ratio", 1)},
    )
    save("time_to_accuracy", {"target": args.target, **table})


if __name__ == "__main__":
    main()
