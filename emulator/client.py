"""A client of the control API, `/_emulator/`: faults, ledger, time. Used by tests and `EmulatorServer.control`."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

Answer = dict[str, Any]
MAX_BYTES = 64 << 20


class ControlError(Exception):
    """The control API refused a call; the text has the reason."""


class ControlClient:
    """Calls an emulator. Each method raises ControlError for a refusal and OSError for a missing answer."""

    def __init__(self, url: str, key: str, *, timeout_s: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        self.timeout_s = timeout_s

    def fault(self, kind: str, match: Answer | None = None, times: int | None = None, **params: Any) -> int:
        """Add a fault for matching calls or machines; `times` None: until it is removed. Return its id."""
        return int(self.post("faults", kind=kind, match=match or {}, times=times, **params)["id"])

    def faults_off(self) -> None:
        self._call("DELETE", "faults")

    def instance(self, instance_id: int, what: str, **body: Any) -> None:
        """Run an action on a contract: `kill`, `outbid`, `end`, `raise-price` and so on."""
        self.post(f"instances/{instance_id}/{what}", **body)

    def host(self, machine_id: int | str, what: str, **body: Any) -> None:
        """Run an action on a machine or on `all`: `die`, `revive`, `unreachable`, `change-ip` and so on."""
        self.post(f"hosts/{machine_id}/{what}", **body)

    def advance(self, seconds: float) -> None:
        """Advance the clock, so that rentals cost."""
        self.post("time/advance", seconds=seconds)

    def reset(self) -> None:
        """Destroy and delete all contracts and restore the initial market."""
        self.post("reset")

    def ledger(self) -> list[Answer]:
        """Return all contracts ever created: id, machine_id, label, status, rented_at, destroyed_at, cost_usd."""
        rows: list[Answer] = self.get("ledger")["contracts"]
        return rows

    def requests(self) -> dict[str, int]:
        """Return the number of calls per method and path."""
        counts: dict[str, int] = self.get("requests")["requests"]
        return counts

    def get(self, path: str) -> Answer:
        return self._call("GET", path)

    def post(self, path: str, **body: Any) -> Answer:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: Answer | None = None) -> Answer:
        parts = urlsplit(self.url)
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=self.timeout_s)
        connection.connect()
        deadline = threading.Timer(self.timeout_s, _shut_down, [connection.sock])  # limits the whole call
        deadline.start()
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, f"/_emulator/{path}", content, self._headers)
            answer = connection.getresponse()
            text = answer.read(MAX_BYTES)
            if answer.status != 200 or len(text) == MAX_BYTES:
                raise ControlError(f"{method} {path}: {answer.status} {text[:2000].decode(errors='replace')}")
            data: Answer = json.loads(text)
            return data
        except (HTTPException, ValueError) as error:
            raise OSError(f"{method} {path}: incomplete answer ({type(error).__name__})") from None
        finally:
            deadline.cancel()
            connection.close()


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
