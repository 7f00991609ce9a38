"""What each ingredient of the recipe ``fast`` is worth, and each next step from it; several seeds.

    python benchmarks/ablation.py --competition chest-xray-4 --data chest-xray-4.zip
        [--of ingredients | next-steps] [--weights tf_efficientnet_lite0-imagenet.safetensors]
        [--runs-dir runs/ablation]

Each variant is ``fast`` but for one setting, trained through its whole schedule; all variants of a
seed have the same split. With the ImageNet weights of timm's tf_efficientnet_lite0, which are
small, that network is tried too, and an epoch of its head alone before the others, or at three
rates, with the soup of these runs. On the CPU as many runs as there are cores train at a time, each
on one of them; on a GPU one after the other. Prints the best macro F1 and AUROC on validation and
the minutes of training, mean and standard deviation over the seeds, the difference of both scores
to ``fast`` within each seed, and after how many epochs each seed had reached the target. With
``--runs-dir`` the runs are kept, and what is finished there is not trained again. Writes
benchmarks/results/.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import joblib
import pandas as pd
from measuring import print_table
from results import save
from time_to_accuracy import train_command, train_until

INGREDIENTS = {
    "fast": "",
    "growing images": "--start-size 64",
    "larger images": "--image-size 128",
    "one cycle": "--schedule onecycle",
    "no averaged weights": "--ema-decay 0",
    "no label smoothing": "--label-smoothing 0",
    "plain sampling": "--no-weighted-sampling",
    "SGD": "--optimizer sgd --lr 0.02 --weight-decay 0.0005",
    "mixup": "--mixup 0.2",
}
SHORT = "--image-size 64 --epochs 4"
NEXT_STEPS = {
    "fast": SHORT,
    "Laplacian pyramid": f"{SHORT} --laplacian 1",
    "three channels": f"{SHORT} --channels rgb",
    "batches of 128": f"{SHORT} --accumulate 4",
    "twice the epochs": "--image-size 64 --epochs 8",
    "ResNet-34": f"{SHORT} --arch resnet34",
    "MobileNetV3": f"{SHORT} --arch mobilenet_v3_large",
    "weights of 2 epochs averaged": f"{SHORT} --swa-epochs 2",
}
"""What the kit's origin listed as to be tried next, on small images and for a few epochs."""
NETWORK = "--arch timm:tf_efficientnet_lite0 --weights {}"
PRETRAINED = {
    "ingredients": {
        "pretrained": NETWORK,
        "frozen body first": f"{NETWORK} --stages 'head:0.005:1 all:0.001:5'",
    },
    "next-steps": {
        "pretrained": f"{NETWORK} {SHORT}",
        "pretrained, half the rate": f"{NETWORK} {SHORT} --lr 0.0005",
        "pretrained, twice the rate": f"{NETWORK} {SHORT} --lr 0.002",
    },
}
"""With the weights, and without the network of ``fast``."""
SOUP = "soup of these three"
_SCORES = {"macro_f1": "macro_f1", "auroc": "macro_auroc"}
"""Scores of ``metrics.csv`` by what they are called in ``metrics.json``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competition", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--of", choices=PRETRAINED, default="ingredients")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--runs-dir", type=Path, help="where the runs are kept")
    parser.add_argument("--target", type=float, default=0.85, help="macro F1 on validation")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    variants = dict(INGREDIENTS if args.of == "ingredients" else NEXT_STEPS)
    if args.weights:
        for name, flags in PRETRAINED[args.of].items():
            variants[name] = flags.format(shlex.quote(str(args.weights.resolve())))
    cpus, alone = joblib.cpu_count(), args.device != "cpu"
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(1 if alone else cpus) as pool:

        def place(name: str, seed: int) -> Path:
            plain = name.lower().replace(",", "").replace(" ", "-")
            return (args.runs_dir or Path(scratch)).resolve() / f"{plain}-{seed}"

        def train(name: str, seed: int) -> pd.DataFrame:
            run = place(name, seed)
            if (run / "finished.json").is_file():
                return pd.read_csv(run / "metrics.csv")
            run.parent.mkdir(parents=True, exist_ok=True)
            command = train_command(args.competition, args.data, run, args.device)
            command += ["--recipe", "fast", "--seed", str(seed), *shlex.split(variants[name])]
            command += ["--overwrite"]
            return train_until(float("inf"), command, run, cpus if alone else 1)

        waiting = {
            (name, seed): pool.submit(train, name, seed)
            for seed in range(args.seeds)
            for name in variants
        }
        epochs = {key: task.result() for key, task in waiting.items()}
        if args.weights and args.of == "next-steps":
            variants[SOUP] = ""
            for seed in range(args.seeds):
                runs = [place(name, seed) for name in PRETRAINED[args.of]]
                three = pd.concat([epochs[name, seed] for name in PRETRAINED[args.of]])
                epochs[SOUP, seed] = cook(runs, place(SOUP, seed), three, args.device)
    judged = {key: judged_rows(table) for key, table in epochs.items()}
    scores = {
        "F1": {key: table["val_macro_f1"].max() for key, table in judged.items()},
        "AUROC": {key: table["val_auroc"].max() for key, table in judged.items()},
    }
    minutes = {key: table["seconds"].sum() / 60 for key, table in epochs.items()}
    heads = ["macro F1", "to fast", "AUROC", "to fast", "minutes", f"epochs to {args.target:g}"]
    lines = [["", *heads]]
    figures: dict[str, dict[str, list[float | None]]] = {}
    seeds = range(args.seeds)
    for name in variants:
        columns = {}
        for score, best in scores.items():
            columns[score] = [best[name, seed] for seed in seeds]
            columns[f"{score} to fast"] = [best[name, seed] - best["fast", seed] for seed in seeds]
        columns["minutes"] = [minutes[name, seed] for seed in seeds]
        taken = [epochs_to(args.target, epochs[name, seed]) for seed in seeds]
        figures[name] = {**columns, "epochs to target": taken}
        line = [name, *(mean_and_deviation(values) for values in columns.values())]
        lines.append([*line, ", ".join("never" if n is None else f"{n}" for n in taken)])
    print_table(lines)
    save("ablation" if args.of == "ingredients" else "next_steps", figures)


def cook(runs: list[Path], soup: Path, epochs: pd.DataFrame, device: str) -> pd.DataFrame:
    """The soup of ``runs`` as one row of ``metrics.csv``, with the time and the epochs of all."""
    command = [sys.executable, "-m", "xraycomp.soup", "--runs", *map(str, runs)]
    command += ["--name", soup.name, "--runs-dir", str(soup.parent), "--overwrite"]
    command += ["--submissions-dir", str(soup.parent), "--device", device]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    overall = json.loads((soup / "metrics.json").read_text(encoding="utf-8"))["overall"]
    row = {"epoch": len(epochs), "seconds": epochs["seconds"].sum()}
    scores = {f"val_{name}": overall[of]["value"] for name, of in _SCORES.items()}
    return pd.DataFrame([{**row, **scores}])


def judged_rows(epochs: pd.DataFrame) -> pd.DataFrame:
    """All epochs; where weights were averaged at the end, that average, though the run may have
    kept a better epoch."""
    averaged = epochs.get("swa_epochs")
    return epochs if averaged is None else epochs[averaged > 0]


def epochs_to(target: float, epochs: pd.DataFrame) -> int | None:
    """The first epoch whose macro F1 on validation has reached the target."""
    reached = epochs["epoch"][epochs["val_macro_f1"] >= target]
    return int(reached.iloc[0]) if len(reached) else None


def mean_and_deviation(values: list[float]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


if __name__ == "__main__":
    sys.exit(main())
