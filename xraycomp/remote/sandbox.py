"""A stand-in for a Kaggle session: a tree like /kaggle and a process that cannot get out of it."""

import contextlib
import os
import shutil
import signal
import site
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xraycomp.console.errors import UserError
from xraycomp.remote import guard
from xraycomp.remote.logs import lines_of
from xraycomp.remote.mounts import mount_path

_LAST_LINES = 15
# What of the user's environment a process needs to find its libraries.
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Mount:
    """A folder or file that a rehearsal attaches as Kaggle would."""

    kind: str
    """competition, dataset, kernel or model."""
    source: str
    """Its name in kernel-metadata.json."""
    path: Path | None
    """What is attached; None for an empty folder."""


def make_tree(folder: Path, layout: str, mounts: list[Mount]) -> Path:
    """A folder like ``/kaggle``; beside it an empty home, temporary files and the guard."""
    root = folder / "kaggle"
    for part in (root / "input", root / "working", folder / "home", folder / "tmp"):
        part.mkdir(parents=True)
    (folder / "guard").mkdir()
    shutil.copyfile(guard.__file__, folder / "guard" / "sitecustomize.py")
    for mount in mounts:
        place = root / "input" / mount_path(mount.kind, mount.source, layout)
        if mount.path is None:
            place.mkdir(parents=True, exist_ok=True)
        elif mount.path.is_dir():
            shutil.copytree(mount.path, place, dirs_exist_ok=True)
        else:
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(mount.path, place / mount.path.name)
    for path in (root / "input").rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (root / "input").chmod(0o555)
    return root


def listing_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file: a superuser can write to read-only files, but not unseen."""
    stats = {str(path.relative_to(folder)): path.lstat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _environment(root: Path, images: int) -> dict[str, str]:
    folder = root.parent
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {
        **kept,
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        # Listing the fonts takes seconds, and an image has done it.
        "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(folder.parent / "matplotlib")),
        "PYTHONPATH": str(folder / "guard"),
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONUNBUFFERED": "1",
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "XRAYCOMP_KAGGLE_ROOT": str(root),
        "XRAYCOMP_REHEARSAL": "1",
        "XRAYCOMP_REHEARSAL_IMAGES": str(images),
    }


def run_offline(built: Path, root: Path, images: int, timeout: float, where: str) -> str:
    """Run the file to its end and return its output. The whole group of processes ends with it."""
    script = root / "src" / "script.py"
    script.parent.mkdir()
    shutil.copyfile(built, script)
    output = root.parent / "output.txt"
    with (
        output.open("w", encoding="utf-8") as file,
        _ended(
            subprocess.Popen(
                [sys.executable, str(script)],
                cwd=root / "working",
                env=_environment(root, images),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        ) as process,
    ):
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise UserError(
                f"The rehearsal of {where} did not end within {timeout / 60:g} minutes. Give it "
                f"longer with --timeout, or look at its last lines:\n{_last_lines(output)}"
            ) from None
    if code:
        raise UserError(
            f"The rehearsal of {where} failed with exit code {code}. Its last lines:\n"
            f"{_last_lines(output)}"
        )
    return _last_lines(output)


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Leave nothing of the process's group running, whatever happens, Ctrl-C included."""
    try:
        yield process
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)


def _last_lines(output: Path) -> str:
    text = output.read_text(encoding="utf-8", errors="replace")
    return "\n".join(lines_of(text)[-_LAST_LINES:])
