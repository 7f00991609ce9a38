"""The one file that is sent to Kaggle: the kernel's script with the whole kit inside.

Two things name what a built file holds. Its ``sha256`` is over the sources alone, the package and
the kernel's script: it does not depend on the commit, the packing or the machine, and is the name
to compare code by. Its ``commit`` says where to find these sources in the history; it stands in
the file too, so the same sources at another commit give a file that differs in that line.

What is guaranteed about old code: ``python -m xraycomp.kernel push`` is to build anew each time. A
plain ``kaggle kernels push -p kernels/NAME`` reads the folder by itself, and nothing of ours runs:
without a built file the client refuses; with one, it sends what is there. So the file must not
outlive its sources: ``python -m xraycomp.kernel check all``, which the hooks of
``.pre-commit-config.yaml`` run at every commit, checkout and merge, removes built files that are
no longer what building would give. Left open are edits after a build that were not committed: then
the first line of the log and ``kernel.json`` in the output tell the sha256 of what really ran.
"""

import base64
import io
import lzma
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import xraycomp
from xraycomp.console.errors import UserError, listing
from xraycomp.data.commit import source_commit
from xraycomp.data.files import write_text
from xraycomp.remote import launcher
from xraycomp.remote.launcher import source_digest
from xraycomp.remote.leaks import check_no_credentials
from xraycomp.remote.metadata import METADATA_FILE, KernelMetadata, read_metadata

MAX_BYTES = 1_000_000
"""The largest source that Kaggle takes."""
SCRIPT = "train.py"
"""The kernel's own script, in its folder."""

_SUFFIXES = {".py", ".toml", ".jinja"}
_NAMES = {"py.typed"}
_UNKNOWN_COMMIT = "unknown"
_NO_RUN = 'RUN = ""\n'


@dataclass(frozen=True)
class Bundle:
    """A built kernel."""

    metadata: KernelMetadata
    path: Path
    """The built file, in the kernel's folder."""
    sha256: str
    """Names the sources, whatever the commit."""
    size: int
    """Bytes of the built file."""
    commit: str
    """Of the sources; ``-dirty`` where they were changed since, ``unknown`` without a checkout."""


def build(folder: Path, *, allow_internet: bool = False) -> Bundle:
    """Write the file that ``kernel-metadata.json`` in ``folder`` names as ``code_file``.

    The same sources at the same commit give the same bytes, whatever their place, times and
    permissions.

    Raises ``UserError`` for metadata that ``read_metadata`` refuses, for a missing script, for
    credentials in the sources, and for more than ``MAX_BYTES``.
    """
    metadata = read_metadata(folder, allow_internet=allow_internet)
    files = collect_sources(folder, metadata)
    told = {METADATA_FILE: (folder / METADATA_FILE).read_bytes()}
    check_no_credentials({**files, **told})
    _check_scripts(files)
    sha256 = source_digest(files)
    scripts = [folder / Path(name).name for name in files if name.startswith("kernel/")]
    commit = source_commit(scripts) or _UNKNOWN_COMMIT
    text = compose(metadata, files, commit)
    size = len(text.encode())
    if size > MAX_BYTES:
        largest = sorted(files, key=lambda name: (-len(files[name]), name))
        sizes = [f"{name} ({len(files[name]):,} bytes)" for name in largest]
        raise UserError(
            f"The kernel {metadata.slug} would have {size:,} bytes; Kaggle takes {MAX_BYTES:,}. "
            f"Largest files: {listing(sizes)}. Move data out of them into a Kaggle dataset."
        )
    path = folder / metadata.code_file
    write_text(path, text)
    return Bundle(metadata, path, sha256, size, commit)


def is_stale(folder: Path) -> bool:
    """Whether the built file in ``folder`` is missing or not what building now would give.

    The commit does not count: the same sources under a new commit are the same code.
    """
    metadata = read_metadata(folder, allow_internet=True)
    path = folder / metadata.code_file
    if not path.is_file():
        return True
    text = path.read_text(encoding="utf-8", errors="replace")
    commit = re.search(r"(?m)^# commit: (\S+)$", text)
    return not commit or text != compose(
        metadata, collect_sources(folder, metadata), commit.group(1)
    )


def remove_stale(folder: Path) -> Path | None:
    """Delete the built file in ``folder`` if it is stale; return its path if there was one."""
    path = folder / read_metadata(folder, allow_internet=True).code_file
    if path.is_file() and is_stale(folder):
        path.unlink()
        return path
    return None


def collect_sources(folder: Path, metadata: KernelMetadata) -> dict[str, bytes]:
    """What runs on Kaggle, by its path in the bundle: the package, the script, its TOML files.

    Only ``.py``, ``.toml``, ``.jinja`` and ``py.typed`` are taken, never links, hidden files or
    caches, and nothing from subfolders of ``folder``, where outputs may lie. Line ends are made
    ``\\n``, since a checkout may have others.
    """
    if not (folder / SCRIPT).is_file():
        raise UserError(f"{folder} has no {SCRIPT}. Write the kernel's script there.")
    package = Path(xraycomp.__file__).parent
    paths = {f"xraycomp/{path.relative_to(package).as_posix()}": path for path in _taken(package)}
    paths |= {
        f"kernel/{path.name}": path
        for path in _taken(folder)
        if path.parent == folder and path.name != metadata.code_file
    }
    return {name: path.read_bytes().replace(b"\r\n", b"\n") for name, path in paths.items()}


def _check_scripts(files: dict[str, bytes]) -> None:
    """Raise ``UserError`` for Python that does not compile: on Kaggle it costs a queue to see."""
    for name, content in files.items():
        if name.endswith(".py"):
            try:
                compile(content, name, "exec", dont_inherit=True)
            except (SyntaxError, ValueError) as error:
                raise UserError(f"{name} is not valid Python ({error}). Correct it.") from error


def _taken(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if (path.suffix in _SUFFIXES or path.name in _NAMES)
        and path.is_file()
        and not path.is_symlink()
        and not any(
            part.startswith(".") or part == "__pycache__" for part in path.relative_to(folder).parts
        )
    ]


def compose(metadata: KernelMetadata, files: dict[str, bytes], commit: str) -> str:
    """The text of the built file."""
    sha256 = source_digest(files)
    payload = base64.encodebytes(_pack(files)).decode()
    code = Path(launcher.__file__).read_text(encoding="utf-8")
    arguments = [
        repr(value)
        for value in (metadata.slug, sha256, commit, metadata.enable_gpu, f"kernel/{SCRIPT}")
    ]
    return (
        f"# The kernel {metadata.slug}, built by: python -m xraycomp.kernel build {metadata.slug}\n"
        "# Do not edit it: the kit is packed inside, and the next build replaces it.\n"
        f"# sha256: {sha256}\n"
        f"# commit: {commit}\n"
        f'{code}\n\n{_NO_RUN}PAYLOAD = """\n{payload}"""\n\n'
        'if __name__ == "__main__":\n'
        f"    launch({', '.join(arguments)}, PAYLOAD, RUN)\n"
    )


def mark_run(text: str, run: str) -> str:
    """The built file's ``text`` with the number of one push, by which its output is known."""
    return text.replace(_NO_RUN, f'RUN = "{run}"\n', 1)


def _pack(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name)  # dated 1980
            info.create_system, info.external_attr = 3, 0o644 << 16  # as Unix, whatever this is
            archive.writestr(info, content)
    # Compressed as one: so many small files have much in common.
    return lzma.compress(packed.getvalue(), preset=9)
