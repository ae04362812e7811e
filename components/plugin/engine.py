"""The Pulumi engine of this plugin process: log messages on a resource's row, and detection of its end.

`python -m pulumi.dynamic <engine address>`: the engine accepts log messages by gRPC at this address. A killed CLI does
not end the plugin, so the address is watched. Used by `verbs` and the resources. Elsewhere (tests, ops) messages are
dropped.
"""

from __future__ import annotations

import contextvars
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from components.redaction import plain

Severity = Literal["debug", "info", "warning", "error"]

current_urn: contextvars.ContextVar[str] = contextvars.ContextVar("current_urn", default="")

TERMINAL_EVERY_S, LOG_EVERY_S = 1.0, 30.0
_WATCH_EVERY_S = 0.5
_MISSES = 3  # after so many refused connections in a row the engine is gone


def engine_address() -> str:
    """Return the engine's host:port, or "" when this process is not a plugin."""
    address = sys.argv[1] if len(sys.argv) > 1 else ""
    host, colon, port = address.rpartition(":")
    return address if colon and host and port.isdigit() else ""


class Engine:
    """The engine's log service and liveness."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._lock = threading.Lock()
        self._stub: Any = None
        self._gone = threading.Event()
        self._interrupted = threading.Event()
        self._busy = 0
        self._watching = False

    def news_every_s(self) -> float:
        """Return the interval of progress messages: short on a terminal, which overwrites them; long in a log file.

        Without /proc the output counts as a log file.
        """
        try:  # the CLI starts a shell, and the shell starts this process
            cli = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
            descriptor = os.open(f"/proc/{cli}/fd/1", os.O_WRONLY | os.O_NOCTTY)
        except OSError:
            return LOG_EVERY_S
        try:
            return TERMINAL_EVERY_S if os.isatty(descriptor) else LOG_EVERY_S
        finally:
            os.close(descriptor)

    def log(self, text: str, *, severity: Severity = "info", ephemeral: bool = False) -> None:
        """Show `text` on the row of the current resource. The next message replaces an ephemeral text."""
        if not self.address:
            return
        from pulumi.runtime.proto import engine_pb2  # noqa: PLC0415 - only a plugin needs it

        request = engine_pb2.LogRequest(
            severity=getattr(engine_pb2, severity.upper()),
            message=plain(text),
            urn=current_urn.get(),
            ephemeral=ephemeral,
        )
        with suppress(Exception):  # a lost message must not fail the operation
            self._log_stub().Log(request, timeout=2.0)

    def warn(self, text: str) -> None:
        self.log(text, severity="warning")

    def _log_stub(self) -> Any:
        with self._lock:
            if self._stub is None:
                import grpc  # noqa: PLC0415
                from pulumi.runtime.proto import engine_pb2_grpc  # noqa: PLC0415

                self._stub = engine_pb2_grpc.EngineStub(grpc.insecure_channel(self.address))
            return self._stub

    def stopped(self) -> str:
        """Return why the operation must end, or "": the engine is gone, so nothing is recorded, or it was interrupted
        (Ctrl-C)."""
        if self._gone.is_set():
            return "the Pulumi CLI that asked for this is gone"
        return "the operation was interrupted" if self._interrupted.is_set() else ""

    def interrupt(self) -> None:
        """Make `stopped` return the interruption; it is never reset."""
        self._interrupted.set()

    def handle_cancel(self) -> None:
        """Make Cancel of the SDK's servicer, which does nothing, call `interrupt`.

        gRPC has registered the bound method before our code is loaded, so only the code of the method can be replaced.
        """
        servicer = getattr(sys.modules["__main__"], "DynamicResourceProviderServicer", None)
        if servicer is not None:
            servicer.Cancel.__code__ = _cancel.__code__

    def __enter__(self) -> Engine:
        with self._lock:
            self._busy += 1
            if self.address and not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._busy -= 1

    def _watch(self) -> None:
        host, _, port = self.address.rpartition(":")
        misses = 0
        while misses < _MISSES:
            time.sleep(_WATCH_EVERY_S)
            try:
                socket.create_connection((host, int(port)), 2.0).close()
                misses = 0
            except ConnectionRefusedError:
                misses += 1
            except OSError:  # a busy machine, not a dead engine
                continue
        self._gone.set()
        while self._busy:
            time.sleep(_WATCH_EVERY_S)
        os._exit(0)  # nothing else ends a plugin whose engine was killed


def _cancel(self: Any, request: Any, context: Any) -> Any:  # replaces the code of the SDK's method
    from google.protobuf import empty_pb2  # type: ignore[import-untyped]  # noqa: PLC0415

    from components.plugin.engine import ENGINE  # noqa: PLC0415

    ENGINE.interrupt()
    return empty_pb2.Empty()


ENGINE = Engine(engine_address())
