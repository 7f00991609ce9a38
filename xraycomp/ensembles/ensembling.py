"""From several members to the folder of an ensemble: tables, scores, what each adds, submission."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xraycomp.console.errors import UserError
from xraycomp.data.files import atomic_folder, write_csv, write_json
from xraycomp.data.predictions import labelled_rows, probability_table
from xraycomp.data.submission import write_submission
from xraycomp.ensembles.member_tables import Members
from xraycomp.job.asked import run_ids
from xraycomp.judging.combining import (
    FITTED,
    Combination,
    Method,
    fit_combination,
)
from xraycomp.judging.ensemble import judge_ensemble
from xraycomp.judging.ensemble_table import format_ensemble
from xraycomp.judging.results import Results, write_results

log = logging.getLogger(__name__)

ENSEMBLE = "ensemble.json"


@dataclass(frozen=True)
class Ensemble:
    """What an ensemble has left behind."""

    path: Path
    report: dict[str, Any]
    """As in its ``ensemble.json``."""


def ensemble(
    members: Members,
    output: Path,
    *,
    method: Method = "mean",
    overwrite: bool = False,
    resamples: int = 1000,
) -> Ensemble:
    """Combine the members, show what that is worth, and write the folder ``output``.

    It holds ``ensemble.json`` (method, members with the SHA-256 of their tables, what was learned,
    all scores), ``predictions/val.csv`` (cross-fitted where the method learns),
    ``predictions/test.csv`` and ``submission.csv`` where there are test images, and what
    `write_results` leaves: so it can be judged as a run can. All of it, or nothing.

    Raises ``UserError`` where ``output`` holds something else, and for members that do not fit.
    """
    check_output(output, overwrite=overwrite)
    asked = (members.targets, members.probs)
    report, probs = judge_ensemble(
        members.competition,
        *asked,
        members.names,
        members.judged_on,
        groups=members.groups,
        method=method,
        criterion=members.criterion,
        resamples=resamples,
    )
    for remark in members.remarks:
        log.info(remark)
    log.info("\n%s\n", format_ensemble(report))
    fitted = fit_combination(method, *asked, members.limits)
    if "weights" in fitted.learned:
        pairs = zip(members.names, fitted.learned["weights"], strict=True)
        log.info("Weights: %s.\n", ", ".join(f"{weight:.3f} {name}" for name, weight in pairs))
    scores = report["members"]
    report |= {
        "classes": list(members.competition.classes),
        "learned": fitted.learned,
        "members": [one | scores[one["name"]] for one in members.described()],
    }
    with atomic_folder(output) as folder:
        names = [ENSEMBLE, *_write(folder, members, method, probs, fitted)]
        write_json(folder / ENSEMBLE, report)
        shutil.rmtree(output, ignore_errors=True)
    log.info("Wrote %s: %s.", output, ", ".join(names))
    if "submission.csv" in names and members.run:
        log.info(
            "Send it with: python -m xraycomp.submit --run %s --check %s --judged %s --message %s "
            "--send",
            members.run.path,
            output / "submission.csv",
            output,
            output.name,
        )
    return Ensemble(output, report)


def check_output(output: Path, *, overwrite: bool) -> None:
    """Raise ``UserError`` where ``output`` holds something that is not to be replaced."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output} is a file. Name a folder.")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not (output / ENSEMBLE).is_file():
        raise UserError(f"{output} holds files and is no ensemble. Give another --output.")
    if not overwrite:
        raise UserError(
            f"{output} holds an earlier ensemble. Replace it with --overwrite, or give another "
            "--output."
        )


def _write(
    folder: Path,
    members: Members,
    method: Method,
    probs: NDArray[np.float64],
    fitted: Combination,
) -> list[str]:
    """Write tables, judgement and submission into ``folder``; return their names.

    ``probs`` are those of the labelled images, as they were judged.
    """
    competition, classes = members.competition, members.competition.classes
    # Of a vote half is called, as in the table of all methods.
    own = competition.multilabel and method != "vote"
    criterion = members.criterion if own else None
    write_csv(folder / "predictions" / "val.csv", probability_table(members.images, probs, classes))
    judged_on = members.judged_on
    if method in FITTED or (method == "vote" and competition.multilabel):
        judged_on += f", {method} cross-fitted"
    results = write_results(
        folder, competition, members.targets, probs, judged_on, thresholds=criterion
    )
    names = ["predictions/val.csv", *results.files]
    if members.test_probs is not None:
        names += _write_test(folder, members, fitted.combine(members.test_probs), results)
    return names


def _write_test(
    folder: Path, members: Members, probs: NDArray[np.float64], results: Results
) -> list[str]:
    """The test table, and its judgement or submission where there are labels or ids."""
    competition, run = members.competition, members.run
    table = probability_table(list(members.test_images), probs, competition.classes)
    write_csv(folder / "predictions" / "test.csv", table)
    names = ["predictions/test.csv"]
    if run is None:
        return names
    manifest = run.manifest()
    targets, known = labelled_rows(manifest, "test", table, competition.classes)
    if len(targets):
        judged_on = run.config().split_plan().describe("test", manifest)
        options: dict[str, Any] = {"thresholds": results.thresholds}
        options["calibration"] = results.calibration
        found = write_results(folder / "test", competition, targets, known, judged_on, **options)
        names += [f"test/{name}" for name in found.files]
    if competition.submission:
        write_submission(folder / "submission.csv", competition, table, run_ids(run))
        names.append("submission.csv")
    return names
