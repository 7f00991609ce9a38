"""Fixtures for the whole suite: drawn images, and commands run as a user runs them."""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in a shell's background; the processes that tests interrupt would ignore it too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if "PYTEST_XDIST_WORKER" in os.environ:  # processes that share the cores must not fight for them
    os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib
import numpy as np
import pytest
from kaggle_server import KaggleServer
from PIL import Image

from xraycomp.console.command import run_command

CLASSES = ("covid", "pneumonia", "normal")


@pytest.fixture
def draw() -> Callable[..., Path]:
    """Draw one noisy gray PNG with a bright block whose place tells the class, 0 to 3."""

    def _draw(path: Path, kind: int = 0, seed: int = 0, size: tuple[int, int] = (24, 24)) -> Path:
        rng = np.random.default_rng([seed, kind])
        width, height = size
        pixels = rng.normal(70, 35, (height, width))
        top, left = (kind // 2) * height // 2, (kind % 2) * width // 2
        pixels[top : top + height // 2, left : left + width // 2] += 110
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
        return path

    return _draw


@pytest.fixture
def draw_tree(draw: Callable[..., Path]) -> Callable[..., Path]:
    """Draw ``root/train/<class>/image_<n>.png`` and ``root/test/test_<n>.png``."""

    def _draw_tree(
        root: Path, classes: Sequence[str] = CLASSES, per_class: int = 8, n_test: int = 3
    ) -> Path:
        for kind, name in enumerate(classes):
            for n in range(per_class):
                draw(root / "train" / name / f"image_{n}.png", kind, seed=n)
        for n in range(n_test):
            draw(root / "test" / f"test_{n}.png", n % len(classes), seed=1000 + n)
        return root

    return _draw_tree


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A new user's environment: a home without credentials, no way to Kaggle."""
    kept = {name: value for name, value in os.environ.items() if "KAGGLE" not in name}
    return {
        **kept,
        "HOME": str(tmp_path),
        # The list of fonts takes seconds to make; it is no part of what is tested.
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
        "OMP_NUM_THREADS": "1",
        "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }


@pytest.fixture
def cli(
    tmp_path: Path, environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``python -m xraycomp.<command>`` in a process of its own, in ``tmp_path``."""

    def run(
        command: str, *args: str | Path, before: Callable[[], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", f"xraycomp.{command}", *map(str, args)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            preexec_fn=before,
        )

    return run


@pytest.fixture
def kaggle(tmp_path: Path, draw_tree: Callable[..., Path]) -> Iterator[KaggleServer]:
    """A stand-in for Kaggle that holds the competition ``xray-demo``, whose rules are accepted."""
    root = draw_tree(tmp_path / "kaggle-holds", per_class=4)
    files = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}
    rows = "".join(f"test_{n},0\n" for n in range(3))
    files["sample_submission.csv"] = f"name,target\n{rows}".encode()
    shutil.rmtree(root)
    with KaggleServer() as server:
        server.competitions["xray-demo"] = files
        server.rules_accepted.add("xray-demo")
        yield server


@pytest.fixture
def kaggle_environment(
    tmp_path: Path, environment: dict[str, str], kaggle: KaggleServer
) -> dict[str, str]:
    """The environment of a process that reaches the stand-in, as a user with a home of its own."""
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir(exist_ok=True)
    temporary.mkdir()  # the client keeps notes of its uploads in the temporary folder
    return {**environment, **kaggle.environment(home), "TMPDIR": str(temporary)}


@pytest.fixture
def kaggle_cli(
    tmp_path: Path, kaggle_environment: dict[str, str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real ``kaggle`` command against the stand-in, in ``tmp_path``.

    ``env`` changes variables; one that is None is taken out.
    """

    def run(
        *args: str | Path, env: dict[str, str | None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        variables = {**kaggle_environment, **(env or {})}
        return subprocess.run(
            [sys.executable, "-m", "kaggle", *map(str, args)],
            cwd=tmp_path,
            env={name: value for name, value in variables.items() if value is not None},
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def one_sentence() -> Callable[[str], str]:
    """What stderr says besides progress bars; it must be one line and no traceback."""

    def read(stderr: str) -> str:
        assert "Traceback" not in stderr, stderr
        # A bar rewrites its line; what follows the last carriage return is what stays.
        lines = [line.rpartition("\r")[2] for line in stderr.split("\n")]
        said = [line for line in lines if line.strip() and not re.match(r".*%\|", line)]
        assert len(said) == 1, stderr
        return said[0]

    return read


@pytest.fixture
def match() -> Callable[[str, str], None]:
    """Assert that a message matches a pattern, and show the message where it does not."""

    def check(pattern: str, said: str) -> None:
        assert re.search(pattern, said), f"{pattern!r} is not in: {said}"

    return check


@pytest.fixture
def refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    one_sentence: Callable[[str], str],
) -> Callable[..., str]:
    """Run a command's ``main`` within this process; return its one sentence on stderr.

    The exit code must not be 0, and nothing half-written may lie in ``tmp_path``.
    """
    for name in [name for name in os.environ if "KAGGLE" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)

    def run(main: Callable[[list[str]], None], *args: str | Path) -> str:
        logger = logging.getLogger("xraycomp")
        handlers = list(logger.handlers)
        monkeypatch.setattr(sys, "argv", ["xraycomp", *map(str, args)])
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as stop:
                run_command(main)
        finally:
            logger.handlers[:] = handlers
        said = one_sentence(capsys.readouterr().err)
        assert stop.value.code not in (0, None)
        assert_nothing_half_written(tmp_path)
        return said

    return run


def assert_nothing_half_written(folder: Path) -> None:
    """No temporary file or folder is left, and every run folder is one that can be gone on with."""
    assert [path for path in folder.rglob("*") if path.name.endswith(".tmp")] == []
    for run in (folder / "runs").glob("*"):
        assert (run / "config.json").is_file(), f"{run} holds {list(run.iterdir())}"
