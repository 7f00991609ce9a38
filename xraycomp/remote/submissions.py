"""Submissions on Kaggle: how many are left, sent once and never twice, listed and waited for."""

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import StopRequest
from xraycomp.remote.client import Kaggle, LostAnswer
from xraycomp.remote.credentials import redact
from xraycomp.remote.failures import BUSY, Subject, status_of
from xraycomp.remote.marks import bears, describe, file_mark, kernel_mark
from xraycomp.remote.transfer import upload_file

log = logging.getLogger(__name__)

PENDING, COMPLETE, ERROR = "PENDING", "COMPLETE", "ERROR"

_PAGE = 100
# After a lost answer the list is looked at this many seconds after the look before.
_LOOKS = (0.0, 1.0, 3.0, 6.0)
# So many looks in a row may fail (each of them tried again for seconds) until waiting ends.
_UNANSWERED = 10


@dataclass(frozen=True)
class Sent:
    """One submission as Kaggle lists it; texts are empty where Kaggle says nothing yet."""

    ref: int
    time: str
    """When it came in: UTC, ISO 8601."""
    file: str
    description: str
    size: int
    status: str
    """PENDING, COMPLETE or ERROR."""
    public_score: str
    private_score: str
    error: str
    """Why it could not be scored."""


@dataclass(frozen=True)
class Allowance:
    """How many submissions are left to the team until the day ends (UTC)."""

    left: int
    today: int
    total: int
    lifetime: bool
    """Whether the competition's whole allowance is the limit, and not the day's."""

    @property
    def spent(self) -> bool:
        """None is left. All zeros is what Kaggle says of a team that never submitted: unknown."""
        return self.left == 0 and (self.total > 0 or self.lifetime)


def remaining(kaggle: Kaggle, competition: str) -> Allowance:
    """Ask how many submissions are left."""
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionLimitsRequest

    request = ApiGetSubmissionLimitsRequest()
    request.competition_name = competition
    action = f"say how many submissions to {competition} are left"
    method = _api(kaggle).get_submission_limits
    answer = kaggle.call(method, request, Subject(action, competition=competition))
    return Allowance(
        answer.num_allowed_now, answer.num_today, answer.num_total, answer.limited_by_total
    )


def until_reset(now: datetime | None = None) -> str:
    """When submissions are counted anew, for a sentence: ``at 00:00 UTC, in 5 h 12 min``."""
    now = now or datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    minutes = -((now - midnight) // timedelta(minutes=1))
    return f"at 00:00 UTC, in {minutes // 60} h {minutes % 60} min"


def list_submissions(kaggle: Kaggle, competition: str) -> list[Sent]:
    """Every submission of the account's team, newest first; all pages."""
    from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

    request = ApiListSubmissionsRequest()
    request.competition_name = competition
    request.page_size = _PAGE
    subject = Subject(f"list the submissions to {competition}", competition=competition)
    found: dict[int, Sent] = {}
    while True:
        answer = kaggle.call(_api(kaggle).list_submissions, request, subject)
        before = len(found)
        found |= {item.ref: _sent(item) for item in answer.submissions or []}
        # A page without anything new would come for ever.
        if not answer.next_page_token or len(found) == before:
            return list(found.values())
        request.page_token = answer.next_page_token


def send(
    kaggle: Kaggle,
    competition: str,
    path: Path,
    message: str,
    earlier: Collection[Sent] | None = None,
) -> int:
    """Send a file once and return the submission's number.

    Parameters
    ----------
    path : the file; the requests are those of ``kaggle competitions submit``
    message : its description; the file's mark is added
    earlier : the list of submissions right before, where it is known already

    Raises
    ------
    UserError : where Kaggle refuses; ``LostAnswer`` where its answer was lost and the file is not
        in the list of submissions either. Then nothing was sent twice, and the sentence says what
        is known and what to do.
    """
    from kagglesdk.competitions.types.competition_api_service import (
        ApiCreateSubmissionRequest,
        ApiStartSubmissionUploadRequest,
    )

    if earlier is None:
        earlier = list_submissions(kaggle, competition)
    mark = file_mark(path)
    subject = Subject(f"take {path.name} for {competition}", competition=competition)
    start = ApiStartSubmissionUploadRequest()
    start.competition_name = competition
    start.file_name = path.name
    start.content_length = path.stat().st_size
    start.last_modified_epoch_seconds = int(path.stat().st_mtime)
    place = kaggle.call(_api(kaggle).start_submission_upload, start, subject)
    upload_file(place.create_url, path, subject)

    request = ApiCreateSubmissionRequest()
    request.competition_name = competition
    request.blob_file_tokens = place.token
    request.submission_description = describe(message, mark)
    create = _api(kaggle).create_submission
    return _once(kaggle, create, request, subject, competition, path.name, mark, earlier)


def send_kernel_version(
    kaggle: Kaggle,
    competition: str,
    kernel: str,
    version: int,
    file: str,
    message: str,
    earlier: Collection[Sent] | None = None,
) -> int:
    """Submit ``file`` of a kernel's version to a code competition, once, as ``send`` does.

    ``kernel`` is ``owner/slug``. Returns the submission's number; raises as ``send`` does.
    """
    from kagglesdk.competitions.types.competition_api_service import (
        ApiCreateCodeSubmissionRequest,
    )

    if earlier is None:
        earlier = list_submissions(kaggle, competition)
    mark = kernel_mark(kernel, version)
    request = ApiCreateCodeSubmissionRequest()
    request.competition_name = competition
    request.kernel_owner, request.kernel_slug = kernel.split("/")
    request.kernel_version = version
    request.file_name = file
    request.submission_description = describe(message, mark)
    # The list has shown that the competition is open to us: a refusal is about the kernel.
    subject = Subject(f"take {file} of version {version} for {competition}", kernel=kernel)
    create = _api(kaggle).create_code_submission
    return _once(kaggle, create, request, subject, competition, file, mark, earlier)


def _once(
    kaggle: Kaggle,
    create: Callable[[Any], Any],
    request: Any,
    subject: Subject,
    competition: str,
    file: str,
    mark: str,
    earlier: Collection[Sent],
) -> int:
    """Make the call that counts; where its answer is lost, look for what it did."""
    # Ctrl-C has to wait for the answer here: without its number nobody knows what was done.
    with StopRequest() as stop:
        try:
            answer = kaggle.call(create, request, subject, repeat=False)
            ref = int(answer.ref)
            lost = "" if ref else "Kaggle's answer holds no number of the submission."
        except LostAnswer as error:
            ref, lost = 0, str(error)
    if not ref:
        ref = _look_for(kaggle, competition, file, mark, earlier, lost)
    if stop.signal_number:
        raise StoppedAfterSending(competition, file, ref, stop.signal_number)
    return ref


class StoppedAfterSending(Stopped):
    """Ctrl-C came while Kaggle was asked, and the submission was made."""

    def __init__(self, competition: str, file: str, ref: int, signal_number: int) -> None:
        super().__init__(
            f"Interrupted after {file} was sent as submission {ref}. Ask for its score with: "
            f"{sync_command(competition)}",
            signal_number,
        )
        self.ref = ref


def _look_for(
    kaggle: Kaggle, competition: str, file: str, mark: str, earlier: Collection[Sent], lost: str
) -> int:
    known = {sent.ref for sent in earlier}
    log.info("%s Looking for it in the list of submissions.", lost)
    for pause in _LOOKS:
        time.sleep(pause)
        try:
            listed = list_submissions(kaggle, competition)
        except UserError as error:
            raise LostAnswer(
                f"{lost} The list of submissions cannot be read either, so it is not known whether "
                f"{file} arrived. Before sending it again, see: {sync_command(competition)}"
            ) from error
        for sent in listed:
            if sent.ref not in known and bears(sent.description, mark) and sent.file in ("", file):
                log.info("It had arrived: submission %d.", sent.ref)
                return sent.ref
    raise LostAnswer(
        f"{lost} But {file} is not among the submissions to {competition} after "
        f"{sum(_LOOKS):.0f} s, so it was not sent. Run the same command again; it looks first."
    )


def wait_for_score(kaggle: Kaggle, ref: int, longest_pause: float = 60.0) -> Sent:
    """Wait until a submission is scored, with growing pauses and through network failures.

    Returns it with the status COMPLETE or ERROR. Ctrl-C raises ``KeyboardInterrupt``; nothing is
    lost by it. Raises ``UserError`` where Kaggle cannot be asked any more.
    """
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = ref
    subject = Subject(f"say the score of submission {ref}")
    pause, failures = 1.0, 0
    with tqdm(
        desc=f"Submission {ref}: {PENDING}",
        bar_format="{desc}, {elapsed}",
        leave=False,
        disable=None,  # no clock in a file or a pipe
    ) as bar:
        while True:
            try:
                sent = _sent(kaggle.call(_api(kaggle).get_submission, request, subject))
                failures = 0
                if sent.status != PENDING:
                    return sent
                bar.set_description_str(f"Submission {ref}: {PENDING}")
            except UserError as error:
                cause = error.__cause__
                status = status_of(cause) if isinstance(cause, Exception) else 0
                failures += 1
                # 404: it may take a moment until a new submission is known everywhere.
                if status not in {None, 404, *BUSY} or failures == _UNANSWERED:
                    raise
                bar.set_description_str(f"Submission {ref}: no answer, asking again")
            pause = min(pause * 1.5, longest_pause)
            _sleep(pause, bar)


def _sleep(seconds: float, bar: "tqdm[Any]") -> None:
    """Sleep while the clock ticks."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        bar.refresh()


def sync_command(competition: str) -> str:
    """The command that asks Kaggle for everything that was sent."""
    return f"python -m xraycomp.submit --sync --competition {competition}"


def _api(kaggle: Kaggle) -> Any:
    return kaggle.client.competitions.competition_api_client


def _sent(item: Any) -> Sent:
    date = item.date
    return Sent(
        ref=int(item.ref),
        time=date.strftime("%Y-%m-%dT%H:%M:%SZ") if date else "",  # Kaggle's times are UTC
        file=redact(item.file_name),
        description=redact(item.description),
        size=item.total_bytes,
        status=item.status.name,
        public_score=item.public_score,
        private_score=item.private_score,
        error=redact(" ".join(item.error_description.split())),
    )
