"""The only door to Kaggle: signed in, with time limits, patience, and plain words for failures.

Built on ``kagglesdk``, the library below the ``kaggle`` command. That library waits for ever, never
tries again and ignores ``Retry-After``, so every call goes through ``Kaggle.call``. (Importing
``kaggle`` itself would sign in, print, and perhaps end the process.)
"""

import contextlib
import functools
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from xraycomp.console.errors import UserError
from xraycomp.remote.credentials import Credential, winning_credential
from xraycomp.remote.failures import (
    BUSY,
    Subject,
    explain,
    kind_of,
    no_credentials,
    refused_credentials,
    retry_after,
    status_of,
    trouble,
)

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

TIMEOUT = (10.0, 120.0)
"""Seconds to wait for a connection, and for the next byte."""
ATTEMPTS = 5
"""How often an idempotent call is made at most."""
LONGEST_WAIT = 120.0
"""Seconds for which ``Retry-After`` is honoured; where Kaggle asks for more, the user is told."""
FIRST_WAIT = 0.5
"""Seconds before the second attempt; doubled before each further one."""


@dataclass(frozen=True)
class Kaggle:
    """A signed-in connection."""

    client: Any
    """A ``kagglesdk.KaggleClient``."""
    credential: Credential

    @property
    def competitions(self) -> Any:
        """The SDK's methods about competitions and submissions."""
        return self.client.competitions.competition_api_client

    @property
    def datasets(self) -> Any:
        """The SDK's methods about data sets."""
        return self.client.datasets.dataset_api_client

    @property
    def kernels(self) -> Any:
        """The SDK's methods about kernels."""
        return self.client.kernels.kernels_api_client

    @functools.cached_property
    def username(self) -> str:
        """The name of the account, asked from Kaggle where only a token is known."""
        if self.credential.username:
            return self.credential.username
        method = self.client.security.oauth_client.introspect_token
        subject = Subject("say whose the access token is")
        try:
            answer = self.call(method, subject, token=self.credential.token)
        except Refused as error:
            if error.status in (400, 401, 403, 404):  # what Kaggle says to a stale token
                raise UserError(refused_credentials(self.credential)) from error
            raise
        if not answer.active or not answer.username:
            raise UserError(refused_credentials(self.credential))
        return str(answer.username)

    def call(
        self, method: Callable[[Any], Any], subject: Subject, *, repeat: bool = True, **fields: Any
    ) -> Any:
        """Call an SDK method with the ``fields`` of its request; returns the SDK's answer.

        ``repeat=False`` is for one that must not take effect twice.

        Raises ``UserError`` in plain words for every failure: ``Refused`` with the status,
        ``Unreachable``, and ``LostAnswer`` where a call that is not repeated may have taken effect
        all the same.
        """
        import requests

        request = request_type(method)()
        for name, value in fields.items():
            setattr(request, name, value)

        def once() -> Any:
            try:
                return method(request)
            except json.JSONDecodeError as error:  # a page of HTML in place of Kaggle's answer
                raise requests.JSONDecodeError(error.msg, error.doc, error.pos) from error

        if repeat:
            return patiently(once, lambda error: self._explain(error, subject))
        try:
            return once()
        except requests.RequestException as error:
            status = status_of(error)
            if status is None or status in BUSY - {429}:
                raise LostAnswer(
                    f"Kaggle's answer was lost when asked to {subject.action} "
                    f"({kind_of(error)}); it may have been done all the same."
                ) from error
            raise Refused(self._explain(error, subject), status) from error

    def pages(self, method: Callable[[Any], Any], subject: Subject, **fields: Any) -> Iterator[Any]:
        """Every page of an SDK method that lists something; raises as ``call`` does."""
        while True:
            answer = self.call(method, subject, **fields)
            yield answer
            # A page that leads to itself would come for ever.
            if answer.next_page_token in (None, "", fields.get("page_token")):
                return
            fields["page_token"] = answer.next_page_token

    def _explain(self, error: Exception, subject: Subject) -> str:
        near = _similar_names(self, subject) if status_of(error) == 404 else []
        return explain(error, subject, self.credential, near)


def request_type(method: Callable[[Any], Any]) -> Any:
    """The class of an SDK method's request; its attributes are what this SDK can say."""
    return get_type_hints(method)["request"]


class Refused(UserError):  # noqa: N818 - says what happened
    """Kaggle answered, and said no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
        """The HTTP status."""


class Unreachable(UserError):  # noqa: N818 - says what happened
    """The network or Kaggle was in trouble for longer than a call waits; nothing else is wrong."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind
        """What the trouble is, in a few words."""


class LostAnswer(UserError):  # noqa: N818 - says what happened
    """A call with an effect may or may not have taken it: look before doing it again."""


@contextlib.contextmanager
def connect(credential: Credential | None = None) -> Iterator[Kaggle]:
    """Sign in with ``credential``, by default with what the Kaggle client itself would send.

    Asks nobody yet, except for a login whose access token has run out.

    Raises ``UserError`` where there are no credentials.
    """
    import requests.adapters
    from kagglesdk import KaggleClient

    credential = credential or winning_credential()
    if credential is None:
        raise UserError(no_credentials())

    class TimedAdapter(requests.adapters.HTTPAdapter):
        """Never waits for ever: the SDK has no place to say how long."""

        def send(self, *args: Any, **kwargs: Any) -> requests.Response:
            if kwargs.get("timeout") is None:
                kwargs["timeout"] = TIMEOUT
            return super().send(*args, **kwargs)

    # With a token of its own the SDK does not go and read files, which may not be readable.
    with KaggleClient(api_token=credential.token or "none") as client:
        http = client.http_client()
        session = http._session  # the SDK offers no other way to its session
        for scheme in ("https://", "http://"):
            session.mount(scheme, TimedAdapter())
        if credential.token:
            session.auth = http.BearerAuth(credential.token)
        elif credential.key:
            session.auth = (credential.username, credential.key)
        else:
            session.auth = http.BearerAuth(_login_token(client, credential))
        yield Kaggle(client, credential)


def _login_token(client: Any, credential: Credential) -> str:
    import requests
    from kagglesdk.kaggle_creds import KaggleCredentials

    try:
        return str(KaggleCredentials.load(client=client).get_access_token())
    except requests.RequestException as error:
        raise UserError(explain(error, Subject("renew the login"), credential)) from error


def patiently(once: Callable[[], Answer], explain_failure: Callable[[Exception], str]) -> Answer:
    """Do ``once``, and again with growing pauses while the network or Kaggle is in trouble.

    ``Retry-After`` is honoured up to ``LONGEST_WAIT`` seconds. Raises ``Unreachable`` when that did
    not help, and at once ``Refused`` for failures that waiting does not mend.
    """
    import requests

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return once()
        except requests.RequestException as error:
            status = status_of(error)
            if status is not None and status not in BUSY:
                raise Refused(explain_failure(error), status) from error
            pause = retry_after(error)
            if pause is None:
                pause = FIRST_WAIT * 2 ** (attempt - 1) * random.uniform(1, 1.5)
            if attempt == ATTEMPTS or pause > LONGEST_WAIT:
                raise Unreachable(explain_failure(error), kind_of(error)) from error
            log.info("%s Trying again in %.0f s.", trouble(error), max(pause, 1))
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _similar_names(kaggle: Kaggle, subject: Subject) -> list[str]:
    """Names that Kaggle finds in place of one that it does not know."""
    import requests

    method = {
        "competition": kaggle.competitions.list_competitions,
        "data set": kaggle.datasets.list_datasets,
    }.get(subject.kind)
    if method is None:
        return []
    request = request_type(method)()
    request.search = subject.name.split("/")[-1].split("-")[0]
    # A hint must not cost another failure.
    with contextlib.suppress(requests.RequestException):
        if subject.kind == "data set":
            return [item.ref for item in method(request).datasets or []]
        return [
            item.ref.rstrip("/").rsplit("/", 1)[-1] for item in method(request).competitions or []
        ]
    return []
