"""A kernel on Kaggle: pushed, followed to its end, and never believed without a look."""

import json
import logging
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xraycomp.console.errors import Stopped, UserError, listing
from xraycomp.console.signals import StopRequest
from xraycomp.data.files import write_json
from xraycomp.remote.bundle import Bundle, mark_run
from xraycomp.remote.client import Kaggle, LostAnswer, request_type
from xraycomp.remote.datasets import wait_until_ready
from xraycomp.remote.download import list_files
from xraycomp.remote.failures import Subject
from xraycomp.remote.logs import decode_log
from xraycomp.remote.metadata import KernelMetadata, unversioned
from xraycomp.remote.waiting import wait_for

log = logging.getLogger(__name__)

PUSHED_FILE = "pushed.json"
"""In the kernel's folder: which version this machine pushed last."""
LOG_LINES = 15
"""How many last lines of a failed kernel's log are shown."""

COMPLETE, FAILED = "COMPLETE", {"ERROR", "CANCEL_ACKNOWLEDGED"}
"""Statuses at the end of a version."""


@dataclass(frozen=True)
class Pushed:
    """A version of a kernel that was pushed from here."""

    ref: str
    """owner/slug."""
    version: int
    run: str
    """The number of this very push, which ``kernel.json`` in its output bears."""
    sha256: str
    """Of the bundled sources, as the kernel's own ``kernel.json`` has it."""
    commit: str
    url: str
    when: str
    """UTC, ISO 8601."""

    @property
    def label(self) -> str:
        """For messages: ``ada/acse4-resnet18 version 3``."""
        return f"{self.ref} version {self.version}"


class NotPushed(UserError):  # noqa: N818 - says what is the case
    """Nothing was pushed from a kernel's folder yet."""


def read_pushed(folder: Path) -> Pushed:
    """What was pushed last from the kernel's ``folder``.

    Raises ``NotPushed`` where nothing was, ``UserError`` where the note of it is damaged.
    """
    path = folder / PUSHED_FILE
    if not path.is_file():
        raise NotPushed(
            f"Nothing was pushed from {folder} yet. Push it with: "
            f"python -m xraycomp.kernel push {folder.name}"
        )
    try:
        return Pushed(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). Push the kernel again.") from error


def push(kaggle: Kaggle, bundle: Bundle) -> Pushed:
    """Send the built file as a new version and keep a note of it in the kernel's folder.

    Before: waits until attached data sets are ready, and asks for attached competitions, whose
    absence Kaggle would not tell. After: every field that tells of a failure is looked at. What is
    sent differs from the built file in the number of the run alone, which its output will bear.

    Raises ``UserError`` where anything is missing, refused, dropped or renamed; ``Stopped`` where
    Ctrl-C came while Kaggle was asked, once it is known what was done.
    """
    metadata, folder = bundle.metadata, bundle.path.parent
    ref = f"{metadata.owner}/{metadata.slug}"
    for source in metadata.dataset_sources:
        wait_until_ready(kaggle, unversioned(source))
    for slug in metadata.competition_sources:
        list_files(kaggle, slug)
    run = uuid.uuid4().hex
    text = mark_run(bundle.path.read_text(encoding="utf-8"), run)
    # Ctrl-C has to wait for the answer: without its version nobody knows what was done.
    with StopRequest() as stop:
        version, url, problem = _save(kaggle, metadata, ref, text)
        pushed = Pushed(
            ref=ref,
            version=version,
            run=run,
            sha256=bundle.sha256,
            commit=bundle.commit,
            url=url or f"https://www.kaggle.com/code/{ref}",
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_json(folder / PUSHED_FILE, asdict(pushed))
    if problem:
        raise UserError(problem)
    if stop.signal_number:
        raise Stopped(
            f"Interrupted after {pushed.label} was pushed. Follow it with: "
            f"python -m xraycomp.kernel wait {folder.name}",
            stop.signal_number,
        )
    return pushed


def _save(kaggle: Kaggle, metadata: KernelMetadata, ref: str, text: str) -> tuple[int, str, str]:
    """Make the call once. Returns version, address, and what is wrong with what Kaggle made."""
    try:
        answer = kaggle.call(  # with the request that ``kaggle kernels push`` makes of the folder
            kaggle.kernels.save_kernel,
            Subject(f"take the kernel {ref}", "kernel", ref),
            repeat=False,
            slug=ref,
            new_title=metadata.title,
            text=text,
            language=metadata.language,
            kernel_type=metadata.kernel_type,
            is_private=metadata.is_private,
            enable_gpu=metadata.enable_gpu,
            enable_tpu=metadata.enable_tpu,
            enable_internet=metadata.enable_internet,
            dataset_data_sources=list(metadata.dataset_sources),
            competition_data_sources=list(metadata.competition_sources),
            kernel_data_sources=list(metadata.kernel_sources),
            model_data_sources=list(metadata.model_sources),
            category_ids=list(metadata.keywords),
            docker_image_pinning_type=metadata.docker_image_pinning_type,
            docker_image=metadata.docker_image,
            machine_shape=metadata.machine_shape,
        )
    except LostAnswer as lost:
        version = _recover(kaggle, ref, text)
        if version is None:
            raise UserError(f"{lost} No version with this run is there yet: push again.") from lost
        log.info("%s It was: version %d is there.", lost, version)
        return version, "", ""
    if answer.error:
        raise UserError(f"Kaggle did not take the kernel {ref}: {answer.error.rstrip('.')}.")
    if not answer.version_number:
        raise UserError(f"Kaggle took the kernel {ref} but gave no version: look at its page.")
    return int(answer.version_number), answer.url, _problem(answer, ref)


def _problem(answer: Any, ref: str) -> str:
    """What Kaggle left out of the version that it made, or called otherwise; empty if nothing."""
    dropped = [
        f"{kind} {listing(list(names))}"
        for kind, names in (
            ("data sets", answer.invalid_dataset_sources),
            ("competitions", answer.invalid_competition_sources),
            ("kernels", answer.invalid_kernel_sources),
            ("models", answer.invalid_model_sources),
            ("tags", answer.invalid_tags),
        )
        if names
    ]
    if dropped:
        return (
            f"Kaggle took {ref} version {answer.version_number} but dropped its "
            f"{'; '.join(dropped)}. Correct kernel-metadata.json (or accept the rules) and push "
            "again; the version that is running lacks them."
        )
    if not str(answer.ref).rstrip("/").lower().endswith(ref.lower()):
        return (
            f"Kaggle calls the kernel {answer.ref}, not {ref}: let title and id in "
            "kernel-metadata.json agree and push again."
        )
    return ""


def _recover(kaggle: Kaggle, ref: str, text: str) -> int | None:
    """The version with that source, if a push whose answer was lost has made one."""
    owner, slug = ref.split("/")
    subject = Subject(f"show the kernel {ref}", "kernel", ref)
    try:
        answer = kaggle.call(kaggle.kernels.get_kernel, subject, user_name=owner, kernel_slug=slug)
    except UserError:
        return None
    same = answer.blob is not None and answer.blob.source == text
    return int(answer.metadata.current_version_number) if same else None


def read_status(kaggle: Kaggle, pushed: Pushed) -> tuple[str, str]:
    """The version's status (``RUNNING``, ``COMPLETE``, …) and what Kaggle says of a failure."""
    method = kaggle.kernels.get_kernel_session_status
    subject = Subject(f"tell the status of {pushed.label}", "kernel", pushed.ref)
    answer = kaggle.call(method, subject, **_version_fields(method, pushed))
    return answer.status.name, answer.failure_message or ""


def _version_fields(method: Any, pushed: Pushed) -> dict[str, Any]:
    """Whose kernel and, where the SDK can say it, which version is meant."""
    owner, slug = pushed.ref.split("/")
    fields = {"user_name": owner, "kernel_slug": slug}
    if hasattr(request_type(method), "version_label"):
        fields["version_label"] = str(pushed.version)
    return fields


def wait(kaggle: Kaggle, pushed: Pushed, *, poll: float = 60.0) -> None:
    """Follow a version to its end, with a line of progress.

    Waiting can be interrupted and taken up again: it changes nothing on Kaggle.

    Raises ``UserError`` for a version that failed or was cancelled, with the end of its log.
    """

    def look() -> tuple[str, bool | None]:
        status, failure = read_status(kaggle, pushed)
        if status in FAILED:
            raise UserError(_explain_failure(kaggle, pushed, status, failure))
        return status.lower(), True if status == COMPLETE else None

    wait_for(look, pushed.label, poll)
    log.info("%s: complete", pushed.label)


def _explain_failure(kaggle: Kaggle, pushed: Pushed, status: str, failure: str) -> str:
    try:
        text = ""
        for page in output_pages(kaggle, pushed):
            text = page.log or text
        lines = decode_log(text)[-LOG_LINES:]
    except UserError as error:  # that it failed matters more than that its log cannot be had
        lines = [f"not to be had: {error}"]
    ended = "failed" if status == "ERROR" else "was cancelled"
    reason = f" ({failure.rstrip('.')})" if failure else ""
    tail = "\n".join(["The end of its log:", *(f"  {line}" for line in lines)]) if lines else ""
    return f"{pushed.label} {ended}{reason}. See {pushed.url}\n{tail}".rstrip()


def output_pages(kaggle: Kaggle, pushed: Pushed) -> Iterator[Any]:
    """Every page of the version's output: answers with ``files`` and ``log``."""
    method = kaggle.kernels.list_kernel_session_output
    subject = Subject(f"list the output of {pushed.label}", "kernel", pushed.ref)
    return kaggle.pages(method, subject, page_size=100, **_version_fields(method, pushed))
