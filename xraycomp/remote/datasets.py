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
from xraycomp.remote.client import Kaggle, LostAnswer
from xraycomp.remote.download import list_files
from xraycomp.remote.failures import Subject
from xraycomp.remote.transfer import upload_file
from xraycomp.remote.waiting import wait_for

log = logging.getLogger(__name__)

READY_WITHIN = 1800.0
"""Seconds until waiting for a data set is given up."""
LONGEST_PAUSE = 20.0
"""Seconds between two looks at most."""


def publish(kaggle: Kaggle, ref: str, paths: list[Path]) -> int:
    """Make the private data set ``ref`` (owner/slug) of ``paths``, or a new version of it.

    Returns the number of the version, once it is current and lists every file with its size.

    Raises ``UserError`` for names that Kaggle refuses, and where the version does not become
    current in time.
    """
    _check(ref, paths)
    owner, slug = ref.split("/")
    before = _current_version(kaggle, ref)
    tokens = [_upload(kaggle, path) for path in paths]
    names = listing([path.name for path in paths])
    if before is None:
        request, method = _creation(kaggle, owner, slug, tokens)
        subject = Subject(f"make the data set {ref}", dataset=ref)
    else:
        request, method = _version(kaggle, owner, slug, tokens, f"{names} by xraycomp")
        subject = Subject(f"take a new version of the data set {ref}", dataset=ref)
    try:
        answer = kaggle.call(method, request, subject, repeat=False)
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
    """Wait until ``ref`` is READY, at ``version`` if given, and lists ``files`` (name to bytes).

    Raises ``UserError`` when that takes longer than ``READY_WITHIN`` seconds or fails.
    """
    began = time.monotonic()
    ref = "/".join(ref.split("/")[:2])  # kernel-metadata.json may pin a version behind it

    def look() -> tuple[str, bool | None]:
        problem = _not_ready(kaggle, ref, version, files or {})
        if problem and time.monotonic() - began > READY_WITHIN:
            raise UserError(
                f"The data set {ref} is not ready after {READY_WITHIN / 60:.0f} minutes "
                f"({problem}). Look at https://www.kaggle.com/datasets/{ref} and push later."
            )
        return problem, None if problem else True

    wait_for(look, f"Data set {ref}", LONGEST_PAUSE)


def _not_ready(kaggle: Kaggle, ref: str, version: int | None, files: dict[str, int]) -> str:
    """Why the data set cannot be used yet, as a clause; empty if it can."""
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

    request = ApiGetDatasetStatusRequest()
    request.owner_slug, request.dataset_slug = ref.split("/")
    method = kaggle.client.datasets.dataset_api_client.get_dataset_status
    subject = Subject(f"tell the status of the data set {ref}", dataset=ref)
    status = kaggle.call(method, request, subject).status.name
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
    import requests
    from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

    request = ApiGetDatasetRequest()
    request.owner_slug, request.dataset_slug = ref.split("/")
    client: Any = kaggle.client.datasets.dataset_api_client

    def asked(request: Any) -> Any:
        try:
            return client.get_dataset(request)
        except requests.HTTPError as error:
            # Kaggle says 403 or 404 of a data set of one's own that is not there yet.
            if error.response is not None and error.response.status_code in (403, 404):
                return None
            raise

    answer = kaggle.call(asked, request, Subject(f"show the data set {ref}", dataset=ref))
    return None if answer is None else int(answer.current_version_number)


def _check(ref: str, paths: list[Path]) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+/[a-z0-9-]{6,50}", ref):
        raise UserError(
            f"{ref} is no name for a data set: it must be OWNER/SLUG, the slug with 6 to 50 small "
            "letters, digits and dashes."
        )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise UserError(f"There is no file {listing(missing) or 'to upload'}. Check the path.")


def _upload(kaggle: Kaggle, path: Path) -> str:
    from kagglesdk.blobs.types.blob_api_service import ApiBlobType, ApiStartBlobUploadRequest

    request = ApiStartBlobUploadRequest()
    request.type = ApiBlobType.DATASET
    request.name = path.name
    request.content_length = path.stat().st_size
    request.last_modified_epoch_seconds = int(path.stat().st_mtime)
    subject = Subject(f"take the file {path.name}")
    answer = kaggle.call(kaggle.client.blobs.blob_api_client.start_blob_upload, request, subject)
    upload_file(answer.create_url, path, subject)
    return str(answer.token)


def _files(tokens: list[str]) -> list[Any]:
    from kagglesdk.datasets.types.dataset_api_service import ApiDatasetNewFile

    files = []
    for token in tokens:
        file = ApiDatasetNewFile()
        file.token = token
        files.append(file)
    return files


def _creation(kaggle: Kaggle, owner: str, slug: str, tokens: list[str]) -> tuple[Any, Any]:
    from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest

    request = ApiCreateDatasetRequest()
    request.owner_slug, request.slug = owner, slug
    request.title = slug.replace("-", " ")
    request.license_name = "other"
    request.is_private = True
    request.files = _files(tokens)
    return request, kaggle.client.datasets.dataset_api_client.create_dataset


def _version(
    kaggle: Kaggle, owner: str, slug: str, tokens: list[str], notes: str
) -> tuple[Any, Any]:
    from kagglesdk.datasets.types.dataset_api_service import (
        ApiCreateDatasetVersionRequest,
        ApiCreateDatasetVersionRequestBody,
    )

    body = ApiCreateDatasetVersionRequestBody()
    body.version_notes = notes
    body.files = _files(tokens)
    request = ApiCreateDatasetVersionRequest()
    request.owner_slug, request.dataset_slug, request.body = owner, slug, body
    return request, kaggle.client.datasets.dataset_api_client.create_dataset_version
