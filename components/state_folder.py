"""The URL of the state's backend, and the folder of a file backend with the check of its free space.

Called by the program before anything is rented, by `stack_ledger` and by `ops recover`. If Pulumi 3.259 cannot write a
state file completely, it leaves the file truncated, and the state lacks the instances rented until then.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml

ROOM_MB = 16  # for 128 servers: the state file, its copy, history and backups


def state_folder(env: Mapping[str, str], project: Path) -> Path | None:
    """Return the folder of a file backend, or None for another backend. `project`: the folder of Pulumi.yaml."""
    parts = urlsplit(backend_url(env, project))
    if parts.scheme != "file":
        return None
    path = parts.netloc + unquote(parts.path)
    return _home(env) / path[2:] if path.startswith("~/") else project / path


def backend_url(env: Mapping[str, str], project: Path) -> str:
    """Return the URL of the backend that Pulumi uses in `project`, or "" without a login. Raises FileNotFoundError."""
    if url := env.get("PULUMI_BACKEND_URL"):
        return url
    declared = yaml.safe_load((project / "Pulumi.yaml").read_text(encoding="utf-8")).get("backend") or {}
    return str(declared.get("url") or "") or _login_url(Path(env.get("PULUMI_HOME") or _home(env) / ".pulumi"))


def _home(env: Mapping[str, str]) -> Path:
    return Path(env.get("HOME") or Path.home())


def _login_url(pulumi_home: Path) -> str:
    try:
        return str(json.loads((pulumi_home / "credentials.json").read_text()).get("current") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def room_problem(folder: Path) -> str:
    """Return why the folder cannot store a state, or "". Writes ROOM_MB to a temporary file."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            for _ in range(ROOM_MB):
                probe.write(bytes(1 << 20))
    except OSError as error:
        return (
            f"the state's folder {folder} cannot store {ROOM_MB} MB: {error.strerror}. The state would lack the "
            "instances that an up rents; free space or allow writing there, and repeat"
        )
    return ""
