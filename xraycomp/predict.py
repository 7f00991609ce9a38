"""python -m xraycomp.predict: run(s) + images -> one probability table."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from xraycomp.console.command import parse_flags, refuse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.data.files import write_csv
from xraycomp.data.labels import decode_targets
from xraycomp.data.predictions import ID, probability_table
from xraycomp.job.evidence import read_reference
from xraycomp.job.held_out import predict_folds
from xraycomp.job.images import open_images
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.prior_shift import format_shift, reestimate
from xraycomp.judging.thresholds import Thresholds, hard_labels
from xraycomp.model.checkpoint import load_best
from xraycomp.model.device import choose_device
from xraycomp.model.inference import predict_split
from xraycomp.model.run import RunFolder
from xraycomp.model.views import check_views

log = logging.getLogger("xraycomp.predict")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.predict"
HELP = Help(
    examples=(
        "--runs runs/NAME --split test",
        "--runs runs/A runs/B --images my-images/ --output mean.csv",
        "--runs runs/NAME --split test --calibrated --output calibrated.csv",
    ),
    first="runs split images output called calibrated tta",
    groups={
        "Another mix of classes": "prior_shift",
        "Labels": "thresholds",
        "Machine": "device batch_size workers skip_broken",
    },
)


@dataclass(frozen=True)
class PredictConfig:
    """Write one probability table: a run's, or the mean of several runs', over any images."""

    runs: tuple[Path, ...]
    """Run folders, one or several, whose probabilities are averaged; that of all folds averages
    them too, but for val, where each image is predicted by the fold that has not learned it."""
    split: str = "test"
    """Split of the runs' own data to predict: train, val or test."""
    images: Path | None = None
    """Predict this folder of images (or one image) instead of a split."""
    output: Path | None = None
    """The table's path. Default: predictions/<split>.csv in the run; needed for several runs."""
    called: Path | None = None
    """Also write a table of what each image is called; the most probable class, or every finding
    from its threshold on (the run's, or --thresholds)."""
    thresholds: Path | None = None
    """The thresholds.json for --called, such as one that evaluate chose for an ensemble. They are
    for probabilities as predicted, from which findings are called whatever is written: neither
    --calibrated nor --prior-shift changes that."""
    calibrated: bool = False
    """Write probabilities at the run's temperature; of several runs, each at its own before they
    are averaged."""
    prior_shift: bool = False
    """Correct for a mix of classes that differs from that of the run's validation split, estimated
    from these images (Saerens et al. 2002), and show it; this calibrates, too."""
    tta: tuple[str, ...] = ()
    """Average over each image and named views of it: mirror; zoom, nearer by 8/7; whole, without
    the crop; left and right, turned by 5 degrees."""
    batch_size: int | None = None
    """Images at a time; changes the speed, not the result. Default: as in training."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    workers: int | None = None
    """Threads that decode images. Default: all CPUs."""
    skip_broken: bool = False
    """Leave out images of --images that do not decode, instead of stopping."""


def predict(config: PredictConfig) -> Path:
    """Do what ``config`` describes and return the path of the table.

    Raises ``UserError`` for everything that the user can mend.
    """
    if not config.runs:
        raise UserError("No run was given. Name at least one with --runs runs/NAME.")
    check_views(config.tta)
    if config.batch_size is not None and config.batch_size < 1:
        raise UserError(f"--batch-size is {config.batch_size}; it must be at least 1.")
    if config.prior_shift:
        refuse_flags(config, {"calibrated"}, "--prior-shift, which calibrates in its own way")
    runs = [RunFolder.open(path) for path in config.runs]
    competition = runs[0].competition()
    classes = competition.classes
    for run in runs[1:]:
        if run.competition().classes != classes:
            raise UserError(
                f"{run.path} and {runs[0].path} have different classes. "
                "Predict with each by itself."
            )
    output = config.output or _default_output(config, runs)
    # All that is needed is read now: an error after an hour of predicting would come late.
    temperatures = [Calibration.read(run.path) for run in runs] if config.calibrated else []
    references = [read_reference(run) for run in runs] if config.prior_shift else []
    limits = None
    if config.called and competition.multilabel:
        if len(runs) > 1 and not config.thresholds:
            raise UserError(
                "The thresholds of one run do not fit the mean of several. Choose some with "
                "python -m xraycomp.evaluate, and name them with --thresholds."
            )
        limits = Thresholds.read(config.thresholds or runs[0].path, classes).limits
    device = choose_device(config.device)
    with tempfile.TemporaryDirectory(prefix="xraycomp-") as scratch:
        tables = [_predict_run(run, config, device, Path(scratch)) for run in runs]
    images = tables[0][ID]
    for run, table in zip(runs[1:], tables[1:], strict=True):
        if not table[ID].equals(images):
            raise UserError(
                f"{run.path} and {runs[0].path} do not hold the same {config.split} images. "
                "Predict with each by itself."
            )
    each = [table[list(classes)].to_numpy() for table in tables]
    plain = written = np.mean(each, axis=0)
    if temperatures:
        for run, calibration in zip(runs, temperatures, strict=True):
            log.info("%s: %s.", run.path, calibration)
        at = zip(temperatures, each, strict=True)
        changed = [one.apply(probs, multilabel=competition.multilabel) for one, probs in at]
        written = np.mean(changed, axis=0)
    if references:
        fitting = [one.apply(probs) for one, probs in zip(references, each, strict=True)]
        shares = np.mean([one.shares for one in references], axis=0)
        shift = reestimate(np.mean(fitting, axis=0), shares, multilabel=competition.multilabel)
        log.info("\n%s\n", format_shift(classes, plain, shares, shift))
        written = shift.probs
    write_csv(output, probability_table(list(images), written, classes))
    log.info("Wrote %s: %s images.", output, f"{len(images):,}")
    if config.called:
        judged = plain if competition.multilabel else written
        called = decode_targets(hard_labels(judged, limits), classes)
        write_csv(config.called, pd.DataFrame({ID: images, "label": called}))
        log.info("Wrote %s: what they are called.", config.called)
    return output


def _default_output(config: PredictConfig, runs: list[RunFolder]) -> Path:
    if config.calibrated or config.prior_shift:
        raise UserError(
            "Say where the table shall go with --output FILE.csv. The run's own tables stay as it "
            "predicted, since temperature and thresholds are for those."
        )
    if len(runs) > 1 or config.images:
        raise UserError(
            "Say where the table shall go with --output FILE.csv, since it belongs to no single "
            "split of one run."
        )
    return runs[0].predictions_path(config.split)


def _predict_run(
    run: RunFolder, config: PredictConfig, device: torch.device, scratch: Path
) -> pd.DataFrame:
    images = open_images(
        run,
        config.split,
        config.images,
        scratch,
        workers=config.workers,
        skip_broken=config.skip_broken,
    )
    options: dict[str, Any] = {"batch_size": config.batch_size, "tta": config.tta}
    if run.folds():
        return predict_folds(run, images.dataset, images.split, device, **options)
    model = load_best(run, device)
    return predict_split(model, images.dataset, images.split, run.config(), **options)


def main(args: Sequence[str]) -> None:
    """Read the flags and predict."""
    predict(parse_flags(PredictConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
