"""The guard's socket: limits on connections, in all and per address. Each is served by a `Connection`.

Started by `__main__`. The emulator accepts connections itself and passes them to `connect`.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import NoReturn

from .connection import DEFAULT, Allowance, Bounds, Connection
from .gate import Gate

BACKLOG = 1024
MAX_ADDRESSES = 4096  # above this number, full buckets are removed


class GuardServer:
    """Serves connections until it is cancelled."""

    def __init__(self, gate: Gate, bounds: Bounds = DEFAULT) -> None:
        self.gate, self.bounds = gate, bounds
        self.connections: dict[Connection, asyncio.Task[None]] = {}
        self.allowances: dict[str, Allowance] = {}
        gate.context_changed = self._close_idle

    async def accept(self, listener: socket.socket) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError:  # the client disconnected, or no file descriptor is free
                await asyncio.sleep(0.05)
                continue
            self.connect(sock)
            await asyncio.sleep(0)  # serve clients between many new connections

    def connect(self, sock: socket.socket) -> None:
        """Serve a connection, unless its address has opened too many without a valid key. At the limit of all of them,
        close the oldest without a valid key, or an idle one."""
        sock.setblocking(False)
        try:
            address = str(sock.getpeername()[0])
        except OSError:
            sock.close()
            return
        bounds, allowance, now = self.bounds, self._allowance(address), time.monotonic()
        if allowance.take(1, bounds.without_key_per_s, bounds.without_key_burst, now):
            sock.close()  # before the expensive handshake
            return
        if len(self.connections) >= bounds.connections:
            unknown = [other for other in self.connections if not other.key]
            if not (candidates := unknown or self._idle_connections()):
                sock.close()
                return
            self.connections.pop(candidates[0]).cancel()
        connection = Connection(self.gate, bounds, sock, allowance)
        # handshakes of one address start one after another: at once, they would take the CPU from vLLM and from others
        start_at = max(now, allowance.next_at)
        allowance.next_at = start_at + bounds.between_handshakes_s
        run = connection.run(start_at - now if connection.tls else 0)
        task = self.connections[connection] = asyncio.get_running_loop().create_task(run)
        task.add_done_callback(lambda _: self.connections.pop(connection, None))

    def _allowance(self, address: str) -> Allowance:
        now, full = time.monotonic(), float(self.bounds.without_key_burst)
        if len(self.allowances) >= MAX_ADDRESSES:
            refill_s = full / self.bounds.without_key_per_s
            self.allowances = {key: bucket for key, bucket in self.allowances.items() if now - bucket.at < refill_s}
        return self.allowances.setdefault(address, Allowance(full, now))

    def _idle_connections(self) -> list[Connection]:
        return [connection for connection in self.connections if connection.is_idle]

    def _close_idle(self) -> None:
        """Close the idle connections of clients: they need new ones, to send another certificate. The other ones get
        an answer: a request may be on its way."""
        for connection in self._idle_connections():
            if connection.key and not connection.key.manages:
                self.connections.pop(connection).cancel()

    def close(self) -> None:
        for task in self.connections.values():
            task.cancel()
        self.gate.close()
