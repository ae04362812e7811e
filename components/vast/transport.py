"""One HTTP exchange with the API, as a function: the seam that tests replace. The real one is `requests`.

Made by the plugin's session and by ops; called by `client` only. `requests` was chosen by the project's owner and
is loaded when the first call is made, since previews of unchanged programs import this package too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from components.vast.json_values import Json

if TYPE_CHECKING:
    import requests

USER_AGENT = "vast-reranker"


@dataclass(frozen=True)
class Answer:
    """What came back: HTTP status, headers, body text."""

    status: int
    text: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Json:
        """Return the parsed body, or None when it is not JSON."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


class Unanswered(Exception):
    """No answer came. `sent` is False only where the request surely never reached the server."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        self.sent = sent
        super().__init__(reason)


class Transport(Protocol):
    """Sends one request and returns the answer; raises Unanswered."""

    def __call__(self, method: str, url: str, *, body: Json = None, key: str = "", timeout_s: float = 30.0) -> Answer:
        """Send `body` as JSON with `key` as bearer token."""


class RequestsTransport:
    """The transport over `requests`: one keep-alive session per thread, since a session is not thread-safe."""

    def __init__(self) -> None:
        self._local = threading.local()

    def _session(self) -> requests.Session:
        import requests  # noqa: PLC0415 - see the module's first lines

        session = getattr(self._local, "session", None)
        if not isinstance(session, requests.Session):
            session = requests.Session()
            session.trust_env = True
            session.headers["User-Agent"] = USER_AGENT
            self._local.session = session
        return session

    def __call__(self, method: str, url: str, *, body: Json = None, key: str = "", timeout_s: float = 30.0) -> Answer:
        """See Transport."""
        import requests  # noqa: PLC0415
        from urllib3.exceptions import NewConnectionError  # noqa: PLC0415

        def bearer(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # as `auth`, not as a header: a .netrc entry for the host would replace a header
            if key:
                request.headers["Authorization"] = f"Bearer {key}"
            return request

        try:
            response = self._session().request(
                method, url, json=body, auth=bearer, timeout=(min(timeout_s, 10.0), timeout_s), allow_redirects=False
            )
        except requests.ConnectTimeout:
            raise Unanswered("the connection timed out", sent=False) from None
        except requests.ConnectionError as error:
            reason = getattr(error.args[0], "reason", None) if error.args else None
            refused = isinstance(reason, NewConnectionError)
            raise Unanswered(
                "the connection was refused" if refused else "the connection broke", sent=not refused
            ) from None
        except requests.Timeout:
            raise Unanswered(f"no answer within {timeout_s:g} s", sent=True) from None
        except requests.RequestException as error:
            raise Unanswered(f"the request failed ({type(error).__name__})", sent=True) from None
        except ValueError as error:  # its text may be the header, with the key in it
            raise Unanswered(f"the request cannot be sent ({type(error).__name__})", sent=False) from None
        return Answer(response.status_code, response.text, response.headers)
