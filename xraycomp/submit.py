"""python -m xraycomp.submit: probability table -> checked file -> Kaggle -> score in the ledger."""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from xraycomp.console.command import parse_flags, refuse_flags, run_command
from xraycomp.console.errors import UserError
from xraycomp.console.help import Help
from xraycomp.data.predictions import read_predictions
from xraycomp.data.submission import check_submission, write_submission
from xraycomp.job.asked import run_ids
from xraycomp.model.run import RunFolder
from xraycomp.remote.client import connect
from xraycomp.remote.drafts import Draft, KernelOutput, LocalFile
from xraycomp.remote.ledger import read_commit, read_ledger, read_validation
from xraycomp.remote.sending import inspect, record_score, send
from xraycomp.remote.standing import format_standing, standing
from xraycomp.remote.submissions import sync_command
from xraycomp.remote.sync import sync

log = logging.getLogger("xraycomp.submit")  # run as a command, __name__ is __main__

PROG = "python -m xraycomp.submit"
HELP = Help(
    examples=("--run runs/NAME --send", "--list"),
    first="run predictions check output send dry_run message competition wait list sync",
    groups={
        "Refusals": "judged unjudged again",
        "Code competitions": "kernel kernel_version kernel_file",
        "Waiting": "poll",
        "Folders": "submissions_dir runs_dir",
    },
)


@dataclass(frozen=True)
class SubmitConfig:
    """Write submissions/<run>.csv from a probability table and check it; with --send, send it to
    Kaggle, wait for the score and enter it in submissions/ledger.csv."""

    run: Path | None = None
    """The run folder whose competition is meant. Not needed with --list, --sync and --kernel."""
    predictions: Path | None = None
    """Another probability table of the test set. Default: the run's predictions/test.csv."""
    check: Path | None = None
    """Only check this submission file (and send it, with --send)."""
    output: Path | None = None
    """The submission's path. Default: submissions/<run>.csv."""

    send: bool = False
    """Send the checked file to Kaggle. Refused where no submission is left today, where the same
    file was sent before, and where no validation score says how good it is."""
    dry_run: bool = False
    """Do everything that --send does, but send nothing."""
    message: str | None = None
    """The submission's description on Kaggle. Default: the run's name."""
    competition: str | None = None
    """Slug on Kaggle, as in kaggle.com/c/SLUG. Default: the run's competition."""
    judged: Path | None = None
    """Folder whose metrics.json judges this file. Default: the run folder, for a file made from the
    run's own predictions."""
    unjudged: bool = False
    """Send even though there is no validation score."""
    again: bool = False
    """Send even though the same file was sent before."""
    wait: bool = True
    """Wait for the score; with --no-wait, --sync asks for it later."""
    poll: float = 60.0
    """Longest pause between two looks for the score, in seconds."""

    kernel: str | None = None
    """Code competitions: submit the output of this kernel (owner/slug) in place of a local file. A
    run given with --run lends its validation score."""
    kernel_version: int | None = None
    """The version of the kernel, as its push reported it."""
    kernel_file: str = "submission.csv"
    """The name of the kernel's output file."""

    list: bool = False
    """Show the ledger, and how well validation foretells the leaderboard."""
    sync: bool = False
    """Fill late scores into the ledger, and add submissions sent by other ways."""
    submissions_dir: Path | None = None
    """Folder of submission files and of ledger.csv. Default: the run's, else submissions."""
    runs_dir: Path = Path("runs")
    """Folder of runs, where --sync looks for the origin of files that were sent by hand."""


_FOR_LEDGER = {"list", "sync", "run", "competition", "submissions_dir", "runs_dir"}


def submit(config: SubmitConfig) -> Path:
    """Do what ``config`` describes; return the path of the checked file, or of the ledger.

    Raises ``UserError`` for everything that Kaggle would refuse or did refuse, and where a
    submission could not be scored.
    """
    if not config.poll > 0:
        raise UserError(f"--poll is {config.poll}; it must be a number of seconds above 0.")
    run = RunFolder.open(config.run) if config.run else None
    folder = config.submissions_dir or (run.config().submissions_dir if run else None)
    ledger = (folder or Path("submissions")) / "ledger.csv"
    if config.sync or config.list:
        asked = " and ".join(f"--{name}" for name in ("sync", "list") if getattr(config, name))
        refuse_flags(config, {field.name for field in fields(config)} - _FOR_LEDGER, asked)
        competition = config.competition or (run.competition().slug if run else None)
        if config.sync:
            _sync(competition, ledger, config.runs_dir)
        if config.list:
            _list(competition, ledger)
        return ledger
    if config.kernel:
        refuse_flags(config, {"predictions", "check", "output"}, "--kernel")
        draft = _kernel_draft(config, run)
        if not (config.send or config.dry_run):
            raise UserError(f"Nothing was sent: {draft.content} is submitted with --send.")
        _send(config, draft, ledger)
        return ledger
    if run is None:
        raise UserError(
            f"Say what to submit with --run runs/NAME, or use --list or --sync. See {PROG} --help."
        )
    refuse_flags(config, {"kernel_version", "kernel_file"}, "--run without --kernel")
    if config.check:
        refuse_flags(config, {"predictions", "output"}, "--check")
    path = _checked_file(config, run, ledger.parent)
    if config.send or config.dry_run:
        _send(config, _file_draft(config, run, path), ledger)
    return path


def _checked_file(config: SubmitConfig, run: RunFolder, folder: Path) -> Path:
    """The submission file, written unless ``--check`` names one; checked in both cases."""
    competition = run.competition()
    ids = run_ids(run)
    if config.check:
        if not config.check.is_file():
            raise UserError(f"There is no submission file {config.check}. Check the path.")
        check_submission(config.check, competition, ids)
        log.info("%s is a valid submission of %s rows.", config.check, f"{len(ids):,}")
        return config.check
    if config.predictions is None:
        table = run.predictions("test")
    else:
        table = read_predictions(config.predictions, competition.classes)
    output = config.output or folder / f"{run.name}.csv"
    write_submission(output, competition, table, ids)
    log.info("Wrote %s: %s rows, checked.", output, f"{len(ids):,}")
    if competition.source == "competition" and not (config.send or config.dry_run):
        by_hand = ["kaggle", "competitions", "submit", "-c", competition.slug]
        by_hand += ["-f", str(output), "-m", run.name]
        log.info(
            "Send it with --send, or by hand: %s",
            shlex.join(by_hand),
        )
    return output


def _file_draft(config: SubmitConfig, run: RunFolder, path: Path) -> Draft:
    competition = run.competition()
    if competition.source != "competition" and not config.competition:
        raise UserError(
            f"{competition.slug} is not described as a Kaggle competition (source = "
            f'"{competition.source}"), so {path} cannot be sent there. If it is one, name it with '
            "--competition SLUG."
        )
    content, own_file = LocalFile(path), run.path / "submission.csv"
    own = not (config.predictions or config.check) or (
        own_file.is_file() and LocalFile(own_file).sha256 == content.sha256
    )
    judged = config.judged or (run.path if own else None)
    known = _known(config, run, content, judged)
    return Draft(config.competition or competition.slug, config.message or run.name, content, known)


def _kernel_draft(config: SubmitConfig, run: RunFolder | None) -> Draft:
    kernel, version = config.kernel or "", config.kernel_version
    if kernel.count("/") != 1 or not all(kernel.split("/")):
        raise UserError(f"--kernel is {kernel}; it must be OWNER/SLUG, as in its page's address.")
    if version is None or version < 1:
        raise UserError(
            f"Say which version of {kernel} to submit: --kernel-version N, as its push reported it."
        )
    competition = config.competition or (run.competition().slug if run else None)
    if competition is None:
        raise UserError("Say which competition the kernel is for: --competition SLUG.")
    content = KernelOutput(kernel, version, config.kernel_file)
    known = _known(config, run, content, config.judged or run.path) if run else {}
    message = config.message or (run.name if run else kernel)
    return Draft(competition, message, content, known)


def _known(
    config: SubmitConfig, run: RunFolder, content: LocalFile | KernelOutput, judged: Path | None
) -> dict[str, str]:
    """The part of a ledger row that a run knows, with the scores of the folder ``judged``.

    Raises ``UserError`` where nothing judges the content, unless ``--unjudged``.
    """
    known = {"run": run.name, "commit": read_commit(run.path)}
    if judged and (judged / "metrics.json").is_file():
        slug, validation = read_validation(judged)
        if slug != run.competition().slug:
            raise UserError(
                f"{judged / 'metrics.json'} judges predictions for {slug}, but {run.path} is of "
                f"{run.competition().slug}. Name another folder with --judged."
            )
        return known | validation
    if config.unjudged:
        return known
    why = f"{judged} has no metrics.json, so nothing says how good {content} is"
    if judged is None:
        why = (
            f"{content} is not made from {run.path}'s own predictions, so its metrics.json does "
            "not judge it"
        )
    raise UserError(
        f"{why}. Judge it with python -m xraycomp.evaluate and name the folder with --judged, "
        "or send it all the same with --unjudged."
    )


def _send(config: SubmitConfig, draft: Draft, ledger: Path) -> None:
    """Send the draft and wait for its score, as far as ``config`` says."""
    with connect() as kaggle:
        earlier = inspect(kaggle, draft, ledger, again=config.again)
        if config.dry_run:
            log.info(
                'Dry run: nothing was sent. Would send %s to %s as "%s" and enter it in %s.',
                draft.content,
                draft.competition,
                draft.description,
                ledger,
            )
            return
        ref = send(kaggle, draft, ledger, earlier)
        if config.wait:
            record_score(kaggle, draft, ledger, ref, config.poll)
        else:
            log.info(
                "Wrote %s. Ask for the score with: %s", ledger, sync_command(draft.competition)
            )


def _sync(competition: str | None, ledger: Path, runs_dir: Path) -> None:
    slugs = [competition] if competition else sorted(set(read_ledger(ledger)["competition"]) - {""})
    if not slugs:
        raise UserError(f"{ledger} names no competition yet. Give one with --competition SLUG.")
    with connect() as kaggle:
        for slug in slugs:
            news = sync(kaggle, slug, ledger, runs_dir)
            log.info(
                "%s: %d rows updated, %d submissions added (of %d of them the origin is known).",
                slug,
                news.updated,
                news.added,
                news.recognised,
            )
            if news.absent:
                log.info("Kaggle does not list %d submissions of the ledger.", news.absent)
    log.info("Wrote %s. Show it with: %s --list", ledger, PROG)


def _list(competition: str | None, ledger: Path) -> None:
    table = read_ledger(ledger)
    slugs = [competition] if competition else list(dict.fromkeys(table["competition"]))
    if table.empty or (competition and competition not in set(table["competition"])):
        log.info(
            "%s holds no submission%s yet.", ledger, f" to {competition}" if competition else ""
        )
        return
    for slug in slugs:
        log.info("%s\n", format_standing(standing(table, slug)))


def main(args: Sequence[str]) -> None:
    """Read the flags and do what they say."""
    submit(parse_flags(SubmitConfig, args, prog=PROG, help=HELP))


if __name__ == "__main__":
    run_command(main)
