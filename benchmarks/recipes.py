"""A competition's recipe against the plain seed recipe, in the same time on the same images.

    python benchmarks/recipes.py --competition chest-xray-4 --data chest-xray-4.zip --minutes 20

The seed recipe is that of the kit's origin: ResNet-18 from scratch at 224 px, SGD with momentum at
a constant rate, cross-entropy, weighted sampling, centre crop and horizontal flip; its best epoch
by validation counts. Both run at the same time, each on its half of the cores, so that they share
whatever the machine does; both are judged on the same validation split. Writes benchmarks/results/.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from measuring import print_table
from results import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competition", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    args = parser.parse_args()
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    common = ["--competition", args.competition, "--data", str(args.data), "--overwrite"]
    common += ["--time-limit", str(args.minutes)]
    processes = {}
    for name, flags in {"recipe": [], "seed": ["--recipe", "seed", "--epochs", "1000"]}.items():
        run = f"benchmark-{args.competition}-{name}"
        command = [sys.executable, "-m", "xraycomp.train", *common, "--name", run, *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        log = Path(f"{run}.log").open("w")  # noqa: SIM115 - the child writes it to its end
        processes[run] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    exit_codes = [process.wait() for process in processes.values()]
    if any(exit_codes):
        sys.exit(f"A run failed; see {', '.join(f'{run}.log' for run in processes)}.")
    print(f"{args.competition}, validation split; {args.minutes:g} minutes on {threads} thread(s)")
    rows = [["", "accuracy", "macro F1"]]
    table = {}
    for run in processes:
        overall = json.loads(Path("runs", run, "metrics.json").read_text())["overall"]
        table[run] = {name: overall[name] for name in ("accuracy", "macro_f1", "macro_auroc")}
        cells = [
            f"{entry['value']:.4f} ({entry['low']:.4f}-{entry['high']:.4f})"
            for entry in (overall["accuracy"], overall["macro_f1"])
        ]
        rows.append([run, *cells])
    print_table(rows)
    save("recipes", table)


if __name__ == "__main__":
    main()
