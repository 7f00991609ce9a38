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


def train_command(competition: str, data: Path, run: Path, device: str) -> list[str]:
    """The command that trains into the run folder ``run``, whose folder it writes into alone."""
    folder = str(run.parent)
    return [
        *(sys.executable, "-m", "xraycomp.train", "--competition", competition),
        *("--data", str(data.resolve()), "--data-dir", f"{folder}/data", "--name", run.name),
        *("--runs-dir", folder, "--submissions-dir", folder, "--device", device),
    ]


def train_until(target: float, command: list[str], run: Path, threads: int) -> pd.DataFrame:
    """Train until the macro F1 on validation has reached the target; the rows of the epochs."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    table = run / "metrics.csv"
    with run.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(1)
            if table.is_file() and pd.read_csv(table)["val_macro_f1"].max() >= target:
                process.kill()
    if not table.is_file():
        sys.exit(run.with_suffix(".log").read_text()[-2000:])
    return pd.read_csv(table)


def minutes_to(target: float, epochs: pd.DataFrame) -> float:
    """Minutes of training until the target was reached; infinity if it was not."""
    reached = epochs.index[epochs["val_macro_f1"] >= target]
    return float(epochs["seconds"][: reached[0] + 1].sum() / 60) if len(reached) else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competition", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", type=float, default=0.80, help="macro F1 on validation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    cpus, alone = joblib.cpu_count(), args.device != "cpu"
    at_once, threads = (1, cpus) if alone else (cpus, 1)
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(at_once) as pool:

        def train(name: str, seed: int) -> float:
            run = Path(scratch, f"{name}-{seed}")
            command = train_command(args.competition, args.data, run, args.device)
            command += ["--recipe", name, "--seed", str(seed), *RECIPES[name]]
            return minutes_to(args.target, train_until(args.target, command, run, threads))

        waiting = {
            (name, seed): pool.submit(train, name, seed)
            for name in RECIPES
            for seed in range(args.seeds)
        }
        minutes = {key: task.result() for key, task in waiting.items()}
    seeds = range(args.seeds)
    table = {name: {"minutes": spread(minutes[name, seed] for seed in seeds)} for name in RECIPES}
    table["seed / fast"] = {
        "ratio": spread(minutes["seed", seed] / minutes["fast", seed] for seed in seeds)
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
