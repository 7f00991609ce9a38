"""python -m xraycomp.evaluate: probabilities + truth -> metrics, ROC curves, confusion matrix."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from xraycomp.console.command import parse_flags, refuse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.data.competition import Competition
from xraycomp.data.files import write_json
from xraycomp.data.matching import Reading
from xraycomp.job.evidence import (
    Evidence,
    find_films,
    read_reference,
    read_split,
    read_tables,
)
from xraycomp.job.page import write_own_page
from xraycomp.judging.calibration import Calibration
from xraycomp.judging.comparison import COMPARISON, compare, same_images
from xraycomp.judging.comparison_table import format_comparison
from xraycomp.judging.doubts import doubt_labels, format_doubts, pool_held_out, write_doubts
from xraycomp.judging.metrics import PHANTOMS, judge
from xraycomp.judging.prior_shift import show_shift
from xraycomp.judging.results import write_results
from xraycomp.judging.slices import (
    RESAMPLES,
    SLICES,
    check_slices,
    format_slices,
    judge_slices,
)
from xraycomp.judging.table import format_table
from xraycomp.judging.thresholds import Criterion, Thresholds, named_criterion
from xraycomp.model.run import RunFolder

log = logging.getLogger("xraycomp.evaluate")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.evaluate"
HELP = Help(
    examples=(
        "--run runs/NAME",
        "--predictions mean.csv --labels truth.csv --output results/",
        "--compare runs/A runs/B",
        "--doubts runs/FOLD0 runs/FOLD1 --output doubts/",
    ),
    first="run split predictions labels output compare slices doubts thresholds metric intervals",
    groups={
        "Reading the tables": "columns classes label_column prediction_id label_id separator "
        "none task",
        "Images": "image_list split_name",
        "Another mix of classes": "prior_shift",
        "Thresholds": "threshold_criterion sensitivity",
    },
)

_FOR_TABLES = {field.name for field in fields(Reading)}
"""Flags that say how to read tables, of which a run knows everything."""

_FOR_ONE = {
    *("run", "predictions", "thresholds", "threshold_criterion", "sensitivity", "prior_shift"),
    *("slices", "intervals"),
}
"""Flags that say how the predictions of one are judged."""


@dataclass(frozen=True)
class EvaluateConfig(Reading):
    """Judge a run's predictions of a labelled split, or any table of predictions by any labels;
    compare two; find labels that may be wrong."""

    run: Path | None = None
    """The run folder whose competition and labels are used."""
    split: str = "val"
    """The labelled split of the run to judge: val, train or test."""
    predictions: Path | None = None
    """Another probability table of that split, or of --labels. Default: the run's own."""
    labels: Path | None = None
    """Without a run: a CSV table that says which classes each image has; in a column of names
    (parted by --separator) or indices, or in a column of 0 and 1 (nothing or -1: unknown) a
    class."""
    thresholds: Path | None = None
    """The thresholds.json at which findings are called. Default: chosen on a run's val split; kept
    for its other splits; 0.5 without a run."""
    threshold_criterion: Literal["", "f1", "youden", "sensitivity"] = ""
    """Choose thresholds anew on these images: for the best F1, the best sensitivity + specificity
    (youden), or the highest that reach --sensitivity. Default: as the run was trained."""
    sensitivity: float = 0.95
    """Share of a finding's images that are to be called, for --threshold-criterion sensitivity."""
    prior_shift: bool = False
    """Also show the figures with probabilities corrected for the mix of classes of these images, as
    predict --prior-shift does; needs a run."""
    compare: tuple[Path, ...] = ()
    """Two runs (with --labels: tables) of which the second may be better; it is asked on the same
    images, with intervals of the differences and McNemar's test."""
    slices: tuple[str, ...] = ()
    """Columns whose slices of a run's images are shown, such as view sex age. Default: all."""
    doubts: tuple[Path, ...] = ()
    """Runs, such as all folds, that contradict labels of what they held out; each image is judged
    only by runs that have not learned it. The labels are listed with their films."""
    intervals: bool = True
    """Give every figure its 95 % interval; without, only where there is a formula, and fast."""
    output: Path | None = None
    """Folder for the results. Default: the run folder for its own val predictions; without a run
    they are only shown."""


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Do what ``config`` describes and return the report, or what else was found.

    Raises ``UserError`` for a missing split, unlabelled images, images without a prediction, and
    tables that do not fit each other.
    """
    if config.compare:
        return _compare(config)
    if config.doubts:
        return _doubt(config)
    wished = config.sensitivity != EvaluateConfig.sensitivity
    if wished and config.threshold_criterion != "sensitivity":
        raise UserError(
            "--sensitivity is for --threshold-criterion sensitivity. Give both, or leave it out."
        )
    if config.run is not None and config.labels is not None:
        raise UserError("Give --run, which has its labels, or --labels, not both.")
    if config.run is not None:
        refuse_flags(config, _FOR_TABLES, "--run, which settles that")
        return _judge_run(config, RunFolder.open(config.run))
    if config.labels is not None and config.predictions is not None:
        refuse_flags(config, {"split", "slices", "prior_shift"}, "--labels")
        given = read_tables(config.predictions, config.labels, config)
        for remark in given.remarks:
            log.info(remark)
        return _judge(config, given, config.output, _thresholds(config, given.competition))
    raise UserError("Say what to judge: --run RUN, or --predictions P.csv --labels L.csv.")


def _judge_run(config: EvaluateConfig, run: RunFolder) -> dict[str, Any]:
    split, folder = config.split, config.output
    if config.predictions:
        refuse_flags(config, {"prior_shift"}, "--predictions, since it starts from the run's own")
    given = read_split(run, split, config.predictions)
    if folder is None and (config.predictions or split != "val"):
        raise UserError("Say where the results shall go with --output FOLDER.")
    if config.threshold_criterion and split != "val":
        raise UserError(
            f"--threshold-criterion is for the val split; on {split} findings are called as that "
            "one has chosen. Leave it out."
        )
    trained, competition = run.config(), given.competition
    thresholds = _thresholds(config, competition)
    if split != "val":
        thresholds = thresholds or _read_thresholds(run.path, competition)
    elif not thresholds:
        thresholds = named_criterion(trained.threshold_criterion, trained.sensitivity)
    # What others predict has not the run's temperature.
    own = split != "val" and not config.predictions
    calibration = Calibration.read(run.path) if own else None
    reference = read_reference(run) if config.prior_shift else None
    report = _judge(config, given, folder or run.path, thresholds, calibration)
    if reference:
        shown = (competition, given.targets, given.probs, reference, report)
        log.info("%s\n", show_shift(*shown))
        if split == "val":
            log.info("The correction was fitted on these images: it looks too good on them.\n")
    if folder is None:
        log.info("Wrote %s anew.", write_own_page(run))
    return report


def _judge(
    config: EvaluateConfig,
    given: Evidence,
    folder: Path | None,
    thresholds: Thresholds | Criterion | None,
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Judge the evidence, show it, and leave the results in ``folder`` if there is one."""
    asked = (given.competition, given.targets, given.probs, given.judged_on)
    resamples = 1000 if config.intervals else 0
    if given.slice_by is not None:
        check_slices(config.slices, given.slice_by.columns)
    if folder is None:
        given_thresholds = thresholds if isinstance(thresholds, Thresholds) else None
        report = judge(*asked, thresholds=given_thresholds, resamples=resamples)
        log.info("\n%s\n", format_table(report))
        return report
    results = write_results(
        folder, *asked, thresholds=thresholds, calibration=calibration, resamples=resamples
    )
    files = list(results.files)
    log.info("\n%s\n", format_table(results.report))
    if given.slice_by is not None:
        slices = judge_slices(
            *asked,
            given.slice_by,
            thresholds=results.thresholds,
            resamples=RESAMPLES if config.intervals else 0,
        )
        write_json(folder / SLICES, slices)
        files.append(SLICES)
        log.info("%s\n", format_slices(slices, config.slices))
    log.info("Wrote %s: %s.", folder, ", ".join(files))
    return results.report


def _compare(config: EvaluateConfig) -> dict[str, Any]:
    refuse_flags(config, {*_FOR_ONE, "doubts"}, "--compare")
    if config.labels:
        refuse_flags(config, {"split"}, "--labels")
    else:
        refuse_flags(config, _FOR_TABLES, "runs, which settle that")
    if len(config.compare) != 2:
        raise UserError(
            f"--compare needs two runs, or two tables of predictions and --labels; "
            f"{len(config.compare)} were given."
        )
    paths, names = config.compare, (str(config.compare[0]), str(config.compare[1]))
    first = _read_one(config, paths[0])
    second = _read_one(replace(config, classes=first.competition.classes), paths[1])
    if first.competition.classes != second.competition.classes:
        raise UserError(f"{names[0]} and {names[1]} have different classes. Judge each by itself.")
    places = same_images(names, (first.images, second.images), (first.targets, second.targets))
    kept = [None if config.labels else _read_thresholds(p, first.competition) for p in paths]
    comparison = compare(
        first.competition,
        first.targets,
        (first.probs, second.probs[places]),
        names,
        first.judged_on,
        thresholds=(kept[0], kept[1]),
    )
    log.info("\n%s\n", format_comparison(comparison))
    if config.output:
        write_json(config.output / COMPARISON, comparison)
        log.info("Wrote %s.", config.output / COMPARISON)
    return comparison


def _read_one(config: EvaluateConfig, path: Path) -> Evidence:
    """One of two that are compared."""
    if config.labels:
        return read_tables(path, config.labels, config)
    if path.is_file():
        raise UserError(f"{path} is a table. Name the table of the labels with --labels.")
    return read_split(RunFolder.open(path), config.split)


def _doubt(config: EvaluateConfig) -> dict[str, Any]:
    refuse_flags(config, {*_FOR_ONE, *_FOR_TABLES, "labels"}, "--doubts")
    if config.split == "train":
        raise UserError("The runs have learned the labels of --split train. Choose val or test.")
    runs = [RunFolder.open(path) for path in config.doubts]
    # Those of the val split alone are the run's own, which its page shows.
    own = len(runs) == 1 and config.split == "val"
    folder = config.output or (runs[0].path if own else None)
    if folder is None:
        what = "several runs" if len(runs) > 1 else f"the {config.split} split"
        raise UserError(f"Say where the doubts of {what} shall go with --output FOLDER.")
    parts = [read_split(run, config.split) for run in runs]
    competition = parts[0].competition
    if any(part.competition.classes != competition.classes for part in parts):
        raise UserError("The runs have different classes. Take those of one competition's folds.")
    images, targets, probs = pool_held_out([(p.images, p.targets, p.probs) for p in parts])
    one_class = not competition.multilabel
    doubts = doubt_labels(images, targets, probs, competition.classes, one_class=one_class)
    log.info("\n%s\n", format_doubts(doubts))
    title = f"{competition.slug}: labels to look at again, of {len(images):,} images"
    note = PHANTOMS if competition.drawn else None
    files = write_doubts(folder, doubts, find_films(runs), title, note)
    log.info("Wrote %s: %s.", folder, ", ".join(files))
    if config.output is None:
        log.info("Wrote %s anew.", write_own_page(runs[0]))
    return {"n": len(images), "doubts": len(doubts)}


def _thresholds(config: EvaluateConfig, competition: Competition) -> Thresholds | Criterion | None:
    """What the flags say of thresholds, if anything."""
    if not config.threshold_criterion:
        return _read_thresholds(config.thresholds, competition) if config.thresholds else None
    refuse_flags(config, {"thresholds"}, "--threshold-criterion")
    if not competition.multilabel:
        raise UserError(
            "--threshold-criterion is for findings; here an image has one class and is called the "
            "most probable one. Leave it out."
        )
    if config.run is None and config.output is None:
        raise UserError("Say with --output FOLDER where the chosen thresholds.json shall go.")
    return named_criterion(config.threshold_criterion, config.sensitivity)


def _read_thresholds(path: Path, competition: Competition) -> Thresholds | None:
    return Thresholds.read(path, competition.classes) if competition.multilabel else None


def main(args: Sequence[str]) -> None:
    """Read the flags and evaluate."""
    evaluate(parse_flags(EvaluateConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
