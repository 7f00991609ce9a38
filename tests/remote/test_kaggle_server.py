"""The stand-in for Kaggle: spoken to by the real client, and by plain HTTP."""

import base64
import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from kaggle_protocol import SERVICES, TOKEN, USER, Dataset, Kernel, KernelVersion
from kaggle_server import KEY, KaggleServer
from kagglesdk.blobs.services.blob_api_service import BlobApiClient
from kagglesdk.competitions.services.competition_api_service import CompetitionApiClient
from kagglesdk.datasets.services.dataset_api_service import DatasetApiClient
from kagglesdk.kaggle_object import KaggleObject
from kagglesdk.kernels.services.kernels_api_service import KernelsApiClient
from kagglesdk.security.services.oauth_service import OAuthClient

Cli = Callable[..., subprocess.CompletedProcess[str]]
Ask = Callable[..., dict[str, Any]]

CLIENTS = (OAuthClient, CompetitionApiClient, BlobApiClient, DatasetApiClient, KernelsApiClient)
# A proxy of the machine that runs the tests is none of the stand-in's business.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def basic(user: str, key: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()


def fetch(
    url: str,
    data: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, bytes, http.client.HTTPMessage]:
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)
    try:
        with OPENER.open(request, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


@pytest.fixture
def ask(kaggle: KaggleServer) -> Ask:
    """Call a method of the API; return the fields of its answer, and its HTTP status as "http"."""

    def call(method: str, authorization: str = basic(USER, KEY), **fields: Any) -> dict[str, Any]:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
        service = next(key for key, methods in SERVICES.items() if hasattr(methods, name))
        headers = {"Authorization": authorization, "Content-Type": "application/json"}
        url = f"{kaggle.url}/api/v1/{service}/{method}"
        status, body, _ = fetch(url, json.dumps(fields).encode(), headers)
        return {"http": status, **json.loads(body)}

    return call


# With the real client.


@pytest.mark.usefixtures("kernel", "weights", "submission")
def test_the_real_client_can_do_all_it_is_used_for(
    tmp_path: Path, kaggle: KaggleServer, kaggle_cli: Cli
) -> None:
    def said(command: str) -> str:
        done = kaggle_cli(*command.split())
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done
        return done.stdout

    kaggle.competitions["other"] = {"train.csv": b"name\n"}
    listed = said("competitions list -s xray")
    assert "competitions/xray-demo" in listed
    assert "competitions/other" not in listed
    assert "sample_submission.csv" in said("competitions files xray-demo")
    said("competitions download xray-demo -p data")
    with zipfile.ZipFile(tmp_path / "data/xray-demo.zip") as archive:
        assert {n: archive.read(n) for n in archive.namelist()} == kaggle.competitions["xray-demo"]
    said("competitions download xray-demo -f test/test_0.png -p data")
    image = (tmp_path / "data/test_0.png").read_bytes()
    assert image == kaggle.competitions["xray-demo"]["test/test_0.png"]

    kaggle.solutions["xray-demo"] = lambda data: (0.75, 0.5) if b"test_2,2" in data else "no"
    assert "4 submissions remaining" in said("competitions submit xray-demo -f submission.csv -m 1")
    assert kaggle.submissions[0].data == (tmp_path / "submission.csv").read_bytes()
    assert "PENDING" in said("competitions submissions xray-demo")
    assert "0.75000" in said("competitions submissions xray-demo")
    assert "Remaining today: 4" in said("competitions submission-limits xray-demo")
    assert "0.90000" in said("competitions leaderboard xray-demo --show")

    assert "is being created" in said("datasets create -p weights")
    assert said("datasets status ada/weights") == "ready"
    assert "is being created" in said("datasets version -p weights -m again")
    assert "best.pt" in said("datasets files ada/weights")
    assert kaggle.datasets["ada/weights"].versions == [{"best.pt": b"weights"}] * 2

    files = {"submission.csv": b"name,target\n", "runs/best.pt": b"weights"}
    kaggle.run_kernel = lambda version: ("COMPLETE", "trained\n", files)
    assert "version 1 successfully pushed" in said("kernels push -p kernel")
    assert "COMPLETE" in said("kernels status ada/xray-train")
    said("kernels output ada/xray-train -p output")
    assert (tmp_path / "output/runs/best.pt").read_bytes() == b"weights"
    said("kernels pull ada/xray-train -p pulled")
    assert (tmp_path / "pulled/xray-train.py").is_file()
    assert "trained" in said("kernels logs ada/xray-train")
    assert said("kernels logs ada/xray-train --follow") == "trained\n"
    assert "28.50h" in said("quota")

    kaggle.code_competitions.add("xray-demo")
    said("competitions submit xray-demo -k ada/xray-train -v 1 -f submission.csv -m 2")
    assert kaggle.submissions[1].data == b"name,target\n"


def test_a_broken_download_goes_on_where_it_broke(
    tmp_path: Path, kaggle: KaggleServer, kaggle_cli: Cli
) -> None:
    data = os.urandom(3 << 20)  # the client writes whole MiB; what is below one is lost
    kaggle.competitions["xray-demo"]["images.npy"] = data
    kaggle.fault("GET blob", truncate=2_500_000)
    command = "competitions download xray-demo -f images.npy -p data"
    done = kaggle_cli(*command.split())
    assert done.returncode == 0, done
    assert (tmp_path / "data/images.npy").read_bytes() == data
    first, second = [call.headers for call in kaggle.log if call.method == "GET blob"]
    assert "Range" not in first
    assert (second["Range"], second["If-Range"][0]) == (f"bytes={2 << 20}-", '"')


def test_a_refusal_reaches_the_user(kaggle: KaggleServer, kaggle_cli: Cli) -> None:
    kaggle.competitions["other"] = {"train.csv": b"name\n"}
    for command, message in {
        "competitions files nope": "Not found",
        "competitions download other": "accept this competition's rules",
        "kernels status ada/no-such-kernel": "kernels.get",
    }.items():
        done = kaggle_cli(*command.split())
        assert (done.returncode, message in done.stderr) == (1, True), done
    done = kaggle_cli("competitions", "files", "xray-demo", env={"KAGGLE_KEY": "wrong"})
    assert (done.returncode, "Authentication required" in done.stdout) == (1, True)


def test_a_shell_can_use_it(tmp_path: Path, environment: dict[str, str]) -> None:
    script = Path(__file__).parents[1] / "kaggle_server.py"
    server = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        exports = "".join(server.stdout.readline() for _ in range(11))
        done = subprocess.run(
            ["sh", "-c", f"{exports}\n{sys.executable} -m kaggle competitions files xray-demo"],
            cwd=tmp_path,
            env={**environment, "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "sample_submission.csv" in done.stdout, done
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(10) == 0


# By plain HTTP.


def test_fields_are_those_that_the_client_knows(kaggle: KaggleServer, ask: Ask) -> None:
    def check(message: type[KaggleObject], fields: dict[str, Any]) -> None:
        known = {known.json_name: known for known in message._fields}
        assert fields.keys() <= known.keys(), message.__name__
        for name, value in fields.items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, dict):
                    check(known[name].field_type, item)
        message.from_dict(fields)  # enumerations, times and durations can be read

    slug, kernel = {"competitionName": "xray-demo"}, {"userName": "ada", "kernelSlug": "one"}
    weights = {"ownerSlug": "ada", "datasetSlug": "weights"}
    kaggle.competitions["other"] = {"train.csv": b"name\n"}
    kaggle.datasets["ada/weights"] = Dataset([{"best.pt": b"1"}])
    kaggle.leaderboard *= 21
    kaggle.uploads["token"], kaggle.blobs["token"] = ("submission.csv", 1), b"x"
    version = KernelVersion(files={"submission.csv": b"x"}, failure="stopped")
    kaggle.kernels["ada/one"] = Kernel([version])
    upload = {"fileName": "s.csv", "contentLength": 1, "lastModifiedEpochSeconds": 1}
    new = {"ownerSlug": "ada", "slug": "new", "title": "New", "files": [{"token": "token"}]}
    code = {"kernelOwner": "ada", "kernelSlug": "one", "fileName": "submission.csv"}
    calls: list[tuple[str, dict[str, Any]]] = [
        ("IntrospectToken", {"token": TOKEN}),
        ("ListCompetitions", {"pageSize": 1}),
        ("ListDataFiles", {**slug, "pageSize": 1}),
        ("StartSubmissionUpload", {**slug, **upload}),
        ("CreateSubmission", {**slug, "blobFileTokens": "token"}),
        ("CreateCodeSubmission", {**slug, **code, "kernelVersion": 1}),
        ("ListSubmissions", slug),
        ("ListSubmissions", {**slug, "pageSize": 1}),
        ("GetSubmission", {"ref": 40_000_001}),
        ("GetSubmissionLimits", slug),
        ("GetLeaderboard", slug),
        ("StartBlobUpload", {"name": "best.pt", "contentLength": 1}),
        ("CreateDataset", new),
        ("CreateDataset", new),
        ("CreateDatasetVersion", {**weights, "body": {"files": [{"token": "token"}]}}),
        ("GetDatasetStatus", weights),
        ("GetDataset", weights),
        ("GetDatasetMetadata", weights),
        ("ListDatasetFiles", weights),
        ("GetKernel", kernel),
        ("GetKernelSessionStatus", kernel),
        ("ListKernelSessionOutput", kernel),
        ("SaveKernel", {"slug": "ada/one", "datasetDataSources": ["ada/nothing"]}),
        ("GetAcceleratorQuotaStatistics", {}),
    ]
    for method, fields in calls:
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower()
        call = next(getattr(client, name) for client in CLIENTS if hasattr(client, name))
        hints = get_type_hints(call)
        check(hints["request"], fields)
        answer = ask(method, **fields)
        assert answer.pop("http") == 200, answer
        check(hints["return"], answer)
    files = {"DownloadDataFiles", "DownloadDataFile", "DownloadLeaderboard", "DownloadDataset"}
    files.add("GetKernelSessionLogsStream")
    public = {n for methods in SERVICES.values() for n in vars(methods) if n[0] != "_"}
    called = {re.sub(r"(?<!^)(?=[A-Z])", "_", n).lower() for n in files | dict(calls).keys()}
    assert public - {"version"} == called


def test_lists_come_in_pages(kaggle: KaggleServer, ask: Ask) -> None:
    kaggle.competitions["xray-demo"] = {f"{n:02}.png": b"x" * n for n in range(45)}
    names, token = [], ""
    while token is not None:
        page = ask("ListDataFiles", competitionName="xray-demo", pageToken=token)
        names += [file["name"] for file in page["files"]]
        assert len(page["files"]) <= 20
        token = page.get("nextPageToken")
    assert names == sorted(kaggle.competitions["xray-demo"])
    page = ask("ListDataFiles", competitionName="xray-demo", pageSize=3, pageToken="3")
    assert [file["totalBytes"] for file in page["files"]] == [3, 4, 5]


def test_storage_serves_ranges(kaggle: KaggleServer) -> None:
    url = kaggle.store("folder/a file.bin", b"0123456789")
    assert "/a%20file.bin?" in url
    status, body, headers = fetch(url)
    etag = headers["ETag"]
    assert (status, body, headers["Accept-Ranges"]) == (200, b"0123456789", "bytes")
    assert fetch(url, headers={"Range": "bytes=4-6"})[:2] == (206, b"456")
    status, body, headers = fetch(url, headers={"Range": "bytes=4-", "If-Range": etag})
    assert (status, body, headers["Content-Range"]) == (206, b"456789", "bytes 4-9/10")
    assert fetch(url, headers={"Range": "bytes=4-", "If-Range": '"old"'})[:2] == (
        200,
        b"0123456789",
    )
    assert fetch(url, headers={"Range": "bytes=10-"})[0] == 416


def test_a_broken_upload_goes_on_where_it_broke(kaggle: KaggleServer, ask: Ask) -> None:
    started = ask("StartBlobUpload", name="best.pt", contentLength=10, type="DATASET")
    url, token = started["createUrl"], started["token"]
    kaggle.fault("PUT blob", truncate=4)
    with pytest.raises(http.client.RemoteDisconnected):
        fetch(url, b"0123456789", method="PUT")
    status, _, headers = fetch(url, b"", {"Content-Range": "bytes */10"}, "PUT")
    assert (status, headers["Range"]) == (308, "bytes=0-3")
    new = {"ownerSlug": "ada", "slug": "weights", "title": "Weights", "files": [{"token": token}]}
    assert ask("CreateDataset", **new)["http"] == 400
    assert fetch(url, b"456789", {"Content-Range": "bytes 4-9/10"}, "PUT")[0] == 200
    assert ask("CreateDataset", **new)["status"] == "Ok"
    assert kaggle.datasets["ada/weights"].versions == [{"best.pt": b"0123456789"}]


def test_faults_happen_in_their_order_and_then_stop(kaggle: KaggleServer, ask: Ask) -> None:
    def upload() -> str:
        started = ask(
            "StartSubmissionUpload",
            competitionName="xray-demo",
            fileName="submission.csv",
            contentLength=1,
        )
        fetch(started["createUrl"], b"x", method="PUT")
        return started["token"]

    def submit() -> dict[str, Any]:
        return ask("CreateSubmission", competitionName="xray-demo", blobFileTokens=upload())

    lost = (http.client.RemoteDisconnected, http.client.IncompleteRead)
    kaggle.fault("CreateSubmission", status=429, message="slow down", headers={"Retry-After": "7"})
    kaggle.fault("CreateSubmission", answer={"error": "closed"})
    kaggle.fault("CreateSubmission", drop=True, times=2)
    assert submit() == {"http": 429, "code": 429, "message": "slow down"}
    assert submit() == {"http": 200, "error": "closed"}
    for _ in range(2):
        with pytest.raises(lost):
            submit()
    assert kaggle.submissions == []
    kaggle.fault("CreateSubmission", lose_answer=True)
    kaggle.fault("CreateSubmission", truncate=5)
    for count in (1, 2):
        with pytest.raises(lost):
            submit()
        assert len(kaggle.submissions) == count
    kaggle.fault("CreateSubmission", raw=b"<html>")
    with pytest.raises(json.JSONDecodeError):
        submit()
    kaggle.fault("CreateSubmission", delay=0.2)
    start = time.monotonic()
    assert submit()["ref"] == kaggle.submissions[2].ref
    assert time.monotonic() - start > 0.2
    assert len(kaggle.calls("CreateSubmission")) == 8


def test_credentials_are_asked_for_and_not_kept(kaggle: KaggleServer, ask: Ask) -> None:
    for authorization, status in {
        basic(USER, KEY): 200,
        f"Bearer {TOKEN}": 200,
        basic(USER, "wrong"): 401,
        basic("eve", KEY): 401,
        "Bearer KGAT_stale": 401,
        "": 401,
    }.items():
        assert ask("GetAcceleratorQuotaStatistics", authorization)["http"] == status
    assert KEY not in str(kaggle.log)
    assert basic(USER, KEY) not in str(kaggle.log)
    assert TOKEN not in str(kaggle.log)
    assert ask("IntrospectToken", "", token=TOKEN)["username"] == USER
    assert ask("IntrospectToken", "", token="KGAT_stale") == {"http": 200, "active": False}


def test_submissions_are_scored_and_counted(kaggle: KaggleServer, ask: Ask) -> None:
    slug = {"competitionName": "xray-demo"}
    kaggle.daily_limit = 2
    kaggle.solutions["xray-demo"] = lambda data: "wrong header" if data == b"b" else (0.25, 0.125)
    for data in (b"a", b"b"):
        started = ask("StartSubmissionUpload", **slug, fileName="s.csv", contentLength=1)
        fetch(started["createUrl"], data, method="PUT")
        ask("CreateSubmission", **slug, blobFileTokens=started["token"])
    assert ask("GetSubmissionLimits", **slug)["numAllowedNow"] == 0
    refused = ask("CreateSubmission", **slug, blobFileTokens=started["token"])
    assert (refused["http"], len(kaggle.submissions)) == (400, 2)
    assert ask("GetSubmission", ref=kaggle.submissions[0].ref)["status"] == "PENDING"
    newest, oldest = ask("ListSubmissions", **slug)["submissions"]
    assert (oldest["publicScore"], oldest["privateScore"]) == ("0.25000", "0.12500")
    assert newest["status"] == "PENDING"
    newest = ask("ListSubmissions", **slug)["submissions"][0]
    assert (newest["status"], newest["errorDescription"]) == ("ERROR", "wrong header")


def test_a_kernel_can_really_be_run(tmp_path: Path, kaggle: KaggleServer, ask: Ask) -> None:
    def execute(version: KernelVersion) -> tuple[list[str], str, dict[str, bytes]]:
        command = [sys.executable, "-c", version.text]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return ["QUEUED", "COMPLETE"], done.stdout, {"a.txt": (tmp_path / "a.txt").read_bytes()}

    kaggle.run_kernel = execute
    one = {"userName": "ada", "kernelSlug": "one"}
    ask(
        "SaveKernel",
        slug="ada/one",
        text="import time; time.sleep(1.5); open('a.txt', 'w').write('1')",
    )
    seen = []
    while seen[-1:] != ["COMPLETE"]:
        seen.append(ask("GetKernelSessionStatus", **one)["status"])
        time.sleep(0.1)
    assert list(dict.fromkeys(seen)) == ["RUNNING", "QUEUED", "COMPLETE"]
    ask("SaveKernel", slug="ada/one", text="print('two'); open('a.txt', 'w').write('2')")
    ask("SaveKernel", slug="ada/one", text="raise ValueError('three')")
    assert ask("GetKernelSessionStatus", **one)["status"] == "ERROR"
    assert "CalledProcessError" in ask("ListKernelSessionOutput", **one)["log"]
    output = {n: ask("ListKernelSessionOutput", **one, versionLabel=str(n)) for n in (1, 2)}
    assert [fetch(output[n]["files"][0]["url"])[1] for n in (1, 2)] == [b"1", b"2"]
    assert json.loads(output[2]["log"])[0]["data"] == "two\n"
    assert ask("ListKernelSessionOutput", **one, versionLabel="4")["http"] == 403


def test_a_new_data_set_version_shows_late(kaggle: KaggleServer, ask: Ask) -> None:
    weights = {"ownerSlug": "ada", "datasetSlug": "weights"}
    kaggle.datasets["ada/weights"] = Dataset([{"old.pt": b"1"}])
    kaggle.ready_after, kaggle.listing_lag = 2, 1
    started = ask("StartBlobUpload", name="new.pt", contentLength=2)
    fetch(started["createUrl"], b"22", method="PUT")
    ask("CreateDatasetVersion", **weights, body={"files": [{"token": started["token"]}]})

    def listed() -> list[str]:
        return [file["name"] for file in ask("ListDatasetFiles", **weights)["datasetFiles"]]

    statuses = [ask("GetDatasetStatus", **weights)["status"] for _ in range(3)]
    assert statuses == ["BLOBS_RECEIVED", "BLOBS_RECEIVED", "READY"]
    assert ask("ListDatasetFiles", **weights, datasetVersionNumber=2)["http"] == 404
    assert ask("GetDataset", **weights)["currentVersionNumber"] == 1
    assert [listed(), listed()] == [["old.pt"], ["new.pt"]]
    assert ask("GetDataset", **weights)["currentVersionNumber"] == 2
    url = f"{kaggle.url}/api/v1/datasets.DatasetApiService/DownloadDataset"
    body = fetch(url, json.dumps(weights).encode(), {"Authorization": basic(USER, KEY)})[1]
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["new.pt"]
