"""python -m xraycomp.kernel: a folder under kernels/ -> one file -> a run on Kaggle -> output."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from xraycomp.console.command import parse_flags, run_command
from xraycomp.console.errors import Stopped, UserError, listing
from xraycomp.console.help import Help
from xraycomp.remote.bundle import Bundle, build, is_stale, remove_stale
from xraycomp.remote.client import Kaggle, connect
from xraycomp.remote.datasets import publish
from xraycomp.remote.kernels import NotPushed, push, read_pushed, read_status, wait
from xraycomp.remote.metadata import METADATA_FILE, read_metadata, unversioned, write_owner
from xraycomp.remote.outputs import pull
from xraycomp.remote.rehearsal import TRAIN_IMAGES, rehearse

log = logging.getLogger("xraycomp.kernel")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.kernel"
HELP = Help(
    examples=("rehearse phantom-resnet18", "run phantom-resnet18 --owner NAME"),
    first="action name owner data train_images timeout poll weights dataset",
    groups={
        "Rehearsal": "attach",
        "What the kernel may do": "allow_internet",
        "Folders": "kernels_dir data_dir runs_dir submissions_dir",
    },
)
ALL = "all"


@dataclass(frozen=True)
class KernelConfig:
    """Run a kernel's script, with the whole kit in one file, on Kaggle's machines.

    build: writes the file that kernel-metadata.json names as code_file; the same sources give the
    same bytes. rehearse: builds, then runs that exact file offline on a few images, as a Kaggle
    session would. push: builds and sends a new version. status: says how it is. wait: follows it to
    its end. pull: brings its output home as runs/NAME-vN. run: rehearse, push, wait and pull.
    weights: puts --weights into a Kaggle data set. check: removes built files whose sources have
    changed since.
    """

    action: Literal[
        "build", "rehearse", "push", "status", "wait", "pull", "run", "weights", "check"
    ]
    """What to do, as above."""
    name: str
    """The kernel: a folder, or its name under kernels/; all for every one."""
    owner: str | None = None
    """Your Kaggle user name, written into the kernel's id for good."""
    allow_internet: bool = False
    """Accept a kernel with enable_internet true."""
    data: Path | None = None
    """rehearse: the competition's zip or folder. Default: that in --data-dir, else drawn
    images."""
    data_dir: Path = Path("data")
    """rehearse: folder with unpacked data."""
    attach: tuple[str, ...] = ()
    """rehearse: what another source of the kernel holds, as SOURCE=PATH."""
    train_images: int = TRAIN_IMAGES
    """rehearse: about how many training images to run on."""
    timeout: float = 15.0
    """rehearse: minutes that one run may take."""
    kernels_dir: Path = Path("kernels")
    """Folder of the kernels' folders."""
    poll: float = 60.0
    """wait, run: longest pause between two looks, in seconds."""
    runs_dir: Path = Path("runs")
    """pull, run: where the output goes."""
    submissions_dir: Path = Path("submissions")
    """pull, run: where its submission goes."""
    weights: tuple[Path, ...] = ()
    """weights: the files to publish."""
    dataset: str | None = None
    """weights: owner/slug of the data set. Default: yours, named after the kernel."""


def kernel(config: KernelConfig) -> None:
    """Do what ``config`` describes for the kernel or kernels that it names.

    Of ``all``, each has its turn: where some fail, that is said of them at the end. That one was
    never pushed is said too, and is no failure.

    Raises ``UserError`` for everything that the user can mend.
    """
    for name in ("poll", "timeout"):
        if not getattr(config, name) > 0:
            raise UserError(f"--{name} is {getattr(config, name)}; it must be above 0.")
    if config.train_images < 6:
        raise UserError(f"--train-images is {config.train_images}; a rehearsal needs at least 6.")
    folders = find_kernels(config.name, config.kernels_dir)
    if config.owner:
        for folder in folders:
            write_owner(folder, config.owner)
    if config.name != ALL:
        ACTIONS[config.action](config, folders[0])
        return
    failed = []
    for folder in folders:
        try:
            ACTIONS[config.action](config, folder)
        except Stopped:
            raise
        except NotPushed as error:
            log.info("%s", error)
        except UserError as error:
            log.info("%s: %s", folder.name, error)
            failed.append(folder.name)
    if failed:
        said = f"{len(failed)} of {len(folders)} kernels failed: {listing(failed)}. See above."
        raise UserError(said)


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
    if _build(config, folder).metadata.has_owner:
        log.info(
            "Send it with: %s push %s (or kaggle kernels push -p %s)", PROG, folder.name, folder
        )
    else:
        log.info("Before it can be sent, write your user name into its id with --owner NAME.")


def rehearse_kernel(config: KernelConfig, folder: Path) -> None:
    """Build the kernel and run what was built."""
    _rehearse(config, _build(config, folder))


def check_kernel(config: KernelConfig, folder: Path) -> None:
    """Remove the built file if it is not what building now would give."""
    if removed := remove_stale(folder):
        log.info("Removed %s: its sources have changed. Build it again.", removed)


def push_kernel(config: KernelConfig, folder: Path) -> None:
    """Build the kernel anew and send it as a new version."""
    with connect() as kaggle:
        _push(kaggle, _build_as(kaggle, config, folder))


def show_status(config: KernelConfig, folder: Path) -> None:
    """Say how the pushed version is, and whether it runs the code that is here now."""
    pushed = read_pushed(folder)
    with connect() as kaggle:
        status, failure = read_status(kaggle, pushed)
    reason = f" ({failure})" if failure else ""
    log.info(
        "%s: %s%s. Pushed %s, %s", pushed.label, status.lower(), reason, pushed.when, pushed.url
    )
    if is_stale(folder):
        log.info("The sources here have changed since: that version runs older code.")


def wait_for_kernel(config: KernelConfig, folder: Path) -> None:
    """Follow the pushed version to its end; it fails where the kernel failed."""
    pushed = read_pushed(folder)
    with connect() as kaggle:
        wait(kaggle, pushed, poll=config.poll)


def pull_kernel(config: KernelConfig, folder: Path) -> None:
    """Bring the output of the pushed version home."""
    pushed = read_pushed(folder)
    with connect() as kaggle:
        home = pull(kaggle, pushed, config.runs_dir, config.submissions_dir)
    log.info("Wrote %s: %s.", home, listing(sorted(path.name for path in home.iterdir()), 20))
    if (home / "submission.csv").is_file():
        log.info("Send its submission with: python -m xraycomp.submit --run %s --send", home)


def run_kernel(config: KernelConfig, folder: Path) -> None:
    """The whole way: rehearse, push the very file that was rehearsed, wait, pull."""
    with connect() as kaggle:  # without credentials there is no sense in rehearsing
        bundle = _build_as(kaggle, config, folder)
        _rehearse(config, bundle)
        _push(kaggle, bundle)
    wait_for_kernel(config, folder)
    pull_kernel(config, folder)


def publish_weights(config: KernelConfig, folder: Path) -> None:
    """Put weight files into a data set that the kernel can attach."""
    if not config.weights:
        raise UserError("Say which files to publish with --weights weights.safetensors.")
    with connect() as kaggle:
        ref = config.dataset or f"{kaggle.username}/{folder.resolve().name}-weights"
        version = publish(kaggle, ref, list(config.weights))
    page = f"https://www.kaggle.com/datasets/{ref}"
    log.info("Data set %s is at version %d and ready: %s", ref, version, page)
    sources = read_metadata(folder, allow_internet=True).dataset_sources
    if ref not in map(unversioned, sources):
        log.info(
            "Attach it with %r in dataset_sources of %s, and name the file in the script: "
            'weights="%s".',
            ref,
            folder / METADATA_FILE,
            config.weights[0].name,
        )


ACTIONS = {
    "build": build_kernel,
    "rehearse": rehearse_kernel,
    "push": push_kernel,
    "status": show_status,
    "wait": wait_for_kernel,
    "pull": pull_kernel,
    "run": run_kernel,
    "weights": publish_weights,
    "check": check_kernel,
}


def _build(config: KernelConfig, folder: Path) -> Bundle:
    bundle = build(folder, allow_internet=config.allow_internet)
    size = f"{bundle.size:,}"
    said = "Wrote %s: %s bytes, sha256 %s, commit %s."
    log.info(said, bundle.path, size, bundle.sha256, bundle.commit)
    return bundle


def _build_as(kaggle: Kaggle, config: KernelConfig, folder: Path) -> Bundle:
    """Build the kernel, as the account's own if it is nobody's yet."""
    if not read_metadata(folder, allow_internet=config.allow_internet).has_owner:
        write_owner(folder, kaggle.username)
        log.info("Wrote your user name %s into the id of %s.", kaggle.username, folder)
    return _build(config, folder)


def _rehearse(config: KernelConfig, bundle: Bundle) -> None:
    rehearse(
        bundle,
        data=config.data,
        data_dir=config.data_dir,
        attach=_attached(config.attach),
        train_images=config.train_images,
        timeout=60 * config.timeout,
    )


def _push(kaggle: Kaggle, bundle: Bundle) -> None:
    pushed = push(kaggle, bundle)
    log.info("Pushed %s. See %s", pushed.label, pushed.url)


def _attached(pairs: tuple[str, ...]) -> dict[str, Path]:
    for pair in pairs:
        if "=" not in pair:
            raise UserError(f"--attach {pair} must be SOURCE=PATH, as in me/weights=weights/.")
    return {source: Path(path) for source, _, path in (pair.partition("=") for pair in pairs)}


def main(args: Sequence[str]) -> None:
    """Read the flags and do the action."""
    kernel(parse_flags(KernelConfig, args, prog=PROG, help=HELP, positional=True))


if __name__ == "__main__":
    run_command(main)
