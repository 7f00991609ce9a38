"""What the unmodified Kaggle client sends of a kernel's folder, to a server on this machine."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from xraycomp.remote.bundle import build

Make = Callable[..., Path]
Server = tuple[int, list[dict[str, Any]]]


@pytest.fixture
def server() -> Iterator[Server]:
    """Answers every call as a saved kernel; the list holds what was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, **body})
            answer = json.dumps({"ref": "/code/somebody/toy-kernel", "versionNumber": 1}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running.server_port, asked
    running.shutdown()
    running.server_close()


def push(folder: Path, port: int, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = "import sys; from kaggle.cli import main; sys.argv[0] = 'kaggle'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, "kernels", "push", "-p", str(folder)],
        env={
            **environment,
            "HTTP_PROXY": f"http://127.0.0.1:{port}",
            "no_proxy": "",
            "KAGGLE_USERNAME": "somebody",
            "KAGGLE_KEY": "0" * 32,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_client_sends_the_built_file_as_it_is(
    make_kernel: Make, environment: dict[str, str], server: Server
) -> None:
    port, asked = server
    folder = make_kernel(enable_gpu=True, machine_shape="NvidiaTeslaT4")
    missing = push(folder, port, environment)
    assert "Source file not found" in missing.stdout + missing.stderr
    assert asked == []
    bundle = build(folder)
    done = push(folder, port, environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "does not resolve" not in done.stdout
    (sent,) = asked
    assert sent["path"].endswith("/kernels.KernelsApiService/SaveKernel")
    assert sent["text"] == bundle.path.read_text()
    assert sent["slug"] == "somebody/toy-kernel"
    assert sent["enableInternet"] is False
    assert sent["machineShape"] == "NvidiaTeslaT4"
    assert sent["competitionDataSources"] == ["toy-films"]
