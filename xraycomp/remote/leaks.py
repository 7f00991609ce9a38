"""Keeps Kaggle credentials out of what is sent to Kaggle."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from xraycomp.console.errors import UserError

_PATTERNS = {
    "a Kaggle API token": re.compile(r"KGAT_[0-9A-Za-z_-]{8,}"),
    "a Kaggle key": re.compile(r"(?i)key[^\n]{0,20}?(?<![0-9a-z])[0-9a-f]{32}(?![0-9a-z])"),
}
_SHORTEST = 8  # shorter values would be found by chance
_LARGEST_FILE = 100_000


def check_no_credentials(files: Mapping[str, bytes]) -> None:
    """Raise ``UserError`` where a file holds what looks like, or is, a Kaggle credential.

    The message names the file, the line and the kind, never the value.
    """
    own = dict(_own_secrets())
    for name, content in sorted(files.items()):
        text = content.decode("utf-8", errors="replace")
        found = [
            (match.start(), kind) for kind, p in _PATTERNS.items() if (match := p.search(text))
        ]
        found += [(text.index(value), kind) for value, kind in own.items() if value in text]
        if found:
            start, kind = min(found)
            line = text.count("\n", 0, start) + 1
            raise UserError(
                f"{name}, line {line} holds {kind}, which would be sent to Kaggle. Remove it from "
                "the file; if the file was ever shared, make a new token on Kaggle."
            )


def _own_secrets() -> Iterator[tuple[str, str]]:
    """(value, what it is) of the credentials on this machine, wherever the client looks."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        value = os.environ.get(name, "").strip()
        kind = f"the value of {name}"
        if name == "KAGGLE_API_TOKEN" and os.path.isfile(value):  # noqa: PTH113 - takes any length
            yield from _secrets_in(Path(value), f"what {name} points to")
        elif len(value) >= _SHORTEST:
            yield value, kind
    home = Path.home() / ".kaggle"
    for folder in {home, Path(os.environ.get("KAGGLE_CONFIG_DIR") or home)}:
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            yield from _secrets_in(path, f"a credential of {path.name}")


def _secrets_in(path: Path, kind: str) -> Iterator[tuple[str, str]]:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST_FILE:
            return
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    try:
        values = list(_secret_values(json.loads(text)))
    except ValueError:
        values = text.split()
    yield from ((value, kind) for value in values if len(value) >= _SHORTEST)


def _secret_values(value: Any, name: str = "token") -> Iterator[str]:
    """The texts in a JSON value whose name says that they are secret."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _secret_values(inner, str(key))
    elif isinstance(value, str) and re.search(r"(?i)key|token|secret|password", name):
        yield value
