"""One submission's way: looked at, sent, entered in the ledger, waited for."""

import logging
import signal
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from xraycomp.console.errors import Stopped, UserError
from xraycomp.remote import ledger
from xraycomp.remote.client import Kaggle
from xraycomp.remote.marks import bears, describe, file_mark, kernel_mark, sha256
from xraycomp.remote.sending import StoppedAfterSending, send, send_kernel_version
from xraycomp.remote.submissions import (
    ERROR,
    PENDING,
    Sent,
    list_submissions,
    remaining,
    sync_command,
    until_reset,
    wait_for_score,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parcel:
    """What is to be submitted: a checked file, or the output of a kernel's version."""

    competition: str
    message: str
    path: Path | None = None
    """The file; None for a kernel's version."""
    kernel: str = ""
    """``owner/slug``."""
    version: int = 0
    output: str = ""
    """The name of the kernel's output file."""
    known: dict[str, str] = field(default_factory=dict)
    """Columns of its ledger row that are known beforehand: run, commit, validation scores."""

    @property
    def name(self) -> str:
        """What it is called in sentences."""
        if self.path:
            return str(self.path)
        return f"{self.output} of kernel {self.kernel}, version {self.version}"

    @property
    def mark(self) -> str:
        """By this it is known again in Kaggle's list."""
        if self.path:
            return file_mark(self.path)
        return kernel_mark(self.kernel, self.version, self.output)

    def identity(self) -> dict[str, str]:
        """The columns of its ledger row by which it is known again."""
        if self.path:
            return {"sha256": sha256(self.path)}
        return {"file": self.output, "kernel_version": f"{self.kernel}/{self.version}"}

    def row(self) -> dict[str, str]:
        """Its ledger row, as far as it is known before it is sent."""
        file = self.path.name if self.path else self.output
        return {"competition": self.competition, "file": file, **self.identity(), **self.known}


def inspect(kaggle: Kaggle, parcel: Parcel, book: Path, *, again: bool) -> list[Sent]:
    """Make sure that there is sense in sending; say how many submissions are left.

    Returns the list of submissions so far. Raises ``UserError`` where none is left and, unless
    ``again``, where the same was sent before.
    """
    table = ledger.read_ledger(book)  # a damaged one must be known before something is sent
    earlier = list_submissions(kaggle, parcel.competition)
    if not again:
        same = [sent for sent in earlier if bears(sent.description, parcel.mark)]
        if same:
            raise UserError(_sent_before(parcel, str(same[0].ref), same[0].time))
        rows = ledger.find(table, competition=parcel.competition, **parcel.identity())
        if len(rows):
            raise UserError(_sent_before(parcel, rows["ref"].iloc[-1], rows["time"].iloc[-1]))
    allowance = remaining(kaggle, parcel.competition)
    if allowance.spent:
        counted = f"{allowance.today} today, {allowance.total} in all"
        when = f"They are counted anew {until_reset()}; run the same command then."
        if allowance.lifetime:
            when = "The competition's whole allowance is used up."
        raise UserError(
            f"No submission to {parcel.competition} is left ({counted}), so {parcel.name} was not "
            f"sent. {when}"
        )
    if allowance.left:
        log.info(
            "%d submissions to %s are left until 00:00 UTC, this one included.",
            allowance.left,
            parcel.competition,
        )
    else:
        log.info("Kaggle counts no submission to %s yet.", parcel.competition)
    return earlier


def _sent_before(parcel: Parcel, ref: str, time: str) -> str:
    return (
        f"{parcel.name} was sent to {parcel.competition} before: submission {ref} of {time}. It "
        "would score the same; send it all the same with --again."
    )


def deliver(kaggle: Kaggle, parcel: Parcel, book: Path, earlier: list[Sent]) -> int:
    """Send the parcel once, enter it in the ledger as PENDING and return its number.

    ``earlier`` is what ``inspect`` returned. Raises ``UserError`` as ``submissions.send`` does, and
    where the ledger cannot be written, which is tried before anything is sent.
    """
    ledger.rewrite(book, lambda table: table)
    try:
        ref = _send(kaggle, parcel, earlier)
    except StoppedAfterSending as stopped:
        _enter(parcel, book, stopped.ref)
        raise
    except KeyboardInterrupt:
        raise Stopped(
            f"Interrupted while {parcel.name} was on its way. See whether it arrived: "
            f"{sync_command(parcel.competition)}",
            signal.SIGINT,
        ) from None
    _enter(parcel, book, ref)
    log.info(
        "Sent %s as submission %d: %s", parcel.name, ref, describe(parcel.message, parcel.mark)
    )
    return ref


def _send(kaggle: Kaggle, parcel: Parcel, earlier: list[Sent]) -> int:
    if parcel.path:
        return send(kaggle, parcel.competition, parcel.path, parcel.message, earlier)
    return send_kernel_version(
        kaggle,
        parcel.competition,
        parcel.kernel,
        parcel.version,
        parcel.output,
        parcel.message,
        earlier,
    )


def _enter(parcel: Parcel, book: Path, ref: int) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        ledger.append(book, {"time": now, **parcel.row(), "ref": str(ref), "status": PENDING})
    except (OSError, UserError) as error:
        raise UserError(
            f"{parcel.name} was sent as submission {ref}, but {book} could not be written "
            f"({error}). When it can, run: {sync_command(parcel.competition)}"
        ) from error


def settle(kaggle: Kaggle, parcel: Parcel, book: Path, ref: int, longest_pause: float) -> None:
    """Wait for the score and put it into the ledger.

    Raises ``UserError`` where the submission could not be scored, with Kaggle's reason, and where
    the waiting ended without a score; ``Stopped`` on Ctrl-C. Both say how to go on.
    """
    later = f"Submission {ref} stays. Ask for its score with: {sync_command(parcel.competition)}"
    log.info("Waiting for its score (Ctrl-C stops the waiting only).")
    try:
        sent = wait_for_score(kaggle, ref, longest_pause)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped waiting. {later}", signal.SIGINT) from None
    except UserError as error:
        raise UserError(f"{error} {later}") from error
    ledger.update(book, sent)
    if sent.status == ERROR:
        raise UserError(
            f"Kaggle could not score submission {ref} ({parcel.name}): "
            f"{sent.error.rstrip('.') or 'it gives no reason'}. It is in {book}; mend the file and "
            "send it anew."
        )
    scores = [f"public score {sent.public_score or 'not shown'}"]
    if sent.private_score:
        scores.append(f"private score {sent.private_score}")
    if promised := parcel.known.get("val_score"):
        low, high = (parcel.known[f"val_score_{end}"] for end in ("low", "high"))
        interval = f" ({low}-{high})" if low and high else ""
        scores.append(f"validation {parcel.known['metric']} {promised}{interval}")
    log.info("Scored: %s. Wrote %s.", ", ".join(scores), book)
