"""A kernel on Kaggle: pushed, followed to its end, and never believed without a look."""

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xraycomp.console.errors import UserError, listing
from xraycomp.data.files import write_json
from xraycomp.remote.bundle import Bundle
from xraycomp.remote.client import Kaggle, LostAnswer, Unreachable
from xraycomp.remote.datasets import wait_until_ready
from xraycomp.remote.download import list_files
from xraycomp.remote.failures import Subject
from xraycomp.remote.metadata import KernelMetadata

log = logging.getLogger(__name__)

PUSHED_FILE = "pushed.json"
"""In the kernel's folder: which version this machine pushed last."""
LOG_LINES = 15
"""How many last lines of a failed kernel's log are shown."""

_FIRST_PAUSE = 5.0
_PATIENCE = 1800.0  # seconds without any answer until waiting is given up
_FAILED = {"ERROR", "CANCEL_ACKNOWLEDGED"}


@dataclass(frozen=True)
class Pushed:
    """A version of a kernel that was pushed from here."""

    ref: str
    """owner/slug."""
    version: int
    sha256: str
    """Of the bundled sources, as the kernel's own ``kernel.json`` has it."""
    commit: str
    url: str
    when: str
    """UTC, ISO 8601."""

    @property
    def subject_name(self) -> str:
        """For messages: ``ada/acse4-resnet18 version 3``."""
        return f"{self.ref} version {self.version}"


def read_pushed(folder: Path) -> Pushed:
    """What was pushed last from the kernel's ``folder``.

    Raises ``UserError`` where nothing was, or the note of it is damaged.
    """
    path = folder / PUSHED_FILE
    if not path.is_file():
        raise UserError(
            f"Nothing was pushed from {folder} yet. Push it with: "
            f"python -m xraycomp.kernel push {folder.name}"
        )
    try:
        return Pushed(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). Push the kernel again.") from error


def push(kaggle: Kaggle, folder: Path, metadata: KernelMetadata, bundle: Bundle) -> Pushed:
    """Send the built file as a new version and keep a note of it in the kernel's folder.

    Before: waits until attached data sets are ready, and asks for attached competitions, whose
    absence Kaggle would not tell. After: every field that tells of a failure is looked at.

    Raises ``UserError`` where anything is missing, refused, dropped or renamed.
    """
    ref = f"{metadata.owner}/{metadata.slug}"
    for source in metadata.dataset_sources:
        wait_until_ready(kaggle, source)
    for slug in metadata.competition_sources:
        list_files(kaggle, slug)
    text = bundle.path.read_text(encoding="utf-8")
    try:
        answer = kaggle.call(
            kaggle.client.kernels.kernels_api_client.save_kernel,
            _save_request(metadata, text),
            Subject(f"take the kernel {ref}", kernel=ref),
            repeat=False,
        )
    except LostAnswer as lost:
        version = _recover(kaggle, ref, text)
        if version is None:
            raise UserError(
                f"{lost} No version with this source is there yet: push again."
            ) from lost
        answer = None
    else:
        _check_answer(answer, ref)
        version = answer.version_number
    pushed = Pushed(
        ref=ref,
        version=version,
        sha256=bundle.sha256,
        commit=bundle.commit,
        url=(answer.url if answer else "") or f"https://www.kaggle.com/code/{ref}",
        when=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_json(folder / PUSHED_FILE, asdict(pushed))
    return pushed


def _save_request(metadata: KernelMetadata, text: str) -> Any:
    """The request that ``kaggle kernels push`` makes of the same folder."""
    from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest

    request = ApiSaveKernelRequest()
    request.slug = metadata.id
    request.new_title = metadata.title
    request.text = text
    request.language = metadata.language
    request.kernel_type = metadata.kernel_type
    request.is_private = metadata.is_private
    request.enable_gpu = metadata.enable_gpu
    request.enable_tpu = metadata.enable_tpu
    request.enable_internet = metadata.enable_internet
    request.dataset_data_sources = list(metadata.dataset_sources)
    request.competition_data_sources = list(metadata.competition_sources)
    request.kernel_data_sources = list(metadata.kernel_sources)
    request.model_data_sources = list(metadata.model_sources)
    request.category_ids = list(metadata.keywords)
    request.docker_image_pinning_type = metadata.docker_image_pinning_type
    request.docker_image = metadata.docker_image
    request.machine_shape = metadata.machine_shape
    return request


def _check_answer(answer: Any, ref: str) -> None:
    if answer.error:
        raise UserError(f"Kaggle did not take the kernel {ref}: {answer.error.rstrip('.')}.")
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
        raise UserError(
            f"Kaggle took {ref} version {answer.version_number} but dropped its "
            f"{'; '.join(dropped)}. Correct kernel-metadata.json (or accept the rules) and push "
            "again; the version that is running lacks them."
        )
    if not answer.version_number:
        raise UserError(f"Kaggle took the kernel {ref} but gave no version: look at its page.")
    if not str(answer.ref).rstrip("/").lower().endswith(ref.lower()):
        raise UserError(
            f"Kaggle calls the kernel {answer.ref}, not {ref}: let title and id in "
            "kernel-metadata.json agree and push again."
        )


def _recover(kaggle: Kaggle, ref: str, text: str) -> int | None:
    """The version with that source, if a push whose answer was lost has made one."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

    request = ApiGetKernelRequest()
    request.user_name, request.kernel_slug = ref.split("/")
    subject = Subject(f"show the kernel {ref}", kernel=ref)
    try:
        answer = kaggle.call(kaggle.client.kernels.kernels_api_client.get_kernel, request, subject)
    except UserError:
        return None
    same = answer.blob is not None and answer.blob.source == text
    return int(answer.metadata.current_version_number) if same else None


def read_status(kaggle: Kaggle, pushed: Pushed) -> tuple[str, str]:
    """The version's status (``RUNNING``, ``COMPLETE``, …) and what Kaggle says of a failure."""
    from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

    request = ApiGetKernelSessionStatusRequest()
    address_version(request, pushed)
    answer = kaggle.call(
        kaggle.client.kernels.kernels_api_client.get_kernel_session_status,
        request,
        Subject(f"tell the status of {pushed.subject_name}", kernel=pushed.ref),
    )
    return answer.status.name, answer.failure_message or ""


def address_version(request: Any, pushed: Pushed) -> None:
    """Fill in whose kernel and, where the SDK can say it, which version is meant."""
    request.user_name, request.kernel_slug = pushed.ref.split("/")
    if hasattr(request, "version_label"):
        request.version_label = str(pushed.version)


def wait(kaggle: Kaggle, pushed: Pushed, *, longest_pause: float = 60.0) -> None:
    """Follow a version to its end, with a line of progress.

    Pauses grow up to ``longest_pause`` seconds; the network may fail for half an hour. Waiting can
    be interrupted and taken up again: it changes nothing on Kaggle.

    Raises ``UserError`` for a version that failed or was cancelled, with the end of its log.
    """
    began = answered = time.monotonic()
    pause = min(_FIRST_PAUSE, longest_pause)
    last = ""
    with tqdm(bar_format="{desc} [{elapsed}]", leave=False) as bar:
        while True:
            try:
                status, failure = read_status(kaggle, pushed)
                answered = time.monotonic()
            except Unreachable as error:
                if time.monotonic() - answered > _PATIENCE:
                    raise
                status, failure = last, ""
                log.info("%s Waiting on.", error)
            if status != last:
                pause = min(_FIRST_PAUSE, longest_pause)
                log.info("%s: %s.", pushed.subject_name, status.lower())
            last = status
            bar.set_description_str(f"{pushed.subject_name}: {status.lower()}")
            if status == "COMPLETE":
                log.info("It took %s.", tqdm.format_interval(time.monotonic() - began))
                return
            if status in _FAILED:
                raise UserError(_explain_failure(kaggle, pushed, status, failure))
            time.sleep(pause)
            pause = min(pause * 1.5, longest_pause)


def _explain_failure(kaggle: Kaggle, pushed: Pushed, status: str, failure: str) -> str:
    lines = decode_log(read_log(kaggle, pushed))[-LOG_LINES:]
    ended = "failed" if status == "ERROR" else "was cancelled"
    reason = f" ({failure.rstrip('.')})" if failure else ""
    tail = "\n".join(["The end of its log:", *(f"  {line}" for line in lines)]) if lines else ""
    return f"{pushed.subject_name} {ended}{reason}. See {pushed.url}\n{tail}".rstrip()


def read_log(kaggle: Kaggle, pushed: Pushed) -> str:
    """The version's log as Kaggle gives it: a JSON array of ``{stream_name, time, data}``."""
    log_text = ""
    for answer in output_pages(kaggle, pushed):
        log_text = answer.log or log_text
    return log_text


def output_pages(kaggle: Kaggle, pushed: Pushed) -> Iterator[Any]:
    """Every page of the version's output: answers with ``files`` and ``log``."""
    from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

    request = ApiListKernelSessionOutputRequest()
    address_version(request, pushed)
    request.page_size = 100
    subject = Subject(f"list the output of {pushed.subject_name}", kernel=pushed.ref)
    method = kaggle.client.kernels.kernels_api_client.list_kernel_session_output
    while True:
        answer = kaggle.call(method, request, subject)
        yield answer
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def decode_log(text: str) -> list[str]:
    """The lines of a kernel's log; text that is not Kaggle's JSON is returned as it is."""
    try:
        events = json.loads(text)
        text = "".join(event["data"] for event in events)
    except (ValueError, TypeError, KeyError):
        pass
    # A progress bar rewrites its line: what follows the last carriage return is what stays.
    lines = (line.rstrip().rpartition("\r")[2] for line in text.split("\n"))
    return [line for line in lines if line.strip()]
