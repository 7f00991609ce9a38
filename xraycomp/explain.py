"""python -m xraycomp.explain: a run and images -> heat maps, and whether they point at findings."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError, listing
from xraycomp.console.help import Help
from xraycomp.data.boxes import read_boxes
from xraycomp.data.competition import Competition
from xraycomp.job.explaining import call_images, explain_maps
from xraycomp.job.held_out import all_folds, draw_held_out, load_networks, predict_folds
from xraycomp.job.images import open_images
from xraycomp.job.page import write_own_page
from xraycomp.judging.thresholds import Thresholds
from xraycomp.model.checkpoint import load_best
from xraycomp.model.device import choose_device
from xraycomp.model.heatmaps import DEFAULT, Method, map_layer, map_pairs
from xraycomp.model.inference import predict_split
from xraycomp.model.run import RunFolder

log = logging.getLogger("xraycomp.explain")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.explain"
HELP = Help(
    examples=(
        "--run runs/NAME",
        "--run runs/NAME --split test --method gradcam --n 48",
        "--run runs/NAME --images my-images/ --classes Mass Nodule --output maps/",
    ),
    first="run split images classes method n output full_size",
    groups={"Machine": "device batch_size workers skip_broken"},
)


@dataclass(frozen=True)
class ExplainConfig:
    """Draw heat maps: where in an image a run's network sees what speaks for a class.

    Of a split, the run's most confident errors and typical hits are drawn, and where the
    competition has boxes around its findings, all maps of boxed images are measured against them.
    """

    run: Path
    """Run folder whose best weights are explained; of all folds, those that have not learned the
    image."""
    split: str = "val"
    """Split of the run's own data: train, val or test."""
    images: Path | None = None
    """Explain this folder of images (or one image) instead of a split."""
    classes: tuple[str, ...] = ()
    """Classes to explain. Default: all; of --images, what each image is called."""
    method: Method = DEFAULT
    """How maps are made: gradcam++, gradcam, or attention for networks that pool by it."""
    n: int = 24
    """Maps to draw of a split, about half of them errors."""
    output: Path | None = None
    """Folder for the maps; replaced if it exists. Default: explain/<split> in the run; needed for
    --images."""
    full_size: bool = False
    """Also write maps and overlays in the size of the image files."""
    batch_size: int | None = None
    """Images at a time; changes the speed, not the result. Default: as in training."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    workers: int | None = None
    """Threads that decode images. Default: all CPUs."""
    skip_broken: bool = False
    """Leave out images of --images that do not decode, instead of stopping."""


def explain(config: ExplainConfig) -> Path:
    """Do what ``config`` describes and return the folder of the maps.

    Raises ``UserError`` for everything that the user can mend.
    """
    run = RunFolder.open(config.run)
    trained, competition = run.config(), run.competition()
    classes, output = competition.classes, _output(config, run)
    _check(config, competition)
    device = choose_device(config.device)
    folds = run.folds()
    if folds and (config.images or config.split != "val"):
        raise UserError(
            f"{run.path} has {trained.folds} networks, of which none speaks for all. "
            f"Explain one of them: --run {next(iter(folds.values())).path}"
        )
    model = load_best(next(iter(folds.values()), run), device)
    map_layer(model, trained, config.method)  # refuses before images are decoded
    with tempfile.TemporaryDirectory(prefix="xraycomp-") as scratch:
        images = open_images(
            run,
            config.split,
            config.images,
            Path(scratch),
            workers=config.workers,
            skip_broken=config.skip_broken,
        )
        source, dataset, split = images.source, images.dataset, images.split
        if not config.images and run.predictions_path(split).is_file():
            table = run.predictions(split)
        elif folds:
            table = predict_folds(run, dataset, split, device, batch_size=config.batch_size)
        else:
            table = predict_split(model, dataset, split, trained, batch_size=config.batch_size)
        thresholds = Thresholds.read(run.path, classes) if competition.multilabel else None
        called = call_images(dataset, split, table, thresholds)
        boxes = read_boxes(competition, source.root, dataset.manifest["image"])
        if config.images:
            pairs = called.asked(config.classes)
        else:
            pairs = called.worth_seeing(config.n, config.classes, boxes)
        options: dict[str, Any] = {"method": config.method, "batch_size": config.batch_size}
        if folds:
            networks = load_networks(all_folds(run))
            maps = draw_held_out(networks, dataset, trained, device, **options)(pairs)
        else:
            maps = map_pairs(model, dataset, pairs, trained, **options, desc="Explain")
        about: dict[str, Any] = {"split": split, "method": config.method}
        files = explain_maps(output, maps, source, boxes, **about, full_size=config.full_size)
    log.info("Wrote %s: %s.", output, ", ".join(files))
    if config.output is None:
        log.info("Wrote %s anew.", write_own_page(run))
    return output


def _output(config: ExplainConfig, run: RunFolder) -> Path:
    if config.output is None:
        if config.images:
            raise UserError("Say where the maps of --images shall go with --output FOLDER.")
        return run.path / "explain" / config.split
    there = config.output
    if (
        there.exists()
        and not (there / "maps.csv").is_file()
        and (not there.is_dir() or any(there.iterdir()))
    ):
        raise UserError(f"{there} holds something else than heat maps. Choose another --output.")
    return there


def _check(config: ExplainConfig, competition: Competition) -> None:
    if config.n < 1:
        raise UserError(f"--n is {config.n}; it must be at least 1.")
    if config.batch_size is not None and config.batch_size < 1:
        raise UserError(f"--batch-size is {config.batch_size}; it must be at least 1.")
    if unknown := [name for name in config.classes if name not in competition.classes]:
        raise UserError(
            f"{config.run} has no class {listing(unknown)}. It has: "
            f"{listing(competition.classes, 20)}."
        )


def main(args: Sequence[str]) -> None:
    """Read the flags and explain."""
    explain(parse_flags(ExplainConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
