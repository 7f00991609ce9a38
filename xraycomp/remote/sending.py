"""Sending a submission: once, and never twice, even where Kaggle's answer was lost."""

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from xraycomp.console.errors import Stopped, UserError
from xraycomp.console.signals import StopRequest
from xraycomp.remote.client import Kaggle, LostAnswer
from xraycomp.remote.failures import Subject
from xraycomp.remote.marks import bears, describe, file_mark, kernel_mark
from xraycomp.remote.submissions import Sent, api, list_submissions, sync_command
from xraycomp.remote.transfer import upload_file

log = logging.getLogger(__name__)

# After a lost answer the list is looked at this many seconds after the look before.
_LOOKS = (0.0, 1.0, 3.0, 6.0)


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
    place = kaggle.call(api(kaggle).start_submission_upload, start, subject)
    upload_file(place.create_url, path, subject)

    request = ApiCreateSubmissionRequest()
    request.competition_name = competition
    request.blob_file_tokens = place.token
    request.submission_description = describe(message, mark)
    create = api(kaggle).create_submission
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
    mark = kernel_mark(kernel, version, file)
    request = ApiCreateCodeSubmissionRequest()
    request.competition_name = competition
    request.kernel_owner, request.kernel_slug = kernel.split("/")
    request.kernel_version = version
    request.file_name = file
    request.submission_description = describe(message, mark)
    # The list has shown that the competition is open to us: a refusal is about the kernel.
    subject = Subject(f"take {file} of version {version} for {competition}", kernel=kernel)
    create = api(kaggle).create_code_submission
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
            if sent.ref not in known and bears(sent.description, mark):
                log.info("It had arrived: submission %d.", sent.ref)
                return sent.ref
    raise LostAnswer(
        f"{lost} But {file} is not among the submissions to {competition} after "
        f"{sum(_LOOKS):.0f} s, so it was not sent. Run the same command again; it looks first."
    )
