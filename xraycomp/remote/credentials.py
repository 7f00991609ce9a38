"""Kaggle credentials: where they lie and which ones win, in the Kaggle client's own order.

The order is that of ``kaggle`` 2.2 (``KaggleApi.authenticate``, ``kagglesdk.kaggle_env``): first
an access token from ``KAGGLE_API_TOKEN`` (a value or a path) or ``~/.kaggle/access_token``; then a
user name and key, each from the environment or else from ``kaggle.json``; last an OAuth login. What
is there first is sent, good or not: a stale token shadows a good key.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

_READABLE_BY_OTHERS = 0o044


@dataclass(frozen=True)
class Credential:
    """One source of credentials; what is secret in it is never shown by ``repr``."""

    source: str
    """What the user calls it: a variable or a file."""
    username: str = ""
    key: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    oauth: bool = False
    problem: str = ""
    """Why it cannot be used, or what is wrong with the file: a clause without a full stop."""

    @property
    def usable(self) -> bool:
        """Whether there is something to send to Kaggle."""
        return bool(self.token or (self.username and self.key) or self.oauth)


def find_credentials() -> list[Credential]:
    """Every source that is present, in the order in which the client asks them.

    The first usable one wins. Reads files and variables; asks nobody.
    """
    found = [_token_variable(), *_token_files(), *_username_and_key(), _oauth()]
    return [credential for credential in found if credential is not None]


def winning_credential() -> Credential | None:
    """The credential that the client would send, or None."""
    return next((credential for credential in find_credentials() if credential.usable), None)


def redact(text: str) -> str:
    """``text`` without any secret that is present on this machine."""
    for credential in find_credentials():
        for secret in (credential.key, credential.token):
            if secret:
                text = text.replace(secret, "***")
    return text


def kaggle_json_path() -> Path:
    """Where the client looks for ``kaggle.json``."""
    if folder := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(folder) / "kaggle.json"
    home = _home()
    if not home.exists():
        base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        home = Path(base) / "kaggle"
    return home / "kaggle.json"


def _home() -> Path:
    return Path.home() / ".kaggle"


def _token_variable() -> Credential | None:
    value = os.environ.get("KAGGLE_API_TOKEN", "")
    if not value:
        return None
    source = "KAGGLE_API_TOKEN"
    if not _exists(Path(value)):
        return Credential(source, token=value) if _can_be_sent(value) else _garbled(source)
    return _token_file(Path(value), f"KAGGLE_API_TOKEN (the file {value})")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a path can be, or in a folder that is closed
        return False


def _can_be_sent(secret: str) -> bool:
    """Whether it can stand in a request's header; what cannot would end up in a traceback."""
    return secret.isascii() and secret.isprintable() and " " not in secret


def _garbled(source: str) -> Credential:
    problem = "holds line breaks, spaces or characters that no credential has: write it anew"
    return Credential(source, problem=problem)


def _token_files() -> list[Credential]:
    paths = [_home() / name for name in ("access_token", "access_token.txt")]
    return [_token_file(path, f"~/.kaggle/{path.name}") for path in paths if _exists(path)]


def _token_file(path: Path, source: str) -> Credential:
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return Credential(source, problem="cannot be read as text: write it anew as UTF-8")
    if not _can_be_sent(token):
        return _garbled(source)
    return Credential(source, token=token, problem=_permissions(path) if token else "is empty")


def _username_and_key() -> list[Credential]:
    """The variables and ``kaggle.json``, merged key by key as the client does it."""
    user, key = (os.environ.get(name, "") for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"))
    found = []
    if user and key:
        # Behind both variables the file is never asked, but the user may believe that it is.
        source = "KAGGLE_USERNAME and KAGGLE_KEY"
        good = _can_be_sent(user + key)
        found.append(Credential(source, username=user, key=key) if good else _garbled(source))
        user = key = ""
    path = kaggle_json_path()
    if _exists(path):
        saved, problem = _kaggle_json(path)
        given = [f"KAGGLE_{name}" for name, value in (("USERNAME", user), ("KEY", key)) if value]
        user, key = user or saved["username"], key or saved["key"]
        missing = [name for name, value in (("username", user), ("key", key)) if not value]
        if missing and not problem:
            problem = f"has no {' and no '.join(missing)}"
        source = " and ".join([*given, str(path)])
        if not _can_be_sent(user + key):
            found.append(_garbled(source))
        else:
            found.append(Credential(source, username=user, key=key, problem=problem))
    elif user or key:
        names = ("KAGGLE_USERNAME", "KAGGLE_KEY")
        there, other = names if user else names[::-1]
        found.append(Credential(there, problem=f"is set without {other}"))
    return found


def _kaggle_json(path: Path) -> tuple[dict[str, str], str]:
    """Its user name and key, empty where there is none, and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = {name: str(content.get(name) or "") for name in ("username", "key")}
    except (OSError, ValueError, AttributeError):
        return {"username": "", "key": ""}, "is not readable JSON"
    return values, _permissions(path)


def _oauth() -> Credential | None:
    path = _home() / "credentials.json"
    if not _exists(path):
        return None
    source = "the login in ~/.kaggle/credentials.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        there = bool(content.get("refresh_token"))
    except (OSError, ValueError, AttributeError):
        return Credential(source, problem="is not readable JSON")
    if not there:
        return Credential(source, problem="has no refresh token")
    return Credential(source, username=str(content.get("username") or ""), oauth=True)


def _permissions(path: Path) -> str:
    """A clause where others on this machine can read the file (the client checks one file only)."""
    if os.name == "posix" and path.stat().st_mode & _READABLE_BY_OTHERS:
        return f"can be read by others on this machine (chmod 600 {path})"
    return ""
