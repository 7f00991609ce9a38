"""What a built kernel does before its script runs.

The text of this module is the head of every built kernel, so it may use nothing but Python's own
library, 3.11 or newer. ``bundle`` puts the payload below it and a call of ``launch``.
"""

import base64
import binascii
import hashlib
import importlib
import io
import json
import lzma
import os
import runpy
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path


def source_digest(files: Mapping[str, bytes]) -> str:
    """The sha256 over names and contents of ``files``, whatever their order."""
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def launch(
    kernel: str, sha256: str, commit: str, gpu: bool, script: str, payload: str, run: str
) -> None:
    """Unpack ``payload``, make sure that its xraycomp is the one that is imported, run ``script``.

    Leaves the process with one sentence where the payload is not what was built.
    """
    # A session's time limit counts from here; child processes read the same clock.
    os.environ.setdefault("XRAYCOMP_STARTED", repr(time.monotonic()))
    files = _read_payload(payload, sha256)
    with tempfile.TemporaryDirectory(prefix="xraycomp-kernel-") as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        others = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([folder, others] if others else [folder])
        os.environ["XRAYCOMP_COMMIT"] = commit
        os.environ["XRAYCOMP_GPU"] = "1" if gpu else ""
        sys.path.insert(0, folder)
        kit = importlib.import_module("xraycomp")
        if Path(folder).resolve() not in Path(kit.__file__ or "").resolve().parents:
            sys.exit(
                f"Another xraycomp, {kit.__file__}, is imported in place of the bundled one. "
                "Remove it, or take its folder out of PYTHONPATH."
            )
        version = kit.__version__
        print(f"{kernel}: bundle sha256 {sha256}, commit {commit}, xraycomp {version}", flush=True)
        _write_facts(
            {"kernel": kernel, "sha256": sha256, "commit": commit, "xraycomp": version, "run": run}
        )
        runpy.run_path(str(Path(folder, script)), run_name="__main__")


def _read_payload(payload: str, sha256: str) -> dict[str, bytes]:
    try:
        packed = lzma.decompress(base64.b64decode("".join(payload.split()), validate=True))
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            files = {info.filename: archive.read(info) for info in archive.infolist()}
    except (binascii.Error, lzma.LZMAError, zipfile.BadZipFile):
        files = {}
    # The digest is over what will run, so it does not matter how it was packed.
    if source_digest(files) != sha256:
        sys.exit(
            "The code inside this kernel does not have the sha256 that it was built with: the file "
            "was changed or cut off. Build and push it again."
        )
    return files


def _write_facts(facts: dict[str, str]) -> None:
    """Say in the session's output which code made it."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        working = Path(os.environ.get("XRAYCOMP_KAGGLE_ROOT", "/kaggle"), "working")
        text = json.dumps(facts, indent=2) + "\n"
        (working / "kernel.json").write_text(text, encoding="utf-8")
