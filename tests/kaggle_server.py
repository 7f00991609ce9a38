"""A stand-in for Kaggle's API on 127.0.0.1, for tests and for reading the wire protocol.

**How the real client gets here.** ``KAGGLE_API_ENVIRONMENT=LOCALHOST`` makes the ``kaggle`` package
call ``http://localhost/api/v1/…``, and ``HTTP_PROXY`` sends those calls to this server, which
answers them itself and forwards nothing. ``HTTPS_PROXY`` names a dead port, so whatever would leave
the machine fails at once. The package reads its environment while it is imported.

**The calls** are ``POST /api/v1/<Service>/<Method>`` with JSON in and out, in lowerCamel names.
A field with its default value is left out. Times are ``2024-01-31T12:00:00.000Z``, durations
``3600s``, enumerations their names. An error is an HTTP status with ``{"code", "message"}``. Files
go past the API: a download is a 302 to storage, an upload a PUT to a ``createUrl``.

| command                 | methods, in the order of the calls                                     |
|-------------------------|------------------------------------------------------------------------|
| any, with a token       | OAuthService/IntrospectToken                                           |
| competitions list       | CompetitionApiService/ListCompetitions                                 |
| competitions files      | …/ListDataFiles                                                        |
| competitions download   | …/DownloadDataFiles or DownloadDataFile, GET blob                      |
| competitions submit     | …/StartSubmissionUpload, PUT blob, CreateSubmission, then the limits   |
| … submit -k KERNEL      | …/CreateCodeSubmission, GetSubmissionLimits                            |
| … submissions           | …/ListSubmissions (one of them: GetSubmission)                         |
| … leaderboard           | …/GetLeaderboard, DownloadLeaderboard                                  |
| datasets create         | DatasetApiService/GetDatasetStatus, BlobApiService/StartBlobUpload,    |
|                         | PUT blob, DatasetApiService/CreateDataset                              |
| datasets version        | BlobApiService/StartBlobUpload, PUT blob, …/CreateDatasetVersion       |
| … status, files         | …/GetDatasetStatus, GetDataset; ListDatasetFiles                       |
| … download              | …/GetDatasetMetadata, DownloadDataset, GET blob                        |
| kernels push            | KernelsApiService/SaveKernel                                           |
| … status, output, logs  | …/GetKernelSessionStatus; ListKernelSessionOutput, GET blob            |
| … logs --follow         | GET /api/v1/kernels/logs/stream/<owner>/<slug>                         |
| quota                   | …/GetAcceleratorQuotaStatistics                                        |

In a test, ``with KaggleServer() as server:`` and ``server.environment(home)``. In a shell,
``python tests/kaggle_server.py`` prints its environment as export lines and serves until Ctrl-C.
"""

import base64
import hashlib
import io
import itertools
import json
import re
import shlex
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

USER, KEY, TOKEN = "ada", "fake-key-of-the-stand-in", "KGAT_fake_token_of_the_stand_in"
WEB = "https://www.kaggle.com"
LONG_AGO = datetime(2024, 1, 31, 12, tzinfo=UTC)  # when everything in storage was last modified

Json = dict[str, Any]


# What the stand-in keeps.


@dataclass
class Call:
    """One request as it came in; the credentials are left out of ``headers``."""

    method: str  # "ListDataFiles", "GET blob", "PUT blob", …
    request: Json  # the fields of the request; of a storage call, the blob
    headers: dict[str, str]


@dataclass
class Fault:
    """What goes wrong with a method's next ``times`` calls; see ``KaggleServer.fault``."""

    method: str
    times: int
    status: int | None
    message: str
    headers: dict[str, str]
    answer: Json | None
    raw: bytes | None
    delay: float
    truncate: int | None
    drop: bool
    lose_answer: bool


@dataclass
class Submission:
    competition: str
    ref: int
    file_name: str
    description: str
    data: bytes
    result: tuple[float, float] | str  # public and private score, or what is wrong with the file
    pending: int = 0  # how many more answers say PENDING
    date: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class KernelVersion:
    number: int
    text: str
    request: Json
    datasets: dict[str, int]  # the version of each data set that it is bound to
    statuses: list[str]  # what the next status calls say; the last one stays
    log: list[Json] | str = ""  # events {stream_name, time, data}, or text sent as it is
    files: dict[str, bytes] = field(default_factory=dict)
    failure: str = ""


@dataclass
class Kernel:
    versions: list[KernelVersion] = field(default_factory=list)


@dataclass
class Dataset:
    versions: list[dict[str, bytes]]
    unready: int = 0  # how many more status calls say that the newest version is not READY
    lag: int = 0  # how many listings after that still show the version before it

    @property
    def current(self) -> int:
        """The version that listings show and that a kernel pushed now is bound to; 0 is none."""
        return len(self.versions) - bool(self.unready or self.lag)


RunKernel = Callable[
    [KernelVersion], tuple[str | Sequence[str], str | list[Json], dict[str, bytes]]
]


def say_hello(version: KernelVersion) -> tuple[str, str, dict[str, bytes]]:
    return "COMPLETE", f"hello from version {version.number}\n", {}


class KaggleServer:
    """The stand-in: its state as plain attributes, to be set and read by a test."""

    def __init__(self, port: int = 0) -> None:
        self.competitions: dict[str, dict[str, bytes]] = {}  # slug -> file name -> bytes
        self.rules_accepted: set[str] = set()
        self.code_competitions: set[str] = set()  # those that take submissions from kernels only
        self.solutions: dict[str, Callable[[bytes], tuple[float, float] | str]] = {}
        self.daily_limit = 5
        self.scoring_polls = 1  # how many answers say PENDING before a new submission is scored
        self.submissions: list[Submission] = []  # oldest first
        self.leaderboard: list[tuple[str, str]] = [(USER, "0.90000")]  # team, score
        self.kernels: dict[str, Kernel] = {}  # "owner/slug" -> its versions
        self.run_kernel: RunKernel = say_hello  # version -> status(es), log, output files
        self.models: set[str] = set()  # the model sources that exist
        self.datasets: dict[str, Dataset] = {}  # "owner/slug" -> its versions
        self.ready_after = 0  # how many status calls a fresh data set version is not READY
        self.listing_lag = 0  # how many listings after that still show the version before
        self.gpu_hours = (1.5, 30.0)  # used, allowed
        self.log: list[Call] = []  # every request seen
        self.blobs: dict[str, bytes] = {}  # what storage holds
        self.uploads: dict[str, tuple[str, int]] = {}  # token -> file name, promised length
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._numbers = itertools.count(40_000_000)
        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._http.daemon_threads = True
        self._http.kaggle = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """What a client process needs; take every other ``KAGGLE_*`` variable out beforehand."""
        proxies = {"http_proxy": self.url, "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        return {
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home / ".config"),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            **proxies,
            **{name.upper(): value for name, value in proxies.items()},
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
        }

    def calls(self, method: str) -> list[Json]:
        """The requests of one method so far."""
        return [call.request for call in self.log if call.method == method]

    def fault(
        self,
        method: str,
        *,
        times: int = 1,
        status: int | None = None,
        message: str = "scripted fault",
        headers: dict[str, str] | None = None,
        answer: Json | None = None,
        raw: bytes | None = None,
        delay: float = 0.0,
        truncate: int | None = None,
        drop: bool = False,
        lose_answer: bool = False,
    ) -> None:
        """Let a method's next ``times`` calls go wrong; ``GET blob`` and ``PUT blob`` are storage.

        ``status`` refuses with ``message``; ``headers`` (``Retry-After``) go along. ``answer`` and
        ``raw`` are sent with 200 in place of the real answer. ``drop`` hangs up before anything
        happens, ``lose_answer`` after the call took effect. ``truncate`` promises the whole body
        and hangs up after that many bytes; of an upload, storage keeps that many. ``delay`` waits
        first, in seconds, and goes with each of these or alone.
        """
        self._faults.append(
            Fault(
                *(method, times, status, message, headers or {}, answer, raw),
                *(delay, truncate, drop, lose_answer),
            )
        )

    def take_fault(self, method: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def number(self) -> int:
        return next(self._numbers)

    def store(self, key: str, data: bytes) -> str:
        """Put bytes into storage; return a signed address, whose last part is the file's name."""
        self.blobs[key] = data
        return f"{self.url}/blob/{quote(key)}?X-Goog-Signature=fake"

    def start_upload(self, name: str, length: int) -> Json:
        token = f"upload-{self.number()}"
        self.uploads[token] = (name, length)
        return {"token": token, "createUrl": f"{self.url}/blob/{token}"}

    def uploaded(self, token: str) -> tuple[str, bytes]:
        name, length = self.uploads.get(token, ("", -1))
        data = self.blobs.get(token, b"")
        if len(data) != length:
            raise Refused(400, f"Blob {token} is not there, or not all of it")
        return name, data


# The answers. A method's name is the API's in snake case; it takes and returns JSON fields.


class Refused(Exception):  # noqa: N818
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


@dataclass
class Reply:
    """An answer that is not plain JSON fields."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def redirect(url: str) -> Reply:
    return Reply(302, headers={"Location": url})


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 31, 12, 0, 0)), data)
    return buffer.getvalue()


def page(items: Sequence[Any], r: Json) -> tuple[Sequence[Any], Json]:
    """One page of ``items`` and, where there are more, the field that asks for the next one."""
    size = r.get("pageSize") or 20
    start = int(r.get("pageToken") or (r.get("page", 1) - 1) * size)
    more = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
    return items[start : start + size], more


@dataclass
class Service:
    kaggle: KaggleServer


class OAuthService(Service):
    def introspect_token(self, r: Json) -> Json:
        active = r.get("token") == TOKEN
        return {"active": active, "username": USER} if active else {"active": False}


class CompetitionApiService(Service):
    def _files(self, r: Json, entered: bool = True) -> tuple[str, dict[str, bytes]]:
        slug = r.get("competitionName", "")
        if slug not in self.kaggle.competitions:
            raise Refused(404, "Not found")
        if entered and slug not in self.kaggle.rules_accepted:
            raise Refused(403, f"You must accept this competition's rules: {WEB}/c/{slug}/rules")
        return slug, self.kaggle.competitions[slug]

    def list_competitions(self, r: Json) -> Json:
        words = set(re.findall(r"\w+", r.get("search", "").lower()))
        slugs = [s for s in self.kaggle.competitions if not words or words & set(s.split("-"))]
        some, more = page(slugs, r)
        return {"competitions": [self._competition(slug) for slug in some], **more}

    def _competition(self, slug: str) -> Json:
        return {
            "ref": f"{WEB}/competitions/{slug}",
            "url": f"{WEB}/competitions/{slug}",
            "title": slug.replace("-", " ").title(),
            "category": "Community",
            "deadline": "2099-12-31T23:59:00.000Z",
            "userHasEntered": slug in self.kaggle.rules_accepted,
            "maxDailySubmissions": self.kaggle.daily_limit,
            "isKernelsSubmissionsOnly": slug in self.kaggle.code_competitions,
        }

    def list_data_files(self, r: Json) -> Json:
        _, files = self._files(r, entered=False)
        some, more = page(sorted(files.items()), r)
        date = timestamp(LONG_AGO)
        listed = [{"name": n, "totalBytes": len(d), "creationDate": date} for n, d in some]
        return {"files": listed, **more}

    def download_data_files(self, r: Json) -> Reply:
        slug, files = self._files(r)
        return redirect(self.kaggle.store(f"bundle/{slug}/archive.zip", zipped(files)))

    def download_data_file(self, r: Json) -> Reply:
        slug, files = self._files(r)
        if r.get("fileName") not in files:
            raise Refused(404, "Not found")
        return redirect(self.kaggle.store(f"{slug}/{r['fileName']}", files[r["fileName"]]))

    def start_submission_upload(self, r: Json) -> Json:
        self._files(r)
        return self.kaggle.start_upload(r["fileName"], r.get("contentLength", 0))

    def create_submission(self, r: Json) -> Json:
        slug, _ = self._files(r)
        if slug in self.kaggle.code_competitions:
            raise Refused(400, "This competition only accepts submissions from notebooks.")
        return self._submit(slug, r, *self.kaggle.uploaded(r.get("blobFileTokens", "")))

    def create_code_submission(self, r: Json) -> Json:
        slug, _ = self._files(r)
        kernel = KernelsApiService(self.kaggle).version(
            {**r, "userName": r.get("kernelOwner"), "versionLabel": str(r.get("kernelVersion", ""))}
        )
        if r.get("fileName") not in kernel.files:
            raise Refused(400, f"The notebook has no output file {r.get('fileName')}")
        return self._submit(slug, r, r["fileName"], kernel.files[r["fileName"]])

    def _submit(self, slug: str, r: Json, name: str, data: bytes) -> Json:
        if self.get_submission_limits(r)["numAllowedNow"] == 0:
            raise Refused(
                400, "Your team has used its daily Submission allowance; try tomorrow UTC."
            )
        result = self.kaggle.solutions.get(slug, lambda _: (0.5, 0.5))(data)
        ref, pending = self.kaggle.number(), self.kaggle.scoring_polls
        description = r.get("submissionDescription", "")
        self.kaggle.submissions.append(
            Submission(slug, ref, name, description, data, result, pending)
        )
        return {"message": f"Successfully submitted to {slug}", "ref": ref}

    def list_submissions(self, r: Json) -> Json:
        slug, _ = self._files(r)
        ours = [s for s in reversed(self.kaggle.submissions) if s.competition == slug]
        some, more = page(ours, r)
        return {"submissions": [self._submission(s) for s in some], **more}

    def get_submission(self, r: Json) -> Json:
        for submission in self.kaggle.submissions:
            if submission.ref == r.get("ref"):
                return self._submission(submission)
        raise Refused(404, "Not found")

    def _submission(self, s: Submission) -> Json:
        shown = {
            "ref": s.ref,
            "fileName": s.file_name,
            "description": s.description,
            "date": timestamp(s.date),
            "totalBytes": len(s.data),
            "submittedBy": USER,
        }
        if s.pending > 0:
            s.pending -= 1
            return {**shown, "status": "PENDING"}
        if isinstance(s.result, str):
            return {**shown, "status": "ERROR", "errorDescription": s.result}
        public, private = (f"{score:.5f}" for score in s.result)
        return {**shown, "status": "COMPLETE", "publicScore": public, "privateScore": private}

    def get_submission_limits(self, r: Json) -> Json:
        slug, _ = self._files(r)
        days = [s.date.date() for s in self.kaggle.submissions if s.competition == slug]
        today = days.count(datetime.now(UTC).date())
        left = max(0, self.kaggle.daily_limit - today)
        return {"numToday": today, "numTotal": len(days), "numAllowedNow": left}

    def get_leaderboard(self, r: Json) -> Json:
        self._files(r, entered=False)
        some, more = page(self.kaggle.leaderboard, r)
        date = timestamp(LONG_AGO)
        rows = [{"teamName": team, "score": score, "submissionDate": date} for team, score in some]
        return {"submissions": rows, **more}

    def download_leaderboard(self, r: Json) -> Reply:
        slug, _ = self._files(r, entered=False)
        rows = "".join(f"{team},{score}\n" for team, score in self.kaggle.leaderboard)
        data = zipped({f"{slug}-publicleaderboard.csv": f"TeamName,Score\n{rows}".encode()})
        return Reply(200, data, {"Content-Type": "application/zip"})


class BlobApiService(Service):
    def start_blob_upload(self, r: Json) -> Json:
        return self.kaggle.start_upload(r["name"], r.get("contentLength", 0))


class DatasetApiService(Service):
    def _dataset(self, r: Json) -> tuple[str, Dataset]:
        ref = f"{r.get('ownerSlug')}/{r.get('datasetSlug')}"
        if ref not in self.kaggle.datasets:
            raise Refused(404, "Not found")
        return ref, self.kaggle.datasets[ref]

    def _version(self, r: Json) -> dict[str, bytes]:
        """The files of the version that is asked for, or of the current one."""
        _, dataset = self._dataset(r)
        number = r.get("datasetVersionNumber") or dataset.current
        if not 1 <= number <= dataset.current:
            raise Refused(404, "Not found")
        return dataset.versions[number - 1]

    def _add_version(self, ref: str, files: list[Json]) -> Json:
        version = dict(self.kaggle.uploaded(file["token"]) for file in files)
        dataset = self.kaggle.datasets.setdefault(ref, Dataset([]))
        dataset.versions.append(version)
        dataset.unready, dataset.lag = self.kaggle.ready_after, self.kaggle.listing_lag
        return {"ref": f"/{ref}", "url": f"{WEB}/datasets/{ref}", "status": "Ok"}

    def create_dataset(self, r: Json) -> Json:
        ref = f"{r.get('ownerSlug')}/{r.get('slug')}"
        if ref in self.kaggle.datasets:
            return {"status": "Error", "error": f'The requested title "{r["title"]}" is in use.'}
        return self._add_version(ref, r.get("files", []))

    def create_dataset_version(self, r: Json) -> Json:
        return self._add_version(self._dataset(r)[0], r.get("body", {}).get("files", []))

    def get_dataset_status(self, r: Json) -> Json:
        _, dataset = self._dataset(r)
        if dataset.unready > 0:
            dataset.unready -= 1
            return {"status": "BLOBS_RECEIVED"}
        return {"status": "READY"}

    def get_dataset(self, r: Json) -> Json:
        ref, dataset = self._dataset(r)
        return {"ref": ref, "url": f"{WEB}/datasets/{ref}", "currentVersionNumber": dataset.current}

    def get_dataset_metadata(self, r: Json) -> Json:
        self._dataset(r)
        return {"info": {"datasetSlug": r["datasetSlug"], "licenses": [{"name": "CC0-1.0"}]}}

    def list_dataset_files(self, r: Json) -> Json:
        _, dataset = self._dataset(r)
        some, more = page(sorted(self._version(r).items()) if dataset.current else [], r)
        if not dataset.unready and dataset.lag > 0:
            dataset.lag -= 1
        date = timestamp(LONG_AGO)
        listed = [{"name": n, "totalBytes": len(d), "creationDate": date} for n, d in some]
        return {"datasetFiles": listed, **more}

    def download_dataset(self, r: Json) -> Reply:
        files, name = self._version(r), r.get("fileName")
        if name and name not in files:
            raise Refused(404, "Not found")
        key = f"datasets/{r['ownerSlug']}/{r['datasetSlug']}/{name or 'archive.zip'}"
        return redirect(self.kaggle.store(key, files[name] if name else zipped(files)))


class KernelsApiService(Service):
    def version(self, r: Json) -> KernelVersion:
        """The version that ``versionLabel`` names, or the latest one."""
        kernel = self.kaggle.kernels.get(f"{r.get('userName')}/{r.get('kernelSlug')}")
        number = int(re.sub(r"\D", "", r.get("versionLabel", "")) or 0)
        if kernel is None or number > len(kernel.versions):
            raise Refused(403, "Permission 'kernels.get' was denied")
        return kernel.versions[number - 1]

    def save_kernel(self, r: Json) -> Json:
        ref = r["slug"]
        current = {name: dataset.current for name, dataset in self.kaggle.datasets.items()}
        bound = [name for name in r.get("datasetDataSources", []) if current.get(name)]
        kernel = self.kaggle.kernels.setdefault(ref, Kernel())
        version = KernelVersion(
            number=len(kernel.versions) + 1,
            text=r.get("text", ""),
            request=r,
            datasets={name: current[name] for name in bound},
            statuses=["RUNNING"],
        )
        kernel.versions.append(version)
        run = threading.Thread(target=self._run, args=(version,), daemon=True)
        run.start()
        run.join(1)  # a short run is over when the push is answered, a long one goes on
        known = {
            "Dataset": bound,
            "Competition": self.kaggle.rules_accepted & self.kaggle.competitions.keys(),
            "Kernel": self.kaggle.kernels.keys(),
            "Model": self.kaggle.models,
        }
        invalid = {
            f"invalid{kind}Sources": [
                name for name in r.get(f"{kind.lower()}DataSources", []) if name not in exists
            ]
            for kind, exists in known.items()
        }
        return {
            "ref": f"/code/{ref}",
            "url": f"{WEB}/code/{ref}",
            "versionNumber": version.number,
            "invalidTags": [tag for tag in r.get("categoryIds", []) if tag != "gpu"],
            **invalid,
        }

    def _run(self, version: KernelVersion) -> None:
        try:
            statuses, log, files = self.kaggle.run_kernel(version)
        except Exception:
            statuses, log, files = "ERROR", traceback.format_exc(), {}
        if isinstance(log, str):
            lines = enumerate(log.splitlines(keepends=True), start=1)
            log = [{"stream_name": "stdout", "time": float(n), "data": line} for n, line in lines]
        version.log, version.files = log, files
        version.statuses = [statuses] if isinstance(statuses, str) else list(statuses)

    def get_kernel_session_status(self, r: Json) -> Json:
        version = self.version(r)
        status = version.statuses.pop(0) if len(version.statuses) > 1 else version.statuses[0]
        failure = {"failureMessage": version.failure} if version.failure else {}
        return {"status": status, **failure}

    def list_kernel_session_output(self, r: Json) -> Json:
        version = self.version(r)
        some, more = page(sorted(version.files.items()), r)
        folder = f"output/{r['userName']}/{r['kernelSlug']}/{version.number}"
        files = [{"fileName": n, "url": self.kaggle.store(f"{folder}/{n}", d)} for n, d in some]
        log = version.log if isinstance(version.log, str) else json.dumps(version.log)
        return {"files": files, "log": log, **more}

    def get_kernel_session_logs_stream(self, r: Json) -> Reply:
        """Server-sent events while the kernel runs, the whole log as JSON afterwards."""
        version = self.version(r)
        if len(version.statuses) == 1 and version.statuses[0] in ("COMPLETE", "ERROR"):
            log = version.log if isinstance(version.log, str) else json.dumps(version.log)
            return Reply(200, log.encode(), {"Content-Type": "application/json"})
        events = [json.dumps(event) for event in version.log] + ["END_OF_LOG"]
        body = "".join(f"data: {event}\n\n" for event in events)
        return Reply(200, body.encode(), {"Content-Type": "text/event-stream"})

    def get_accelerator_quota_statistics(self, _: Json) -> Json:
        used, allowed = (f"{int(hours * 3600)}s" for hours in self.kaggle.gpu_hours)
        refresh = "2099-12-31T00:00:00.000Z"
        return {
            "quotaRefreshTime": refresh,
            "gpuQuota": {"timeUsed": used, "totalTimeAllowed": allowed},
        }


SERVICES: dict[str, type[Service]] = {
    "security.OAuthService": OAuthService,
    "competitions.CompetitionApiService": CompetitionApiService,
    "blobs.BlobApiService": BlobApiService,
    "datasets.DatasetApiService": DatasetApiService,
    "kernels.KernelsApiService": KernelsApiService,
}


class Handler(BaseHTTPRequestHandler):
    """HTTP: which method is meant, which fault is scripted for it, how the answer goes out."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.kaggle: KaggleServer = self.server.kaggle  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)  # through a proxy, the whole address comes
        body = self._body()
        method, request, respond = self._route(path, body)
        secret = self.headers.get("Authorization", "")
        headers = {k: v for k, v in self.headers.items() if k.lower() != "authorization"}
        self.kaggle.log.append(Call(method, request, headers))
        fault = self.kaggle.take_fault(method)
        if fault and fault.delay:
            time.sleep(fault.delay)
        if fault and fault.drop:
            return self._hang_up()
        try:
            if fault and fault.status is not None:
                raise Refused(fault.status, fault.message)
            if method not in ("IntrospectToken", "GET blob", "PUT blob"):
                self._check(secret)
            if fault and fault.raw is not None:
                reply = Reply(200, fault.raw, {"Content-Type": "application/json"})
            else:
                answer = fault.answer if fault and fault.answer is not None else respond(fault)
                reply = answer if isinstance(answer, Reply) else self._json(200, answer)
        except Refused as refused:
            problem = {"code": refused.status, "message": refused.message}
            reply = self._json(refused.status, problem)
        if fault and fault.lose_answer:
            return self._hang_up()
        reply.headers.update(fault.headers if fault else {})
        return self._send(reply, fault.truncate if fault and method != "PUT blob" else None)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def _route(self, path: str, body: bytes) -> tuple[str, Json, Callable[[Fault | None], Any]]:
        """The method's name, its request, and the function that gives its answer."""
        if path.startswith("/blob/"):
            key = path.removeprefix("/blob/")
            request = {"blob": key}
            if self.command == "PUT":
                return "PUT blob", request, lambda fault: self._put(key, body, fault)
            return "GET blob", request, lambda _: self._get(key)
        if stream := re.fullmatch(r"/api/v1/kernels/logs/stream/([^/]+)/([^/]+)", path):
            request = {"userName": stream[1], "kernelSlug": stream[2]}
            service, method = "kernels.KernelsApiService", "GetKernelSessionLogsStream"
        else:
            service, _, method = path.removeprefix("/api/v1/").partition("/")
            request = json.loads(body or b"{}")
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
        respond = getattr(SERVICES.get(service, Service)(self.kaggle), name, None)
        if respond is None:
            return method, request, lambda _: self._json(404, {"code": 404, "message": "Not found"})
        return method, request, lambda _: respond(request)

    def _check(self, secret: str) -> None:
        basic = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        if secret not in (basic, f"Bearer {TOKEN}"):
            raise Refused(401, "Unauthenticated")

    def _get(self, key: str) -> Reply:
        """Storage: the bytes, or those from ``Range`` on if ``If-Range`` still names the object."""
        data = self.kaggle.blobs.get(key)
        if data is None:
            return Reply(404, b"<Error/>", {"Content-Type": "application/xml"})
        headers = {
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
            "ETag": f'"{hashlib.sha256(data).hexdigest()[:32]}"',
            "Last-Modified": formatdate(LONG_AGO.timestamp(), usegmt=True),
        }
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, headers["ETag"], headers["Last-Modified"])
        if not span or not same:
            return Reply(200, data, headers)
        start, end = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return Reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        return Reply(206, data[start : end + 1], headers)

    def _put(self, key: str, body: bytes, fault: Fault | None) -> Reply:
        """Storage: a whole upload, the rest of one, or the question how much has arrived."""
        if key not in self.kaggle.uploads:
            return Reply(404, b"<Error/>", {"Content-Type": "application/xml"})
        content_range = self.headers.get("Content-Range", "")
        arrived = self.kaggle.blobs.get(key, b"")
        if not content_range.startswith("bytes */"):
            rest = re.match(r"bytes (\d+)-", content_range)
            arrived = (arrived[: int(rest[1])] if rest else b"") + body
            if fault and fault.truncate is not None:
                arrived, fault.lose_answer = arrived[: fault.truncate], True
            self.kaggle.blobs[key] = arrived
        if len(arrived) == self.kaggle.uploads[key][1]:
            return self._json(200, {})
        return Reply(308, headers={"Range": f"bytes=0-{len(arrived) - 1}"} if arrived else {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _json(self, status: int, fields: Json) -> Reply:
        return Reply(status, json.dumps(fields).encode(), {"Content-Type": "application/json"})

    def _send(self, reply: Reply, truncate: int | None = None) -> None:
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body[:truncate])
        if truncate is not None:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing on stderr: what came in is in ``KaggleServer.log``."""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home, KaggleServer() as kaggle:
        kaggle.competitions["xray-demo"] = {
            "train.csv": b"name,target\na,0\nb,1\n",
            "sample_submission.csv": b"name,target\nc,0\n",
        }
        kaggle.rules_accepted.add("xray-demo")
        for name, value in kaggle.environment(Path(home)).items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("# the stand-in has stopped")
