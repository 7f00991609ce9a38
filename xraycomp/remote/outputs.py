"""The output of a pushed kernel: all of it, of the very version that was pushed, or nothing."""

import json
import logging
import shutil
from pathlib import Path, PurePosixPath

from xraycomp.console.errors import UserError, listing
from xraycomp.data.competition_file import built_in_slugs
from xraycomp.data.files import atomic_folder, write_json, write_text
from xraycomp.remote.client import Kaggle
from xraycomp.remote.failures import Subject
from xraycomp.remote.kernels import (
    COMPLETE,
    FAILED,
    Pushed,
    output_pages,
    read_status,
)
from xraycomp.remote.logs import decode_log
from xraycomp.remote.transfer import download_file

log = logging.getLogger(__name__)

FACTS_FILE = "kernel.json"
"""What the kernel itself wrote about the code that it ran."""


def pull(kaggle: Kaggle, pushed: Pushed, runs_dir: Path, submissions_dir: Path) -> Path:
    """Bring the version's output home as ``runs_dir/<kernel>-v<version>``; returns that folder.

    It holds what the kernel's own run folder held, the other files of the output beside it,
    ``kernel.json`` and the decoded log as ``kernel.log``; its ``config.json`` names the places of
    this machine, so that all commands can go on with it. Several runs stay in its ``runs`` and name
    these places too. A submission is also copied to
    ``submissions_dir/<kernel>-v<version>.csv``.

    Raises ``UserError`` for output that another bundle made, for an output without the note of who
    made it, for file names that lead elsewhere, and where the folder exists already.
    """
    slug = pushed.ref.split("/")[1]
    folder = runs_dir / f"{slug}-v{pushed.version}"
    status, failure = read_status(kaggle, pushed)
    if status != COMPLETE and status not in FAILED:
        raise UserError(
            f"{pushed.label} is {status.lower()}. Wait for its end with: "
            f"python -m xraycomp.kernel wait {slug}"
        )
    if folder.exists():
        raise UserError(
            f"{folder} is there already. It holds version {pushed.version}; remove it to pull that "
            "version again."
        )
    with atomic_folder(folder) as temporary:
        text = ""
        for page in output_pages(kaggle, pushed):
            text = page.log or text
            for item in page.files or []:
                _fetch(item.url, item.file_name, temporary, pushed)
        write_text(temporary / "kernel.log", "".join(f"{line}\n" for line in decode_log(text)))
        _check_origin(temporary, pushed, failure if status in FAILED else "")
        if _unfold_run(temporary):
            _settle_run(temporary, folder, submissions_dir)
        else:
            for path in temporary.glob("runs/*/config.json"):
                home = folder / "runs" / path.parent.name
                _settle_run(path.parent, home, folder / "submissions")
    submission = folder / "submission.csv"
    if submission.is_file():
        submissions_dir.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(submission, submissions_dir / f"{folder.name}.csv")
    return folder


def _fetch(url: str, name: str, folder: Path, pushed: Pushed) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(
            f"The output of {pushed.label} holds the unsafe file name {name!r}; nothing was kept."
        )
    subject = Subject(f"give the output file {name} of {pushed.label}", "kernel", pushed.ref)
    download_file(lambda: url, folder / path, subject)


def _check_origin(folder: Path, pushed: Pushed, failure: str) -> None:
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        made_by, run = str(facts["sha256"]), str(facts["run"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"; it failed ({failure.rstrip('.')})" if failure else ""
        raise UserError(
            f"The output of {pushed.label} has no {FACTS_FILE}, so it does not say which "
            f"code made it{why}; nothing was kept. See {pushed.url}"
        ) from error
    if made_by != pushed.sha256:
        raise UserError(
            f"The output on Kaggle was made by the bundle {made_by[:12]}, not by "
            f"{pushed.sha256[:12]} that was pushed from here as version {pushed.version}; nothing "
            f"was kept. It is of another version: see {pushed.url}"
        )
    if run != pushed.run:
        raise UserError(
            f"The output on Kaggle is that of another push of the same code, not of version "
            f"{pushed.version} that was pushed from here; nothing was kept. Try again later, or "
            f"see {pushed.url}"
        )


def _unfold_run(folder: Path) -> bool:
    """Let the one run of the output be the folder itself; False where there is not just one."""
    runs = sorted(path for path in (folder / "runs").glob("*") if path.is_dir())
    if len(runs) != 1:
        if runs:
            log.info("The output holds several runs: %s.", listing([run.name for run in runs]))
        return False
    for path in sorted(runs[0].iterdir()):
        target = folder / path.name
        if target.exists():  # the checked submission lies in both places
            continue
        path.replace(target)
    shutil.rmtree(folder / "runs")
    shutil.rmtree(folder / "submissions", ignore_errors=True)
    return (folder / "config.json").is_file()


def _settle_run(path: Path, home: Path, submissions_dir: Path) -> None:
    """Settle the run that lies at ``path``, and its folds, in ``home``, where it is to lie."""
    _settle(path / "config.json", home, submissions_dir)
    for each in path.glob("*-fold*/config.json"):
        _settle(each, home / each.parent.name, home / "submissions")


def _settle(path: Path, folder: Path, submissions_dir: Path) -> None:
    """Name the places of this machine in a run's settings, in place of Kaggle's."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    here = {
        "data": None,
        "data_dir": "data",
        "runs_dir": str(folder.parent),
        "submissions_dir": str(submissions_dir),
        "name": folder.name,
        "resume": None,
    }
    if settings.get("competition") not in built_in_slugs():
        here["competition"] = str(folder / "competition.toml")
    write_json(path, settings | here)
