"""The command `caddy` in a container: changes the listeners of a config to the host's ports, then execs Caddy.

Run as `python caddy_shim.py FILE run --config CONFIG`. FILE (JSON, written by `runtime`) says what to exec and where
the container's ports lead. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def outside(config: Any, ip: str, ports: dict[str, int]) -> Any:
    """Return a config with every listener on `:INNER` at the host's address and port."""
    if isinstance(config, dict):
        return {key: outside(value, ip, ports) for key, value in config.items()}
    if isinstance(config, list):
        return [outside(value, ip, ports) for value in config]
    if isinstance(config, str) and config.startswith(":") and config[1:] in ports:
        return f"{ip}:{ports[config[1:]]}"
    return config


def main() -> None:
    """Become Caddy."""
    shim = json.loads(Path(sys.argv[1]).read_text())
    argv = sys.argv[2:]
    if "--config" in argv:
        path = Path(argv[argv.index("--config") + 1])
        path.write_text(json.dumps(outside(json.loads(path.read_text()), shim["ip"], shim["ports"])))
    os.execv(shim["caddy"], [shim["caddy"], *argv])  # noqa: S606 - the emulator runs what a container would


if __name__ == "__main__":
    main()
