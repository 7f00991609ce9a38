"""Rehearsals: a good kernel passes under both layouts of mounts, a bad one does not."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

import xraycomp
from xraycomp.console.errors import UserError
from xraycomp.data.competition_file import load_competition
from xraycomp.data.stand_ins import draw_slice
from xraycomp.kernel import main
from xraycomp.remote.bundle import build
from xraycomp.remote.rehearsal import rehearse

Make = Callable[..., Path]
Tree = Callable[..., Path]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # its list of fonts takes seconds
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_a_good_kernel_passes_under_both_layouts(
    make_kernel: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_kernel()
    with caplog.at_level(logging.INFO, "xraycomp"):
        rehearse(build(folder), data_dir=tmp_path / "data", train_images=24)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "No data of toy-films: drew 24 stand-in images (phantoms)."
    assert [line for line in said if line.startswith("Rehearsing")] == [
        "Rehearsing toy-kernel (new layout of mounts) ...",
        "Rehearsing toy-kernel (old layout of mounts) ...",
    ]
    passed = [line for line in said if line.startswith("Passed")]
    assert len(passed) == 2
    for line in passed:
        assert "submission.csv of 24 rows, kernel.json, metrics.json, checkpoint.pt" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernels"]


FIRST = "print('begun', flush=True)\n"
IMPORT_THIS_KIT = (
    f"import sys; sys.path.insert(0, {str(Path(xraycomp.__file__).parents[1])!r}); import xraycomp"
)
FAILING = {
    "raises": ("raise ValueError('no such luck')", "failed with exit code 1", "no such luck"),
    "kaggle": ("import kaggle", "failed with exit code 1", "No module named 'kaggle': code inside"),
    "parser": ("from tyro import cli", "failed with exit code 1", "No module named 'tyro'"),
    "address": (
        "import socket\nsocket.create_connection(('192.0.2.1', 80), 5)",
        "failed with exit code 1",
        "a kernel has no internet (192.0.2.1)",
    ),
    "name": (
        "import urllib.request\nurllib.request.urlopen('https://www.kaggle.com')",
        "failed with exit code 1",
        "a kernel has no internet (www.kaggle.com)",
    ),
    "child": (
        "import subprocess, sys\n"
        "code = 'import socket; socket.getaddrinfo(\"www.kaggle.com\", 443)'\n"
        "subprocess.run([sys.executable, '-c', code], check=True)",
        "failed with exit code 1",
        "a kernel has no internet (www.kaggle.com)",
    ),
    "kit": (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {IMPORT_THIS_KIT!r}], check=True)",
        "failed with exit code 1",
        "No module named 'xraycomp' outside the bundle",
    ),
    "input": (
        "import os, pathlib\n"
        "path = next(pathlib.Path(os.environ['XRAYCOMP_KAGGLE_ROOT']).rglob('test_0.png'))\n"
        "path.chmod(0o644)\npath.write_bytes(b'')",
        "wrote into the read-only input: competitions/toy-films/films/test/test_0.png",
        "begun",
    ),
    "working": ("open('notes.txt', 'w')", "left notes.txt in the working folder", "begun"),
    "home": (
        "import pathlib\n(pathlib.Path.home() / 'data').mkdir()",
        "wrote into the home folder: data",
        "begun",
    ),
    "nothing": ("", "left no run folder", "begun"),
    "search": (
        "import json, pathlib\n"
        "folder = pathlib.Path('runs/opt')\n"
        "folder.mkdir(parents=True)\n"
        "trials = [{'state': 'failed', 'reason': 'No memory.'}]\n"
        "(folder / 'study.json').write_text(json.dumps({'trials': trials}))",
        "has no complete trial in opt (No memory.)",
        "begun",
    ),
    "trial": (
        "import json, pathlib\n"
        "folder = pathlib.Path('runs/opt')\n"
        "folder.mkdir(parents=True)\n"
        "trials = [{'state': 'complete', 'run': 'trial-0000'}]\n"
        "(folder / 'study.json').write_text(json.dumps({'trials': trials}))",
        "left no metrics.json, best.pt in opt/trial-0000",
        "begun",
    ),
    "facts": (
        "open('kernel.json', 'w').write('{}')",
        "kernel.json does not name the bundle",
        "begun",
    ),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_bad_kernel_is_found_out(make_kernel: Make, tmp_path: Path, kind: str) -> None:
    script, complaint, last = FAILING[kind]
    with pytest.raises(UserError) as caught:
        rehearse(build(make_kernel(FIRST + script)), data_dir=tmp_path / "data", train_images=6)
    said = str(caught.value)
    assert said.startswith("The rehearsal of toy-kernel (new layout)")
    assert complaint in said
    assert last in said.partition("Its last lines:\n")[2]


BROKEN = """
from pathlib import Path
run = Path("runs/first")
run.mkdir(parents=True)
for name in ("config.json", "metrics.json", "checkpoint.pt", "best.pt"):
    (run / name).write_text("{}")
(run / "competition.toml").write_text((Path(__file__).with_name("toy.toml")).read_text())
rows = [f"test_{index},0" for index in range(24)]
"""


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("", "left no submission.csv"),
        (
            "rows = ['id,target', *rows[:-1]]",
            "its submission would be refused: submission.csv lacks 1",
        ),
        ("rows = ['id,target', 'test_0,7', *rows[1:]]", "line 2: target is '7' but must be"),
        ("(run / 'best.pt').unlink()", "left no best.pt in first"),
        (
            "(run.with_name('second')).mkdir()\n"
            "(run.with_name('second') / 'config.json').write_text('{}')",
            "left no metrics.json, checkpoint.pt, best.pt in second",
        ),
    ],
)
def test_a_broken_submission_is_found_out(
    make_kernel: Make, tmp_path: Path, script: str, complaint: str
) -> None:
    write = "\nPath('submission.csv').write_text('\\n'.join(rows))" if "rows" in script else ""
    with pytest.raises(UserError) as caught:
        rehearse(
            build(make_kernel(BROKEN + script + write)), data_dir=tmp_path / "data", train_images=6
        )
    assert complaint in str(caught.value)


def test_this_machine_itself_can_be_reached_but_not_what_the_user_s_variables_say(
    make_kernel: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes that train together talk to each other."""
    monkeypatch.setenv("KAGGLE_KEY", "a-secret")
    script = """
import os
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", server.getsockname()[1])).close()
left, right = socket.socketpair()
print("spoke to itself and saw", os.environ.get("KAGGLE_KEY"))
"""
    with pytest.raises(UserError, match="spoke to itself and saw None"):
        rehearse(build(make_kernel(script)), data_dir=tmp_path / "data", train_images=6)


def test_local_data_are_cut_to_a_slice(
    make_kernel: Make, tmp_path: Path, draw: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "mine"
    for kind, name in enumerate(["stripe", "disc", "blank"]):
        for index in range(20):
            draw(root / "films" / "train" / name / f"{name}{index}.png", kind, seed=index)
    for index in range(40):
        draw(root / "films" / "test" / f"t{index}.png", index % 3, seed=100 + index)
    ids = [f"t{index}" for index in reversed(range(40))]
    (root / "sample.csv").write_text("id,target\n" + "".join(f"{name},0\n" for name in ids))
    script = """
import os
from pathlib import Path
root = Path(os.environ["XRAYCOMP_KAGGLE_ROOT"], "input", "competitions", "toy-films")
for folder in ("stripe", "disc", "blank"):
    print(folder, len(list((root / "films" / "train" / folder).glob("*.png"))))
print("test", len(list((root / "films" / "test").glob("*.png"))))
print((root / "sample.csv").read_text().split()[1:3])
"""
    with caplog.at_level(logging.INFO, "xraycomp"), pytest.raises(UserError) as caught:
        rehearse(build(make_kernel(script)), data=root, data_dir=tmp_path / "data", train_images=9)
    said = str(caught.value).splitlines()
    assert said[-5:] == ["stripe 3", "disc 3", "blank 3", "test 24", "['t39,0', 't38,0']"]
    assert f"Using 9 training images of {root}." in caplog.text


def test_other_sources_are_attached_where_kaggle_puts_them(
    make_kernel: Make, tmp_path: Path
) -> None:
    script = """
import os
from pathlib import Path
root = Path(os.environ["XRAYCOMP_KAGGLE_ROOT"], "input")
for path in sorted(root.rglob("net.pth")):
    print(path.relative_to(root), os.access(path, os.R_OK))
"""
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.pth").write_text("weights")
    sources = {
        "dataset_sources": ["me/nets"],
        "kernel_sources": ["me/earlier"],
        "model_sources": ["me/model/pyTorch/small/1"],
    }
    attach = {
        "me/nets": tmp_path / "nets",
        "me/earlier": tmp_path / "nets",
        "me/model/pyTorch/small/1": tmp_path / "nets" / "net.pth",
    }
    with pytest.raises(UserError) as caught:
        rehearse(
            build(make_kernel(script, **sources)),
            data_dir=tmp_path / "data",
            attach=attach,
            train_images=6,
        )
    assert str(caught.value).splitlines()[-3:] == [
        "datasets/me/nets/net.pth True",
        "models/me/model/pyTorch/small/1/net.pth True",
        "notebooks/me/earlier/net.pth True",
    ]
    with pytest.raises(UserError, match="me/other is not among the sources of toy-kernel"):
        rehearse(build(make_kernel(script)), attach={"me/other": tmp_path})


def test_a_competition_that_nothing_describes_is_refused(make_kernel: Make) -> None:
    with pytest.raises(UserError, match="Nothing describes the competition other-films"):
        rehearse(build(make_kernel(competition_sources=["other-films"])))


def test_a_search_space_in_the_folder_is_no_competition(make_kernel: Make) -> None:
    folder = make_kernel(FIRST)
    (folder / "my.toml").write_text("[space]\nflip = {values = [true, false]}\n")
    with pytest.raises(UserError, match="left no run folder"):
        rehearse(build(folder), train_images=6)


def alive(pids: Path) -> list[int]:
    """Which of the processes whose numbers stand in a file still run."""
    found = []
    for pid in map(int, pids.read_text().split() if pids.is_file() else []):
        stat = Path(f"/proc/{pid}/stat")
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        if not (stat.is_file() and ") Z " in stat.read_text()):  # ended, but not yet buried
            found.append(pid)
    return found


def assert_ended(pids: Path) -> None:
    assert len(pids.read_text().split()) == 2
    until = time.monotonic() + 10
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive(pids) == []


SLEEPER = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({pids!r}, "w") as file:
    file.write(f"{{os.getpid()}} {{child.pid}}")
print("asleep", flush=True)
time.sleep(600)
"""


def test_a_kernel_that_does_not_end_is_ended_with_its_children(
    make_kernel: Make, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    folder = make_kernel(SLEEPER.format(pids=str(pids)))
    flags = f"--train-images 6 --timeout 0.05 --data-dir {tmp_path / 'data'}"
    with pytest.raises(UserError, match=r"did not end within 0\.05 minutes") as caught:
        main(["rehearse", str(folder), *flags.split()])
    assert "asleep" in str(caught.value)
    assert_ended(pids)


def test_ctrl_c_ends_the_rehearsal_with_its_children(
    make_kernel: Make, tmp_path: Path, environment: dict[str, str]
) -> None:
    pids = tmp_path / "pids"
    folder = make_kernel(SLEEPER.format(pids=str(pids)))
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "xraycomp.kernel", "rehearse", str(folder), "--train-images", "6"],
        cwd=tmp_path,
        env={**environment, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not alive(pids) and time.monotonic() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr == "Interrupted.\n"
    assert_ended(pids)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_guard_does_nothing_when_it_is_merely_imported() -> None:
    code = (
        "import sys; before = list(sys.meta_path); import xraycomp.remote.guard; "
        "assert sys.meta_path == before; import kaggle_is_not_blocked_by_name"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(xraycomp.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError")
    assert "kaggle_is_not_blocked_by_name" in done.stderr.splitlines()[-1]


def test_stand_ins_are_images(make_kernel: Make, tmp_path: Path) -> None:
    toy = load_competition(str(make_kernel() / "toy.toml"))
    assert draw_slice(toy, tmp_path / "slice", 4, 2, size=40) == 6
    with Image.open(tmp_path / "slice" / "films" / "test" / "test_1.png") as image:
        assert (image.size, image.mode) == ((40, 40), "L")
