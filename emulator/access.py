"""Access control: checks the key, the Host and the Origin of each request. Called by `server`.

A web page can send requests to loopback (DNS rebinding, cross-origin requests). Any user of the machine can connect.
Neither has the key: only its owner can read the key file.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from emulator.http_faults import reply

KEYS_ENV = "EMULATOR_API_KEYS"
KEY_FILE = "key"
NAMES = ("127.0.0.1", "localhost", "[::1]")


def load_keys(folder: Path) -> tuple[str, ...]:
    """Return the keys of the environment, else the key in `folder`. Create the file (mode 0600) if it is missing."""
    if keys := tuple(filter(None, os.environ.get(KEYS_ENV, "").split(","))):
        return keys
    path = folder / KEY_FILE
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"emulator-{secrets.token_hex(24)}\n")
    except FileExistsError:
        path.chmod(0o600)
    if not (key := path.read_text().strip()):
        raise ValueError(f"{path} is empty: remove it; the next start creates a new key")
    return (key,)


def is_accepted(key: str, keys: Iterable[str]) -> bool:
    """Return whether `key` is in `keys`. Compares in constant time."""
    return any([hmac.compare_digest(key.encode(), accepted.encode()) for accepted in keys])


def bearer_key(request: web.Request) -> str:
    """Return the key of the Authorization header, "" if there is no such header or more than one."""
    values = request.headers.getall("Authorization", [])
    scheme, _, key = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    return key if scheme == "Bearer" else ""


def access_middleware(keys: Iterable[str], host: str, port: Callable[[], int]) -> Middleware:
    """Return a middleware that checks Host, Origin, body type, and the key of `/_emulator/` (`routes`: other keys)."""

    @web.middleware
    async def check_access(request: web.Request, handler: Handler) -> web.StreamResponse:
        allowed = {f"{name}:{port()}" for name in (*NAMES, host)}
        origin = request.headers.get("Origin")
        if len(request.headers.getall("Host", [])) != 1 or request.host not in allowed:
            return _refuse(421, f"this server is {host}:{port()}, not {request.host[:100]}")
        if origin is not None and urlsplit(origin).netloc not in allowed:
            return _refuse(403, "requests from pages of another origin are refused")
        if request.body_exists and request.content_type != "application/json":
            return _refuse(415, "the body must be application/json")
        if request.path.startswith("/_emulator/") and not is_accepted(bearer_key(request), keys):
            return _refuse(401, "the control API requires the emulator's key: Authorization: Bearer KEY")
        return await handler(request)

    return check_access


def _refuse(status: int, msg: str) -> web.Response:
    return reply({"success": False, "error": "refused", "msg": msg}, status=status)
