"""The container's guard at the host's port: `python3 -m guard ...` in a container, run as `guard_shim.py FILE ...`.

FILE (JSON, written by `runtime`) says where the container's ports lead. In front of the stub it accepts connections by
`stub_server`, so that faults act as they do at a port without a guard.
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

ADDRESS = ("--host", "--port")


def mapped(argv: list[str], shim: dict[str, Any]) -> list[str]:
    """Return the guard's arguments with the host's address for the container's."""
    port = str(shim["ports"].get(argv[argv.index("--port") + 1], 0))
    given = {"--host": shim["ip"], "--port": port}
    return [given.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]


def main() -> None:
    """Become the guard."""
    shim = json.loads(Path(sys.argv[1]).read_text())
    argv = mapped(sys.argv[2:], shim)
    if shim["runtime"] != "stub":
        os.execv(shim["python"], [shim["python"], "-m", "guard", *argv])  # noqa: S606 - that is its purpose
    sys.path.insert(0, shim["source"])
    from emulator.stub_faults import ServerFault  # noqa: PLC0415 - on the path only now
    from emulator.stub_server import Port  # noqa: PLC0415

    read = partial(ServerFault.read, Path(shim["fault_file"]))

    async def accept(server: Any, listening: socket.socket) -> None:
        await Port(listening, read, server.connect, server.tls).serve()

    sys.exit(importlib.import_module("guard.__main__").main(argv, accept))


if __name__ == "__main__":
    main()
