"""A stand-in for Kaggle on 127.0.0.1, for tests with the real client.

``KAGGLE_API_ENVIRONMENT=LOCALHOST`` makes the ``kaggle`` package call ``http://localhost/api/v1/…``,
and ``HTTP_PROXY`` sends those calls here, where they are answered; nothing is forwarded.
``HTTPS_PROXY`` names a dead port, so whatever would leave the machine fails at once. The package
reads its environment while it is imported, so that it has to be set before a process starts.

In a test, ``with KaggleServer() as server:`` and ``server.environment(home)``. In a shell,
``python tests/kaggle_server.py >stand-in.sh &`` writes its environment as export lines and serves
until it is interrupted; ``. ./stand-in.sh`` then points that shell's ``kaggle`` here.

What the methods of the API take and answer is in ``kaggle_protocol``; here are the state, the
faults that can be scripted, storage, and HTTP.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, unquote, urlsplit

from kaggle_protocol import (
    LONG_AGO,
    SERVICES,
    TOKEN,
    USER,
    Dataset,
    Json,
    Kernel,
    KernelVersion,
    Refused,
    Reply,
    Service,
    Submission,
)

KEY = "fake-key-of-the-stand-in"


@dataclass
class Call:
    """One request as it came in; of ``Authorization`` only the scheme is kept."""

    method: str  # "ListDataFiles", "GET blob", "PUT blob", …
    request: Json  # the fields of the request; of a storage call, the blob
    headers: dict[str, str]


@dataclass
class Fault:
    """What goes wrong with the next calls of a method, or of storage: GET blob, PUT blob."""

    method: str
    times: int = 1
    delay: float = 0.0  # seconds to wait first; alone, or together with what follows
    drop: bool = False  # hang up before anything happens
    status: int | None = None  # refuse, with the message
    message: str = "scripted fault"
    answer: Json | None = None  # these fields in place of the real answer, and no effect
    raw: bytes | None = None  # this body in place of the real answer, as text/html
    headers: dict[str, str] = field(default_factory=dict)  # more headers, such as Retry-After
    truncate: int | None = None  # promise the whole body and hang up after so many bytes
    lose_answer: bool = False  # the call takes effect, but is not answered


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

    def fault(self, method: str, **what: Any) -> None:
        """Script a fault, by the fields of ``Fault``; several happen in the order of the calls."""
        self._faults.append(Fault(method, **what))

    def take_fault(self, method: str) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method == method and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def number(self) -> int:
        return next(self._numbers)

    def store(self, name: str, data: bytes) -> str:
        """Put bytes into storage; return a signed address, whose last part is the file's name."""
        folder = hashlib.sha256(name.encode() + data).hexdigest()[:16]
        key = f"{folder}/{Path(name).name}"
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


class Handler(BaseHTTPRequestHandler):
    """HTTP: which method is meant, which fault is scripted for it, how the answer goes out."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.kaggle: KaggleServer = self.server.kaggle  # type: ignore[attr-defined]
        path = unquote(urlsplit(self.path).path)  # through a proxy, the whole address comes
        body = self._body()
        method, request, respond = self._route(path, body)
        secret = self.headers.get("Authorization", "")
        headers = dict(self.headers.items())
        if secret:
            headers["Authorization"] = secret.partition(" ")[0]
        self.kaggle.log.append(Call(method, request, headers))
        fault = self.kaggle.take_fault(method)
        if fault and fault.delay:
            time.sleep(fault.delay)
        if fault and fault.drop:
            return self._hang_up()
        reply = self._scripted(fault) or self._real(method, lambda: respond(fault), secret)
        if fault and fault.lose_answer:
            return self._hang_up()
        reply.headers.update(fault.headers if fault else {})
        return self._send(reply, fault.truncate if fault and method != "PUT blob" else None)

    do_GET = do_POST = do_PUT = answer  # noqa: N815

    def _scripted(self, fault: Fault | None) -> Reply | None:
        if fault and fault.raw is not None:
            return Reply(fault.status or 200, fault.raw, {"Content-Type": "text/html"})
        if fault and fault.status is not None:
            return self._error(fault.status, fault.message)
        return self._json(200, fault.answer) if fault and fault.answer is not None else None

    def _real(self, method: str, respond: Callable[[], Any], secret: str) -> Reply:
        basic = "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode()
        known = secret in (basic, f"Bearer {TOKEN}")
        try:
            if not known and method not in ("IntrospectToken", "GET blob", "PUT blob"):
                raise Refused(401, "Unauthenticated")
            answer = respond()
        except Refused as refused:
            return self._error(refused.status, refused.message)
        except KeyError as missing:
            return self._error(400, f"Missing field {missing}")
        return answer if isinstance(answer, Reply) else self._json(200, answer)

    def _route(self, path: str, body: bytes) -> tuple[str, Json, Callable[[Fault | None], Any]]:
        """The method's name, its request, and the function that gives its answer."""
        if path.startswith("/blob/"):
            key = path.removeprefix("/blob/")
            request: Json = {"blob": key, "bytes": len(body)}
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
            return method, request, lambda _: self._error(404, "Not found")
        return method, request, lambda _: respond(request)

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

    def _error(self, status: int, message: str) -> Reply:
        return self._json(status, {"code": status, "message": message})

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

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that would not wait is no failure
            super().handle()

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
