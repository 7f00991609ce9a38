"""Where the benchmarks leave their figures."""

import json
from pathlib import Path
from typing import Any


def save(name: str, figures: dict[Any, Any]) -> None:
    """Write ``figures`` to ``benchmarks/results/<name>.json``."""
    folder = Path(__file__).parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")
