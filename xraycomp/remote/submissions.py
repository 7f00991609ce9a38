"""Submissions on Kaggle: how many are left, which there are, and what they score."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from xraycomp.console.errors import UserError
from xraycomp.remote.client import Kaggle
from xraycomp.remote.credentials import redact
from xraycomp.remote.failures import Subject, status_of
from xraycomp.remote.waiting import wait_for

PENDING, COMPLETE, ERROR = "PENDING", "COMPLETE", "ERROR"

_PAGE = 100
# Seconds for which Kaggle may not know a submission: until it is known everywhere takes a moment.
_UNKNOWN = 60.0


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
    method = api(kaggle).get_submission_limits
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
        answer = kaggle.call(api(kaggle).list_submissions, request, subject)
        before = len(found)
        found |= {item.ref: _sent(item) for item in answer.submissions or []}
        # A page without anything new would come for ever.
        if not answer.next_page_token or len(found) == before:
            return list(found.values())
        request.page_token = answer.next_page_token


def wait_for_score(kaggle: Kaggle, ref: int, longest_pause: float = 60.0) -> Sent:
    """Wait until a submission is scored, with growing pauses and through network failures.

    Returns it with the status COMPLETE or ERROR. Ctrl-C raises ``KeyboardInterrupt``; nothing is
    lost by it. Raises ``UserError`` where Kaggle cannot be asked any more.
    """
    from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionRequest

    request = ApiGetSubmissionRequest()
    request.ref = ref
    subject = Subject(f"say the score of submission {ref}")
    began = time.monotonic()

    def look() -> tuple[str, Sent | None]:
        try:
            sent = _sent(kaggle.call(api(kaggle).get_submission, request, subject))
        except UserError as error:
            cause = error.__cause__
            unknown = isinstance(cause, Exception) and status_of(cause) == 404
            if unknown and time.monotonic() - began < _UNKNOWN:
                return "not listed yet", None
            raise
        return sent.status.lower(), None if sent.status == PENDING else sent

    return wait_for(look, f"Submission {ref}", longest_pause)


def sync_command(competition: str) -> str:
    """The command that asks Kaggle for everything that was sent."""
    return f"python -m xraycomp.submit --sync --competition {competition}"


def api(kaggle: Kaggle) -> Any:
    """The part of the SDK that knows submissions."""
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
