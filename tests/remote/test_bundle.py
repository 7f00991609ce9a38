"""The built kernel: the same bytes from the same sources, nothing secret, nothing changed."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import xraycomp
from xraycomp.console.errors import UserError
from xraycomp.remote.bundle import MAX_BYTES, build, collect_sources, is_stale, remove_stale
from xraycomp.remote.launcher import source_digest
from xraycomp.remote.leaks import check_no_credentials
from xraycomp.remote.metadata import read_metadata

PACKAGE = Path(xraycomp.__file__).parent
BUILD = """
import os, sys
os.umask(int(sys.argv[2], 8))
from pathlib import Path
from xraycomp.remote.bundle import build
bundle = build(Path(sys.argv[1]))
print(bundle.sha256, bundle.commit, bundle.size)
"""
Make = Callable[..., Path]
Run = Callable[..., subprocess.CompletedProcess[str]]


def copy_files(source: Path, destination: Path, *, backwards: bool, time: int, mode: int) -> None:
    """Copy the sources in an order, with times and permissions, unlike another copy's."""
    files = sorted(source.rglob("*"), reverse=backwards)
    for path in files:
        if path.is_file() and path.suffix != ".pyc":
            target = destination / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            os.utime(target, (time, time))
            target.chmod(mode)


def test_the_same_sources_give_the_same_bytes(tmp_path: Path, make_kernel: Make) -> None:
    folder, found = make_kernel(), []
    for index, (backwards, time, mode, umask) in enumerate(
        [(False, 1_000_000_000, 0o600, "077"), (True, 1_700_000_000, 0o755, "000")]
    ):
        home = tmp_path / f"copy{index}" / ("deeper" * index)
        copy_files(PACKAGE, home / "xraycomp", backwards=backwards, time=time, mode=mode)
        copy_files(folder, home / "toy-kernel", backwards=not backwards, time=time, mode=mode)
        (home / "xraycomp" / "__pycache__").mkdir(exist_ok=True)
        (home / "xraycomp" / "__pycache__" / "old.py").write_text(f"# {index}")
        (home / "xraycomp" / "notes.md").write_text(f"{index}")
        (home / "toy-kernel" / ".hidden.py").write_text(f"# {index}")
        done = subprocess.run(
            [sys.executable, "-c", BUILD, str(home / "toy-kernel"), umask],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(home), "PYTHONHASHSEED": str(index + 1)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        content = (home / "toy-kernel" / "kernel.py").read_bytes()
        assert done.stdout.split()[1:] == ["unknown", str(len(content))]
        found.append((done.stdout, hashlib.sha256(content).hexdigest()))
    assert found[0] == found[1]


def test_line_ends_of_a_checkout_change_nothing(make_kernel: Make) -> None:
    folder = make_kernel()
    first = build(folder)
    for path in (folder / "train.py", folder / "toy.toml"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert build(folder) == first


def test_the_digest_names_the_code_and_not_the_commit(
    make_kernel: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_kernel()
    built, texts = [], []
    for commit in ("a" * 40, "b" * 40 + "-dirty"):
        monkeypatch.setenv("XRAYCOMP_COMMIT", commit)
        built.append(build(folder))
        texts.append(built[-1].path.read_text())
        assert not is_stale(folder)
    assert built[0].sha256 == built[1].sha256
    assert [bundle.commit for bundle in built] == ["a" * 40, "b" * 40 + "-dirty"]
    assert texts[0].replace("a" * 40, "b" * 40 + "-dirty") == texts[1]
    (folder / "train.py").write_text("print(1)\n")
    assert build(folder).sha256 != built[0].sha256


def test_a_build_is_stale_once_a_source_changes_and_is_then_removed(make_kernel: Make) -> None:
    folder = make_kernel()
    assert is_stale(folder)
    built = build(folder).path
    assert not is_stale(folder)
    assert remove_stale(folder) is None
    good = built.read_text()
    for name in ("train.py", "toy.toml", "kernel.py"):
        path = folder / name
        before = path.read_text()
        path.write_text(before + "# changed\n")
        assert is_stale(folder), name
        path.write_text(before)
        assert not is_stale(folder)
    make_kernel(enable_gpu=True, machine_shape="NvidiaTeslaT4")  # the file checks for a GPU
    assert remove_stale(folder) == built
    assert not built.exists()
    make_kernel()
    assert build(folder).path.read_text() == good


def test_outputs_in_subfolders_are_not_bundled(make_kernel: Make) -> None:
    folder = make_kernel()
    first = build(folder)
    (folder / "output" / "runs").mkdir(parents=True)
    (folder / "output" / "runs" / "competition.toml").write_text("slug = 'x'\n")
    assert build(folder) == first


def test_the_pages_templates_are_bundled(make_kernel: Make) -> None:
    folder = make_kernel()
    held = collect_sources(folder, read_metadata(folder))
    templates = {path.name for path in (PACKAGE / "pages" / "templates").iterdir()}
    assert {Path(name).name for name in held if "/templates/" in name} == templates
    assert "run.html.jinja" in templates


def test_links_are_not_bundled(tmp_path: Path, make_kernel: Make) -> None:
    folder = make_kernel()
    first = build(folder)
    (tmp_path / "private.py").write_text("print(1)\n")
    (folder / "private.py").symlink_to(tmp_path / "private.py")
    assert build(folder) == first


def test_the_digest_tells_which_file_holds_what() -> None:
    files = {"a.py": b"1\n", "b.py": b"2\n"}
    digest = source_digest(files)
    assert source_digest(dict(reversed(files.items()))) == digest
    for others in ({"a.py": b"2\n", "b.py": b"1\n"}, {"a.py": b"1\n2\n", "b.py": b""}):
        assert source_digest(others) != digest
    assert source_digest({"c.py": b"1\n", "d.py": b"2\n"}) != digest


def test_more_than_kaggle_takes_is_refused_with_the_largest_files(make_kernel: Make) -> None:
    folder = make_kernel()
    noise = "".join(hashlib.sha256(bytes([i % 256, i // 256])).hexdigest() for i in range(25_000))
    (folder / "table.toml").write_text(f'noise = "{noise}"\n')
    with pytest.raises(UserError) as caught:
        build(folder)
    said = str(caught.value)
    assert f"Kaggle takes {MAX_BYTES:,}. Largest files: kernel/table.toml (1,600,0" in said
    assert not (folder / "kernel.py").exists()


def test_the_kit_leaves_room_for_growth(make_kernel: Make) -> None:
    bundle = build(make_kernel())
    assert bundle.size == len(bundle.path.read_bytes()) < MAX_BYTES // 2


TOKEN = "KGAT_" + "0f1e2d3c4b5a" * 3
HEX = "0123456789abcdef" * 2
PLANTED = {
    "token": (f'TOKEN = "{TOKEN}"', TOKEN, "a Kaggle API token"),
    "key": (f'LOGIN = {{"username": "me", "key": "{HEX}"}}', HEX, "a Kaggle key"),
    "environment": ('WORD = "correct-horse-battery"', "correct-horse-battery", "KAGGLE_KEY"),
    "file": ('WORD = "from-the-token-file"', "from-the-token-file", "access_token"),
    "json": ('WORD = "from-kaggle-json"', "from-kaggle-json", "kaggle.json"),
}


@pytest.mark.parametrize("where", ["train.py", "toy.toml", "kernel-metadata.json"])
@pytest.mark.parametrize("kind", PLANTED)
def test_credentials_are_refused_and_never_shown(
    tmp_path: Path, make_kernel: Make, monkeypatch: pytest.MonkeyPatch, kind: str, where: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KAGGLE_KEY", "correct-horse-battery")
    monkeypatch.delenv("KAGGLE_CONFIG_DIR", raising=False)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "t" * 5000)
    (tmp_path / ".kaggle").mkdir()
    (tmp_path / ".kaggle" / "access_token").write_text("from-the-token-file\n")
    (tmp_path / ".kaggle" / "kaggle.json").write_text(
        json.dumps({"username": "somebody", "key": "from-kaggle-json"})
    )
    line, secret, sort = PLANTED[kind]
    folder = make_kernel()
    build(folder).path.unlink()  # the names of a user and of a competition are no secret
    if where.endswith(".json"):
        make_kernel(keywords=[line])
    else:
        path = folder / where
        path.write_text(path.read_text() + line.replace("WORD", "# WORD") + "\n")
    with pytest.raises(UserError) as caught:
        build(folder)
    said = str(caught.value)
    assert where in said and sort in said and ", line " in said
    assert secret not in said
    assert not (folder / "kernel.py").exists()


@pytest.mark.parametrize(
    ("variable", "place", "text"),
    [
        ("KAGGLE_CONFIG_DIR", "elsewhere", '{"username": "me", "key": "out-of-the-way"}'),
        ("KAGGLE_API_TOKEN", "elsewhere/kaggle.json", "out-of-the-way\n"),
    ],
)
def test_credentials_are_known_wherever_a_variable_says_that_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, place: str, text: str
) -> None:
    for name in ("KAGGLE_CONFIG_DIR", "KAGGLE_API_TOKEN", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kaggle.json").write_text(text)
    files = {"train.py": b'WORD = "out-of-the-way"\n'}
    check_no_credentials(files)
    monkeypatch.setenv(variable, str(tmp_path / place))
    with pytest.raises(UserError, match=r"train\.py, line 1 holds") as caught:
        check_no_credentials(files)
    assert "out-of-the-way" not in str(caught.value)


HELLO = """
import os, sys
print("ran", __name__, sys.argv[1:], os.environ["XRAYCOMP_GPU"])
"""


@pytest.mark.parametrize(("gpu", "asked"), [("", ""), ("NvidiaTeslaT4", "1")])
def test_the_built_file_says_what_it_is_and_runs_the_script(
    tmp_path: Path, make_kernel: Make, run_built: Run, gpu: str, asked: str
) -> None:
    bundle = build(make_kernel(HELLO, enable_gpu=bool(gpu), machine_shape=gpu))
    (tmp_path / "kaggle" / "working").mkdir(parents=True)
    on_kaggle = {
        "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        "XRAYCOMP_KAGGLE_ROOT": str(tmp_path / "kaggle"),
    }
    done = run_built(bundle, **on_kaggle)
    assert done.returncode == 0, done.stderr
    version = xraycomp.__version__
    assert done.stdout.splitlines() == [
        f"toy-kernel: bundle sha256 {bundle.sha256}, commit {bundle.commit}, xraycomp {version}",
        f"ran __main__ [] {asked}",
    ]
    assert json.loads((tmp_path / "kaggle" / "working" / "kernel.json").read_text()) == {
        "kernel": "toy-kernel",
        "sha256": bundle.sha256,
        "commit": bundle.commit,
        "xraycomp": version,
        "run": "",
    }
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        (r'PAYLOAD = """\n(.{3000})', r'PAYLOAD = """\n'),
        (r"(?s)(.{60})\n\"\"\"\n\nif __name__", r'\n"""\n\nif __name__'),
        (r'PAYLOAD = """\n.{4}', 'PAYLOAD = """\nAAAA'),
        (r'PAYLOAD = """', 'PAYLOAD = """ no base64! '),
        (r"(launch\('toy-kernel', ')\w{4}", r"\g<1>0000"),
    ],
)
def test_a_file_that_was_changed_does_not_run(
    make_kernel: Make, run_built: Run, pattern: str, change: str
) -> None:
    bundle = build(make_kernel(HELLO))
    text = bundle.path.read_text()
    changed = re.sub(pattern, change, text, count=1, flags=re.DOTALL)
    assert changed != text
    bundle.path.write_text(changed)
    done = run_built(bundle)
    assert done.returncode == 1
    assert "ran" not in done.stdout
    assert done.stderr.startswith("The code inside this kernel does not have the sha256")
    assert len(done.stderr.splitlines()) == 1


def fake_package(folder: Path) -> Path:
    (folder / "xraycomp").mkdir(parents=True)
    (folder / "xraycomp" / "__init__.py").write_text("__version__ = 'other'\n")
    return folder


CHILDREN = """
import multiprocessing, os, runpy, subprocess, sys
import xraycomp
from xraycomp.console.errors import listing

if __name__ == "__main__":
    home = os.environ["TMPDIR"]
    assert xraycomp.__file__.startswith(home), xraycomp.__file__
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(listing, [["a", "b"]]))
    code = "import xraycomp; print(xraycomp.__file__)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout.startswith(home), child
    # As a child process does whose parent's main file is the built one.
    again = runpy.run_path(os.environ["BUILT"], run_name="__mp_main__")
    print("again", again["__name__"])
"""


def test_children_import_the_bundled_kit_too(
    tmp_path: Path, make_kernel: Make, run_built: Run
) -> None:
    bundle = build(make_kernel(CHILDREN))
    other = fake_package(tmp_path / "other")
    done = run_built(bundle, BUILT=str(bundle.path), PYTHONPATH=str(other))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["['a, b']", "again __mp_main__"]


def test_another_xraycomp_is_refused(tmp_path: Path, make_kernel: Make) -> None:
    bundle = build(make_kernel(HELLO))
    other = fake_package(tmp_path / "other")
    code = f"import xraycomp, runpy; runpy.run_path({str(bundle.path)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(other)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Another xraycomp, {other}/xraycomp/__init__.py, is imported")
    assert "ran" not in done.stdout


def test_a_folder_without_a_script_is_refused(make_kernel: Make) -> None:
    folder = make_kernel()
    (folder / "train.py").unlink()
    with pytest.raises(UserError, match=r"has no train\.py"):
        build(folder)


@pytest.mark.parametrize("name", ["acse4-resnet18", "phantom-resnet18"])
def test_the_kernels_that_come_with_the_kit_build(tmp_path: Path, name: str) -> None:
    source = PACKAGE.parent / "kernels" / name
    folder = shutil.copytree(source, tmp_path / name)
    assert len((folder / "train.py").read_text().splitlines()) <= 20
    bundle = build(folder)
    assert bundle.metadata.slug == name
    assert compile(bundle.path.read_text(), str(bundle.path), "exec")
