"""Data sets of one's own on Kaggle: made, given a new version, and waited for.

An upload is answered before the new version is current, and a kernel that is pushed meanwhile is
bound to the old one. So nothing goes on until Kaggle says READY and lists the new files.
"""

import logging
import re
import time
from pathlib import Path
from typing import Any

from xraycomp.console.errors import UserError, listing
from xraycomp.remote.client import Kaggle, LostAnswer, Refused
from xraycomp.remote.download import list_files, naming
from xraycomp.remote.failures import Subject
from xraycomp.remote.transfer import upload_file
from xraycomp.remote.waiting import wait_for

log = logging.getLogger(__name__)

READY_WITHIN = 1800.0
"""Seconds until waiting for a data set is given up."""
_POLL = 20.0  # seconds between two looks at most


def publish(kaggle: Kaggle, ref: str, paths: list[Path]) -> int:
    """Make the private data set ``ref`` (owner/slug) of ``paths``, or a new version of it.

    Returns the number of the version, once it is current and lists every file with its size.

    Raises ``UserError`` for names that Kaggle refuses, and where the version does not become
    current in time.
    """
    _check(ref, paths)
    before = _current_version(kaggle, ref)
    files = [_upload(kaggle, path) for path in paths]
    action = f"{'make' if before is None else 'take a new version of'} the data set {ref}"
    subject = Subject(action, "data set", ref)
    try:
        if before is None:
            answer = _create(kaggle, subject, ref, files)
        else:
            notes = f"{listing([path.name for path in paths])} by xraycomp"
            answer = _create_version(kaggle, subject, ref, files, notes)
    except LostAnswer:
        log.info("The answer was lost; looking whether the data set is there all the same.")
    else:
        if answer.error or str(answer.status).lower() not in ("", "ok", "none"):
            said = answer.error or answer.status
            raise UserError(f"Kaggle refused to {subject.action}: {str(said).rstrip('.')}.")
    wanted = (before or 0) + 1
    wait_until_ready(kaggle, ref, wanted, {path.name: path.stat().st_size for path in paths})
    return wanted


def wait_until_ready(
    kaggle: Kaggle, ref: str, version: int | None = None, files: dict[str, int] | None = None
) -> None:
    """Wait until ``ref`` (owner/slug) is READY, at ``version`` if given, and lists ``files``.

    ``files`` are names and their sizes in bytes.

    Raises ``UserError`` when that takes longer than ``READY_WITHIN`` seconds or fails.
    """
    began = time.monotonic()

    def look() -> tuple[str, bool | None]:
        problem = _not_ready(kaggle, ref, version, files or {})
        if problem and time.monotonic() - began > READY_WITHIN:
            raise UserError(
                f"The data set {ref} is not ready after {READY_WITHIN / 60:.0f} minutes "
                f"({problem}). Look at https://www.kaggle.com/datasets/{ref} and push later."
            )
        return problem, None if problem else True

    wait_for(look, f"Data set {ref}", _POLL)


def _not_ready(kaggle: Kaggle, ref: str, version: int | None, files: dict[str, int]) -> str:
    """Why the data set cannot be used yet, as a clause; empty if it can."""
    subject = Subject(f"tell the status of the data set {ref}", "data set", ref)
    answer = kaggle.call(kaggle.datasets.get_dataset_status, subject, **naming(ref))
    status = answer.status.name
    if status in ("FAILED", "DELETED"):
        raise UserError(
            f"The data set {ref} is {status} on Kaggle. See https://www.kaggle.com/datasets/{ref}"
        )
    if status != "READY":
        return f"Kaggle says {status}"
    listed = list_files(kaggle, ref)
    if missing := [name for name, size in files.items() if listed.get(name) != size]:
        return f"{listing(missing)} is not listed with its size yet"
    if version is not None and (_current_version(kaggle, ref) or 0) < version:
        return f"version {version} is not current yet"
    return ""


def _current_version(kaggle: Kaggle, ref: str) -> int | None:
    """The version that Kaggle shows; None where there is no such data set."""
    subject = Subject(f"show the data set {ref}")
    try:
        answer = kaggle.call(kaggle.datasets.get_dataset, subject, **naming(ref))
    except Refused as error:
        if error.status in (403, 404):  # what Kaggle says of one's own that is not there yet
            return None
        raise
    return int(answer.current_version_number)


def _check(ref: str, paths: list[Path]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+/[a-z0-9-]{6,50}", ref):
        raise UserError(
            f"{ref} is no name for a data set: it must be OWNER/SLUG, the slug with 6 to 50 small "
            "letters, digits and dashes."
        )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise UserError(f"There is no file {listing(missing) or 'to upload'}. Check the path.")


def _upload(kaggle: Kaggle, path: Path) -> Any:
    """Send a file to Kaggle's storage; returns what names it there in a request."""
    from kagglesdk.blobs.types.blob_api_service import ApiBlobType
    from kagglesdk.datasets.types.dataset_api_service import ApiDatasetNewFile

    subject = Subject(f"take the file {path.name}")
    place = kaggle.call(
        kaggle.client.blobs.blob_api_client.start_blob_upload,
        subject,
        type=ApiBlobType.DATASET,
        name=path.name,
        content_length=path.stat().st_size,
        last_modified_epoch_seconds=int(path.stat().st_mtime),
    )
    upload_file(place.create_url, path, subject)
    file = ApiDatasetNewFile()
    file.token = place.token
    return file


def _create(kaggle: Kaggle, subject: Subject, ref: str, files: list[Any]) -> Any:
    owner, slug = ref.split("/")
    return kaggle.call(
        kaggle.datasets.create_dataset,
        subject,
        repeat=False,
        owner_slug=owner,
        slug=slug,
        title=slug.replace("-", " "),
        license_name="other",
        is_private=True,
        files=files,
    )


def _create_version(
    kaggle: Kaggle, subject: Subject, ref: str, files: list[Any], notes: str
) -> Any:
    from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetVersionRequestBody

    body = ApiCreateDatasetVersionRequestBody()
    body.version_notes, body.files = notes, files
    method = kaggle.datasets.create_dataset_version
    return kaggle.call(method, subject, repeat=False, body=body, **naming(ref))
