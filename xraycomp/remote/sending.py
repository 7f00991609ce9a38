"""A draft's way: looked at, sent once and never twice, entered in the ledger, scored."""

import functools
import logging
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import StopRequest
from xraycomp.remote.client import Kaggle, LostAnswer
from xraycomp.remote.drafts import Draft, KernelOutput, bears
from xraycomp.remote.failures import Subject
from xraycomp.remote.ledger import append, find, read_ledger, rewrite, update
from xraycomp.remote.submissions import (
    ERROR,
    PENDING,
    Submission,
    list_submissions,
    remaining,
    sync_command,
    until_reset,
    wait_for_score,
)
from xraycomp.remote.transfer import upload_file

log = logging.getLogger(__name__)

# After a lost answer the list is looked at this many seconds after the look before.
_LOOKS = (0.0, 1.0, 3.0, 6.0)


def inspect(kaggle: Kaggle, draft: Draft, ledger: Path, *, again: bool) -> list[Submission]:
    """Make sure that there is sense in sending; say how many submissions are left.

    Returns the submissions so far. Raises ``UserError`` where none is left and, unless ``again``,
    where the same was sent before.
    """
    table = read_ledger(ledger)  # a damaged one must be known before something is sent
    earlier = list_submissions(kaggle, draft.competition)
    if not again:
        rows = find(table, competition=draft.competition, **draft.content.identity)
        sent = [(item.ref, item.time) for item in earlier if _is(item, draft)]
        if sent := sent or list(zip(rows["ref"], rows["time"], strict=True))[::-1]:
            ref, when = sent[0]
            raise UserError(
                f"{draft.content} was sent to {draft.competition} before: submission {ref} of "
                f"{when}. It would score the same; send it all the same with --again."
            )
    allowance = remaining(kaggle, draft.competition)
    if allowance.spent:
        counted = f"{allowance.today} today, {allowance.total} in all"
        when = f"They are counted anew {until_reset()}; run the same command then."
        if allowance.lifetime:
            when = "The competition's whole allowance is used up."
        raise UserError(
            f"No submission to {draft.competition} is left ({counted}), so {draft.content} was not "
            f"sent. {when}"
        )
    if allowance.left:
        log.info(
            "%d submissions to %s are left until 00:00 UTC, this one included.",
            allowance.left,
            draft.competition,
        )
    else:
        log.info("Kaggle counts no submission to %s yet.", draft.competition)
    return earlier


def _is(submission: Submission, draft: Draft) -> bool:
    return bears(submission.description, draft.content.mark)


def send(kaggle: Kaggle, draft: Draft, ledger: Path, earlier: list[Submission]) -> int:
    """Send the draft once, enter it in the ledger as PENDING and return the submission's number.

    ``earlier`` is what ``inspect`` returned.

    Raises
    ------
    UserError : where Kaggle refuses, and where the ledger cannot be written, which is tried before
        anything is sent; ``LostAnswer`` where Kaggle's answer was lost and the draft is not in the
        list of submissions either. Then nothing was sent twice, and the sentence says what is
        known and what to do.
    Stopped : on Ctrl-C, once it is known whether it was sent.
    """
    rewrite(ledger, lambda table: table)
    later = sync_command(draft.competition)
    try:
        create = _prepare(kaggle, draft)
        # From here on Ctrl-C has to wait: without its number nobody knows what was done.
        with StopRequest() as stop:
            ref = _create(kaggle, draft, create, earlier)
            _enter(draft, ledger, ref)
    except KeyboardInterrupt:
        raise Stopped(
            f"Interrupted while {draft.content} was on its way. See whether it arrived: {later}",
            signal.SIGINT,
        ) from None
    if stop.signal_number:
        raise Stopped(
            f"Interrupted after {draft.content} was sent as submission {ref}. Ask for its score "
            f"with: {later}",
            stop.signal_number,
        )
    log.info("Sent %s as submission %d: %s", draft.content, ref, draft.description)
    return ref


def _prepare(kaggle: Kaggle, draft: Draft) -> Callable[[], Any]:
    """Upload what has to be; returns the call that makes the submission, for once.

    The requests are those of ``kaggle competitions submit``.
    """
    slug, content = draft.competition, draft.content
    call = functools.partial(
        kaggle.call,
        repeat=False,
        competition_name=slug,
        submission_description=draft.description,
    )
    if isinstance(content, KernelOutput):
        owner, kernel = content.kernel.split("/")
        # The list has shown that the competition is open to us: a refusal is about the kernel.
        action = f"take {content.file} of version {content.version} for {slug}"
        return functools.partial(
            call,
            kaggle.competitions.create_code_submission,
            Subject(action, "kernel", content.kernel),
            kernel_owner=owner,
            kernel_slug=kernel,
            kernel_version=content.version,
            file_name=content.file,
        )
    subject = Subject(f"take {content.file} for {slug}", "competition", slug)
    place = kaggle.call(
        kaggle.competitions.start_submission_upload,
        subject,
        competition_name=slug,
        file_name=content.file,
        content_length=content.path.stat().st_size,
        last_modified_epoch_seconds=int(content.path.stat().st_mtime),
    )
    upload_file(place.create_url, content.path, subject)
    create = kaggle.competitions.create_submission
    return functools.partial(call, create, subject, blob_file_tokens=place.token)


def _create(
    kaggle: Kaggle, draft: Draft, create: Callable[[], Any], earlier: list[Submission]
) -> int:
    """Make the call that counts; where its answer is lost, look for what it did."""
    try:
        if ref := int(create().ref):
            return ref
        lost = "Kaggle's answer holds no number of the submission."
    except LostAnswer as error:
        lost = str(error)
    known = {submission.ref for submission in earlier}
    log.info("%s Looking for it in the list of submissions.", lost)
    for pause in _LOOKS:
        time.sleep(pause)
        try:
            listed = list_submissions(kaggle, draft.competition)
        except UserError as error:
            raise LostAnswer(
                f"{lost} The list of submissions cannot be read either, so it is not known whether "
                f"{draft.content} arrived. Before sending it again, see: "
                f"{sync_command(draft.competition)}"
            ) from error
        for submission in listed:
            if submission.ref not in known and _is(submission, draft):
                log.info("It had arrived: submission %d.", submission.ref)
                return submission.ref
    raise LostAnswer(
        f"{lost} But {draft.content} is not among the submissions to {draft.competition} after "
        f"{sum(_LOOKS):.0f} s, so it was not sent. Run the same command again; it looks first."
    )


def _enter(draft: Draft, ledger: Path, ref: int) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    try:
        append(ledger, {"time": now, **draft.row, "ref": str(ref), "status": PENDING})
    except (OSError, UserError) as error:
        raise UserError(
            f"{draft.content} was sent as submission {ref}, but {ledger} could not be written "
            f"({error}). When it can, run: {sync_command(draft.competition)}"
        ) from error


def record_score(kaggle: Kaggle, draft: Draft, ledger: Path, ref: int, poll: float) -> None:
    """Wait for the score and put it into the ledger; ``poll`` is as in ``wait_for``.

    Raises ``UserError`` where the submission could not be scored, with Kaggle's reason, and where
    the waiting ended without a score; ``Stopped`` on Ctrl-C. Both say how to go on.
    """
    later = f"Submission {ref} stays. Ask for its score with: {sync_command(draft.competition)}"
    log.info("Waiting for its score (Ctrl-C stops the waiting only).")
    try:
        submission = wait_for_score(kaggle, ref, poll)
    except KeyboardInterrupt:
        raise Stopped(f"Stopped waiting. {later}", signal.SIGINT) from None
    except UserError as error:
        raise UserError(f"{error} {later}") from error
    update(ledger, submission)
    if submission.status == ERROR:
        raise UserError(
            f"Kaggle could not score submission {ref} ({draft.content}): "
            f"{submission.error.rstrip('.') or 'it gives no reason'}. It is in {ledger}; mend the "
            "file and send it anew."
        )
    scores = [f"public score {submission.public_score or 'not shown'}"]
    if submission.private_score:
        scores.append(f"private score {submission.private_score}")
    if promised := draft.known.get("val_score"):
        low, high = (draft.known[f"val_score_{end}"] for end in ("low", "high"))
        interval = f" ({low}-{high})" if low and high else ""
        scores.append(f"validation {draft.known['metric']} {promised}{interval}")
    log.info("Scored: %s. Wrote %s.", ", ".join(scores), ledger)
