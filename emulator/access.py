"""Who is obeyed: callers that know a key of this start, under this server's own name. Called by `server`.

A page in a browser can send requests to loopback, under a name of its own (DNS rebinding) or across origins, and any
user of the machine can connect: neither has the key, which lies in a file of its owner alone.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from emulator.http_faults import reply

KEYS_ENV = "EMULATOR_API_KEYS"
KEY_FILE = "key"
NAMES = ("127.0.0.1", "localhost", "[::1]")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def keys_of(folder: Path) -> tuple[str, ...]:
    """Return the environment's keys, or that of a folder, which is made where there is none: mode 0600."""
    if given := tuple(filter(None, os.environ.get(KEYS_ENV, "").split(","))):
        return given
    path = folder / KEY_FILE
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"emulator-{secrets.token_hex(24)}\n")
    except FileExistsError:
        path.chmod(0o600)
    if not (key := path.read_text().strip()):
        raise ValueError(f"{path} is empty: remove it, and a key is made")
    return (key,)


def is_accepted(key: str, keys: Iterable[str]) -> bool:
    """Whether a key is one of those, in the same time for all wrong ones."""
    return any([hmac.compare_digest(key.encode(), one.encode()) for one in keys])


def bearer_of(request: web.Request) -> str:
    """Return the key that a request presents, "" for none and for more than one."""
    given = request.headers.getall("Authorization", [])
    scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return key if scheme == "Bearer" else ""


def only_for(keys: Iterable[str], host: str, port: Callable[[], int]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """Return the middleware that refuses other names, other origins and bodies that are no JSON, and `/_emulator/` to
    callers without a key. The API's own calls look at the key themselves, since each refuses in its way."""

    @web.middleware
    async def obey(request: web.Request, handler: Handler) -> web.StreamResponse:
        here = {f"{name}:{port()}" for name in (*NAMES, host)}
        origin = request.headers.get("Origin")
        if len(request.headers.getall("Host", [])) != 1 or request.host not in here:
            return _refuse(421, f"this server is {host}:{port()}, and not {request.host[:100]}")
        if origin is not None and urlsplit(origin).netloc not in here:
            return _refuse(403, "requests of another origin's pages are refused")
        if request.body_exists and request.content_type != "application/json":
            return _refuse(415, "a body has to be application/json")
        if request.path.startswith("/_emulator/") and not is_accepted(bearer_of(request), keys):
            return _refuse(401, "the control API takes the key of this emulator, as Authorization: Bearer KEY")
        return await handler(request)

    return obey


def _refuse(status: int, msg: str) -> web.Response:
    return reply({"success": False, "error": "refused", "msg": msg}, status=status)
