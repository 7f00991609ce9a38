"""python -m xraycomp.kernel: a folder under kernels/ -> one file for Kaggle, tried beforehand."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import UserError, listing
from xraycomp.remote.bundle import Bundle, build, remove_stale
from xraycomp.remote.metadata import METADATA_FILE, read_metadata, write_owner
from xraycomp.remote.rehearsal import TRAIN_IMAGES, rehearse

log = logging.getLogger("xraycomp.kernel")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.kernel"
ALL = "all"


@dataclass(frozen=True)
class KernelConfig:
    """Pack a kernel's script and the whole kit into one file, and rehearse it before it is sent.

    build: writes the file that kernel-metadata.json names as code_file; the same sources give the
    same bytes. rehearse: builds, then runs that exact file offline on a few images, as a Kaggle
    session would. check: removes built files whose sources have changed since.
    """

    action: Literal["build", "rehearse", "check"]
    """What to do."""
    name: str
    """The kernel: a folder, or its name under kernels/; all for every one."""
    owner: str | None = None
    """Your Kaggle user name, written into the kernel's id for good."""
    allow_internet: bool = False
    """Accept a kernel with enable_internet true."""
    data: Path | None = None
    """rehearse: the competition's zip or folder. Default: what lies in --data-dir, else stand-in
    images are drawn."""
    data_dir: Path = Path("data")
    """rehearse: folder with unpacked data."""
    attach: tuple[str, ...] = ()
    """rehearse: what another source of the kernel holds, as SOURCE=PATH."""
    images: int = TRAIN_IMAGES
    """rehearse: about how many training images to run on."""
    timeout: float = 15.0
    """rehearse: minutes that one run may take."""
    kernels_dir: Path = Path("kernels")
    """Folder of the kernels' folders."""


def kernel(config: KernelConfig) -> None:
    """Do what ``config`` describes for the kernel or kernels that it names.

    Raises ``UserError`` for everything that the user can mend.
    """
    for folder in find_kernels(config.name, config.kernels_dir):
        if config.owner:
            write_owner(folder, config.owner)
        ACTIONS[config.action](config, folder)


def find_kernels(name: str, kernels_dir: Path) -> list[Path]:
    """The folder of the kernel ``name`` (a path, or a name under ``kernels_dir``), or of all.

    Raises ``UserError`` for an unknown one.
    """
    known = sorted(path.parent for path in kernels_dir.glob(f"*/{METADATA_FILE}"))
    if name == ALL and known:
        return known
    for folder in (kernels_dir / name, Path(name)):
        if (folder / METADATA_FILE).is_file():
            return [folder]
    names = [path.name for path in known]
    close = get_close_matches(name, names, n=2, cutoff=0.4)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    raise UserError(
        f"There is no kernel {name!r} in {kernels_dir}/ (there: {listing(names) or 'none'}).{hint} "
        f"A kernel is a folder with {METADATA_FILE} and train.py."
    )


def build_kernel(config: KernelConfig, folder: Path) -> None:
    """Write the kernel's one file and say how to send it."""
    bundle = build(folder, allow_internet=config.allow_internet)
    _say(bundle)
    if read_metadata(folder, allow_internet=config.allow_internet).has_owner:
        log.info("Send it with: kaggle kernels push -p %s", folder)
    else:
        log.info("Before it can be sent, write your user name into its id with --owner NAME.")


def rehearse_kernel(config: KernelConfig, folder: Path) -> None:
    """Build the kernel and run what was built."""
    bundle = rehearse(
        folder,
        data=config.data,
        data_dir=config.data_dir,
        attach=_attached(config.attach),
        train_images=config.images,
        timeout=60 * config.timeout,
        allow_internet=config.allow_internet,
    )
    _say(bundle)


def check_kernel(config: KernelConfig, folder: Path) -> None:
    """Remove the built file if it is not what building now would give."""
    if removed := remove_stale(folder):
        log.info("Removed %s: its sources have changed. Build it again.", removed)


ACTIONS = {"build": build_kernel, "rehearse": rehearse_kernel, "check": check_kernel}


def _say(bundle: Bundle) -> None:
    log.info(
        "Wrote %s: %s bytes, sha256 %s, commit %s.",
        bundle.path,
        f"{bundle.size:,}",
        bundle.sha256,
        bundle.commit,
    )


def _attached(pairs: tuple[str, ...]) -> dict[str, Path]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--attach {pair} must be SOURCE=PATH, as in me/weights=weights/.")
    return {source: Path(path) for source, _, path in (pair.partition("=") for pair in pairs)}


def main(args: Sequence[str]) -> None:
    """Read the flags and do the action."""
    kernel(parse_flags(KernelConfig, args, prog=PROG, positional=True))


if __name__ == "__main__":
    run_command(main)
