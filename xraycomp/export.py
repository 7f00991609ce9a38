"""python -m xraycomp.export: a run -> ONNX files that need no torch, checked against the run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.job.export_table import format_export
from xraycomp.job.exporting import REPORT, export_run
from xraycomp.model.run import RunFolder

log = logging.getLogger("xraycomp.export")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.export"
HELP = Help(
    examples=(
        "--run runs/NAME",
        "--run runs/NAME --output films.onnx --no-int8",
        "--run runs/NAME --data chest-xray-4.zip",
    ),
    first="run output data int8",
    groups={"Machine": "workers"},
)


@dataclass(frozen=True)
class ExportConfig:
    """Write a run as ONNX: gray films of any size in, calibrated probabilities out.

    Resizing, normalising and the temperature are in the file. It is checked against the run on its
    validation images, and written only if it gives the same. A second file computes in 8 bits
    (static quantisation); its ranges are taken from one half of the validation images, and what it
    loses and gains is measured on the other.
    """

    run: Path
    """Run folder whose best weights are exported."""
    output: Path | None = None
    """The ONNX file; the int8 file and export.json come beside it. Default: export/model.onnx in
    the run."""
    data: Path | None = None
    """The competition's zip or folder. Default: where it was for training."""
    int8: bool = True
    """Also write a file in 8 bits."""
    workers: int | None = None
    """Threads that decode images. Default: all CPUs."""


def export(config: ExportConfig) -> Path:
    """Do what ``config`` describes and return the path of the ONNX file.

    Raises ``UserError`` for everything that the user can mend.
    """
    run = RunFolder.open(config.run)
    output = config.output or run.path / "export" / "model.onnx"
    if output.suffix != ".onnx":
        raise UserError(f"--output is {output}; name a file that ends in .onnx.")
    report = export_run(run, output, data=config.data, int8=config.int8, workers=config.workers)
    log.info("%s\n", format_export(report))
    log.info("Wrote %s: %s.", output.parent, ", ".join([*report["files"], REPORT]))
    return output


def main(args: Sequence[str]) -> None:
    """Read the flags and export."""
    export(parse_flags(ExportConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
