"""Large files over bad networks: downloads that go on where they broke off, and uploads."""

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from xraycomp.console.errors import UserError
from xraycomp.data.files import write_json
from xraycomp.remote.client import ATTEMPTS, FIRST_WAIT, TIMEOUT, patiently
from xraycomp.remote.failures import Subject, explain, trouble

log = logging.getLogger(__name__)

_CHUNK = 1 << 16  # what is lost at most where a connection breaks off


def download_file(open_url: Callable[[], str], path: Path, subject: Subject) -> None:
    """Fetch a file to ``path``, whole or not at all; a broken download goes on where it stopped.

    The bytes that have come lie in ``<path>.part`` until all are there, with the identity of what
    they belong to (ETag or date, and size) beside them, so a later call goes on too, and never
    with bytes of another version.

    Parameters
    ----------
    open_url : gives a link that is still good; asked again at each attempt, for links expire
    path : where the file shall lie; what is there is replaced when all has come
    subject : what is downloaded, for error messages

    Raises
    ------
    UserError : when attempts without progress are used up; run again to go on
    """
    import requests

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.is_file() else 0
        try:
            _fetch(open_url(), part, path.name)
            break
        except (requests.RequestException, BrokenOffError) as error:
            came = (part.stat().st_size if part.is_file() else 0) > before
            failures = 1 if came else failures + 1
            if failures == ATTEMPTS:
                raise UserError(explain(error, subject)) from error
            pause = FIRST_WAIT * 2**failures
            log.info("%s Going on with the download in %.0f s.", trouble(error), pause)
            time.sleep(pause)
    part.replace(path)
    _marker(part).unlink(missing_ok=True)


def byte_bar(action: str, total: int | None, initial: int = 0) -> "tqdm[Any]":
    """A progress bar in bytes, on a terminal only: in a file or a pipe it would be many lines."""
    return tqdm(
        desc=action,
        total=total,
        initial=initial,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None,
    )


class BrokenOffError(Exception):
    """The bytes that came are not all, or not of one version; the next attempt mends it."""


def _fetch(url: str, part: Path, name: str) -> None:
    """One attempt: append to ``part`` what is missing, or begin anew."""
    import requests

    known = _read_marker(part)
    offset = part.stat().st_size if known and part.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers |= {"Range": f"bytes={offset}-", "If-Range": known["identity"]}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416:  # nothing is missing, or it is another version's
            total = int(answer.headers.get("Content-Range", "*/-1").rpartition("/")[2])
            if offset and total == offset == known.get("size"):
                return
            _marker(part).unlink(missing_ok=True)
            raise BrokenOffError
        answer.raise_for_status()
        if answer.status_code == 206:
            if not answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                _marker(part).unlink(missing_ok=True)
                raise BrokenOffError
            size = known.get("size")
        else:
            offset = 0
            length = answer.headers.get("Content-Length")
            size = int(length) if length else None
            # Without an identity of the version there is no going on with it.
            _marker(part).unlink(missing_ok=True)
            if identity := answer.headers.get("ETag") or answer.headers.get("Last-Modified"):
                write_json(_marker(part), {"identity": identity, "size": size})
        with (
            part.open("ab" if offset else "wb") as file,
            byte_bar(f"Download {name}", size, offset) as bar,
        ):
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if size is not None and part.stat().st_size != size:
        raise BrokenOffError


def _marker(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_marker(part: Path) -> dict[str, Any]:
    try:
        content = json.loads(_marker(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("identity") else {}


def upload_file(url: str, path: Path, subject: Subject) -> None:
    """Put the file at ``path`` to a link that Kaggle gave; whole, and again where it broke off.

    Raises ``UserError`` when that fails.
    """
    import requests

    def once() -> None:
        with (
            path.open("rb") as file,
            byte_bar(f"Upload {path.name}", path.stat().st_size) as bar,
        ):
            body = CallbackIOWrapper(bar.update, file, "read")
            requests.put(url, data=body, timeout=TIMEOUT).raise_for_status()

    patiently(once, lambda error: explain(error, subject))
