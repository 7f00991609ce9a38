"""Whether folds, test-time augmentation and several networks beat one network, on unseen images.

    python benchmarks/folds.py --competition chest-xray-4 --data chest-xray-4.zip
        [--weights tf_efficientnet_lite0-imagenet.safetensors] [--runs-dir runs/folds]

A fifth of the labelled images is kept apart for testing; the test images of the competition, which
have no labels, are left aside. On the rest train: each network once with a validation split of its
own, as `train` does by default, and as five folds (``--folds 5``); all by the recipe ``fast``. With
the ImageNet weights of timm's tf_efficientnet_lite0 that network is the second one.

On the test images, which no network has seen and nothing was chosen on, prints macro F1 and AUROC
with 95 % intervals, and the difference to the best single network (chosen on validation) on the
same resamples. With ``--runs-dir`` runs are kept, and what is finished there is not trained again.
Writes benchmarks/results/folds.json.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from measuring import print_table
from numpy.typing import NDArray
from results import save

from xraycomp.data.competition_file import format_competition, load_competition
from xraycomp.data.predictions import labelled_rows, read_predictions
from xraycomp.judging.comparison import compare
from xraycomp.judging.metrics import judge
from xraycomp.model.run import RunFolder

VIEWS = ("mirror", "zoom", "whole")
"""What each image is also seen as, besides as it is."""
FLAGS = ["--recipe", "fast", "--test-fraction", "0.2", "--tta", *VIEWS]
PRETRAINED = ["--arch", "timm:tf_efficientnet_lite0", "--weights"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--competition", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--runs-dir", type=Path, help="where the runs are kept")
    args = parser.parse_args()
    networks = {"fast": list[str]()}
    if args.weights:
        networks["pretrained"] = [*PRETRAINED, str(args.weights.resolve())]
    with TemporaryDirectory() as scratch:
        folder = (args.runs_dir or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        labelled = replace(load_competition(args.competition), test="", submission=None)
        toml = folder / "labelled.toml"
        toml.write_text(format_competition(labelled))
        where = ["--competition", str(toml), "--data", str(args.data.resolve())]
        where += ["--data-dir", str(folder / "data"), "--runs-dir", str(folder)]
        for name, flags in networks.items():
            train(folder / f"{name}-single", [*where, *FLAGS, *flags])
            train(folder / f"{name}-folds", [*where, *FLAGS, *flags, "--folds", str(args.folds)])
        figures = judge_all(folder, list(networks), args.folds)
    save("folds", figures)


def train(run: Path, flags: list[str]) -> None:
    """Train into the folder ``run``, or go on with it, unless it is finished."""
    if not (run / "finished.json").is_file():
        begun = (run / "config.json").is_file()
        given = ["--resume", str(run)] if begun else [*flags, "--name", run.name]
        call("train", *given)


def judge_all(folder: Path, networks: list[str], folds: int) -> dict[str, dict[str, object]]:
    """Print and return what each way of predicting gives on the test images."""
    tables: dict[str, Path] = {}
    for name in networks:
        for run, what in ((f"{name}-single", "one network"), (f"{name}-folds", f"{folds} folds")):
            tables[f"{name}: {what}"] = plain(folder / run)
            tables[f"{name}: {what}, views"] = folder / run / "predictions" / "test.csv"
    if len(networks) > 1:
        together = folder / "together"
        members = [str(folder / f"{name}-folds") for name in networks]
        output = ["--output", str(together), "--overwrite"]
        call("ensemble", "--runs", *members, "--method", "weighted", *output)
        tables["both networks' folds, views, weighted"] = together / "predictions" / "test.csv"
    run = RunFolder.open(folder / f"{networks[0]}-single")
    competition, manifest = run.competition(), run.manifest()

    def known(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        table = read_predictions(path, competition.classes)
        return labelled_rows(manifest, "test", table, competition.classes)

    best = {name: best_score(folder / f"{name}-single") for name in networks}
    reference = f"{max(best, key=best.__getitem__)}: one network"
    lines = [["", "macro F1", f"to {reference}", "AUROC", f"to {reference}"]]
    figures: dict[str, dict[str, object]] = {}
    for name, path in tables.items():
        targets, probs = known(path)
        overall = judge(competition, targets, probs, "test split")["overall"]
        pair = (known(tables[reference])[1], probs)
        names = (reference, name)
        found = compare(competition, targets, pair, names, "test split")["overall"]
        figures[name] = {
            score: {**overall[score], "difference": found[score]["difference"]}
            for score in ("macro_f1", "macro_auroc")
        }
        line = [name]
        for score in ("macro_f1", "macro_auroc"):
            line += [interval(overall[score]), interval(found[score]["difference"], sign="+")]
        lines.append(line)
    print_table(lines)
    return figures


def plain(run: Path) -> Path:
    """The test table of a run that sees each image as it is only."""
    path = run.parent / f"{run.name}-plain.csv"
    call("predict", "--runs", str(run), "--split", "test", "--output", str(path))
    return path


def best_score(run: Path) -> float:
    """The best macro F1 on validation."""
    return float(pd.read_csv(run / "metrics.csv")["val_macro_f1"].max())


def interval(figure: dict[str, float | None], sign: str = "") -> str:
    if figure["low"] is None:  # of the reference to itself
        return ""
    value, low, high = (f"{figure[key]:{sign}.3f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def call(command: str, *flags: str) -> None:
    subprocess.run([sys.executable, "-m", f"xraycomp.{command}", *flags], check=True)


if __name__ == "__main__":
    sys.exit(main())
