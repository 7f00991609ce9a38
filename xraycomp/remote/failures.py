"""Kaggle's failures in plain words: what was refused, why that may be, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from xraycomp.data.competition import built_in_slugs
from xraycomp.remote.credentials import Credential, find_credentials, redact

BUSY = {429, 500, 502, 503, 504}
"""HTTP statuses after which the same call may well succeed."""


@dataclass(frozen=True)
class Subject:
    """What a call is about, for its error messages."""

    action: str
    """Continues "Kaggle refused to …": ``list the files of the competition titanic``."""
    kind: Literal["", "competition", "data set", "kernel"] = ""
    name: str = ""
    """The slug, or ``owner/slug``, of what is of that kind."""


def status_of(error: Exception) -> int | None:
    """The HTTP status of a failed call, None where there was no answer."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def explain(
    error: Exception,
    subject: Subject,
    credential: Credential | None = None,
    near: Sequence[str] = (),
) -> str:
    """One plain sentence for a failed call, with the next step; never with a secret.

    ``near`` are existing names to suggest from where the subject's was not found.
    """
    status = status_of(error)
    if status == 401:
        return refused_credentials(credential)
    if status == 403:
        return _forbidden(subject)
    if status == 404:
        return _not_found(subject, near)
    if status == 429:
        pause = retry_after(error)
        when = f"in {_duration(pause)}" if pause else "in some minutes"
        return (
            f"Kaggle limits how often it may be asked (429) and refused to {subject.action}. "
            f"Try again {when}."
        )
    if status is None:
        return (
            f"Kaggle could not be reached to {subject.action} ({kind_of(error)}). Check the "
            "network and run the same command again."
        )
    if status >= 500:
        return (
            f"Kaggle is in trouble ({status}) and could not {subject.action}. Run the same command "
            "again later."
        )
    said = redact(" ".join(str(error).split()))
    return f"Kaggle refused to {subject.action} ({status}): {said.rstrip('.')}."


def trouble(error: Exception) -> str:
    """What is wrong, for a line that says that it will be tried again."""
    status = status_of(error)
    if status == 429:
        return "Kaggle limits how often it may be asked (429)."
    return f"Kaggle is in trouble ({status})." if status else f"No answer ({kind_of(error)})."


def kind_of(error: Exception) -> str:
    """The kind of a network failure; the library's own text is long and may hold signed links."""
    import requests

    if isinstance(error, requests.Timeout):
        return "timed out"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not answer"
    if isinstance(error, requests.exceptions.SSLError):
        return "the encryption failed"
    if isinstance(error, requests.JSONDecodeError):
        return "the answer is not Kaggle's"
    if isinstance(error, requests.HTTPError) and status_of(error):
        return f"status {status_of(error)}"
    return "the connection failed or broke off"


def retry_after(error: Exception) -> float | None:
    """Seconds that Kaggle asks to wait, by a number or a date; None where it does not say."""
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    response = getattr(error, "response", None)
    header = None if response is None else response.headers.get("Retry-After")
    if not header:
        return None
    try:
        return float(Retry().parse_retry_after(header))
    except InvalidHeader:
        return None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def no_credentials() -> str:
    """What to do where there are none."""
    broken = [item for item in find_credentials() if item.problem]
    why = f" {broken[0].source} {broken[0].problem}." if broken else ""
    return (
        f"No Kaggle credentials were found.{why} Make a token at "
        "https://www.kaggle.com/settings/api and put it into ~/.kaggle/access_token or the "
        "variable KAGGLE_API_TOKEN."
    )


def refused_credentials(credential: Credential | None) -> str:
    """What to do after a 401; says so where a stale credential shadows another."""
    if credential is None:
        return "Kaggle refused the credentials (401). See: python -m xraycomp.download --doctor"
    sources = [item.source for item in find_credentials() if item.usable]
    later = sources[sources.index(credential.source) + 1 :] if credential.source in sources else []
    if later:
        return (
            f"Kaggle refused {credential.source} (401): it is stale or mistyped, and it shadows "
            f"{' and '.join(later)}. Renew it at https://www.kaggle.com/settings/api, or remove it "
            "so that the next one counts."
        )
    return (
        f"Kaggle refused {credential.source} (401): it is stale or mistyped. Make a new token at "
        "https://www.kaggle.com/settings/api."
    )


def _forbidden(subject: Subject) -> str:
    if not subject.kind:
        return (
            f"Kaggle refused to {subject.action} (403): this account may not. See which one it is: "
            "python -m xraycomp.download --doctor"
        )
    if subject.kind == "kernel":
        return (
            f"Kaggle refused to {subject.action} (403): either there is no kernel {subject.name} "
            "(see its page for the right name), or it is somebody else's and private."
        )
    page = f"datasets/{subject.name}" if subject.kind == "data set" else f"c/{subject.name}/rules"
    return (
        f"Kaggle refused to {subject.action} (403): either its rules are not accepted yet, or the "
        f"name {subject.name} is misspelt, or the account is not verified by phone. See "
        f"https://www.kaggle.com/{page}"
    )


def _not_found(subject: Subject, near: Sequence[str]) -> str:
    if not subject.kind:
        return f"Kaggle does not know what it was asked for, to {subject.action} (404)."
    known = [*near, *built_in_slugs()] if subject.kind == "competition" else list(near)
    close = get_close_matches(subject.name, known, n=1)
    hint = f"Did you mean {close[0]}?" if close else "Check the spelling in its page's address."
    return (
        f"Kaggle knows no {subject.kind} {subject.name} (404), so it could not {subject.action}. "
        f"{hint}"
    )
