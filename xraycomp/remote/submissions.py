"""Submissions on Kaggle: how many are left, which there are, and what they score."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from xraycomp.remote.client import Kaggle, Refused
from xraycomp.remote.credentials import redact
from xraycomp.remote.failures import Subject
from xraycomp.remote.waiting import wait_for

PENDING, COMPLETE, ERROR = "PENDING", "COMPLETE", "ERROR"

_PAGE = 100
# Seconds for which Kaggle may not know a submission: until it is known everywhere takes a moment.
_UNKNOWN = 60.0


@dataclass(frozen=True)
class Submission:
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
    action = f"say how many submissions to {competition} are left"
    answer = kaggle.call(
        kaggle.competitions.get_submission_limits,
        Subject(action, "competition", competition),
        competition_name=competition,
    )
    return Allowance(
        answer.num_allowed_now, answer.num_today, answer.num_total, answer.limited_by_total
    )


def until_reset(now: datetime | None = None) -> str:
    """When submissions are counted anew, for a sentence: ``at 00:00 UTC, in 5 h 12 min``."""
    now = now or datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    minutes = -((now - midnight) // timedelta(minutes=1))
    return f"at 00:00 UTC, in {minutes // 60} h {minutes % 60} min"


def list_submissions(kaggle: Kaggle, competition: str) -> list[Submission]:
    """Every submission of the account's team, newest first; all pages."""
    pages = kaggle.pages(
        kaggle.competitions.list_submissions,
        Subject(f"list the submissions to {competition}", "competition", competition),
        competition_name=competition,
        page_size=_PAGE,
    )
    # By their numbers: one that comes in meanwhile moves another to the next page.
    found = {item.ref: _submission(item) for page in pages for item in page.submissions or []}
    return list(found.values())


def wait_for_score(kaggle: Kaggle, ref: int, poll: float = 60.0) -> Submission:
    """Wait until a submission is scored, through network failures; ``poll`` is as in ``wait_for``.

    Returns it with the status COMPLETE or ERROR. Ctrl-C raises ``KeyboardInterrupt``; nothing is
    lost by it. Raises ``UserError`` where Kaggle cannot be asked any more.
    """
    subject = Subject(f"say the score of submission {ref}")
    began = time.monotonic()

    def look() -> tuple[str, Submission | None]:
        try:
            item = kaggle.call(kaggle.competitions.get_submission, subject, ref=ref)
        except Refused as error:
            if error.status == 404 and time.monotonic() - began < _UNKNOWN:
                return "not listed yet", None
            raise
        submission = _submission(item)
        return submission.status.lower(), None if submission.status == PENDING else submission

    return wait_for(look, f"Submission {ref}", poll)


def sync_command(competition: str) -> str:
    """The command that asks Kaggle for everything that was sent."""
    return f"python -m xraycomp.submit --sync --competition {competition}"


def _submission(item: Any) -> Submission:
    date = item.date
    return Submission(
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
