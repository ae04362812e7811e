"""The command `caddy` in a container: rewrites the listeners of the config to host ports, then execs Caddy.

Run as `python caddy_shim.py FILE run --config CONFIG`. FILE (JSON, written by `runtime`) has the path of Caddy and the
port mapping. Standard library only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def map_listeners(config: Any, ip: str, ports: dict[str, int]) -> Any:
    """Return a config with each listener `:INNER` replaced by the host's address and port."""
    if isinstance(config, dict):
        return {key: map_listeners(value, ip, ports) for key, value in config.items()}
    if isinstance(config, list):
        return [map_listeners(value, ip, ports) for value in config]
    if isinstance(config, str) and config.startswith(":") and config[1:] in ports:
        return f"{ip}:{ports[config[1:]]}"
    return config


def main() -> None:
    shim = json.loads(Path(sys.argv[1]).read_text())
    argv = sys.argv[2:]
    if "--config" in argv:
        path = Path(argv[argv.index("--config") + 1])
        path.write_text(json.dumps(map_listeners(json.loads(path.read_text()), shim["ip"], shim["ports"])))
    os.execv(shim["caddy"], [shim["caddy"], *argv])  # noqa: S606 - fixed command


if __name__ == "__main__":
    main()
