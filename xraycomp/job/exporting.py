"""A run as files for the edge: exported, checked on real images, made small, judged and timed."""

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import xraycomp
from xraycomp.console.errors import UserError
from xraycomp.data.commit import source_commit
from xraycomp.data.competition import Competition
from xraycomp.data.decode import load_gray
from xraycomp.data.digests import sha256_file
from xraycomp.data.files import write_json
from xraycomp.job.images import Images, open_images
from xraycomp.judging.calibration import Calibration, fit_temperature
from xraycomp.judging.comparison import compare
from xraycomp.judging.thresholds import Thresholds, choose_thresholds
from xraycomp.model.checkpoint import load_best
from xraycomp.model.export_int8 import quantize
from xraycomp.model.export_onnx import export_onnx, require
from xraycomp.model.export_session import compare_speed, infer_batches, open_session
from xraycomp.model.folding import fold_batch_norm
from xraycomp.model.inference import predict_probs
from xraycomp.model.run import RunFolder

log = logging.getLogger(__name__)

REPORT = "export.json"
NETWORK_BOUND = 1e-3
"""How far a probability may be off the kit's for the same cached image."""
FILE_BOUND = 0.02
"""How far for the same image file: another resize is one gray level off in some pixels."""

_CHECKED = 128  # image files; decoding a whole validation split may take minutes
_CALIBRATED = 256  # images, which show the ranges as well as thousands do


@dataclass(frozen=True)
class Films:
    """A run's validation images, as they are cached and as they are in their files."""

    images: Images
    cached: NDArray[np.uint8]
    """Shape (n, cache_size, cache_size)."""
    targets: NDArray[np.float64]
    """Shape (n, n_classes); 1, 0 and NaN."""

    def from_file(self, row: int) -> NDArray[np.uint8]:
        """One image as its file has it, in gray: (height, width)."""
        place = self.images.dataset.split("val").rows[row]
        path = self.images.source.root / self.images.dataset.manifest["path"].iloc[place]
        return np.asarray(load_gray(path))


def export_run(
    run: RunFolder, output: Path, *, data: Path | None, int8: bool, workers: int | None
) -> dict[str, Any]:
    """Write ``output``, beside it ``<output's stem>.int8.onnx`` if asked for, and ``export.json``.

    Nothing is written where the file does not give what the run gives.

    Parameters
    ----------
    output : the ONNX file
    data : where the run's data lies, if it is not where it was
    int8 : also make a file of 8 bits
    workers : threads that decode images

    Returns the content of ``export.json``: ``files``, ``check``, and with ``int8`` also
    ``accuracy`` and ``speed``.

    Raises ``UserError`` for missing packages, weights, temperature or images, a network that cannot
    be exported, and where the check fails.
    """
    require("onnx", "onnxscript", "onnxruntime")
    if folds := run.folds():
        raise UserError(
            f"{run.path} has {run.config().folds} networks, and a file holds one. Export one of "
            f"them: --run {next(iter(folds.values())).path}"
        )
    competition, calibration = run.competition(), Calibration.read(run.path)
    thresholds = Thresholds.read(run.path, competition.classes) if competition.multilabel else None
    model = load_best(run, torch.device("cpu"))
    films = _open_films(run, data, workers)
    probs = predict_probs(fold_batch_norm(model), films.images.dataset.split("val"), run.config())
    if run.config().tta:
        calibration, thresholds = _of_one_view(films, probs, competition, calibration, thresholds)
    if thresholds:
        # They were chosen on probabilities as predicted; what comes out here is calibrated.
        thresholds = thresholds.calibrated(calibration)
    expected = calibration.apply(probs, multilabel=competition.multilabel)
    metadata = _describe(run, calibration, thresholds)
    small = output.with_name(f"{output.stem}.int8.onnx")
    report: dict[str, Any] = {"run": run.name, "commit": metadata["commit"]}
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=output.parent, prefix=f"{output.name}.", suffix=".tmp"
    ) as folder:
        written = [Path(folder, output.name)]
        export_onnx(model, run.config(), calibration.temperature, written[0], metadata)
        report["check"] = _check(written[0], films, expected)
        if int8:
            written.append(Path(folder, small.name))
            report |= _shrink(written[0], written[1], films, competition, thresholds)
        report["files"] = {path.name: _facts(path) for path in written}
        written.append(Path(folder, REPORT))
        write_json(written[-1], report)
        for path in written:
            path.replace(output.with_name(path.name))
    if not int8:
        small.unlink(missing_ok=True)  # of an earlier export, which the report says nothing of
    return report


def _of_one_view(
    films: Films,
    probs: NDArray[np.float64],
    competition: Competition,
    calibration: Calibration,
    thresholds: Thresholds | None,
) -> tuple[Calibration, Thresholds | None]:
    """Temperature and thresholds fitted anew, since those of the run are for the mean of several
    views of an image, and the file sees one."""
    known = ~np.isnan(films.targets).all(axis=1)
    fitted = films.targets[known], probs[known]
    temperature = fit_temperature(*fitted, multilabel=competition.multilabel)
    calibration = replace(calibration, temperature=temperature)
    if thresholds:
        names, where = competition.classes, thresholds.judged_on
        thresholds = choose_thresholds(*fitted, names, where, thresholds.criterion)
    log.info("The file sees each image once, as it is (no --tta): at %s.", calibration)
    return calibration, thresholds


def _describe(
    run: RunFolder, calibration: Calibration, thresholds: Thresholds | None
) -> dict[str, Any]:
    """What the file says of itself."""
    competition, config = run.competition(), run.config()
    found: dict[str, Any] = {
        "run": run.name,
        "task": competition.task,
        "classes": list(competition.classes),
        "temperature": calibration.temperature,
        "arch": config.arch,
        "image_size": config.image_size,
        "best.pt": sha256_file(run.best),
        "commit": source_commit() or "unknown",
        "xraycomp": xraycomp.__version__,
    }
    return found | ({"thresholds": thresholds.limits.tolist()} if thresholds else {})


def _open_films(run: RunFolder, data: Path | None, workers: int | None) -> Films:
    try:
        with tempfile.TemporaryDirectory(prefix="xraycomp-") as scratch:
            images = open_images(run, "val", None, Path(scratch), data=data, workers=workers)
    except UserError as error:
        if data:
            raise
        raise UserError(
            f"{error} What is exported is checked on the run's validation images; if they were "
            "moved, say where they are with --data."
        ) from error
    val = images.dataset.split("val")
    cached: NDArray[np.uint8] = val.cache.gather(val.rows)
    return Films(images, cached, val.targets.astype(np.float64))


def _check(path: Path, films: Films, expected: NDArray[np.float64]) -> dict[str, Any]:
    """The largest differences of probabilities; raises ``UserError`` where one is too large."""
    infer = open_session(path)
    cached = infer_batches(infer, films.cached)
    rows = np.unique(np.linspace(0, len(expected) - 1, _CHECKED).round().astype(int)).tolist()
    whole = np.concatenate([infer(films.from_file(row)[None]) for row in rows])
    found = {
        "images": len(expected),
        "network": float(np.abs(cached - expected).max()),
        "image_files": len(rows),
        "resize": float(np.abs(whole - cached[rows]).max()),
        "whole": float(np.abs(whole - expected[rows]).max()),
    }
    for name, bound in {"network": NETWORK_BOUND, "whole": FILE_BOUND}.items():
        if not found[name] <= bound:  # NaN is not, too
            given = "image files" if name == "whole" else "cached images"
            raise UserError(
                f"The exported network does not give what the run gives: on {given} of the "
                f"validation split a probability is {found[name]:.4f} off, and at most {bound:g} "
                "is allowed. No file was written; try another version of torch or onnxruntime."
            )
    return found


def _shrink(
    path: Path,
    small: Path,
    films: Films,
    competition: Competition,
    thresholds: Thresholds | None,
) -> dict[str, Any]:
    """Write ``small``, and say what it loses and gains.

    Its ranges are of one half of the validation images and its losses of the other.
    """
    order = np.random.default_rng(0).permutation(len(films.cached))
    shown, others = np.split(order, [(len(order) + 1) // 2])
    shown = shown[:_CALIBRATED]
    quantize(path, small, films.cached[shown])
    before, after = open_session(path), open_session(small)
    accuracy: dict[str, Any] = {"calibrated_on": len(shown)}
    judged = np.sort(others[~np.isnan(films.targets[others]).all(axis=1)])
    if len(judged):
        both = [infer_batches(infer, films.cached[judged]) for infer in (before, after)]
        accuracy["largest_difference"] = float(np.abs(both[0] - both[1]).max())
        accuracy |= compare(
            competition,
            films.targets[judged],
            (both[0], both[1]),
            ("float32", "int8"),
            "validation images that int8 has not seen",
            thresholds=(thresholds, thresholds),
        )
    film = films.from_file(0)
    speed = {"threads": 1, "image": film.shape, **compare_speed(before, after, film)}
    return {"accuracy": accuracy, "speed": speed}


def _facts(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
