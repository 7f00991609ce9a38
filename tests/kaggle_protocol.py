"""The methods of Kaggle's API as the stand-in answers them: the place to read the protocol.

A call is ``POST /api/v1/<Service>/<Method>`` with JSON in and out, in lowerCamel names. A field
with its default value is left out. Times are ``2024-01-31T12:00:00.000Z``, durations ``3600s``,
enumerations their names. An error is an HTTP status with ``{"code", "message"}``. Files go past the
API: a download is a 302 to storage, an upload a PUT to the ``createUrl`` that an earlier call gave.

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
| kernels push; pull      | KernelsApiService/SaveKernel; GetKernel                                |
| … status, output, logs  | …/GetKernelSessionStatus; ListKernelSessionOutput, GET blob            |
| … logs --follow         | GET /api/v1/kernels/logs/stream/<owner>/<slug>                         |
| quota                   | …/GetAcceleratorQuotaStatistics                                        |

The full name of a service is its key in ``SERVICES``. Each of its methods is the API's, in snake
case: it takes the fields of the request, ``r``, and returns those of the answer, or a ``Reply``, or
raises ``Refused``.
"""

import io
import json
import re
import threading
import traceback
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kaggle_server import KaggleServer

USER, TOKEN = "ada", "KGAT_fake_token_of_the_stand_in"
WEB = "https://www.kaggle.com"
LONG_AGO = datetime(2024, 1, 31, 12, tzinfo=UTC)  # when everything in storage was last modified

Json = dict[str, Any]


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
    number: int = 1
    text: str = ""
    request: Json = field(default_factory=dict)
    datasets: dict[str, int] = field(
        default_factory=dict
    )  # the version of each that it is bound to
    statuses: list[str] = field(default_factory=lambda: ["COMPLETE"])  # to come; the last stays
    log: list[Json] | str = ""  # events {stream_name, time, data}, or text sent as it is
    files: dict[str, bytes] = field(default_factory=dict)
    failure: str = ""

    @property
    def log_text(self) -> str:
        return self.log if isinstance(self.log, str) else json.dumps(self.log)


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
    kaggle: "KaggleServer"


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
        return redirect(self.kaggle.store(f"{slug}.zip", zipped(files)))

    def download_data_file(self, r: Json) -> Reply:
        _, files = self._files(r)
        if r.get("fileName") not in files:
            raise Refused(404, "Not found")
        return redirect(self.kaggle.store(r["fileName"], files[r["fileName"]]))

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
        score = self.kaggle.solutions.get(slug)
        result = score(data) if score else (0.5, 0.5)
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
        data = files[name] if name else zipped(files)
        return redirect(self.kaggle.store(name or "archive.zip", data))


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

    def get_kernel(self, r: Json) -> Json:
        version = self.version(r)
        metadata = {
            "ref": f"{r['userName']}/{r['kernelSlug']}",
            "currentVersionNumber": version.number,
        }
        blob = {"slug": r["kernelSlug"], "language": "python", "kernelType": "script"}
        return {"metadata": metadata, "blob": {**blob, "source": version.text}}

    def get_kernel_session_status(self, r: Json) -> Json:
        version = self.version(r)
        status = version.statuses.pop(0) if len(version.statuses) > 1 else version.statuses[0]
        failure = {"failureMessage": version.failure} if version.failure else {}
        return {"status": status, **failure}

    def list_kernel_session_output(self, r: Json) -> Json:
        version = self.version(r)
        some, more = page(sorted(version.files.items()), r)
        files = [{"fileName": n, "url": self.kaggle.store(n, d)} for n, d in some]
        return {"files": files, "log": version.log_text, **more}

    def get_kernel_session_logs_stream(self, r: Json) -> Reply:
        """Server-sent events while the kernel runs, the whole log as JSON afterwards."""
        version = self.version(r)
        if version.statuses[-1] != "RUNNING" and len(version.statuses) == 1:
            return Reply(200, version.log_text.encode(), {"Content-Type": "application/json"})
        events = [*json.loads(version.log_text or "[]"), "END_OF_LOG"]
        lines = (f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n" for e in events)
        return Reply(200, "".join(lines).encode(), {"Content-Type": "text/event-stream"})

    def get_accelerator_quota_statistics(self, _: Json) -> Json:
        used, allowed = (f"{int(hours * 3600)}s" for hours in self.kaggle.gpu_hours)
        quota = {"timeUsed": used, "totalTimeAllowed": allowed}
        return {"quotaRefreshTime": "2099-12-31T00:00:00.000Z", "gpuQuota": quota}


SERVICES: dict[str, type[Service]] = {
    "security.OAuthService": OAuthService,
    "competitions.CompetitionApiService": CompetitionApiService,
    "blobs.BlobApiService": BlobApiService,
    "datasets.DatasetApiService": DatasetApiService,
    "kernels.KernelsApiService": KernelsApiService,
}
