"""Where the benchmarks leave their figures, and what these depend on besides the code.

torch is imported when figures are saved: before, it would count where memory is measured.
"""

import importlib.metadata
import json
import platform
import re
from datetime import date
from pathlib import Path
from typing import Any

import joblib

PEERS = (
    *("timm", "fastai", "lightning", "webdataset", "nvidia-dali-cuda130", "pillow"),
    *("onnx", "onnxscript", "onnxruntime", "openvino", "triton"),
)


def save(name: str, figures: dict[Any, Any]) -> None:
    """Write ``figures`` to ``benchmarks/results/<name>.json``, with machine, date and versions."""
    from xraycomp.model.environment import describe_environment

    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    environment = describe_environment()
    gpus = environment["gpus"] or "none"
    content = {
        "date": date.today().isoformat(),
        "machine": {"cpu": cpu_model(), "cores": joblib.cpu_count(), "gpus": gpus},
        "environment": environment,
        "peers": versions(),
        "figures": figures,
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def cpu_model() -> str:
    """What the processor calls itself."""
    listed = Path("/proc/cpuinfo")
    text = listed.read_text() if listed.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """The version of every peer; "not installed" for those that are not."""
    found = {}
    for name in PEERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
