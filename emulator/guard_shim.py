"""The command `python3 -m guard ...` in a container: runs the guard at the host's port.

Run as `guard_shim.py FILE ...`. FILE (JSON, written by `runtime`) has the port mapping. In front of the stub,
`stub_server` accepts the connections, so that server faults act here as they do without a guard.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any


def map_address(argv: list[str], shim: dict[str, Any]) -> list[str]:
    """Return the guard's arguments with the host's address in place of the container's."""
    port = str(shim["ports"].get(argv[argv.index("--port") + 1], 0))
    values = {"--host": shim["ip"], "--port": port}
    return [values.get(previous, word) for previous, word in zip(["", *argv], argv, strict=False)]


def main() -> None:
    shim = json.loads(Path(sys.argv[1]).read_text())
    argv = map_address(sys.argv[2:], shim)
    if shim["runtime"] != "stub":
        os.execv(shim["python"], [shim["python"], "-m", "guard", *argv])  # noqa: S606 - fixed command
    sys.path.insert(0, shim["source"])
    from emulator.stub_faults import ServerFault  # noqa: PLC0415 - importable only now
    from emulator.stub_server import Port  # noqa: PLC0415

    read = partial(ServerFault.read, Path(shim["fault_file"]))

    async def accept(server: Any, listening: socket.socket) -> None:
        await Port(listening, read, server.connect, server.gate.tls).serve()

    sys.exit(importlib.import_module("guard.__main__").main(argv, accept))


if __name__ == "__main__":
    main()
