"""A pretrained body against the same network from scratch, over several seeds.

    python benchmarks/transfer.py --data nih-chest-xrays.zip --weights lite0.safetensors

Trains both on the same images with the same settings, each on its half of the cores, one seed
after the other, and prints macro AUROC on the validation split (which chooses the epoch) and on
the labelled test split where there is one: mean and standard deviation over seeds. Writes
benchmarks/results/.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pandas as pd
from measuring import print_table
from results import save

SETTINGS = """
    --arch timm:tf_efficientnet_lite0 --image-size 128 --epochs 4 --no-weighted-sampling
    --optimizer adamw --lr 0.001 --weight-decay 0.05 --schedule onecycle --ema-decay 0
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    table: dict[str, dict[str, list[float]]] = {}
    for seed in range(args.seeds):
        processes = {}
        for name, weights in (("scratch", "none"), ("pretrained", args.weights)):
            run = f"benchmark-transfer-{name}-{seed}"
            command = [sys.executable, "-m", "xraycomp.train", "--data", args.data, "--overwrite"]
            command += ["--weights", weights, "--seed", str(seed), "--name", run, *SETTINGS.split()]
            log = Path(f"{run}.log").open("w")  # noqa: SIM115 - the child writes it to its end
            processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        for name, process in processes.items():
            run = f"benchmark-transfer-{name}-{seed}"
            if process.wait():
                sys.exit(f"A run failed; see {run}.log.")
            row = table.setdefault(name, {"seconds": []})
            row["seconds"].append(pd.read_csv(Path("runs", run, "metrics.csv"))["seconds"].sum())
            for split, path in (("validation", "metrics.json"), ("test", "test/metrics.json")):
                if (file := Path("runs", run, path)).is_file():
                    score = json.loads(file.read_text())["overall"]["macro_auroc"]["value"]
                    row.setdefault(split, []).append(score)
            print(run, {key: round(values[-1], 4) for key, values in row.items()}, flush=True)
    columns = list(next(iter(table.values())))
    rows = [["mean +- standard deviation", *columns]]
    for name, row in table.items():
        cells = (f"{statistics.mean(x):.4f} +- {statistics.stdev(x):.4f}" for x in row.values())
        rows.append([name, *cells])
    print_table(rows)
    save("transfer", table)


if __name__ == "__main__":
    main()
